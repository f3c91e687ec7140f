# Cityscapes in data/cityscapes/{leftImg8bit,gtFine}/{train,val}, with the *_labelTrainIds.png that
# tools/prepare_cityscapes.py makes. Elsewhere: CITYSCAPES_ROOT=/path in the environment, or
# --cfg-options data_root=/path. Training on random crops of 512x1024 of images scaled by 0.5 to 2, testing on whole
# images.
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
scale, ratio_range = (2048, 1024), (0.5, 2.0)  # (width, height) of the images, factors of it in training
crop_size = (512, 1024)  # (height, width)

# ImageNet's mean and standard deviation of the RGB channels
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=crop_size,
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='frostnet_mm.LoadSegAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=ratio_range, keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    # after Resize: predictions are compared at the size of the annotations
    dict(type='frostnet_mm.LoadSegAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='frostnet_mm.CheckedCityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='frostnet_mm.CheckedCityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# The official scripts, iIoU included, beside it (pip install cityscapesscripts): a list of this and
#   dict(type='CityscapesMetric', output_dir='work_dirs/cityscapes_results')
val_evaluator = dict(type='frostnet_mm.IoUMetric', iou_metrics=['mIoU'])  # the mean over the classes that occur
test_evaluator = val_evaluator
