# FrostNet small on ImageNet as its authors trained it: TensorFlow's RMSprop, 0.048 for batches of 512, times
# 0.97 every 2.4 epochs (here smoothly, epoch by epoch), averaged weights, RandAugment of magnitude 9, random erasing,
# dropout 0.2, 450 epochs. Of the recipe the deviation of RandAugment's magnitude (0.5) is left out.
#
# data/imagenet/{train,val}/n01440764/...: of the validation images, which come in one folder, a folder a class.
#
#   tools/dist_train.sh configs/frostnet_imagenet.py 8
_base_ = './frostnet_custom_cls.py'

data_root = '{{$IMAGENET_ROOT:data/imagenet}}'
batch_size = 64  # of each of 8 GPUs
max_epochs = 450
warmup_epochs = 3

model = dict(head=dict(num_classes=1000))

level = dict(prob=1.0, level=9)
randaugment = [
    [dict(type='mmdet.AutoContrast', **level)],
    [dict(type='mmdet.Equalize', **level)],
    [dict(type='mmdet.Invert', **level)],
    [dict(type='mmdet.Rotate', **level)],
    [dict(type='mmdet.Posterize', **level)],
    [dict(type='mmdet.Solarize', **level)],
    [dict(type='mmdet.SolarizeAdd', **level)],
    [dict(type='mmdet.Color', **level)],
    [dict(type='mmdet.Contrast', **level)],
    [dict(type='mmdet.Brightness', **level)],
    [dict(type='mmdet.Sharpness', **level)],
    [dict(type='mmdet.ShearX', **level)],
    [dict(type='mmdet.ShearY', **level)],
    [dict(type='mmdet.TranslateX', **level)],
    [dict(type='mmdet.TranslateY', **level)],
]
train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='frostnet_mm.RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmdet.RandAugment', aug_space=randaugment, aug_num=2),
    dict(
        type='RandomApply',
        prob=0.2,
        transforms=[dict(type='mmdet.RandomErasing', n_patches=1, ratio=(0.14, 0.58), squared=False)],
    ),
    dict(type='frostnet_mm.PackClsInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=(100000, 256), keep_ratio=True),
    dict(type='CenterCrop', crop_size=(224, 224)),
    dict(type='frostnet_mm.PackClsInputs'),
]
train_dataloader = dict(
    batch_size=batch_size, num_workers=8, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=batch_size, num_workers=8, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=max_epochs)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 0.048,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(type='ExponentialLR', gamma=0.97 ** (1 / 2.4), by_epoch=True, begin=warmup_epochs, end=max_epochs),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='frostnet_mm.RMSpropTF', lr=0.048, alpha=0.9, eps=0.001, momentum=0.9, weight_decay=1e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
custom_hooks = [
    dict(type='frostnet_mm.InterruptHook'),
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.0001, update_buffers=True),
]
auto_scale_lr = dict(base_batch_size=512)
