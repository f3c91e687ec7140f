# TDSOD on FrostNet small, 320x320, for any data set in COCO format; the classes are read from the training annotations:
#
#   python tools/train.py configs/tdsod_frostnet_custom.py --cfg-options data_root=path/to/data
#
# Data, augmentation and schedule are those of SSDLite for such data.
_base_ = './ssdlite_frostnet_custom.py'

level_channels = (128, 128, 128, 128, 128, 128)
model = dict(
    backbone=dict(out_indices=(1, 2)),
    neck=dict(
        _delete_=True,
        type='frostnet_mm.DFPN',
        in_channels=(40, 96),
        norm_cfg={{_base_.norm_cfg}},
    ),
    bbox_head=dict(
        type='frostnet_mm.TDSODHead',
        in_channels=level_channels,
        init_cfg=dict(_delete_=True, type='Xavier', layer='Conv2d', distribution='uniform', bias=0),
        # the sizes for COCO, in proportion to 320
        anchor_generator=dict(
            strides=[8, 16, 32, 64, 107, 160],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            min_sizes=[22, 48, 106, 163, 221, 278],
            max_sizes=[48, 106, 163, 221, 278, 336],
        ),
    ),
)
