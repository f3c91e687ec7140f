# ResNet-18 in the classifier of frostnet_custom_cls.py.
_base_ = './frostnet_custom_cls.py'

model = dict(
    backbone=dict(_delete_=True, type='frostnet_mm.ResNet', depth=18, out_indices=(3,)),
    head=dict(_delete_=True, type='frostnet_mm.ClsHead', in_channels=512, num_classes=2),
)
