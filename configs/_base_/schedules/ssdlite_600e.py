# mmdet's schedule of SSDLite: 600 epochs, SGD, cosine, for 8 GPUs with 24 images each.
max_epochs = 600
train_cfg = dict(type='frostnet_mm.ResumableEpochTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
        eta_min=0,
    ),
]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.015, momentum=0.9, weight_decay=4.0e-5))

# --auto-scale-lr scales the learning rate to your batch size from this one: 8 GPUs x 24 images
auto_scale_lr = dict(enable=False, base_batch_size=192)
