# Faster R-CNN on FrostNet small, 1333x800, 1x schedule: one of the paper's two detectors, 34.4 AP with ImageNet
# weights.
_base_ = [
    '_base_/models/faster-rcnn_fpn.py',
    '_base_/datasets/coco.py',
    '_base_/schedules/schedule_1x.py',
    '_base_/default_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.FrostNet', arch='small', out_indices=(0, 1, 2, 4)),
)
