# SSDLite on FrostNet small, 320x320, from scratch.
_base_ = [
    '_base_/models/ssdlite.py',
    '_base_/datasets/coco_ssd_320.py',
    '_base_/schedules/ssdlite_600e.py',
    '_base_/default_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.FrostNet', arch='small', out_indices=(2, 4)),
)
