# ESPNet (p=2, q=8), ReLU and resizing, from scratch.
_base_ = [
    '_base_/models/espnet.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/poly_160k.py',
    '_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.ESPNet', p=2, q=8, norm_cfg={{_base_.norm_cfg}}),
)
