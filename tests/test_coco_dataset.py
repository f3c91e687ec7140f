"""CheckedCocoDataset: parity with mmdet on sound data; bad boxes and images are skipped, counted and logged."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate, worker_init_fn
from PIL import Image
from torch.utils.data import DataLoader

pytest.importorskip('mmdet')
from coco_files import (  # noqa: E402
    CLASSES,
    HEIGHT,
    NUM_IMAGES,
    WIDTH,
    annotation,
    assert_in,
    build,
    edit,
    error_of,
    log_to,
    truncate,
    write_dataset,
)
from mmdet.datasets import CocoDataset  # noqa: E402

from frostnet_mm.data import CheckedCocoDataset, DatasetError, DatasetNotFoundError  # noqa: E402
from frostnet_mm.data.loading import MEAN_GREY  # noqa: E402
from frostnet_mm.registry import DATASETS  # noqa: E402

LOAD_AND_PACK = [
    dict(type='frostnet_mm.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs'),
]
SSD_TRAIN = [
    dict(type='frostnet_mm.LoadImage'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 4)),
    dict(type='mmdet.MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type='mmdet.Resize', scale=(320, 320), keep_ratio=False),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(
        type='mmdet.PhotoMetricDistortion',
        brightness_delta=32,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=18,
    ),
    dict(type='mmdet.PackDetInputs'),
]
SSD_TEST = [
    dict(type='frostnet_mm.LoadImage'),
    dict(type='mmdet.Resize', scale=(320, 320), keep_ratio=False),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path)


@pytest.fixture
def log(tmp_path):
    with log_to(tmp_path / 'test.log') as lines:
        yield lines


# --- sound data


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(test_mode=True),
        dict(filter_cfg=dict(filter_empty_gt=True, min_size=30)),
        dict(serialize_data=False),
        dict(indices=3),
        dict(lazy_init=True),
    ],
)
def test_parity_with_mmdet(root, log, kwargs):
    ours, theirs = build(root, **kwargs), build(root, cls=CocoDataset, **kwargs)
    ours.full_init(), theirs.full_init()
    assert [ours.get_data_info(i) for i in range(len(ours))] == [theirs.get_data_info(i) for i in range(len(theirs))]
    assert (ours.cat_ids, ours.cat2label, ours.cat_img_map) == (theirs.cat_ids, theirs.cat2label, theirs.cat_img_map)
    assert ours.problems == {} and ours.num_bad_images == 0 and log() == []


def test_boxes_within_rounding_of_the_border_are_mmdets(root, log):
    edit(root, lambda data: data['annotations'].append(annotation(99, bbox=(-0.4, 0, WIDTH + 0.9, HEIGHT + 1))))
    assert build(root).get_data_info(0) == build(root, cls=CocoDataset).get_data_info(0)
    assert log() == []


def test_built_from_a_config_in_mmdets_scope(root):
    dataset = DATASETS.build(
        dict(
            type='frostnet_mm.CheckedCocoDataset',
            data_root=str(root),
            ann_file='annotations/train.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
            pipeline=SSD_TRAIN,
            _scope_='mmdet',
        )
    )
    assert type(dataset) is CheckedCocoDataset and dataset[0]['inputs'].shape == (3, 320, 320)


def test_sub_folders_in_file_names(root):
    (root / 'images' / 'a' / 'b').mkdir(parents=True)
    (root / 'images' / '0001.jpg').rename(root / 'images' / 'a' / 'b' / '0001.jpg')
    edit(root, lambda data: data['images'][0].update(file_name='a/b/0001.jpg'))
    assert len(build(root, test_mode=True)) == NUM_IMAGES


def test_package_imports_without_mmdet():
    code = (
        "import sys; sys.modules['mmdet'] = None; import frostnet_mm.data as data; "
        "assert data.LoadImage and data.read_coco_classes and not hasattr(data, 'CheckedCocoDataset')"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- boxes

BAD_BOXES = {
    'boxes of a size that is not finite (NaN or infinity)': [(float('nan'), 1, 5, 5), (1, 1, float('inf'), 5)],
    'boxes of zero or negative width or height': [(1, 1, 0, 5), (1, 1, 5, -3), (1, 1, 0, 0), (9, 9, -5, -5)],
    'boxes narrower or lower than 1 pixel': [(1, 1, 0.5, 5)],
    'boxes outside their image': [(WIDTH, 5, 9, 9), (-10, 5, 9.5, 9), (5, HEIGHT + 2, 9, 9)],
}
OVERRUNNING = {(-5, -4, 20, 20): [0, 0, 15, 16], (30, 20, 30, 30): [30, 20, 40, 30], (0, 0, 400, 300): [0, 0, 40, 30]}


def add_boxes(root, boxes):
    edit(root, lambda data: data['annotations'].extend(annotation(100 + i, bbox=box) for i, box in enumerate(boxes)))


@pytest.mark.parametrize('test_mode', [False, True])
def test_unusable_boxes_are_skipped_and_counted(root, log, test_mode):
    add_boxes(root, [box for boxes in BAD_BOXES.values() for box in boxes])
    edit(
        root, lambda data: data['annotations'].append(dict(annotation(200), area=0, segmentation=[[1, 1, 2, 2, 1, 2]]))
    )
    dataset = build(root, test_mode=test_mode)
    expected = {cause: len(boxes) for cause, boxes in BAD_BOXES.items()}
    expected['boxes stated to have no area (area <= 0)'] = 1
    assert dataset.problems == expected
    assert len(log()) == len(expected)  # one line a cause
    zero = next(line for line in log() if 'zero or negative' in line)
    assert_in(
        zero,
        "train.json': 4 of 31 boxes are of zero or negative width or height: skipped",
        'annotation ids 102, 103, 104 and 1 more',
    )
    assert ('take them out of the file' in zero) == test_mode
    assert [len(dataset.get_data_info(i)['instances']) for i in range(NUM_IMAGES)] == [2] * NUM_IMAGES


def test_boxes_partly_outside_are_clipped_in_training(root, log):
    add_boxes(root, OVERRUNNING)
    dataset = build(root)
    assert dataset.problems == {'boxes partly outside their image': 3}
    boxes = [instance['bbox'] for instance in dataset.get_data_info(0)['instances']]
    assert boxes[2:] == list(OVERRUNNING.values())
    assert_in(log()[0], '3 of 23 boxes are partly outside their image: clipped', 'annotation ids 100, 101, 102')
    assert 'two corners' not in log()[0]


def test_boxes_partly_outside_stay_ground_truth_in_test_mode(root, log):
    add_boxes(root, OVERRUNNING)
    dataset = build(root, test_mode=True)
    assert dataset.problems == {'boxes partly outside their image': 3}
    assert dataset.get_data_info(0) == build(root, cls=CocoDataset, test_mode=True).get_data_info(0)
    assert_in(log()[0], 'left as they are')


def test_two_corners_instead_of_width_and_height_are_suspected(root, log):
    edit(root, lambda data: [entry.update(bbox=[25, 20, 38, 28]) for entry in data['annotations']])
    build(root)
    assert_in(log()[0], '20 of 20 boxes are partly outside', 'two corners?')


def test_fractions_instead_of_pixels(root):
    edit(root, lambda data: [entry.update(bbox=[0.1, 0.2, 0.5, 0.5]) for entry in data['annotations']])
    assert_in(
        error_of(root), 'none of its 20 boxes can be used', '20 boxes narrower or lower than 1 pixel', 'not fractions'
    )


def test_images_left_empty_by_bad_boxes_are_filtered(root):
    edit(root, lambda data: [entry.update(bbox=[1, 1, 0, 0]) for entry in data['annotations'][:4]])
    assert len(build(root)) == NUM_IMAGES
    assert len(build(root, filter_cfg=dict(filter_empty_gt=True))) == NUM_IMAGES - 2


def test_nothing_left_by_the_filter(root):
    text = error_of(root, filter_cfg=dict(filter_empty_gt=True, min_size=64))
    assert_in(text, "'min_size': 64", 'leaves none of its 10 images', 'shorter side')


# --- images missing on disk


def test_few_missing_images_are_skipped_in_training(root, log):
    (root / 'images' / '0003.jpg').unlink()
    dataset = build(root)
    assert len(dataset) == NUM_IMAGES - 1 and dataset.problems == {'images missing on disk': 1}
    assert 3 not in [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
    assert_in(log()[0], '1 of 10 images (10.0%)', f"below '{root}/images/': '0003.jpg'", 'skipped')


def test_many_missing_images_are_an_error(root):
    for i in (3, 4):
        (root / 'images' / f'{i:04d}.jpg').unlink()
    text = error_of(root, DatasetNotFoundError)
    assert_in(
        text,
        '2 of 10 images (20.0%)',
        "'0003.jpg', '0004.jpg'",
        f"'{root}/images' holds 0001.jpg",
        'max_bad_fraction=0.1',
        'COCO_ROOT',
    )
    assert len(build(root, max_bad_fraction=0.2)) == NUM_IMAGES - 2


def test_any_missing_image_is_an_error_in_test_mode(root):
    (root / 'images' / '0003.jpg').unlink()
    text = error_of(root, DatasetNotFoundError, test_mode=True, max_bad_fraction=1)
    assert_in(text, '1 of 10 images', 'wrong metric', '0003.jpg')


def test_max_bad_fraction_is_a_fraction(root):
    with pytest.raises(ValueError, match='max_bad_fraction=10, expected a fraction'):
        build(root, max_bad_fraction=10)


# --- unreadable images while running


def test_bad_image_in_training_is_replaced_and_logged_once(root, log):
    truncate(root, 4)
    dataset = build(root, pipeline=LOAD_AND_PACK)
    np.random.seed(0)
    ids = [dataset[3]['data_samples'].img_id for _ in range(3)]
    assert 4 not in ids and dataset.num_bad_images == 1
    assert len(log()) == 1
    assert_in(log()[0], '0004.jpg', 'truncated', '1 of 10 images so far')


def test_too_many_bad_images_end_training(root):
    truncate(root, 4, 7)
    dataset = build(root, pipeline=LOAD_AND_PACK)
    np.random.seed(0)
    assert dataset[3] is not None
    with pytest.raises(DatasetError) as caught:
        dataset[6]
    assert_in(str(caught.value), '2 of 10 images', 'max_bad_fraction=0.1', '0007.jpg', 'truncated')


def test_bad_image_in_test_mode_is_grey_and_counted(root, log):
    truncate(root, 4, 7)
    dataset = build(root, pipeline=SSD_TEST, test_mode=True)
    result = dataset[3]
    assert result['data_samples'].img_id == 4 and result['data_samples'].ori_shape == (HEIGHT, WIDTH)
    assert len(result['data_samples'].gt_instances) == 2  # they count as missed
    assert result['inputs'].shape == (3, 320, 320)
    assert (result['inputs'] == torch.tensor(MEAN_GREY, dtype=torch.uint8).view(3, 1, 1)).all()
    assert dataset[6] is not None and dataset[6] is not None  # no limit, and the second time is not logged
    assert dataset.num_bad_images == 2
    assert len(log('ERROR')) == 2
    assert_in(log('ERROR')[0], '0004.jpg', 'truncated', 'grey', 'count as missed')


def test_data_loader_with_workers_counts_across_processes(root, log):
    truncate(root, 4)
    dataset = build(root, pipeline=LOAD_AND_PACK)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        collate_fn=pseudo_collate,
        worker_init_fn=lambda worker_id: worker_init_fn(worker_id, 2, 0, 0),
    )
    for _ in range(2):
        ids = [sample.img_id for batch in loader for sample in batch['data_samples']]
        assert len(ids) == NUM_IMAGES and 4 not in ids
    assert dataset.num_bad_images == 1
    assert len([line for line in log() if '0004.jpg' in line]) == 1


def test_error_in_a_worker_reaches_the_user(root):
    truncate(root, 1, 2, 3)
    dataset = build(root, pipeline=LOAD_AND_PACK)
    with pytest.raises(DatasetError, match='max_bad_fraction=0.1'):
        next(iter(DataLoader(dataset, batch_size=NUM_IMAGES, num_workers=1, collate_fn=pseudo_collate)))


def test_subsets_count_for_themselves(root):
    truncate(root, 4)
    dataset = build(root, pipeline=SSD_TEST, test_mode=True)
    assert dataset[3] is not None
    subset = dataset.get_subset([3, 4])
    assert subset.num_bad_images == 0
    assert subset[0] is not None and (subset.num_bad_images, dataset.num_bad_images) == (1, 1)
    dataset.get_subset_(2)
    assert (len(dataset), dataset.num_bad_images) == (2, 0)


def test_other_loading_transforms_behave_as_in_mmdet(root):
    (root / 'images' / '0004.jpg').write_bytes(b'')
    pipeline = [dict(type='mmcv.LoadImageFromFile'), *LOAD_AND_PACK[1:]]
    dataset = build(root, pipeline=pipeline)
    assert dataset[0] is not None
    with pytest.raises(Exception, match='(?i)failed to load|empty|assert|imdecode'):
        dataset[3]
    assert dataset.num_bad_images == 0


def turn(root, *ids):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in ids:
        Image.new('RGB', (WIDTH, HEIGHT)).save(root / 'images' / f'{i:04d}.jpg', exif=exif)


def test_image_of_another_size_than_the_json_states_is_an_error_in_test_mode(root):
    turn(root, 1, 2)
    Image.new('RGB', (WIDTH * 2, HEIGHT * 2)).save(root / 'images' / '0003.jpg')
    dataset = build(root, pipeline=SSD_TEST, test_mode=True)
    for index, size in ((0, '30x40'), (2, '80x60')):
        with pytest.raises(DatasetError) as caught:
            dataset[index]
        name = f'{index + 1:04d}.jpg'
        assert_in(str(caught.value), name, f'is {size} (width x height), the json says 40x30', 'wrong metric')
        assert ('color_ignore_orientation' in str(caught.value)) == (index == 0)
    assert dataset[3] is not None
    pipeline = copy.deepcopy(SSD_TEST)
    pipeline[0]['color_type'] = 'color_ignore_orientation'
    dataset = build(root, pipeline=pipeline, test_mode=True)
    assert all(dataset[i] is not None for i in range(2)) and dataset.num_size_mismatches == 0


def test_turned_and_scaled_images_count_as_bad_in_training(root, log):
    turn(root, 1)
    Image.new('RGB', (WIDTH // 2, HEIGHT // 2)).save(root / 'images' / '0003.jpg')
    dataset = build(root, pipeline=LOAD_AND_PACK, max_bad_fraction=0.2)
    ids = {dataset[i]['data_samples'].img_id for i in range(NUM_IMAGES)}
    assert not ids & {1, 3} and dataset.num_bad_images == 2
    assert_in(log()[0], '0001.jpg', 'is 30x40', 'the json says 40x30', 'EXIF', 'color_ignore_orientation')
    assert_in(log()[1], '0003.jpg', 'is 20x15', 'made for another version')
    dataset = build(root, pipeline=LOAD_AND_PACK)
    with pytest.raises(DatasetError, match='2 of 10 images .* more than max_bad_fraction=0.1'):
        [dataset[i] for i in range(NUM_IMAGES)]


def test_boxes_are_clipped_to_a_cropped_image(root, log):
    """Neither turned nor scaled: 40x30 cut to 14x30. Boxes of image 2 are (0, 4, 12, 12.5) and (3, 4, 12, 12.5)."""
    Image.new('RGB', (14, 30)).save(root / 'images' / '0002.jpg')
    edit(root, lambda data: data['annotations'].append(annotation(99, image_id=2, bbox=(20, 4, 10, 10))))
    dataset = build(root, pipeline=LOAD_AND_PACK)
    boxes = dataset[1]['data_samples'].gt_instances.bboxes.tensor.tolist()
    assert boxes == [[0, 4, 12, 16.5], [3, 4, 14, 16.5]]
    assert dataset.num_size_mismatches == 1 and dataset.num_bad_images == 0
    assert_in(log()[0], '0002.jpg', 'is 14x30', 'the json says 40x30', '1 left out')


def test_image_of_one_pixel_through_the_ssd_pipelines(root):
    Image.new('RGB', (1, 1), (200, 100, 50)).save(root / 'images' / '0001.jpg')

    def shrink(data):
        data['images'][0].update(width=1, height=1)
        data['annotations'][:2] = [annotation(2, bbox=(0, 0, 1, 1))]

    edit(root, shrink)
    dataset = build(root, pipeline=SSD_TRAIN)
    np.random.seed(0)
    for _ in range(20):
        result = dataset[0]
        assert result['data_samples'].img_id == 1 and result['inputs'].shape == (3, 320, 320)
        boxes = result['data_samples'].gt_instances.bboxes
        assert len(boxes) == 1 and torch.isfinite(boxes.tensor).all()
    result = build(root, pipeline=SSD_TEST, test_mode=True)[0]
    assert result['inputs'].shape == (3, 320, 320) and result['data_samples'].ori_shape == (1, 1)
    assert result['data_samples'].gt_instances.bboxes.tensor.tolist() == [[0, 0, 1, 1]]  # not resized in tests
    assert dataset.num_bad_images == dataset.num_size_mismatches == 0
