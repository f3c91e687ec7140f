# The demo: SSDLite on FrostNet small at half width, 256x256, on the generated data of tools/make_mini_data.py.
_base_ = '../ssdlite_frostnet_custom.py'

data_root = '{{$MINI_COCO_ROOT:data/mini_coco}}'
input_size = (256, 256)

model = dict(
    backbone=dict(widen_factor=0.5),
    neck=dict(
        in_channels=(24, 48, 160),
        out_channels=(24, 48, 160, 128, 128, 64),
        level_strides=(2, 2, 2),
        level_paddings=(1, 1, 1),
    ),
    bbox_head=dict(
        in_channels=(24, 48, 160, 128, 128, 64),
        anchor_generator=dict(
            strides=[8, 16, 32, 64, 128, 256],
            ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]],
            min_sizes=[20, 40, 80, 120, 160, 200],
            max_sizes=[40, 80, 120, 160, 200, 250],
        ),
    ),
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='MinIoURandomCrop', min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys={{_base_.meta_keys}}),
]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')

max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
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
optim_wrapper = dict(optimizer=dict(lr=0.0015))
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
