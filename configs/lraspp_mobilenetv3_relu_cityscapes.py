# Lite R-ASPP on MobileNetV3-Large with ReLU and without squeeze-and-excitation, from scratch.
_base_ = [
    '_base_/models/lraspp.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/poly_160k.py',
    '_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(
        type='frostnet_mm.MobileNetV3', arch='large', relu=True, out_indices=(3, 16), norm_cfg={{_base_.norm_cfg}}
    ),
)
