# The demo: ESPNetv2's decoder on FrostNet small at half width, on the generated streets of tools/make_mini_data.py,
# which are halved to 128x256.
_base_ = '../espnetv2_frostnet_cityscapes.py'

data_root = '{{$MINI_CITYSCAPES_ROOT:data/mini_cityscapes}}'
scale, crop_size = (256, 128), (128, 256)  # (width, height), (height, width)

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(widen_factor=0.5),
    decode_head=dict(in_channels=(16, 24, 48, 160), channels=64, dropout_ratio=0.1),
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
val_evaluator = dict(type='frostnet_mm.IoUMetric')
test_evaluator = dict(type='frostnet_mm.IoUMetric')

max_iters = 800
train_cfg = dict(max_iters=max_iters, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.003, weight_decay=0.01), clip_grad=dict(max_norm=5.0)
)
default_hooks = dict(checkpoint=dict(interval=200))
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
