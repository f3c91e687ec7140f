# ESPNetv2's decoder on FrostNet small at half width, on crops of 288x384 of images of about 480x360: for experiments on
# a CPU with any data in Cityscapes' layout that have *_labelTrainIds.png (--cfg-options data_root=...).
_base_ = '../espnetv2_frostnet_cityscapes.py'

scale, ratio_range = (480, 360), (0.75, 1.75)
crop_size = (288, 384)
max_iters, warmup_iters = 3600, 100
start_factor, eta_min = 0.05, 1e-5
assert _base_.scale == scale, 'read with frostnet_mm.engine.load_config, or take the copy in the work dir'

# 1 / ln(1.1 + share of Cityscapes' pixels), as ESPNet's authors weigh the classes
class_weight = [
    2.8149, 6.9850, 3.7890, 9.9428, 9.7702, 9.5111, 10.3114, 10.0265, 4.6323, 9.5608,
    7.8698, 9.5169, 10.3737, 6.6616, 10.2605, 10.2879, 10.2899, 10.4054, 10.1389,
]  # fmt: skip

model = dict(
    backbone=dict(widen_factor=0.5),
    decode_head=dict(
        in_channels=(16, 24, 48, 160),
        channels=64,
        dropout_ratio=0.1,
        # mmseg crashes with class weights and avg_non_ignore together; the mean is the same without
        loss_decode=dict(class_weight=class_weight, avg_non_ignore=False),
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[5].update(brightness_delta=24, contrast_range=(0.7, 1.3), saturation_range=(0.7, 1.3))
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader

train_cfg = dict(val_interval=1800)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0015, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(checkpoint=dict(interval=600), visualization=dict(draw=False))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
