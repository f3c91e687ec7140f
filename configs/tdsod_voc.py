# TDSOD (Tiny-DSOD), 300x300, from scratch, on Pascal VOC 2007 and 2012. 600 epochs are 52 000 iterations at the
# schedule's 192 images each, 10 M images; the authors took 12.8 M.
_base_ = [
    '_base_/models/tdsod.py',
    '_base_/datasets/voc_300.py',
    '_base_/schedules/ssdlite_600e.py',
    '_base_/default_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='frostnet_mm.TinyDSODBackbone', norm_cfg={{_base_.norm_cfg}}),
    bbox_head=dict(
        num_classes=20,
        # the paper's sizes for VOC
        anchor_generator=dict(min_sizes=[30, 60, 111, 162, 213, 264], max_sizes=[60, 111, 162, 213, 264, 315]),
    ),
)

optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
