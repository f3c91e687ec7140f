# ESPNetv2 at width 1, ReLU, from scratch. The authors also use widths 0.5, 1.5 and 2: the channels of the levels are
# 16, 32, 64, 128 at 0.5; 32, 96, 192, 384 at 1.5; 32, 128, 256, 512 at 2.
_base_ = [
    '_base_/models/espnetv2.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/poly_160k.py',
    '_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.ESPNetv2', widen_factor=1.0),
)
