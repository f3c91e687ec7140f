# Small batches at a high learning rate: 10 minutes on one CPU core for 300 images, to compare ways of training.
_base_ = '../ssdlite_frostnet_custom.py'

train_dataloader = dict(batch_size=4, num_workers=1)

max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
        eta_min_ratio=0.01,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=0.002, fused=True))
auto_scale_lr = dict(base_batch_size=4)
