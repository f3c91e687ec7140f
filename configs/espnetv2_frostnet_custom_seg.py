# ESPNetv2's decoder on FrostNet small for images and labels of one's own, from scratch. What depends on them are the
# variables below. A config of one's own inherits this one and sets them (docs/data.md, "Own classes in segmentation"),
# or the command line does:
#
#   python tools/train.py configs/espnetv2_frostnet_custom_seg.py --cfg-options data_root=path/to/data classes=sky,rest
_base_ = ['_base_/models/espnetv2.py', '_base_/seg_runtime.py']

data_root = '{{$SEGMENTATION_ROOT:data/segmentation}}'
img_suffix, seg_map_suffix = '.jpg', '.png'  # images/train/a/b.jpg belongs to labels/train/a/b.png
train_images, train_labels = 'images/train', 'labels/train'
val_images, val_labels = 'images/val', 'labels/val'
classes = ('background', 'object')  # of the labels' values 0, 1, ...; 255 is ignored
class_weight = None  # or one weight a class

scale, ratio_range = (512, 512), (0.75, 1.75)  # images are resized to fit into (width, height), in training by a factor
crop_size = (384, 384)  # (height, width) of what is trained on
batch_size = 4
max_iters, warmup_iters, val_interval = 4000, 100, 500  # steps

model = dict(
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],  # ImageNet's
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    backbone=dict(type='frostnet_mm.FrostNet', arch='small', out_indices=(0, 1, 2, 4)),
    decode_head=dict(
        in_channels=(24, 40, 96, 320),
        channels=96,
        num_classes=len(classes),
        # mmseg cannot compute class weights and avg_non_ignore together; the mean is the same without
        loss_decode=dict(class_weight=class_weight, avg_non_ignore=class_weight is None),
    ),
)

train_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='frostnet_mm.LoadSegAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=ratio_range, keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.95),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3), saturation_range=(0.7, 1.3)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='frostnet_mm.LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    # after Resize: predictions are compared at the size of the annotations
    dict(type='frostnet_mm.LoadSegAnnotations'),
    dict(type='PackSegInputs'),
]
files = dict(
    type='frostnet_mm.CheckedSegDataset',
    data_root=data_root,
    img_suffix=img_suffix,
    seg_map_suffix=seg_map_suffix,
    metainfo=dict(classes=classes),
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix=dict(img_path=train_images, seg_map_path=train_labels), pipeline=train_pipeline, **files),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path=val_images, seg_map_path=val_labels), test_mode=True, pipeline=test_pipeline, **files
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='frostnet_mm.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=val_interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, by_epoch=False, begin=warmup_iters, end=max_iters),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.0015, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(checkpoint=dict(interval=val_interval), visualization=dict(draw=False))
auto_scale_lr = dict(enable=False, base_batch_size=4)
