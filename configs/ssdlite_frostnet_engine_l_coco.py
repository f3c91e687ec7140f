# SSDLite on FrostNet engine-l, which was searched for INT8 on CPUs (docs/search.md), 320x320, from scratch.
_base_ = './ssdlite_frostnet_coco.py'

model = dict(backbone=dict(arch='engine-l'))
