# ESPNet's decoder on FrostNet small's maps of strides 4, 8, 16 and 32, from scratch.
_base_ = [
    '_base_/models/espnet.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/poly_160k.py',
    '_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.FrostNet', arch='small', out_indices=(0, 1, 2, 4)),
    decode_head=dict(in_channels=(24, 40, 96, 320)),
)
