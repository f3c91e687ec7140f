"""What exporters leave out of images and annotations or write twice: completed, merged, and said."""

import numpy as np
import pytest

pytest.importorskip('mmdet')
from coco_files import NUM_IMAGES, annotation, assert_in, build, edit, error_of, log_to, write_dataset  # noqa: E402
from PIL import Image  # noqa: E402

from frostnet_mm.data.coco_entries import complete_annotations, drop_boxless, number_annotations  # noqa: E402


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path)


@pytest.fixture
def log(tmp_path):
    with log_to(tmp_path / 'test.log') as lines:
        yield lines


def boxes_of(dataset):
    return {
        info['img_path'].rpartition('/')[2]: [(i['bbox'], i['bbox_label']) for i in info['instances']]
        for info in (dataset.get_data_info(i) for i in range(len(dataset)))
    }


@pytest.fixture
def sound(tmp_path_factory):
    return boxes_of(build(write_dataset(tmp_path_factory.mktemp('sound'))))


def repeat_images(data):
    data['images'] += [dict(image, id=image['id'] + 50) for image in data['images']]
    data['annotations'] += [
        dict(entry, id=entry['id'] + 100, image_id=entry['image_id'] + 50) for entry in data['annotations']
    ]


def one_image_an_object(data):
    names = {image['id']: image for image in data['images']}
    data['images'] = [dict(names[entry['image_id']], id=100 + entry['id']) for entry in data['annotations']]
    for entry in data['annotations']:
        entry['image_id'] = 100 + entry['id']


MERGED = {
    'images under two ids': (repeat_images, '10 of 20 images are listed again', '20 of 40 boxes are listed again'),
    'an image an object': (
        one_image_an_object,
        '10 of 20 images are listed again under another id',
        'leaves 10 images',
    ),
    'images repeated': (lambda data: data['images'].extend(data['images'][:3]), '3 images are repetitions'),
    'boxes twice': (
        lambda data: data['annotations'].extend([dict(e, id=e['id'] + 100) for e in data['annotations']]),
        '20 of 40 boxes are listed again (same image, class and place): left out',
    ),
    'other spelling of a path': (
        lambda data: (
            data['images'].append(dict(data['images'][0], id=50, file_name='./0001.jpg')),
            data['annotations'][1].update(image_id=50),
        ),
        '1 of 11 images are listed again',
    ),
}


@pytest.mark.parametrize('name', MERGED)
@pytest.mark.parametrize('test_mode', [False, True])
def test_what_is_listed_twice_is_one(root, log, sound, name, test_mode):
    change, *parts = MERGED[name]
    edit(root, change)
    assert boxes_of(build(root, test_mode=test_mode)) == sound
    assert_in(' '.join(log()), *parts)


def test_boxes_of_other_classes_or_flags_are_not_repetitions(root, log):
    def add(data):
        first = data['annotations'][0]
        data['annotations'] += [dict(first, id=90, category_id=12), dict(first, id=91, iscrowd=1)]

    edit(root, add)
    assert len(build(root).get_data_info(0)['instances']) == 4 and log() == []


def test_one_file_with_two_sizes_stays(root, log):
    edit(root, lambda data: data['images'].append(dict(data['images'][0], id=50, width=80)))
    assert len(build(root)) == NUM_IMAGES + 1
    assert_in(log()[0], "1 images are listed again with another width or height: '0001.jpg'")


