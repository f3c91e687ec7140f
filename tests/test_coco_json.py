"""What CheckedCocoDataset refuses before training: paths, json, references, classes. One clear error each."""

import pytest

pytest.importorskip('mmdet')
from coco_files import CLASSES, NUM_IMAGES, assert_in, build, edit, error_of, log_to, write_dataset  # noqa: E402
from mmdet.datasets import CocoDataset  # noqa: E402

from frostnet_mm.data import DatasetError, DatasetNotFoundError, palette_for, read_coco_classes  # noqa: E402


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path)


@pytest.fixture
def log(tmp_path):
    with log_to(tmp_path / 'test.log') as lines:
        yield lines


# --- paths


def test_missing_data_root(root):
    text = error_of(root, DatasetNotFoundError, data_root=str(root / 'coco'))
    assert_in(
        text,
        f"The data root '{root}/coco' does not exist",
        'annotations/',
        'images/',
        'data/coco/{annotations,train2017,val2017}',
        'COCO_ROOT=/path',
        '--cfg-options data_root=/path',
        'python tools/make_mini_data.py coco',
        'configs/examples/ssdlite_frostnet_minicoco.py',
    )
    assert issubclass(DatasetNotFoundError, FileNotFoundError)


def test_missing_annotation_file_names_what_is_there(root):
    text = error_of(root, DatasetNotFoundError, ann_file='annotations/instances_train2017.json')
    assert_in(
        text, f"annotation file '{root}/annotations/instances_train2017.json' does not exist", 'train.json', 'COCO_ROOT'
    )


def test_annotation_file_that_is_a_folder(root):
    assert_in(error_of(root, DatasetNotFoundError, ann_file='annotations'), 'annotation file', 'is a folder')


def test_missing_image_folder(root):
    text = error_of(root, DatasetNotFoundError, data_prefix=dict(img='train2017/'))
    assert_in(text, f"image folder '{root}/train2017/' does not exist", 'annotations/, images/', 'COCO_ROOT')


def test_extra_nested_folder(root, tmp_path):
    outer = tmp_path / 'outer'
    outer.mkdir()
    for name in ('annotations', 'images'):
        (outer / 'coco').mkdir(exist_ok=True)
        (root / name).rename(outer / 'coco' / name)
    text = error_of(outer, DatasetNotFoundError)
    assert_in(text, f"Found one level deeper: '{outer}/coco/annotations/train.json'", 'data_root')


def test_paths_left_out(root):
    assert_in(error_of(root, ann_file=''), "ann_file=''", 'expected')
    assert_in(error_of(root, data_prefix=dict(img_path='images')), "data_prefix=dict(img='train2017/')")


# --- json


@pytest.mark.parametrize(
    'content, parts',
    [
        (b'', ('is empty (0 bytes)',)),
        (b' \n ', ('is empty (3 bytes)',)),
        (b'{"images": [\n {"id": 1, ', ('24 bytes', 'is cut off', 'line 2 column 12')),
        (b'{"images": [{"file_name": "a', ('is cut off', 'line 1 column 27')),
        (b'{"images": [],\n "annotations" []}', ('is not valid json at line 2 column 16', "Expecting ':'")),
        (b'\x1f\x8b\x08\x00\x80\x81', ('6 bytes', 'is not text', 'archive')),
        (b'\x1f\x8b' + bytes(30), ('32 bytes', 'is not text', 'archive')),
        (b'{"name": "Z\xe4h"}', ('is not UTF-8: byte 0xe4 at 11 of 15 bytes', 'cp1252', 'iconv')),
        (b'{"images": [{"id": 1}]}\n{"id": 2}\n', ('is JSON Lines', 'expected one COCO json')),
        (
            b'{"images": [{}], "annotations": [1, 2], "categories": [{}], "annotations": []}',
            ("has the key 'annotations' 2 times, with 2 and 0 entries", 'Join them'),
        ),
        (
            b'version https://git-lfs.github.com/spec/v1',
            ('is not valid json at line 1 column 1', 'version https://git-'),
        ),
        (b'[{"image_id": 1}]', ('top level is a list', "'images', 'annotations' and 'categories'", 'result file')),
        (
            b'{"images": [], "shapes": []}',
            ("'categories', 'annotations' missing", "'images', 'shapes'", 'docs/data.md'),
        ),
        (b'{"images": [], "annotations": [], "categories": []}', ('lists no images and no categories',)),
    ],
)
def test_not_coco_json(root, content, parts):
    path = root / 'annotations' / 'train.json'
    path.write_bytes(content)
    assert_in(error_of(root), str(path), *parts)
    with pytest.raises(DatasetError):
        read_coco_classes(str(path))


