"""prepare_coco on data as people have them: it judges as training does, and what it writes needs no further word."""

import json
import shutil

import numpy as np
import pytest
from conftest import run_tool
from PIL import Image

pytest.importorskip('mmdet')
from coco_files import assert_in, log_to  # noqa: E402

from frostnet_mm.data import CheckedCocoDataset, read_coco_classes  # noqa: E402
from frostnet_mm.data.coco_duplicates import same_content, shared_images  # noqa: E402


@pytest.fixture
def coco(mini_coco, tmp_path):
    return shutil.copytree(mini_coco, tmp_path / 'coco')


def ann_file(root, split):
    return root / 'annotations' / f'instances_{split}2017.json'


def edit(root, change, *splits):
    for split in splits or ('train', 'val'):
        data = json.loads(ann_file(root, split).read_text())
        change(data)
        ann_file(root, split).write_text(json.dumps(data))


def load(root, split, classes=None, file=None):
    """The data set of a part, its boxes by base name of the image, and the warnings of it."""
    file = str(file or ann_file(root, split))
    with log_to(root / f'{split}.log') as lines:
        dataset = CheckedCocoDataset(
            ann_file=file,
            data_prefix=dict(img=str(root / f'{split}2017')),
            metainfo=dict(classes=classes or read_coco_classes(str(file))),
            test_mode=split == 'val',
            pipeline=[dict(type='frostnet_mm.LoadImage'), dict(type='mmdet.LoadAnnotations', with_bbox=True)],
        )
        loaded = [dataset[i] for i in range(len(dataset))]
        boxes = {
            data['img_path'].rpartition('/')[2]: [np.round(entry['bbox'], 3).tolist() for entry in data['instances']]
            for data in loaded
        }
        said = lines()
    (root / f'{split}.log').unlink()
    return boxes, said


def each(section, change):
    return lambda data: [change(entry) for entry in data[section]]


def twice(data):
    data['annotations'] += [dict(entry, id=entry['id'] + 10**6) for entry in data['annotations']]


def images_twice(data):
    data['images'] += [dict(image, id=image['id'] + 10**6) for image in data['images']]
    data['annotations'] += [
        dict(entry, id=entry['id'] + 10**6, image_id=entry['image_id'] + 10**6) for entry in data['annotations']
    ]


def to_corners(entry):
    x, y, width, height = entry['bbox']
    entry.update(bbox=[x, y, x + width, y + height], area=width * height)


def to_centre(entry):
    x, y, width, height = entry['bbox']
    entry['bbox'] = [x + width / 2, y + height / 2, width, height]


def placeholder(data):
    for category in data['categories']:
        category['supercategory'] = 'shapes'
    data['categories'].insert(0, dict(id=0, name='shapes', supercategory='none'))


MENDED = {
    'boxes twice': (twice, 'boxes are listed again'),
    'images twice': (images_twice, 'images are listed again'),
    'placeholder': (placeholder, "are placeholders and no classes: 'shapes'"),
    'categories repeated': (lambda data: data['categories'].extend(data['categories']), 'are repetitions'),
    'ids from 0': (lambda data: [e.update(id=i) for i, e in enumerate(data['annotations'])], 'the id 0'),
    'no ids': (each('annotations', lambda entry: entry.pop('id')), 'have no id'),
    'flags as text': (each('annotations', lambda entry: entry.update(iscrowd='0')), 'iscrowd is text or null'),
    'no flags': (each('annotations', lambda entry: entry.pop('iscrowd')), 'lack iscrowd'),
    'area 0': (each('annotations', lambda e: (e.update(area=0), e.pop('segmentation', None))), 'is 0 or less'),
    'no sizes': (each('images', lambda e: (e.pop('width'), e.pop('height'))), 'state no width and height'),
    'sizes exchanged': (each('images', lambda e: e.update(width=e['height'], height=e['width'])), 'are exchanged'),
    'foreign paths': (each('images', lambda e: e.update(file_name='D:\\x\\' + e['file_name'])), 'by their base name'),
    'captions': (
        lambda data: data['annotations'].append(dict(id=10**6, image_id=1, caption='a')),
        '1 of them are captions',
    ),
    'two corners': (each('annotations', to_corners), 'bbox holds two corners'),
    'centres': (each('annotations', to_centre), 'bbox holds the centre, width and height'),
}


