# VGG11's convolutions, with batch norms, in the classifier of frostnet_custom_cls.py; global pooling in place of its
# three dense layers.
_base_ = './frostnet_custom_cls.py'

model = dict(
    backbone=dict(_delete_=True, type='frostnet_mm.VGG', depth=11),
    head=dict(_delete_=True, type='frostnet_mm.ClsHead', in_channels=512, num_classes=2, dropout=0.2),
)
