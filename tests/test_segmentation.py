"""The same tools and backbone with mmseg: train, test and infer on a segmenter of three flat colours."""

import json

import cv2
import numpy as np
import pytest
import torch
from conftest import run_tool

COLOURS = np.array([(30, 30, 200), (30, 200, 30), (200, 30, 30)], np.uint8)  # BGR of the three classes


def write_data(root, split, count):
    rng = np.random.default_rng(len(split))
    for kind in ('images', 'labels'):
        (root / kind / split).mkdir(parents=True)
    for i in range(count):
        labels = np.zeros((64, 96), np.uint8)
        x, y = rng.integers(10, 50, 2)
        labels[y - 10 :, :x] = 1
        labels[: y - 5, x + 10 :] = 2
        noise = rng.integers(-20, 20, (64, 96, 3))
        cv2.imwrite(
            str(root / 'images' / split / f'{i}.jpg'), np.clip(COLOURS[labels] + noise, 0, 255).astype(np.uint8)
        )
        cv2.imwrite(str(root / 'labels' / split / f'{i}.png'), labels)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp('segmentation')
    write_data(root, 'train', 8)
    write_data(root, 'val', 3)
    config = root / 'fcn_frostnet.py'
    config.write_text(f"""
custom_imports = dict(imports=['frostnet_mm'])
default_scope = 'mmseg'
norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.] * 3, std=[255.] * 3, bgr_to_rgb=True, size=(64, 96)),
    backbone=dict(type='frostnet_mm.FrostNet', widen_factor=0.35, out_indices=(1, 4), output_stride=8),
    decode_head=dict(type='FCNHead', in_channels=112, in_index=1, channels=16, num_convs=1, concat_input=False,
                     num_classes=3, norm_cfg=norm_cfg, align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
load = test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
def data(split):
    return dict(type='BaseSegDataset', data_root={str(root)!r}, pipeline=load,
                data_prefix=dict(img_path='images/' + split, seg_map_path='labels/' + split),
                metainfo=dict(classes=('floor', 'door', 'sky'), palette=[[200, 30, 30], [30, 200, 30], [30, 30, 200]]))
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
                        dataset=data('train'))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=data('val'))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80, val_interval=80)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.002))
default_hooks = dict(logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=80),
                     visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='segmentation')
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
""")
    return config


def test_train_test_and_infer_a_segmenter(config, tmp_path):
    work_dir = tmp_path / 'run'
    assert run_tool('train', config, '--work-dir', work_dir) == 0
    checkpoint = work_dir / 'iter_80.pth'
    assert (
        run_tool(
            'test',
            config,
            checkpoint,
            '--work-dir',
            tmp_path / 'test',
            '--out',
            tmp_path / 'm.json',
            '--show-dir',
            tmp_path / 's',
        )
        == 0
    )
    metrics = json.loads((tmp_path / 'm.json').read_text())['metrics']
    assert metrics['mIoU'] > 50  # three flat colours; untrained it is below 25
    assert {path.name for path in (tmp_path / 's').iterdir()} == {'0.jpg', '1.jpg', '2.jpg'}

    images = config.parent / 'images' / 'val'
    assert run_tool('infer', config, checkpoint, images, '--out', tmp_path / 'out') == 0
    results = json.loads((tmp_path / 'out/results.json').read_text())['images']
    # mmseg's own interface as the second opinion
    from mmseg.apis import inference_model, init_model

    model = init_model(str(config), str(checkpoint), device='cpu')
    for name, result in results.items():
        labels = inference_model(model, str(images / name)).pred_sem_seg.data
        counts = torch.bincount(labels.flatten(), minlength=3).tolist()
        assert result['pixels'] == {c: n for c, n in zip(('floor', 'door', 'sky'), counts, strict=True) if n}
        assert cv2.imread(str(tmp_path / 'out' / result['picture'])).shape == (64, 96, 3)
        mask = cv2.imread(str(tmp_path / 'out' / result['mask']), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8 and np.array_equal(mask, labels[0].numpy())


def test_missing_images_are_named_with_the_way_out(config, tmp_path, capsys):
    options = [f'train_dataloader.dataset.data_root={tmp_path}/nowhere']
    assert run_tool('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f'{tmp_path}/nowhere/images/train does not exist' in message and 'data_root=PATH' in message
