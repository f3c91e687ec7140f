# ShuffleNetV2 in the classifier of frostnet_custom_cls.py.
_base_ = './frostnet_custom_cls.py'

model = dict(
    backbone=dict(_delete_=True, type='frostnet_mm.ShuffleNetV2'),
    head=dict(_delete_=True, type='frostnet_mm.ClsHead', in_channels=464, num_classes=2, hidden_channels=1024),
)