@pytest.mark.parametrize(
    'change, part',
    [
        (lambda e: e.pop('id'), '20 of 20 annotations have no id'),
        (lambda e: e.update(id=None), '20 of 20 annotations have no id'),
        (lambda e: e.update(id=float('nan')), '20 of 20 annotations have no id'),
        (lambda e: e.update(id=[e['id']]), '20 of 20 annotations have no id'),
        (lambda e: e.update(id=e['id'] // 2), '10 of 20 annotations repeat the id of another'),
    ],
)
def test_annotations_are_numbered_where_ids_are_useless(root, log, sound, change, part):
    edit(root, lambda data: [change(entry) for entry in data['annotations']])
    assert boxes_of(build(root)) == sound
    assert len(log()) == 1
    assert_in(log()[0], part, "all are numbered from 1, in the file's order")


def test_numbers_are_those_of_the_file():
    data = dict(annotations=[dict(id=7), dict(), dict(id=7)])
    text = "1 of 3 annotations have no id: all are numbered from 1, in the file's order."
    assert number_annotations(data, 'a') == [f"'a': {text}"]
    assert [entry['id'] for entry in data['annotations']] == [1, 2, 3]
    assert number_annotations(data, 'a') == []


def test_annotations_without_a_box(root, log, sound):
    def add(data):
        data['annotations'] += [
            dict(id=80, image_id=1, caption='two cats'),
            dict(id=81, image_id=1, category_id=7, keypoints=[1, 2, 2]),
            dict(id=82, image_id=1, category_id=7, bbox=[]),
            dict(id=83, image_id=1, category_id=7, bbox=None, segmentation=[[20, 10, 30, 12, 25, 28.5]]),
        ]

    edit(root, add)
    found = boxes_of(build(root))
    assert found.pop('0001.jpg') == [*sound.pop('0001.jpg'), ([20, 10, 30, 28.5], 0)] and found == sound
    assert_in(log()[0], '1 of 24 annotations have no box: it is made of their polygons')
    assert_in(log()[1], '3 of 24 annotations have no box (1 of them are captions): left out')


def test_captions_alone_are_nothing_to_learn(root):
    edit(root, lambda data: data.update(annotations=[dict(id=1, image_id=1, caption='cats')]))
    assert_in(error_of(root), 'holds no annotations')


def test_rle_gives_no_box():
    data = dict(annotations=[dict(segmentation=dict(size=[2, 2], counts=[0, 4])), dict(segmentation=[[1, 2]])])
    assert drop_boxless(data, 'a') == ["'a': 2 of 2 annotations have no box: left out."]


def completed(*entries):
    data = dict(annotations=[annotation(number, bbox=(1, 1, 10, 20)) for number in range(len(entries))])
    for entry, keys in zip(data['annotations'], entries, strict=True):
        entry.update(keys)
    messages = complete_annotations(data, 'a')
    return [entry['area'] for entry in data['annotations']], messages


MASK = dict(segmentation=[[1, 1, 11, 1, 11, 21]])


@pytest.mark.parametrize(
    'entries, areas, said',
    [
        ([dict(area=150)] * 3, [150] * 3, None),
        ([dict(area=None), dict(area=150), dict(area=float('nan'))], [200, 150, 200], '2 of 3 annotations is absent'),
        ([dict(area=0), dict(area=-1), dict(area=9)], [200, 200, 9], '2 of 3 annotations is 0 or less'),
        ([dict(area=0.1), dict(area=0.5)], [200, 200], '2 of 2 annotations is a fraction of the image, 0 to 1'),
        ([dict(area=0.1), dict(area=5)], [0.1, 5], None),  # a small mask among others
        ([dict(area=196608), dict(area=150)], [200, 150], '1 of 2 annotations is far more than its box'),
        ([dict(area=230)], [230], None),  # of a mask, rounded
        ([dict(area=0, **MASK), dict(area=9)], [0, 9], None),
        ([dict(area=0, bbox=[1, 1, 0, 5]), dict(area=9)], [0, 9], None),
    ],
)
def test_areas(entries, areas, said):
    found, messages = completed(*entries)
    assert found == areas and len(messages) == bool(said)
    if said:
        assert_in(messages[0], f"'a': the area of {said}: width * height of the box is taken (mAP_s,")


def test_iscrowd_is_filled_in(root, log, sound):
    edit(root, lambda data: [entry.pop('iscrowd') for entry in data['annotations']])
    for test_mode in (False, True):
        assert boxes_of(build(root, test_mode=test_mode)) == sound
    assert_in(log()[0], '20 of 20 annotations lack iscrowd: taken as 0')


# --- the frame of the boxes


@pytest.mark.parametrize('value', [None, 0, float('nan'), 'absent'])
@pytest.mark.parametrize('test_mode', [False, True])
def test_sizes_that_are_not_stated_are_read(root, log, sound, value, test_mode):
    for name in ('width', 'height'):
        change = (lambda e, n=name: e.pop(n)) if value == 'absent' else (lambda e, n=name: e.update({n: value}))
        edit(root, lambda data, change=change: [change(image) for image in data['images'][2:]])
    dataset = build(root, test_mode=test_mode)
    assert boxes_of(dataset) == sound
    assert {(info['width'], info['height']) for info in map(dataset.get_data_info, range(10))} == {(40, 30)}
    assert len(log()) == 1
    assert_in(log()[0], '8 of 10 images state no width and height: read from the files')


def test_sizes_are_read_as_the_pipeline_loads(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(root / 'images' / '0001.jpg', exif=exif)
    edit(root, lambda data: (data['images'][0].pop('width'), data['images'][0].pop('height')))
    for color_type, size in (('color', (30, 40)), ('color_ignore_orientation', (40, 30))):
        info = build(root, pipeline=[dict(type='frostnet_mm.LoadImage', color_type=color_type)]).get_data_info(0)
        assert (info['width'], info['height']) == size


def add_wide(data):
    data['annotations'].append(annotation(90, bbox=(25, 5, 14, 9)))


@pytest.mark.parametrize('test_mode', [False, True])
def test_exchanged_width_and_height_are_put_right(root, log, test_mode):
    """One box beyond the stated width of 30 proves it for its image, and for the others, whose boxes fit both."""
    edit(root, add_wide)
    right = boxes_of(build(root))
    edit(root, lambda data: [image.update(width=30, height=40) for image in data['images']])
    dataset = build(root, test_mode=test_mode)
    assert boxes_of(dataset) == right and dataset.problems == {}
    assert {(info['width'], info['height']) for info in map(dataset.get_data_info, range(10))} == {(40, 30)}
    assert_in(log()[0], 'width and height of 10 of 10 images are exchanged')


def test_exif_is_no_exchange(root):
    """Stated as stored, 40x30, and displayed as 30x40: which frame the boxes are in cannot be told from one image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    edit(root, add_wide)
    for i in range(1, 11):
        Image.new('RGB', (40, 30)).save(root / 'images' / f'{i:04d}.jpg', exif=exif)
    dataset = build(root)
    assert {(info['width'], info['height']) for info in map(dataset.get_data_info, range(10))} == {(40, 30)}


def spread(data, convert):
    """24 boxes over the whole image, corners (x1, y1, x2, y2) handed to convert; areas are right."""
    rng = np.random.default_rng(0)
    data['annotations'] = []
    for number in range(24):
        x, y = rng.uniform(0, 25), rng.uniform(0, 18)
        width, height = rng.uniform(4, 40 - x), rng.uniform(4, 30 - y)
        box = convert(x, y, x + width, y + height)
        data['annotations'].append(dict(annotation(number + 1, number % 10 + 1, bbox=box), area=width * height))


CONVENTIONS = {
    'two corners': lambda a, b, c, d: (a, b, c, d),
    'the centre, width and height': lambda a, b, c, d: ((a + c) / 2, (b + d) / 2, c - a, d - b),
}


@pytest.mark.parametrize('text', CONVENTIONS)
@pytest.mark.parametrize('test_mode', [False, True])
def test_boxes_of_another_convention_are_refused(root, text, test_mode):
    edit(root, lambda data: spread(data, CONVENTIONS[text]))
    assert_in(
        error_of(root, test_mode=test_mode), f'bbox holds {text} (', 'expected [x, y, width, height]', 'prepare_coco'
    )


def test_corners_are_told_by_areas_or_by_boxes_beyond_the_image(root):
    edit(root, lambda data: spread(data, CONVENTIONS['two corners']))
    assert_in(error_of(root), 'the areas of 24 boxes are those between them')
    edit(root, lambda data: [entry.update(area=30) for entry in data['annotations']])
    assert_in(error_of(root), 'of 24 overrun their image, as corners none')


@pytest.mark.parametrize('shift', [0, 3])
def test_boxes_as_they_should_be_are_taken(root, shift):
    """Even where some overrun their image."""
    edit(root, lambda data: spread(data, lambda a, b, c, d: (a + shift, b + shift, c - a, d - b)))
    dataset = build(root)
    assert sum(len(dataset.get_data_info(i)['instances']) for i in range(10)) == 24
