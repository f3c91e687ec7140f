# SSDLite on FrostNet small for any data set in COCO format; the classes are read from the training annotations:
#
#   python tools/train.py configs/ssdlite_frostnet_custom.py --cfg-options data_root=path/to/data
#
# Compared with the COCO config: a feature map of stride 8 for objects of 20 to 48 pixels (in the 320x320 input), milder
# augmentation, and a schedule for hundreds to thousands of images from scratch on one machine. If mAP still rises at
# the end, as it does with many classes (201 photographs of 12 classes: 0.20 after 10 epochs, 0.45 after 24), train
# longer (max_epochs=60; the learning rate follows) and from ImageNet weights (docs/training.md).
_base_ = './ssdlite_frostnet_coco.py'

classes = 'from_annotations'

level_channels = (40, 96, 320, 512, 256, 256, 128)  # of the head's maps; the first three are the backbone's
norm_cfg = dict(momentum=0.1)  # 0.03 is for long runs: statistics lag behind the weights in a few hundred iterations
model = dict(
    backbone=dict(out_indices=(1, 2, 4)),
    neck=dict(in_channels=level_channels[:3], out_channels=level_channels, norm_cfg=norm_cfg),
    bbox_head=dict(
        in_channels=level_channels,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            strides=[8, 16, 32, 64, 107, 160, 320],
            ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]],
            min_sizes=[20, 48, 100, 150, 202, 253, 304],
            max_sizes=[48, 100, 150, 202, 253, 304, 320],
        ),
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(ratio_range=(1, 2), prob=0.3)  # Expand
train_pipeline[3].update(min_ious=(0.3, 0.5, 0.7, 0.9), min_crop_size=0.5)
train_pipeline[5] = dict(type='RandomFlip', prob=[0.5], direction=['horizontal'])
batch_size = 8
train_dataloader = dict(batch_size=batch_size, num_workers=2, dataset=dict(pipeline=train_pipeline))

max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
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
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35),
)
auto_scale_lr = dict(base_batch_size=8)
