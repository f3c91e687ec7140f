# ESPNetv2's decoder on FrostNet small at half width, on crops of 288x384 of images of about 480x360: for experiments on
# a CPU with any data in Cityscapes' layout that have *_labelTrainIds.png (--cfg-options data_root=...).
_base_ = '../espnetv2_frostnet_cityscapes.py'

data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
scale, crop_size = (480, 360), (288, 384)

# 1 / ln(1.1 + share of Cityscapes' pixels), as ESPNet's authors weigh the classes
class_weight = [
    2.8149, 6.9850, 3.7890, 9.9428, 9.7702, 9.5111, 10.3114, 10.0265, 4.6323, 9.5608,
    7.8698, 9.5169, 10.3737, 6.6616, 10.2605, 10.2879, 10.2899, 10.4054, 10.1389,
]  # fmt: skip

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(widen_factor=0.5),
    decode_head=dict(
        in_channels=(16, 24, 48, 160),
        channels=64,
        dropout_ratio=0.1,
        loss_decode=dict(
            class_weight=class_weight, avg_non_ignore=False
        ),  # mmseg has both together crash; the mean is the same
    ),
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.75), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3), saturation_range=(0.7, 1.3)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))

max_iters = 3600
train_cfg = dict(max_iters=max_iters, val_interval=1800)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, by_epoch=False, begin=100, end=max_iters),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0015, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(checkpoint=dict(interval=600), visualization=dict(draw=False))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