def test_json_that_cannot_be_read(root):
    path = root / 'annotations' / 'train.json'
    path.unlink()
    path.symlink_to('/proc/self/mem')  # a file to all that ask
    assert_in(error_of(root), str(path), 'cannot be read: Input/output error', 'this user may read')


@pytest.mark.parametrize(
    'section, position, change, parts',
    [
        ('images', 4, lambda e: e.pop('file_name'), ("images[4] lacks 'file_name'", 'id, file_name', '1 of 10')),
        ('images', 2, lambda e: e.update(height=-3), ('images[2] has', 'height=-3', 'positive')),
        ('images', 2, lambda e: e.update(width='640'), ("width='640'", 'positive')),
        ('images', 0, lambda e: e.update(file_name=''), ("file_name=''",)),
        ('images', 9, lambda e: e.update(id=None), ('images[9] has id=None, expected a number', '1 of 10')),
        ('images', 9, lambda e: e.update(id='10'), ("images[9] has id='10', expected a number",)),
        ('images', 9, lambda e: e.update(id=float('nan')), ('images[9] has id=nan, expected a number',)),
        ('categories', 0, lambda e: e.update(id='7'), ('categories[1] has id=3, expected text, as the first has',)),
        ('images', 0, lambda e: e.update(id=[1]), ("1 ids in 'images' are lists", '[1]')),
        ('annotations', 3, lambda e: e.pop('category_id'), ("annotations[3] lacks 'category_id'", '1 of 20')),
        ('annotations', 3, lambda e: e.update(bbox=[1, 2, 3]), ('annotations[3]', 'bbox=[1, 2, 3]', '[x, y, width')),
        ('annotations', 3, lambda e: e.update(bbox=['1', 2, 3, 4]), ("bbox=['1', 2, 3, 4]",)),
        ('annotations', 3, lambda e: e.update(bbox='1 2 3 4'), ("bbox='1 2 3 4'",)),
        ('annotations', 3, lambda e: e.update(category_id=[7]), ('category_id=[7], expected an id', '1 of 20')),
        ('annotations', 3, lambda e: e.update(area='big'), ("area='big'", 'expected a number')),
        ('categories', 1, lambda e: e.pop('name'), ('categories[1] lacks', "'name'", '1 of 3')),
        ('categories', 1, lambda e: e.update(name=5), ('categories[1] has name=5', 'expected a string')),
        ('categories', 1, lambda e: e.update(name=None), ('categories[1] has name=None', 'expected a string')),
        ('categories', 1, lambda e: e.update(name=' '), ("categories[1] has name=' '", 'expected a string')),
    ],
)
def test_entries_that_are_not_coco(root, section, position, change, parts):
    edit(root, lambda data: change(data[section][position]))
    assert_in(error_of(root), 'train.json', *parts)


def test_entry_that_is_no_object(root):
    edit(root, lambda data: data['annotations'].__setitem__(5, 12))
    assert_in(error_of(root), 'annotations[5] is a int', 'expected an object with')


def test_annotation_id_0_is_reported_before_an_evaluation(root, log):
    edit(root, lambda data: data['annotations'][0].update(id=0))
    assert len(build(root)) == NUM_IMAGES and log() == []
    build(root, test_mode=True)
    assert_in(log()[0], 'the id 0', "'no match'", 'Number the annotations from 1')


