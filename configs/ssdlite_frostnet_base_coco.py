_base_ = './ssdlite_frostnet_coco.py'

model = dict(backbone=dict(arch='base'))
