# The demo: ESPNetv2's decoder on FrostNet small at half width, on the generated streets of tools/make_mini_data.py,
# which are halved to 128x256.
_base_ = '../espnetv2_frostnet_cityscapes.py'

data_root = '{{$MINI_CITYSCAPES_ROOT:data/mini_cityscapes}}'
scale, ratio_range = (256, 128), (0.8, 1.5)
crop_size = (128, 256)
max_iters, warmup_iters = 800, 50
start_factor, eta_min = 0.05, 1e-5
assert _base_.scale == scale, 'read with frostnet_mm.engine.load_config, or take the copy in the work dir'

model = dict(
    backbone=dict(widen_factor=0.5),
    decode_head=dict(in_channels=(16, 24, 48, 160), channels=64, dropout_ratio=0.1),
)
train_dataloader = dict(batch_size=8, num_workers=1)
val_dataloader = dict(batch_size=4, num_workers=1)
test_dataloader = val_dataloader
val_evaluator = dict(type='frostnet_mm.IoUMetric')
test_evaluator = val_evaluator

train_cfg = dict(val_interval=200)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.003, weight_decay=0.01), clip_grad=dict(max_norm=5.0)
)
default_hooks = dict(checkpoint=dict(interval=200))
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