# --- references


def test_unknown_category_ids(root):
    edit(root, lambda data: [data['annotations'][i].update(category_id=99) for i in (4, 5, 6, 9)])
    assert_in(
        error_of(root),
        "4 of 20 annotations name a category_id that 'categories' does not define: 99",
        'annotation ids 6, 7, 8 and 1 more',
        'defined are 7, 3, 12',
    )


def test_unknown_image_ids_and_ids_of_another_type(root):
    edit(root, lambda data: data['annotations'][4].update(image_id='3'))
    assert_in(
        error_of(root),
        "1 of 20 annotations name a image_id that 'images' does not define: '3'",
        'another type',
        'defined are 1, 2, 3, 4, 5 and 5 more',
    )


@pytest.mark.parametrize(
    'section, change, parts',
    [
        ('images', dict(id=1), ("duplicate ids in 'images'", "1 is the id of '0001.jpg' and of '0010.jpg'", 'new ids')),
        ('categories', dict(id=7), ("duplicate ids in 'categories'", "7 is the id of 'cat' and of 'owl'", 'new ids')),
    ],
)
def test_one_id_for_two_things(root, section, change, parts):
    edit(root, lambda data: data[section][-1].update(change))
    assert_in(error_of(root), 'train.json', *parts)


# --- classes


def test_classes_that_the_json_lacks(root):
    text = error_of(root, classes=('cat', 'dog', 'hen', 'pig'))
    assert_in(
        text,
        "lacks 2 of the config's 4 classes: 'hen', 'pig'",
        "The config has 'cat', 'dog', 'hen', 'pig'",
        "the json has 'cat', 'dog', 'owl'",
        'metainfo=dict(classes=',
        'configs/ssdlite_frostnet_custom.py',
    )


def test_categories_that_the_config_leaves_out(root, log):
    dataset = build(root, classes=('cat', 'owl'))
    # images 1, 4, 7, 10 hold dogs, two each
    assert dataset.problems == {'annotations of categories that the config leaves out': 8}
    assert_in(log()[0], "leaves out 1 of 3 categories: 'dog'", '8 of 20 annotations are dropped')
    reference = build(root, classes=('cat', 'owl'), cls=CocoDataset)
    assert [dataset.get_data_info(i) for i in range(10)] == [reference.get_data_info(i) for i in range(10)]


def test_classes_in_another_order_are_taken_by_name(root, log):
    dataset = build(root, classes=('dog', 'owl', 'cat'))
    assert dataset.cat_ids == [3, 12, 7]
    # images 1, 2, 3 hold dogs, owls and cats
    assert [dataset.get_data_info(i)['instances'][0]['bbox_label'] for i in range(3)] == [0, 1, 2]
    assert_in(log()[0], 'in another order', "'dog', 'owl', 'cat'", 'taken by name')


def test_classes_repeated_or_a_string(root):
    assert_in(error_of(root, classes=('cat', 'cat')), 'duplicate names in metainfo classes', "'cat'")
    assert_in(error_of(root, classes='cat'), "'cat' is a string", "classes=('cat', )")


def test_read_coco_classes_is_mmdets_order(root):
    path = str(root / 'annotations' / 'train.json')
    assert read_coco_classes(path) == CLASSES
    reference = build(root, cls=CocoDataset)
    assert [reference.cat2label[i] for i in (7, 3, 12)] == [0, 1, 2]
    with pytest.raises(DatasetNotFoundError, match='none.json'):
        read_coco_classes(str(root / 'none.json'))


def test_palette_is_distinct_and_stable():
    palette = palette_for(200)
    assert len(set(palette)) == 200 and palette[:5] == palette_for(5) and palette_for(0) == []
    assert all(0 <= channel <= 255 and isinstance(channel, int) for colour in palette for channel in colour)
