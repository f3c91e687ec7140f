# TDSOD (Tiny-DSOD), 300x300, from scratch, with SSDLite's schedule.
_base_ = [
    '_base_/models/tdsod.py',
    '_base_/datasets/coco_ssd_300.py',
    '_base_/schedules/ssdlite_600e.py',
    '_base_/default_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.TinyDSODBackbone', norm_cfg={{_base_.norm_cfg}}),
)
