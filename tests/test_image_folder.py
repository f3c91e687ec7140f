"""Images in a folder a class: what is taken, left out and refused; and crops of detection data as such folders."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_tool

from frostnet_mm.data import crops
from frostnet_mm.data.crops import CropOptions, cut, folder_names, write_crops
from frostnet_mm.data.errors import DatasetError, DatasetNotFoundError
from frostnet_mm.data.generated.mini_coco import generate_mini_coco
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.engine.config import load_config
from frostnet_mm.registry import DATASETS

CONFIG = ROOT / 'configs/frostnet_qat_custom_cls.py'


def three_classes(root):
    """A bright disc, a bright square, and noise alone."""
    generator = np.random.default_rng(0)
    for split, count in (('train', 16), ('val', 6)):
        for name in ('disc', 'noise', 'square'):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = generator.integers(0, 90, (40, 52, 3), dtype=np.uint8)
                x, y = (int(value) for value in generator.integers(14, 26, 2))
                if name == 'disc':
                    cv2.circle(image, (x, y), 12, (250, 250, 60), -1)
                elif name == 'square':
                    cv2.rectangle(image, (x - 11, y - 11), (x + 11, y + 11), (60, 60, 250), -1)
                cv2.imwrite(str(root / split / name / f'{index}.png'), image)
    return root


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return three_classes(tmp_path_factory.mktemp('classes'))


def folder(root, split='train', **options):
    steps = [dict(type='frostnet_mm.LoadImageFromFile'), dict(type='frostnet_mm.PackClsInputs')]
    return ImageFolder(data_root=str(root), data_prefix=dict(img_path=split), pipeline=steps, **options)


def test_a_folder_is_a_class(data):
    train = folder(data)
    assert train.metainfo['classes'] == ('disc', 'noise', 'square') and len(train) == 48
    assert [train.get_data_info(index)['gt_label'] for index in (0, 16, 47)] == [0, 1, 2]
    item = train[20]
    assert item['inputs'].shape == (3, 40, 52) and item['data_samples'].gt_label.tolist() == [1]
    order = ('square', 'disc', 'noise')  # of a checkpoint, say
    val = folder(data, 'val', test_mode=True, metainfo=dict(classes=order))
    assert val.metainfo['classes'] == order and val.get_data_info(0)['gt_label'] == 1


@pytest.fixture
def said(monkeypatch):
    """What data sets log."""
    lines = []
    monkeypatch.setattr('frostnet_mm.data.counters.print_log', lambda text, logger, level: lines.append(text))
    return lines


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    'files, options, error, message',
    [
        ((), {}, DatasetNotFoundError, "The image folder '.*train' does not exist; .* data_root=/path"),
        (
            ('train/a.png',),
            {},
            DatasetNotFoundError,
            "has no folder in it; .*Expected a folder a class, such as '.*cat'",
        ),
        (('train/a/1.png', 'train/b/2.png', 'train/3.png'), {}, DatasetError, "1 images lie beside .*'3.png'"),
        (('train/train/a/1.png', 'train/val/a/1.png'), {}, DatasetError, "'train' is a split, no class"),
        (('train/a/1.png', 'train/b/2.txt'), {}, DatasetError, 'has no image of 1 of 2 classes: .b'),
        (('train/a/1.png',), {}, DatasetError, 'has one class, a: expected at least two'),
        (('train/a/1.txt', 'train/b/2.txt'), {}, DatasetNotFoundError, "the folders 'a', 'b' hold no image"),
        (
            ('train/a/1.png', 'train/c/2.png'),
            dict(metainfo=dict(classes=('a', 'b'))),
            DatasetError,
            r"has the folders 'c', which are none of the 2 classes \('a', 'b'\)",
        ),
        (('train/a/1.png',), dict(metainfo=dict(classes='a')), DatasetError, "classes='a'.*: expected a tuple"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, options, error, message):
    for name in files:
        write(tmp_path / name) if name.endswith('png') else (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(error, match=message):
        folder(tmp_path, **options)


def test_names_of_classes_and_litter(tmp_path, said):
    """COCO has classes such as ``_unknown``; a folder is dropped in silence only where it holds nothing."""
    names = ('train/_other/1.png', 'train/cat/1.png', 'train/__pycache__/1.png')
    litter = ('train/.thumbnails/1.png', 'train/.thumbnails/2.png', 'train/@eaDir/a/1.png', 'train/__MACOSX/cat/1.png')
    for name in (*names, *litter):
        write(tmp_path / name)
    (tmp_path / 'train/.empty').mkdir()
    train = folder(tmp_path)
    assert train.metainfo['classes'] == ('__pycache__', '_other', 'cat') and len(train) == 3
    assert '.thumbnails (2 images), @eaDir (1 images), __MACOSX (1 images) left out' in said[0]
    assert '.empty' not in said[0]


def test_what_is_no_image_is_summed_up(tmp_path, said):
    for name in ('train/cat/1.png', 'train/cat/.ipynb_checkpoints/1.png', 'train/dog/a/1.png', 'train/dog/.2.png'):
        write(tmp_path / name)
    for name in ('cat/notes.txt', 'dog/a/notes.txt', 'dog/8', 'dog/Thumbs.db', 'dog/b.jxl', 'dog/.DS_Store'):
        (tmp_path / 'train' / name).touch()
    train = folder(tmp_path)
    found = [Path(train.get_data_info(index)['img_path']) for index in range(len(train))]
    assert found == [tmp_path / 'train/cat/1.png', tmp_path / 'train/dog/a/1.png']
    assert [line for line in said if line.startswith('Left out')] == [
        'Left out: 1 .jxl; these formats are not read: convert the files to JPEG or PNG.',
        'Left out: 1 .db, 2 .txt, 1 without a suffix: no images.',
        f'Left out: hidden images and folders: {tmp_path}/train/cat/.ipynb_checkpoints, {tmp_path}/train/dog/.2.png.',
    ]


def test_a_class_may_be_called_train(tmp_path):
    """As in COCO and CIFAR-100."""
    for name in ('train/train/1.png', 'train/test/1.png', 'train/val/1.png'):
        write(tmp_path / name)
    assert folder(tmp_path).metainfo['classes'] == ('test', 'train', 'val')


def test_single_bad_images(tmp_path):
    for index in range(4):
        write(tmp_path / f'train/a/{index}.png')
        write(tmp_path / f'train/b/{index}.png')
    (tmp_path / 'train/b/0.png').write_bytes(b'no image')
    train = folder(tmp_path, max_bad_fraction=0.13)
    assert train[4]['data_samples'].img_path != str(tmp_path / 'train/b/0.png') and train.num_bad_images == 1
    (tmp_path / 'train/a/0.png').write_bytes(b'')
    with pytest.raises(DatasetError, match='2 of 8 images of .* cannot be used, more than max_bad_fraction=0.13'):
        train[0]
    val = folder(tmp_path, test_mode=True)
    assert val[4]['inputs'].shape == (3, 224, 224) and val[4]['data_samples'].gt_label.tolist() == [1]


def test_classes_of_a_config_are_the_folders(data):
    cfg = load_config(CONFIG, dict(data_root=str(data)))
    assert cfg.classes == ('disc', 'noise', 'square') and cfg.model.head.num_classes == 3
    assert cfg.test_dataloader.dataset.metainfo.classes == cfg.classes


def test_a_checkpoints_order_of_the_classes_that_a_config_names_is_taken(data):
    """Its outputs are in that order; of other classes the config's stay."""
    trained, given = ('disc', 'noise', 'square'), ('square', 'noise', 'disc')
    for classes, expected in ((trained, trained), (None, given), ((), given), (('disc', 'noise', 'x'), given)):
        cfg = load_config(CONFIG, dict(data_root=str(data), classes=given), classes=classes)
        assert tuple(cfg.test_dataloader.dataset.metainfo.classes) == expected


