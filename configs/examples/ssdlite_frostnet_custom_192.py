# SSDLite on FrostNet small at 192x192: a third of the cost of 320x320, for experiments on a CPU.
_base_ = '../ssdlite_frostnet_custom.py'

input_size = (192, 192)

model = dict(
    neck=dict(out_channels=(40, 96, 320, 512, 256, 256), level_strides=(2, 2, 2), level_paddings=(1, 1, 1)),
    bbox_head=dict(
        in_channels=(40, 96, 320, 512, 256, 256),
        anchor_generator=dict(
            strides=[8, 16, 32, 64, 96, 192],
            ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]],
            min_sizes=[12, 24, 48, 84, 120, 156],
            max_sizes=[24, 48, 84, 120, 156, 190],
        ),
    ),
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='Expand',
        mean={{_base_.data_preprocessor.mean}},
        to_rgb={{_base_.data_preprocessor.bgr_to_rgb}},
        ratio_range=(1, 2),
        prob=0.3,
    ),
    dict(type='frostnet_mm.MinIoURandomCrop', min_ious=(0.3, 0.5, 0.7, 0.9), min_crop_size=0.5),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='RandomFlip', prob=[0.5], direction=['horizontal']),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys={{_base_.meta_keys}}),
]
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
