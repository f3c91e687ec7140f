# TDSOD (Tiny-DSOD) for 300x300: D-FPN and its head on two feature maps, of strides 8 and 16 (128 and 64 channels,
# TinyDSODBackbone); assignment, sampling and NMS are SSDLite's.
_base_ = './ssdlite.py'

model = dict(
    neck=dict(
        _delete_=True,
        type='frostnet_mm.DFPN',
        in_channels=(128, 64),
        out_channels=128,
        num_outs=6,
        norm_cfg={{_base_.norm_cfg}},
        act_cfg={{_base_.act_cfg}},
    ),
    bbox_head=dict(
        type='frostnet_mm.TDSODHead',
        in_channels=(128, 128, 128, 128, 128, 128),
        init_cfg=dict(_delete_=True, type='Xavier', layer='Conv2d', distribution='uniform', bias=0),
        # The paper's sizes for COCO. Strides: those of the network while all centres lie in the image, then the image's
        # size over the map's (10, 5, 3 and 2 positions); the authors' 32 and 300 put centres outside.
        anchor_generator=dict(
            strides=[8, 16, 30, 60, 100, 150],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            min_sizes=[21, 45, 99, 153, 207, 261],
            max_sizes=[45, 99, 153, 207, 261, 315],
        ),
    ),
)