@pytest.mark.parametrize('how', ['metainfo', 'top level', 'command line'])
def test_some_of_the_classes(data, tmp_path, said, how):
    """As with COCO's data: a config that names some leaves out the others, in training and validation."""
    own = dict(
        metainfo="train_dataloader = dict(dataset=dict(metainfo=dict(classes=('square', 'disc'))))",
    )
    own['top level'] = "classes = ('square', 'disc')"
    path = tmp_path / 'some.py'
    path.write_text(f'_base_ = {str(CONFIG)!r}\ndata_root = {str(data)!r}\n{own.get(how, "")}\n')
    cfg = load_config(path, dict(classes=('square', 'disc')) if how == 'command line' else {})
    assert cfg.model.head.num_classes == 2
    for loader, count in ((cfg.train_dataloader, 16), (cfg.val_dataloader, 6), (cfg.test_dataloader, 6)):
        part = DATASETS.build(loader.dataset)
        assert part.metainfo['classes'] == ('square', 'disc')
        found = [
            (Path(own['img_path']).parent.name, own['gt_label']) for own in map(part.get_data_info, range(len(part)))
        ]
        assert sorted(found) == [('disc', 1)] * count + [('square', 0)] * count
        assert f"leave out 1 folders: 'noise'; {count} images are not used" in said.pop(-2)


