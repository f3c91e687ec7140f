# 160 000 iterations from scratch, polynomial decay: mmseg's schedule of BiSeNetV2, for 4 GPUs with 4 images each.
max_iters, warmup_iters = 160000, 1000
start_factor, eta_min = 0.1, 1e-4
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=start_factor, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='PolyLR', eta_min=eta_min, power=0.9, by_epoch=False, begin=warmup_iters, end=max_iters),
]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.0005))

# --auto-scale-lr scales the learning rate to your batch size from this one: 4 GPUs x 4 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
