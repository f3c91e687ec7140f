# Lite R-ASPP on MobileNetV2 (ReLU in place of ReLU6) at output stride 16, from scratch.
_base_ = [
    '_base_/models/lraspp.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/poly_160k.py',
    '_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(
        type='MobileNetV2',
        strides=(1, 2, 2, 2, 1, 1, 1),
        dilations=(1, 1, 1, 1, 1, 2, 2),
        out_indices=(1, 6),
        norm_cfg={{_base_.norm_cfg}},
        act_cfg=dict(type='ReLU'),
    ),
    decode_head=dict(in_channels=(24, 320)),
)