def test_a_misspelt_class_is_no_class_that_is_left_out(data, tmp_path):
    config = tmp_path / 'some.py'
    config.write_text(f"_base_ = {str(CONFIG)!r}\ndata_root = {str(data)!r}\nclasses = ('square', 'disk')\n")
    cfg = load_config(config)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        with pytest.raises(
            DatasetError, match="has the folders 'disc', 'noise', .*no folder of 'disk', which may be mis"
        ):
            DATASETS.build(loader.dataset)
    # a folder that only validation has is not left out where nobody named the classes
    for name in ('train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/b/1.png', 'val/c/1.png'):
        write(tmp_path / name)
    cfg = load_config(CONFIG, dict(data_root=str(tmp_path)))
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 2
    with pytest.raises(DatasetError, match="'c', which are none of the 2 classes .* leaves them out"):
        DATASETS.build(cfg.val_dataloader.dataset)


def test_a_list_may_name_images_of_classes_that_are_left_out(tmp_path):
    for name in 'abc':
        write(tmp_path / f'train/{name}/1.png')
    (tmp_path / 'list.txt').write_text('a/1.png\nb/1.png\nc/1.png\n')
    some = folder(tmp_path, ann_file='list.txt', metainfo=dict(classes=('c', 'a')), leave_out_others=True)
    found = [some.get_data_info(index) for index in range(len(some))]
    assert [(own['img_path'], own['gt_label']) for own in found] == [
        (f'{tmp_path}/train/a/1.png', 1),
        (f'{tmp_path}/train/c/1.png', 0),
    ]


# -- crops


def test_objects_become_crops(tmp_path):
    generate_mini_coco(tmp_path / 'coco', 30, 4, progress=False)
    out = tmp_path / 'crops'
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', out, '--margin', 0, '--min-size', 6) == 0
    content = json.loads((tmp_path / 'coco/annotations/instances_train2017.json').read_text())
    names = {entry['id']: entry['name'] for entry in content['categories']}
    wanted = [own for own in content['annotations'] if min(own['bbox'][2:]) >= 6 and not own['iscrowd']]
    counts = {name: sum(names[own['category_id']] == name for own in wanted) for name in names.values()}
    assert {path.name: len(list(path.iterdir())) for path in (out / 'train').iterdir()} == counts
    train = folder(out)
    assert train.metainfo['classes'] == tuple(sorted(counts)) and len(train) == len(wanted)
    first = content['images'][0]
    image = cv2.imread(str(tmp_path / 'coco/train2017' / first['file_name']))
    own = [entry for entry in content['annotations'] if entry['image_id'] == first['id']]
    x, y, w, h = own[0]['bbox']
    crop = cv2.imread(str(out / 'train' / names[own[0]['category_id']] / f'{Path(first["file_name"]).stem}_0.png'))
    assert np.array_equal(crop, image[round(y) : round(y + h), round(x) : round(x + w)])
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', out) == 2  # there already


