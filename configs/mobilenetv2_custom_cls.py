# MobileNetV2 in the classifier of frostnet_custom_cls.py.
_base_ = './frostnet_custom_cls.py'

model = dict(
    backbone=dict(_delete_=True, type='mmdet.MobileNetV2', out_indices=(7,)),
    head=dict(_delete_=True, type='frostnet_mm.ClsHead', in_channels=1280, num_classes=2, dropout=0.2),
)