@pytest.mark.parametrize('name', MENDED)
def test_mended_annotations_need_no_word(coco, tmp_path, name, capsys):
    change, said = MENDED[name]
    sound = {split: load(coco, split)[0] for split in ('train', 'val')}
    edit(coco, change)
    before = {split: ann_file(coco, split).read_bytes() for split in ('train', 'val')}
    refused = name in ('two corners', 'centres')
    assert run_tool('prepare_coco', coco, '--fast') == int(refused)
    assert_in(capsys.readouterr().out, said)
    assert run_tool('prepare_coco', coco, '--fast', '--out', tmp_path / 'out') == 0
    out = capsys.readouterr().out
    assert_in(out, 'changed: ', said, f"'{tmp_path}/out/instances_train2017.json' holds the mended annotations")
    for split in ('train', 'val'):
        assert ann_file(coco, split).read_bytes() == before[split]
        boxes, warnings = load(coco, split, file=tmp_path / 'out' / ann_file(coco, split).name)
        assert boxes == sound[split] and warnings == []


def test_the_parts_agree_on_classes(coco, tmp_path, capsys):
    classes = read_coco_classes(str(ann_file(coco, 'train')))

    def others(data):
        data['categories'] = [dict(c, id=c['id'] + 10, name=c['name'].upper()) for c in data['categories'][::-1]]
        for entry in data['annotations']:
            entry['category_id'] += 10

    sound = load(coco, 'val')[0]
    edit(coco, others, 'val')
    assert run_tool('prepare_coco', coco, '--fast', '--out', tmp_path / 'out') == 0
    assert_in(capsys.readouterr().out, 'changed: ', 'capitals or blanks', 'another order')
    mended = tmp_path / 'out' / 'instances_val2017.json'
    assert read_coco_classes(str(mended)) == classes
    assert load(coco, 'val', classes, mended) == (sound, [])
    edit(coco, each('categories', lambda entry: entry.update(name='other ' + entry['name'])), 'val')
    assert run_tool('prepare_coco', coco, '--fast', '--out', tmp_path / 'out2') == 1
    out = capsys.readouterr().out
    assert_in(out, f"PROBLEM: '{ann_file(coco, 'val')}' lacks {len(classes)} of the config's", 'nothing is written')
    assert not (tmp_path / 'out2').exists()


def test_training_images_in_validation(coco, tmp_path, capsys):
    """Three of eight: under the same name, and under others."""
    names = [f'{i:012d}.jpg' for i in (1, 2, 3)]
    data = json.loads(ann_file(coco, 'val').read_text())
    own = sorted(image['file_name'] for image in data['images'])
    for source, target in zip(own, ['copy.jpg', *own[1:3]], strict=False):
        shutil.copy(coco / 'val2017' / source, coco / 'train2017' / target)

    def leak(train):
        size = dict(width=data['images'][0]['width'], height=data['images'][0]['height'])
        train['images'] += [dict(size, id=900 + i, file_name=n) for i, n in enumerate(['copy.jpg', *own[1:3]])]

    known = set(load(coco, 'train')[0])
    if known & set(own[1:3]):  # both parts number their images from 1: these are replaced
        edit(coco, lambda train: train.update(
            images=[e for e in train['images'] if e['file_name'] not in own[1:3]],
            annotations=[e for e in train['annotations'] if names_of(train)[e['image_id']] not in own[1:3]],
        ), 'train')  # fmt: skip
    rest = set(load(coco, 'train')[0])
    edit(coco, leak, 'train')
    assert run_tool('prepare_coco', coco, '--fast') == 0
    assert_in(capsys.readouterr().out, '3 of 8 validation images are training images as well', own[0])
    assert run_tool('prepare_coco', coco, '--fast', '--out', tmp_path / 'out') == 0
    assert_in(capsys.readouterr().out, 'changed: ', '3 images that are validation images as well are left out')
    assert set(load(coco, 'train', file=tmp_path / 'out' / 'instances_train2017.json')[0]) == rest
    train = [str(coco / 'train2017' / name) for name in ['copy.jpg', *own[1:3], *names]]
    val = [str(coco / 'val2017' / name) for name in own]
    assert shared_images(train, val) == val[:3]
    assert sorted(map(sorted, same_content([train[0], *val]))) == [sorted([train[0], val[0]])]


def names_of(data):
    return {image['id']: image['file_name'] for image in data['images']}


