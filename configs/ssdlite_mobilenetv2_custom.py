# The baseline for any data set in COCO format: everything as with FrostNet but the backbone entry and its channels.
_base_ = './ssdlite_frostnet_custom.py'

level_channels = (32, 96, 1280, 512, 256, 256, 128)
model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', out_indices=(2, 4, 7)),
    neck=dict(in_channels=level_channels[:3], out_channels=level_channels),
    bbox_head=dict(in_channels=level_channels),
)
