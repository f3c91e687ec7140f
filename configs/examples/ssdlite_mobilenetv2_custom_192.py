# The baseline at 192x192: everything as with FrostNet but the backbone entry and its channels.
_base_ = './ssdlite_frostnet_custom_192.py'

model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', out_indices=(2, 4, 7)),
    neck=dict(in_channels=(32, 96, 1280), out_channels=(32, 96, 1280, 512, 256, 256)),
    bbox_head=dict(in_channels=(32, 96, 1280, 512, 256, 256)),
)
