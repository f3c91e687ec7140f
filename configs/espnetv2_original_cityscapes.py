# ESPNetv2 at width 1 as published: PReLU, resizing with aligned corners.
_base_ = './espnetv2_cityscapes.py'

model = dict(
    backbone=dict(act_cfg=dict(type='PReLU')),
    decode_head=dict(act_cfg=dict(type='PReLU'), align_corners=True),
)
