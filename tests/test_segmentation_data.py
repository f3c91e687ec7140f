"""CheckedSegDataset: parity with mmseg on sound data; what is wrong is said before training, or skipped and counted."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
from coco_files import assert_in, log_to  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmseg.datasets import BaseSegDataset, CityscapesDataset  # noqa: E402
from seg_files import (  # noqa: E402
    CLASSES,
    FORMS,
    HEIGHT,
    LOAD,
    PACK,
    WIDTH,
    build,
    change,
    image_path,
    label_path,
    labels_of,
    truncate,
    write,
)
from torch.utils.data import DataLoader  # noqa: E402

from frostnet_mm.cli import worker_message  # noqa: E402
from frostnet_mm.data import (  # noqa: E402
    BadImageError,
    CheckedCityscapesDataset,
    CheckedSegDataset,
    DatasetError,
    DatasetNotFoundError,
    segmentation_checks,
)
from frostnet_mm.data.loading import MEAN_GREY  # noqa: E402
from frostnet_mm.data.segmentation_plain import check_plain  # noqa: E402
from frostnet_mm.engine.checkpoint_runner import CheckpointRunner  # noqa: E402

PLAIN = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / 'data')


def error_of(root, error=DatasetError, **kwargs):
    with pytest.raises(error) as caught:
        build(root, **kwargs)
    return str(caught.value)


def half(labels):
    return np.ascontiguousarray(labels[::2, ::2])


# -- sound data


@pytest.mark.parametrize('options', [{}, dict(reduce_zero_label=True, classes=('road', 'car'))])
def test_sound_data_are_as_mmseg_reads_them(root, options):
    ours = build(root, **options)
    theirs = build(root, BaseSegDataset, pipeline=PLAIN, **options)
    assert len(ours) == len(theirs) == 10 and ours.problems == {}
    for index in range(10):
        assert ours.get_data_info(index) == theirs.get_data_info(index)
        one, other = ours[index], theirs[index]
        assert np.array_equal(one['img'], other['img']) and np.array_equal(one['gt_seg_map'], other['gt_seg_map'])
    assert ours.metainfo['classes'] == theirs.metainfo['classes']


def test_some_classes_of_cityscapes_are_as_mmseg_reads_them(root):
    options = dict(img_suffix='.jpg', seg_map_suffix='.png', classes=('building', 'road'))
    ours = build(root, CheckedCityscapesDataset, **options)
    theirs = build(root, CityscapesDataset, pipeline=PLAIN, **options)
    assert np.array_equal(ours[0]['gt_seg_map'], theirs[0]['gt_seg_map'])
    assert set(np.unique(ours[0]['gt_seg_map'])) == {0, 1, 255} and ours.metainfo['palette'] == [
        [70] * 3,
        [128, 64, 128],
    ]


def test_mmsegs_loader_in_the_pipeline_becomes_ours(root):
    FORMS['RGB'](labels_of(0), label_path(root, 0))
    dataset = build(root, pipeline=PLAIN)
    assert np.array_equal(dataset[0]['gt_seg_map'], labels_of(0))


@pytest.mark.parametrize('form', sorted(FORMS))
def test_forms_of_labels_are_understood_and_said(form, root, tmp_path):
    for index in range(10):
        FORMS[form](labels_of(index), label_path(root, index))
    with log_to(tmp_path / 'log') as lines:
        dataset = build(root)
        said = [line for line in lines('INFO') if 'are stored as' in line]
    assert np.array_equal(dataset[7]['gt_seg_map'], labels_of(7))
    assert bool(said) == (form not in ('8 bit grey', 'palette', 'BMP')), said
    assert all(line.startswith('INFO 10 of 10 labels read are stored as') for line in said)


def test_the_log_says_what_the_labels_hold(root, tmp_path):
    with log_to(tmp_path / 'log') as lines:
        build(root, classes=(*CLASSES, 'bus'))
        (line,) = [line for line in lines('INFO') if 'Labels of' in line]
    counts = sum(np.bincount(labels_of(index).ravel(), minlength=256) for index in range(10))
    shares = {name: f'{name} {counts[value] / counts.sum():.1%}' for value, name in enumerate(CLASSES)}
    assert_in(line, '(10 of 10 read)', *shares.values(), f'ignored {1 / HEIGHT:.1%}; not found: bus.')


# -- files


def test_other_extensions_are_used_and_said(root, tmp_path):
    for index in range(4):
        image_path(root, index).rename(image_path(root, index).with_suffix('.JPG'))
    Image.open(image_path(root, 5)).save(image_path(root, 5).with_suffix('.png'))  # twice: img_suffix goes first
    Image.new('RGB', (9, 9)).save(root / 'images/train/cover.png')  # without label
    with log_to(tmp_path / 'log') as lines:
        dataset = build(root)
        (line,) = [line for line in lines('INFO') if 'instead of' in line]
    assert (
        len(dataset) == 10 and dataset[0]['img_path'].endswith('000.JPG') and dataset[5]['img_path'].endswith('5.jpg')
    )
    assert_in(line, "4 images end in .JPG instead of img_suffix='.jpg'")
    assert len(build(root, img_suffix='.png')) == 10


def test_images_that_no_suffix_fits_are_named(root):
    message = error_of(root, DatasetNotFoundError, img_suffix='_leftImg8bit.png')
    assert_in(
        message, "ends in '_leftImg8bit.png' (img_suffix", "10 other images, such as '000.jpg'", "img_suffix='.jpg'"
    )
    shutil.rmtree(root / 'images' / 'train')
    assert_in(
        error_of(root, DatasetNotFoundError), "image folder '", 'images/train', 'does not exist', 'data_root=/path'
    )


def test_a_list_of_images_may_name_them_with_suffix(root):
    (root / 'list.txt').write_text('\ufeff003\n\n007.jpg\r\n', encoding='utf-8')
    dataset = build(root, ann_file='list.txt')
    assert [dataset[i]['img_path'][-7:] for i in range(2)] == ['003.jpg', '007.jpg'] and len(dataset) == 2
    assert_in(error_of(root, DatasetNotFoundError, ann_file='lost.txt'), 'lost.txt', 'does not exist')


def test_missing_labels_in_training_and_evaluation(root):
    label_path(root, 3).unlink()
    dataset = build(root)
    assert len(dataset) == 9 and dataset.problems == {'label missing': 1}
    message = error_of(root, DatasetNotFoundError, test_mode=True)
    assert_in(message, '1 of 10 images have no label', '003.png', 'would give a wrong metric')
    label_path(root, 4).rename(label_path(root, 4).with_name('004_mask.png'))
    message = error_of(root, DatasetNotFoundError, max_bad_fraction=0.1)
    assert_in(message, '2 of 10', 'More than max_bad_fraction=0.1')
    label_path(root, 3).with_name('003_mask.png').touch()
    assert_in(error_of(root, DatasetNotFoundError), "003_mask.png': seg_map_suffix of the data set says")
    assert len(build(root, test_mode=True, pipeline=LOAD[:1])) == 10  # images alone need no labels


def test_prepare_cityscapes_is_named_where_train_ids_are_missing(root):
    for folder, end in (('images', '_leftImg8bit.png'), ('labels', '_gtFine_labelIds.png')):
        for path in (root / folder / 'train').iterdir():
            Image.open(path).save(path.with_name(path.stem + end))
    prefix = dict(img_path='images/train', seg_map_path='labels/train')
    with pytest.raises(DatasetNotFoundError) as caught:
        CheckedCityscapesDataset(data_root=str(root), data_prefix=prefix, pipeline=LOAD)
    assert_in(str(caught.value), f"'python tools/prepare_cityscapes.py {root}' makes it of them")


# -- before training


@pytest.mark.parametrize(
    ('spoil', 'said'),
    [
        (lambda path: Image.fromarray(half(labels_of(2))).save(path), 'is 18x12 (width x height), its image'),
        (lambda path: Image.fromarray(half(labels_of(2))).save(path), 'scaled by 0.5. Resize it with nearest'),
        (lambda path: Image.fromarray(labels_of(2).T.copy()).save(path), 'is 24x36 (width x height)'),
        (
            lambda path: Image.fromarray(labels_of(2).T.copy()).save(path),
            'turned by 90 degrees. If the image has an EXIF',
        ),
        (lambda path: Image.fromarray(labels_of(2)[:-3]).save(path), 'cut or of another image'),
        (lambda path: path.write_bytes(b''), 'the file is empty (0 bytes)'),
        (lambda path: path.write_text('<html>'), 'its 6 bytes are no image that Pillow knows'),
        (lambda path: truncate(path), 'the file is truncated or damaged'),
        (lambda path: Image.new('RGB', (WIDTH, HEIGHT), (1, 2, 3)).save(path), 'it is a picture in colours'),
    ],
)
def test_a_faulty_label_is_left_out_or_an_error(spoil, said, root, tmp_path):
    spoil(label_path(root, 2))
    with log_to(tmp_path / 'log') as lines:
        dataset = build(root)
        (warning,) = lines()
    assert len(dataset) == 9 and sum(dataset.problems.values()) == 1
    assert_in(warning, '1 of 10 images cannot be used', '002.png', said, 'They are left out')
    assert not any(dataset.get_data_info(index)['img_path'].endswith('002.jpg') for index in range(9))
    assert_in(error_of(root, max_bad_fraction=0.05), said, 'More than max_bad_fraction=0.05')
    assert_in(error_of(root, test_mode=True), said, 'An evaluation without them would give a wrong metric')


def test_orientation_of_images_is_that_of_the_loader(root):
    for index in range(10):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(image_path(root, index)).save(image_path(root, index), exif=exif)
    assert_in(
        error_of(root), 'turned by 90 degrees', "color_type='color_ignore_orientation' of the loader leaves it out"
    )
    stored = [dict(type='frostnet_mm.LoadImage', color_type='color_ignore_orientation'), LOAD[1]]
    assert build(root, pipeline=stored)[0]['img'].shape[:2] == (HEIGHT, WIDTH)


def test_a_value_beyond_the_classes_is_named(root):
    change(label_path(root, 6), lambda labels: labels.__setitem__((5, 7), 3))
    message = error_of(root, max_bad_fraction=1)
    assert message == (
        f"the label '{label_path(root, 6)}' holds the value 3 (1 of 864 pixels, the first in row 5, column 7). "
        "Expected: 0 to 2 for the 3 classes ('sky', 'road', 'car'), 255 for what is ignored. If the classes are "
        'counted from 1 and 0 is none, set reduce_zero_label=True in the data sets. If it is a class, name all classes '
        'in metainfo=dict(classes=...) of the data sets and set num_classes of the heads; else correct the pixels: 255 '
        'is ignored. 1 of 10 labels that were read hold such values.'
    )
    assert len(build(root, classes=(*CLASSES, 'bus'))) == 10


def test_label_ids_are_told_from_train_ids(tmp_path):
    table = np.array([7, 8, 26], np.uint8)
    root = write(tmp_path, labels=lambda index: table[np.minimum(labels_of(index), 2)], image='_leftImg8bit.png')
    for path in (root / 'labels/train').iterdir():
        path.rename(path.with_name(path.stem + '_gtFine_labelTrainIds.png'))
    prefix = dict(img_path='images/train', seg_map_path='labels/train')
    given = dict(data_root=str(root), data_prefix=prefix, pipeline=LOAD)
    with pytest.raises(DatasetError) as caught:
        CheckedCityscapesDataset(**given)
    mend = f'python tools/prepare_cityscapes.py {root} --overwrite'
    assert_in(
        str(caught.value), 'holds the value 26 (', 'These are label ids, not train ids', mend, 'rename these files'
    )
    for path in (root / 'labels/train').iterdir():  # 7 and 8 are train ids as well: beside the label ids it is seen
        Image.fromarray(np.minimum(np.array(Image.open(path)), 8)).save(path)
        shutil.copy(path, str(path).replace('labelTrainIds', 'labelIds'))
    with pytest.raises(DatasetError) as caught:
        CheckedCityscapesDataset(**given)
    assert_in(str(caught.value), "holds label ids, not train ids ('000_gtFine_labelIds.png' beside it)", mend)


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda labels: np.full_like(labels, 255), 'no pixel has a class, all are ignored (255)'),
        (
            lambda labels: np.where(labels == 0, 255, 0).astype(np.uint8),
            '0 (sky) is the only class, every other pixel is',
        ),
        (lambda labels: np.ones_like(labels), 'every pixel is 1 (road): nothing is told apart'),
    ],
)
def test_labels_of_which_nothing_is_learned_are_an_error(make, said, tmp_path):
    root = write(tmp_path, count=70, labels=lambda index: make(labels_of(index)))
    assert_in(error_of(root), 'by the 70 of 70 that were read: ', said)
    index = max(set(range(70)) - set(segmentation_checks.spread(70, segmentation_checks.LABELS_READ)))
    Image.fromarray(labels_of(index)).save(label_path(root, index))  # not in the sample: reading on finds it
    assert len(build(root)) == 70


def test_labels_without_a_class_are_counted(root, tmp_path):
    for index in (1, 2, 3):
        Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(label_path(root, index))
    with log_to(tmp_path / 'log') as lines:
        dataset = build(root)
        assert_in(lines()[-1], '3 of 10 labels read have no pixel of a class', '001.png')
        for index in range(10):
            dataset[index]
        assert_in(lines()[-1], '001.png', 'Further ones are counted in num_unlabelled')
        assert len(lines()) == 2
    assert dataset.num_unlabelled == 3 and dataset.num_bad_images == 0


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (
            dict(classes=None),
            "metainfo=dict(classes=None) of CheckedSegDataset: expected the names of the labels' values",
        ),
        (dict(metainfo=dict(classes=CLASSES, palette=[[1, 2, 3]])), 'metainfo has 1 colours in palette and 3 classes'),
        (dict(cls=CheckedCityscapesDataset, classes=('road', 'other')), "names 'other'; it knows road, sidewalk"),
        (dict(cls=CheckedCityscapesDataset, classes=('a', 'b')), 'configs/espnetv2_frostnet_custom_seg.py'),
        (dict(data_prefix=dict(img_path='images/train')), 'names no labels: expected data_prefix=dict(img_path='),
    ],
)
def test_classes_and_folders_that_are_not_told(given, said, root):
    assert_in(error_of(root, **given), said)


def test_colours_are_made_where_none_are_given(root):
    palette = build(root).metainfo['palette']
    assert len(palette) == 3 and len({tuple(colour) for colour in palette}) == 3


# -- while running


def test_a_bad_image_is_replaced_in_training(root, tmp_path):
    truncate(image_path(root, 4))
    dataset = build(root)
    with log_to(tmp_path / 'log') as lines:
        for _ in range(3):
            assert not dataset[4]['img_path'].endswith('004.jpg')
        (warning,) = lines()
    assert_in(warning, "cannot use the image '", '004.jpg', 'Another image is taken; 1 of 10 images so far')
    assert dataset.num_bad_images == 1
    truncate(image_path(root, 5))
    with pytest.raises(DatasetError, match='2 of 10 images of .* more than max_bad_fraction=0.1'):
        for _ in range(2):
            dataset[5], dataset[4]


def test_a_bad_image_is_grey_in_evaluation(root, tmp_path):
    truncate(image_path(root, 4))
    image_path(root, 5).write_bytes(b'')
    dataset = build(root, test_mode=True)
    with log_to(tmp_path / 'log') as lines:
        data = dataset[4], dataset[5]
        assert_in(lines('ERROR')[0], 'Evaluated as a uniform grey image; 1 of 10')
    for index, item in zip((4, 5), data, strict=True):
        assert (item['img'] == MEAN_GREY).all() and item['img'].shape == (HEIGHT, WIDTH, 3)
        assert np.array_equal(item['gt_seg_map'], labels_of(index))
    assert dataset.num_bad_images == 2


@pytest.mark.parametrize('test_mode', [False, True])
def test_labels_beyond_the_sample_are_held_against_the_classes(test_mode, root, monkeypatch):
    monkeypatch.setattr(segmentation_checks, 'LABELS_READ', 1)
    change(label_path(root, 6), lambda labels: labels.__setitem__((5, 7), 3))
    truncate(label_path(root, 7))
    dataset = build(root, test_mode=test_mode)
    with pytest.raises(
        DatasetError, match='006.png.* holds the value 3 .1 of 864 pixels, the first in row 5, column 7'
    ):
        dataset[6]
    Image.fromarray(labels_of(6)).save(label_path(root, 6))  # which may take the place of the next one
    if test_mode:
        with pytest.raises(DatasetError, match='007.png.* truncated or damaged.*would give a wrong metric'):
            dataset[7]
    else:
        assert dataset[7]['img_path'][-7:] != '007.jpg' and dataset.num_bad_images == 1


def test_sizes_are_compared_where_the_header_does_not_tell(root, monkeypatch):
    monkeypatch.setattr(segmentation_checks, 'header_fault', lambda *_: None)
    Image.fromarray(half(labels_of(3))).save(label_path(root, 3))
    dataset = build(root)
    assert dataset[3]['img_path'][-7:] != '003.jpg' and dataset.num_bad_images == 1
    with pytest.raises(DatasetError, match='is 18x12 .width x height., its image .*003.jpg. 36x24, scaled by 0.5'):
        build(root, test_mode=True)[3]


@pytest.mark.parametrize('spoil', ['value', 'size'])
def test_what_a_worker_says_comes_without_its_traceback(spoil, root, monkeypatch):
    monkeypatch.setattr(segmentation_checks, 'LABELS_READ', 1)
    if spoil == 'value':
        change(label_path(root, 6), lambda labels: labels.__setitem__((5, 7), 3))
        dataset, beginning = build(root, pipeline=PACK), "the label '"
    else:  # of mmseg's own data set, which lets our loader's error through; torch makes it a RuntimeError
        Image.fromarray(half(labels_of(3))).save(label_path(root, 3))
        dataset, beginning = build(root, BaseSegDataset, pipeline=PACK), "cannot use the label '"
    loader = DataLoader(dataset, batch_size=10, num_workers=1, collate_fn=pseudo_collate)
    with pytest.raises((DatasetError, RuntimeError)) as caught:
        next(iter(loader))
    assert 'Traceback' in str(caught.value)
    message = worker_message(caught.value)
    assert message.startswith(beginning) and 'Traceback' not in message and '\n' not in message
    assert worker_message(RuntimeError('Caught ValueError in DataLoader worker process 0.\nOriginal Traceback')) is None


# -- mmseg's own data sets


def plain(root, **kwargs):
    return build(root, BaseSegDataset, **(dict(pipeline=PLAIN) | kwargs))


@pytest.mark.parametrize(
    ('spoil', 'said'),
    [
        (lambda path: Image.fromarray(half(labels_of(2))).save(path), 'scaled by 0.5.*CheckedSegDataset.* are skipped'),
        (lambda path: change(path, lambda labels: labels.__setitem__((0, 0), 9)), '002.png. holds the value 9'),
        (lambda path: path.unlink(), 'the label .*002.png. does not exist'),
        (lambda path: path.write_bytes(b''), 'the file is empty'),
    ],
)
def test_plain_data_sets_are_checked_from_outside(spoil, said, root):
    check_plain(plain(root), ())
    spoil(label_path(root, 2))
    with pytest.raises(DatasetError, match=re.compile(said, re.S)):
        check_plain(plain(root), ())


def test_plain_data_sets_get_our_loaders(root, monkeypatch):
    FORMS['RGB'](labels_of(2), label_path(root, 2))
    truncate(image_path(root, 4))
    monkeypatch.setattr(segmentation_checks, 'LABELS_READ', 1)
    truncate(label_path(root, 5))
    dataset = plain(root)
    check_plain(dataset, ())
    assert np.array_equal(dataset[2]['gt_seg_map'], labels_of(2))
    with pytest.raises(BadImageError, match='cannot use the image .*004.jpg.: the file is truncated'):
        dataset[4]
    with pytest.raises(BadImageError, match='cannot use the label .*005.png.: the file is truncated'):
        dataset[5]
    options = dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='mmseg.LoadAnnotations')
    dataset = plain(root, pipeline=options)
    check_plain(dataset, ())
    assert dataset[0]['img'].ndim == 2  # options that ours does not have stay


def test_plain_data_sets_without_images_or_classes(root):
    prefix = dict(img_path='images/train', seg_map_path='labels/train')
    empty = dict(type='mmseg.BaseSegDataset', data_root=str(root), data_prefix=prefix, img_suffix='.jpeg')
    with pytest.raises(DatasetNotFoundError, match=r"ends in '.jpeg' .* such as '000.jpg'.*: set img_suffix"):
        CheckpointRunner.build_dataloader(dict(dataset=empty, batch_size=1, sampler=dict(type='DefaultSampler')))
    unnamed = plain(root, classes=None)
    check_plain(unnamed, ['class 0', 'class 1', 'class 2'])  # as many as the head has
    with pytest.raises(DatasetError, match='holds the value 2'):
        check_plain(unnamed, ['class 0', 'class 1'])


def test_the_classes_are_registered():
    from frostnet_mm.registry import DATASETS, TRANSFORMS

    assert DATASETS.get('frostnet_mm.CheckedSegDataset') is CheckedSegDataset
    assert DATASETS.get('frostnet_mm.CheckedCityscapesDataset') is CheckedCityscapesDataset
    assert TRANSFORMS.get('frostnet_mm.LoadSegAnnotations').__name__ == 'LoadSegAnnotations'
