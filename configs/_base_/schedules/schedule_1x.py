# mmdet's 1x schedule: 12 epochs, steps at 8 and 11, for 8 GPUs with 2 images each.
max_epochs = 12
train_cfg = dict(type='frostnet_mm.ResumableEpochTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[max_epochs * 8 // 12, max_epochs * 11 // 12],  # 16 and 22 of the 2x schedule
        gamma=0.1,
    ),
]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001))

# --auto-scale-lr scales the learning rate to your batch size from this one: 8 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
