# A classifier on FrostNet small for images in folders, a folder a class (data_root/train/cat, data_root/val/cat), from
# scratch; the classes are the folders of the training images:
#
#   python tools/train.py configs/frostnet_custom_cls.py --cfg-options data_root=path/to/data
_base_ = './_base_/cls_runtime.py'

data_root = '{{$CLASSIFICATION_ROOT:data/classification}}'
train_images, val_images = 'train', 'val'
classes = 'from_annotations'

input_size = 224  # side of what the network sees
batch_size = 32
max_epochs = 24

model = dict(
    type='frostnet_mm.ImageClassifier',
    data_preprocessor=dict(
        type='ImgDataPreprocessor',
        mean=[123.675, 116.28, 103.53],  # ImageNet's
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='frostnet_mm.FrostNet', arch='small', out_indices=(4,)),
    head=dict(type='frostnet_mm.ClsHead', in_channels=320, num_classes=2, hidden_channels=1280, dropout=0.2),
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='frostnet_mm.RandomResizedCrop', scale=input_size, area=(0.35, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='frostnet_mm.PackClsInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=(input_size, input_size), keep_ratio=False),
    dict(type='frostnet_mm.PackClsInputs'),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,  # batch norm cannot train on a last batch of one small image
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='frostnet_mm.ImageFolder',
        data_root=data_root,
        data_prefix=dict(img_path=train_images),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='frostnet_mm.ImageFolder',
        data_root=data_root,
        data_prefix=dict(img_path=val_images),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='frostnet_mm.Accuracy')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
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
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
