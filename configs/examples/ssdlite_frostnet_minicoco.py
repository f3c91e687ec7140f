# The demo: SSDLite on FrostNet small at half width, 256x256, on the generated data of tools/make_mini_data.py.
_base_ = '../ssdlite_frostnet_custom.py'

data_root = '{{$MINI_COCO_ROOT:data/mini_coco}}'
input_size = (256, 256)
level_channels = (24, 48, 160, 128, 128, 64)
max_epochs = 10
assert _base_.input_size == input_size, 'read with frostnet_mm.engine.load_config, or take the copy in the work dir'

model = dict(
    backbone=dict(widen_factor=0.5),
    neck=dict(level_strides=(2, 2, 2), level_paddings=(1, 1, 1)),
    bbox_head=dict(
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
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, num_workers=1)
test_dataloader = val_dataloader

train_cfg = dict(val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.0015))
randomness = dict(seed=0)
