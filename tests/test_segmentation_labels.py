"""Label images in all the forms that people have: what each is read as, and what is said of those that are none."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
from seg_files import FORMS, HEIGHT, WIDTH, labels_of, save_grey_bits  # noqa: E402

from frostnet_mm.data.cityscapes import CLASSES as CITYSCAPES  # noqa: E402
from frostnet_mm.data.cityscapes import LABELS  # noqa: E402
from frostnet_mm.data.segmentation_labels import BadLabelError, count_values, read_labels  # noqa: E402
from frostnet_mm.data.segmentation_loading import map_labels  # noqa: E402
from frostnet_mm.data.segmentation_values import (  # noqa: E402
    LabelValues,
    looks_meaningless,
    wrong_values_message,
)

SAID = {
    '16 bit': '16 bit',
    '32 bit': '32 bit',
    'floating point': '32 bit',
    'RGB': 'RGB with equal channels',
    'RGBA': 'RGBA with equal channels',
    'grey and alpha': 'grey with alpha',
    'RGB of 16 bits': 'colours of 16 bits with equal channels',
    'RGBA of 16 bits': 'colours of 16 bits with equal channels',
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_gives_the_indices(form, tmp_path):
    labels = labels_of(0, classes=200)
    FORMS[form](labels, tmp_path / 'a.png')
    values, said = read_labels(tmp_path / 'a.png')
    assert values.dtype == np.uint8 and np.array_equal(values, labels)
    assert said == SAID.get(form)


@pytest.mark.parametrize(('bits', 'said'), [(1, None), (2, '2 bit grey'), (4, '4 bit grey')])
def test_few_bits_are_indices(bits, said, tmp_path):
    labels = np.random.default_rng(0).integers(0, 2**bits, (5, 8), dtype=np.uint8)
    save_grey_bits(labels, tmp_path / 'a.png', bits)
    values, form = read_labels(tmp_path / 'a.png')
    assert np.array_equal(values, labels) and form == said


def colours(path):
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[2, 3] = (128, 64, 128)
    Image.fromarray(pixels).save(path)


def instance_ids(path):
    ids = np.zeros((4, 5), np.uint16)
    ids[1, 2] = 26001
    Image.fromarray(ids).save(path)


def negative(path):
    Image.fromarray(np.array([[0, -1]], np.int32)).save(path, format='TIFF')


def cut_off(path):
    Image.fromarray(labels_of(0)).save(path)
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (colours, 'it is a picture in colours (row 2, column 3 is (128, 64, 128)), expected one class index a pixel'),
        (instance_ids, 'row 1, column 2 holds 26001, expected class indices, 0 to 254, or 255 for what is ignored'),
        (negative, 'row 0, column 1 holds -1, expected class indices'),
        (cut_off, 'the file is truncated or damaged: '),
        (lambda path: path.touch(), 'the file is empty (0 bytes)'),
        (
            lambda path: path.write_text('<html>'),
            "it is no image that Pillow can read: 6 bytes that start with b'<html>'",
        ),
        (lambda path: None, 'the file does not exist'),
        (lambda path: Image.fromarray(labels_of(0)).save(path, format='JPEG'), 'it is a JPEG, whose compression'),
    ],
)
def test_what_is_no_label_is_named(make, reason, tmp_path):
    path = tmp_path / 'a.png'
    make(path)
    with pytest.raises(BadLabelError) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"cannot use the label '{path}': {reason}")


def test_values_are_counted():
    labels = labels_of(3, classes=9)
    assert np.array_equal(count_values(labels), np.bincount(labels.ravel(), minlength=256))
    assert count_values(labels[:, ::2]).sum() == HEIGHT * WIDTH // 2  # of a view


# -- what values mean


def counts_of(**pixels):
    counts = np.zeros(256, np.int64)
    for name, count in pixels.items():
        counts[int(name[1:])] = count
    return counts


def test_shares_and_absent_classes_are_described():
    values = LabelValues.of(('sky', 'road', 'car'))
    assert values.describe(counts_of(_1=3000, _0=999, _255=1)) == 'road 75.0%, sky 25.0%, ignored <0.1%; not found: car'


def test_values_of_mmsegs_options():
    reduced = LabelValues.of(('sky', 'road'), reduce_zero_label=True)
    assert dict(reduced.names) == {1: 'sky', 2: 'road'} and reduced.ignored == {0, 255}
    subset = LabelValues.of(('car', 'sky'), {0: 1, 1: 255, 2: 0})
    assert dict(subset.names) == {0: 'sky', 2: 'car'} and subset.ignored == {1, 255}
    assert subset.wrong(counts_of(_0=1, _1=1, _3=1, _255=1)) == [3]
    assert LabelValues.of(('a', 'b'), ignore_index=9).wrong(counts_of(_9=1, _255=1)) == [255]


def test_zero_and_255_are_no_two_classes():
    values = LabelValues.of(('rest', 'object'))
    reason = looks_meaningless(counts_of(_0=9, _255=1), values, 'DATA')
    assert reason.startswith('0 (rest) is the only class, every other pixel is ignored (255): nothing is told apart')
    assert 'save it as the index of its class, such as 1' in reason
    assert looks_meaningless(counts_of(_0=9, _1=1, _255=1), values, 'DATA') is None
    assert looks_meaningless(counts_of(_0=9), values, 'DATA') == 'every pixel is 0 (rest): nothing is told apart'
    assert looks_meaningless(counts_of(_255=9), values, 'DATA').startswith(
        'no pixel has a class, all are ignored (255)'
    )
    assert looks_meaningless(counts_of(_0=9, _255=1), LabelValues.of(('object',)), 'DATA') is None  # one is asked for


def test_label_ids_below_19_are_told_from_train_ids():
    shares = dict(road=330, sidewalk=54, building=202, wall=6, fence=8, pole=11, unlabeled=120)  # of 1000, Cityscapes
    rest = dict(vegetation=141, sky=36, car=62, person=11, rider=1, motorcycle=1, bicycle=4)
    rest |= {'traffic sign': 5, 'terrain': 10}
    ids, train = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for label in LABELS[:-1]:
        ids[label.id] += shares.get(label.name, 0)
        train[label.train_id] += shares.get(label.name, 0) + rest.get(label.name, 0)
    values = LabelValues.of(CITYSCAPES)
    reason = looks_meaningless(ids, values, 'DATA')
    assert reason.startswith('they hold the values 0, 7, 8, 11, 12, 13, 17: label ids (7 road, 8 sidewalk, 11 building')
    assert 'python tools/prepare_cityscapes.py DATA --overwrite' in reason
    assert looks_meaningless(train, values, 'DATA') is None
    assert looks_meaningless(counts_of(_0=5, _8=3, _13=2), values, 'DATA') is None  # road, vegetation and cars only
    assert looks_meaningless(ids, LabelValues.of(tuple('abcdefghijklmnopqrs')), 'DATA') is None  # other classes


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 255, 2: 0}])
def test_labels_are_mapped_as_mmseg_does(reduce_zero_label, label_map, tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    labels = labels_of(0, classes=4)
    Image.fromarray(labels).save(tmp_path / 'a.png')
    info = dict(seg_map_path=str(tmp_path / 'a.png'), label_map=label_map, seg_fields=[])
    theirs = LoadAnnotations().transform(info | dict(reduce_zero_label=reduce_zero_label))['gt_seg_map']
    ours = map_labels(labels, reduce_zero_label, label_map)
    assert ours.dtype == theirs.dtype == np.uint8 and np.array_equal(ours, theirs)


def test_classes_that_are_counted_from_1_are_guessed():
    labels = np.array([[0, 1, 2, 3]], np.uint8)
    message = wrong_values_message('a.png', labels, count_values(labels), LabelValues.of(('a', 'b', 'c')), 'DATA')
    assert 'holds the value 3 (1 of 4 pixels' in message and 'set reduce_zero_label=True in the data sets' in message
    cityscapes = np.array([[0, 7, 19]], np.uint8)  # of Cityscapes: one too many, no label ids by that alone
    message = wrong_values_message('a.png', cityscapes, count_values(cityscapes), LabelValues.of(CITYSCAPES), 'DATA')
    assert 'reduce_zero_label' in message and 'label ids' not in message
    cityscapes[0, 0] = 23
    message = wrong_values_message('a.png', cityscapes, count_values(cityscapes), LabelValues.of(CITYSCAPES), 'DATA')
    assert 'These are label ids, not train ids' in message
