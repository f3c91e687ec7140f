# Lite R-ASPP on FrostNet small at output stride 16, from scratch.
_base_ = [
    '_base_/models/lraspp.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/poly_160k.py',
    '_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.FrostNet', arch='small', out_indices=(0, 4), output_stride=16),
    decode_head=dict(in_channels=(24, 320)),
)
