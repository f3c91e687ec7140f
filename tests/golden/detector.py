# A small detector as it was trained, calibrated and deployed by an earlier version: see README.md beside this file.
_base_ = ['../../configs/ssdlite_frostnet_coco.py', '../../configs/_base_/qat.py']

default_hooks = dict(qat={{_base_.qat_hook}}, checkpoint=dict(interval=50))
classes = ('shape 0', 'shape 1')
input_size = (128, 128)
norm_cfg = dict(momentum=0.1)
model = dict(
    backbone=dict(widen_factor=0.35, out_indices=(1, 2)),
    neck=dict(
        in_channels=(16, 32),
        out_channels=(16, 32, 32, 16),
        level_strides=(2, 2),
        level_paddings=(1, 1),
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        in_channels=(16, 32, 32, 16),
        num_classes=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            strides=[8, 16, 32, 64],
            ratios=[[2], [2], [2], [2]],
            min_sizes=[16, 32, 56, 88],
            max_sizes=[32, 56, 88, 120],
        ),
    ),
)
train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys={{_base_.meta_keys}}),
]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline, metainfo=dict(classes=classes)), **loader)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline, metainfo=dict(classes=classes)), **loader)
test_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline, metainfo=dict(classes=classes)), **loader)
max_epochs = 50
train_cfg = dict(max_epochs=max_epochs, val_interval=50)
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
        eta_min_ratio=0.01,
    )
]
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.003, weight_decay=0.01))
randomness = dict(seed=0)
