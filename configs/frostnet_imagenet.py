# FrostNet small on ImageNet as its authors trained it: TensorFlow's RMSprop, 0.048 for batches of 512, times
# 0.97 every 2.4 epochs (here smoothly, epoch by epoch), averaged weights, timm's RandAugment `rand-m9-mstd0.5`, random
# erasing, dropout 0.2, 450 epochs.
#
# mmdet's operations are set to do what timm's do at magnitude 9: each of two, drawn with replacement, with a
# probability of 0.5. What differs: the magnitude does not deviate (mstd0.5); mmdet rounds magnitudes to one decimal
# (0.4 of a side in place of 0.405 for TranslateX and Y, 1.7 in place of 1.72 for Color, Contrast, Brightness and
# Sharpness, 15.1 degrees, of tangent 0.270, for ShearX and Y); interpolation is always bilinear, in the crop too, where
# timm draws bilinear or bicubic; random erasing fills with grey, where timm draws a color or noise, and draws the two
# sides in place of area and ratio. Whether the authors smoothed labels is not known: here they are not smoothed.
#
# data/imagenet/{train,val}/n01440764/...: of the validation images, which come in one folder, a folder a class.
#
#   tools/dist_train.sh configs/frostnet_imagenet.py 8
_base_ = './frostnet_custom_cls.py'

data_root = '{{$IMAGENET_ROOT:data/imagenet}}'
input_size = 224
batch_size = 64  # of each of 8 GPUs
max_epochs = 450
warmup_epochs = 3

model = dict(head=dict(num_classes=1000))

level = dict(prob=0.5, level=9)
moved = dict(level, img_border_value=(104, 116, 124))  # ImageNet's mean, BGR
randaugment = [
    [dict(type='mmdet.AutoContrast', **level)],
    [dict(type='mmdet.Equalize', **level)],
    [dict(type='mmdet.Invert', **level)],
    [dict(type='mmdet.Rotate', **moved)],
    [dict(type='mmdet.Posterize', **level, max_mag=3.3)],  # rounded up to 3 bits, as timm's int(0.9 * 4)
    [dict(type='mmdet.Solarize', **level, max_mag=255.4)],  # from 230 on, as timm's int(0.9 * 256)
    [dict(type='mmdet.SolarizeAdd', **level)],
    [dict(type='mmdet.Color', **level)],
    [dict(type='mmdet.Contrast', **level)],
    [dict(type='mmdet.Brightness', **level)],
    [dict(type='mmdet.Sharpness', **level)],
    [dict(type='mmdet.ShearX', **moved, max_mag=16.8)],  # degrees; timm's 0.3 is a tangent
    [dict(type='mmdet.ShearY', **moved, max_mag=16.8)],
    [dict(type='mmdet.TranslateX', **moved, max_mag=0.45)],
    [dict(type='mmdet.TranslateY', **moved, max_mag=0.45)],
]
train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='frostnet_mm.RandomResizedCrop', scale=input_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmdet.RandAugment', aug_space=randaugment, aug_num=1),  # twice one: with replacement
    dict(type='mmdet.RandAugment', aug_space=randaugment, aug_num=1),
    dict(
        type='RandomApply',
        prob=0.2,
        transforms=[dict(type='mmdet.RandomErasing', n_patches=1, ratio=(0.14, 0.58), squared=False)],
    ),
    dict(type='frostnet_mm.PackClsInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=(100000, round(input_size * 256 / 224)), keep_ratio=True),
    dict(type='CenterCrop', crop_size=(input_size, input_size)),
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
