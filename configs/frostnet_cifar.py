# FrostNet small for images of 32x32, such as CIFAR's as folders (data/cifar10/{train,val}/airplane/...): the first two
# strides are 1.
#
#   python tools/prepare_cifar.py cifar-10-python.tar.gz --out path/to/cifar10
#   python tools/train.py configs/frostnet_cifar.py --cfg-options data_root=path/to/cifar10
_base_ = './frostnet_custom_cls.py'

data_root = '{{$CIFAR_ROOT:data/cifar10}}'
input_size, batch_size, max_epochs = 32, 128, 200

arch = dict(
    _delete_=True,
    stem=32,
    stem_stride=1,
    stages=[
        [(3, 16, 1, 1, 1), (5, 24, 3, 4, 1), (3, 24, 3, 4, 1)],
        [(5, 40, 3, 4, 2)],
        [(5, 80, 3, 4, 2), (5, 80, 3, 4, 1), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)],
        [(5, 192, 6, 4, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1)],
        [(5, 320, 6, 2, 1)],
    ],
)
model = dict(backbone=dict(arch=arch))

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=(input_size, input_size), keep_ratio=False),
    dict(
        type='frostnet_mm.RandomPaddedCrop',
        padding=round(input_size / 8),  # 4 pixels of 32 (He et al. 2016)
        pad_val=(114, 123, 125),  # CIFAR's mean, BGR
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='frostnet_mm.PackClsInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=(input_size, input_size), keep_ratio=False),
    dict(type='frostnet_mm.PackClsInputs'),
]
train_dataloader = dict(batch_size=batch_size, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=batch_size, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=max_epochs)
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
auto_scale_lr = dict(base_batch_size=128)
