# ESPNet (p=2, q=8) as published: PReLU, transposed convolutions, a decoder as wide as there are classes.
_base_ = './espnet_cityscapes.py'

model = dict(
    backbone=dict(act_cfg=dict(type='PReLU')),
    decode_head=dict(channels=19, upsample='deconv', act_cfg=dict(type='PReLU')),
)