def test_faulty_images_are_left_out_and_scaled_ones_scaled(coco, tmp_path, capsys):
    sound = load(coco, 'train')[0]
    files = sorted((coco / 'train2017').glob('*.jpg'))
    files[0].write_bytes(files[0].read_bytes()[:1500])
    files[1].unlink()
    with Image.open(files[2]) as image:
        image.resize((image.width // 2, image.height // 2)).save(files[2])
    edit(coco, each('annotations', lambda entry: entry.pop('segmentation', None)))
    assert run_tool('prepare_coco', coco) == 0  # as in training: 2 of 23 and 1 of 24 are fewer than a tenth
    out = capsys.readouterr().out
    assert_in(out, 'train2017: 1 of 24 images', '2 faulty images in train2017', 'another version', 'usable')
    assert out.count('training leaves them out') == 2 and 'PROBLEM' not in out
    assert run_tool('prepare_coco', coco, '--strict') == 1
    assert_in(capsys.readouterr().out, 'PROBLEM: 2 faulty images in train2017', 'PROBLEM: images are missing in train')
    assert run_tool('prepare_coco', coco, '--out', tmp_path / 'out') == 0
    out = capsys.readouterr().out
    assert_in(out, '1 faulty images are left out', 'truncated', 'files of 1 images are scaled versions', 'left out')
    boxes, warnings = load(coco, 'train', file=tmp_path / 'out' / 'instances_train2017.json')
    expected = {name: found for name, found in sound.items() if name not in (files[0].name, files[1].name)}
    expected[files[2].name] = np.round(np.array(expected[files[2].name]) / 2, 3).tolist()
    assert boxes == expected and warnings == []


def test_most_images_are_not_left_out(coco, tmp_path, capsys):
    for path in (coco / 'val2017').glob('*.jpg'):
        path.write_bytes(b'')
    assert run_tool('prepare_coco', coco, '--out', tmp_path / 'out') == 1
    out = capsys.readouterr().out
    assert_in(out, 'PROBLEM: 8 faulty images in val2017, too many to be left out', 'nothing is written')


def test_one_file_and_its_images(coco, tmp_path, capsys):
    edit(coco, twice)
    source, target = ann_file(coco, 'train'), tmp_path / 'own.json'
    assert run_tool('prepare_coco', source, '--images', coco / 'train2017', '--fast', '--out', target) == 0
    assert_in(capsys.readouterr().out, 'boxes are listed again')
    assert load(coco, 'train', file=target)[1] == []
    assert run_tool('prepare_coco', source, '--images', coco / 'none', '--fast') == 1
    assert_in(capsys.readouterr().out, f"'{coco}/none' does not exist")


def test_originals_are_never_overwritten(coco, tmp_path, capsys):
    before = ann_file(coco, 'train').read_bytes()
    for arguments in (
        (coco, '--out', coco / 'annotations'),
        (ann_file(coco, 'train'), '--images', coco / 'train2017', '--out', ann_file(coco, 'train')),
    ):
        assert run_tool('prepare_coco', *arguments, '--fast') == 2
        assert_in(capsys.readouterr().err, 'error: --out would overwrite')
    assert run_tool('prepare_coco', coco, '--fast', '--out', tmp_path / 'one.json') == 2
    assert_in(capsys.readouterr().err, 'give a folder')
    assert ann_file(coco, 'train').read_bytes() == before


def test_the_layout_of_roboflow(coco, tmp_path, capsys):
    root = tmp_path / 'export'
    for split, name in (('train', 'train'), ('val', 'valid')):
        shutil.copytree(coco / f'{split}2017', root / name)
        shutil.copy(ann_file(coco, split), root / name / '_annotations.coco.json')
    assert run_tool('prepare_coco', root, '--fast', '--out', tmp_path / 'out') == 0
    out = capsys.readouterr().out
    assert_in(out, 'train: 24 images', 'val: 8 images', 'usable', f"for images in '{root}/valid'")
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['train.json', 'val.json']


def test_json_files_beside_an_image_folder(coco, tmp_path, capsys):
    root = tmp_path / 'own'
    shutil.copytree(coco / 'train2017', root / 'images')
    shutil.copy(ann_file(coco, 'train'), root / 'train.json')
    assert run_tool('prepare_coco', root, '--fast') == 0
    assert_in(capsys.readouterr().out, 'train: 24 images', 'usable')


def test_more_faulty_images_than_training_passes_over_are_a_problem(coco, capsys):
    for path in sorted((coco / 'train2017').glob('*.jpg'))[:3]:
        path.write_bytes(b'')
    (path,) = sorted((coco / 'val2017').glob('*.jpg'))[:1]
    path.write_bytes(path.read_bytes()[:1500])
    assert run_tool('prepare_coco', coco) == 1  # 3 of 24, 1 of 8
    out = capsys.readouterr().out
    assert_in(out, 'PROBLEM: 3 faulty images in train2017', '  1 faulty images in val2017', 'count as missed')
    assert out.count('PROBLEM') == 1