def test_crops_of_images_with_one_name(tmp_path, capsys):
    """Images of one stem in several folders, as frames of videos have, keep all crops; the counts are of files."""
    generate_mini_coco(tmp_path / 'coco', 12, 2, progress=False)
    path = tmp_path / 'coco/annotations/instances_train2017.json'
    content, images = json.loads(path.read_text()), tmp_path / 'coco/train2017'
    for index, entry in enumerate(content['images']):
        name = f'{"abc"[index % 3]}/{index // 3}.jpg'
        (images / name).parent.mkdir(exist_ok=True)
        (images / entry['file_name']).rename(images / name)
        entry['file_name'] = name
    path.write_text(json.dumps(content))
    out = tmp_path / 'crops'
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', out, '--min-size', 1) == 0
    made = len(list(out.glob('train/*/*.png')))
    assert made == sum(not own['iscrowd'] for own in content['annotations'])
    assert f'/train: {made} crops' in capsys.readouterr().out


def test_crops_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    """Ctrl-C at the sixth crop; the next start begins anew."""
    generate_mini_coco(tmp_path / 'coco', 6, 2, progress=False)
    written, write = [], crops.write_bytes

    def stop(path, data):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    with monkeypatch.context() as some, pytest.raises(KeyboardInterrupt):
        some.setattr(crops, 'write_bytes', stop)
        write_crops(tmp_path / 'coco', tmp_path / 'out', CropOptions(min_size=1))
    assert len(written) == 5 and [path.name for path in tmp_path.iterdir()] == ['coco']
    write_crops(tmp_path / 'coco', tmp_path / 'out', CropOptions(min_size=1))
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / 'out').stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize('margin, shape', [(0.0, (10, 20)), (0.5, (20, 40)), (9.0, (60, 80))])
def test_a_crop_reaches_as_far_as_its_image(margin, shape):
    assert cut(np.zeros((60, 80, 3), np.uint8), (30, 20, 50, 30), margin).shape[:2] == shape


def test_every_class_of_the_boxes_is_a_class_of_the_crops(tmp_path):
    """Whatever the categories are called: ``?`` becomes a folder ``_``."""
    generate_mini_coco(tmp_path / 'coco', 20, 4, progress=False)
    for split in ('train', 'val'):
        path = tmp_path / f'coco/annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        for entry, name in zip(content['categories'], ('?', '_unknown', '.hidden'), strict=False):
            entry['name'] = name
        path.write_text(json.dumps(content))
    written = write_crops(tmp_path / 'coco', tmp_path / 'crops', CropOptions(min_size=1))['train']
    assert {'?', '_unknown', '.hidden'} <= set(written)
    assert len(folder(tmp_path / 'crops').metainfo['classes']) == len(written)
    assert len(folder(tmp_path / 'crops')) == written.total()


def test_classes_need_folders_of_their_own():
    assert folder_names(('a/b', 'c')) == {'a/b': 'a_b', 'c': 'c'}
    with pytest.raises(DatasetError, match="The classes a/b, A_b would share the folder 'a_b'"):
        folder_names(('a/b', 'A_b'))
    with pytest.raises(DatasetError, match="would share the folder 'caf\u00e9'"):
        folder_names(('caf\u00e9', 'cafe\u0301'))
    assert folder_names(('CON', 'nul.txt', '__MACOSX', '..', 'console')) == {
        'CON': 'CON_', 'nul.txt': 'nul.txt_', '__MACOSX': '__MACOSX_', '..': '_', 'console': 'console',
    }  # fmt: skip
    assert len(folder_names(('\u00e9' * 270,))['\u00e9' * 270].encode()) == 200
