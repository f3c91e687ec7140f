"""`frostnet new --task classification`, and lists of images: folders of classes as people lay them out."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from frostnet_mm.apis.own_data.classification import classification_config
from frostnet_mm.apis.own_data.wishes import Wishes
from frostnet_mm.data.errors import DatasetError, DatasetNotFoundError
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.data.own_folders import Undecided
from frostnet_mm.engine.config import load_config
from frostnet_mm.errors import UserError
from frostnet_mm.files import write_text
from frostnet_mm.registry import DATASETS


def fill(root, *folders, count=4, size=(70, 50), seed=0):
    """Images that differ, in each of some folders."""
    generator = np.random.default_rng(seed)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f'{index}.jpg')
    return root


def config_of(root, tmp_path, **wishes):
    """The config for a folder, read, its text, and the notes."""
    wanted = Wishes(tmp_path / 'my.py', root, **wishes)
    wanted.check(32)
    text, notes = classification_config(wanted)
    wanted.out.write_text(text)
    return load_config(wanted.out), text, notes


def folders_of(cfg):
    return cfg.train_dataloader.dataset.data_prefix.img_path, cfg.val_dataloader.dataset.data_prefix.img_path


@pytest.mark.parametrize(
    ('train', 'val'),
    [
        ('train', 'val'),
        ('training', 'validation'),
        ('images/train', 'images/test'),
        ('seg_train/seg_train', 'seg_test/seg_test'),
        ('chest_xray/train', 'chest_xray/val'),
    ],
)
def test_parts_are_found_by_their_names(tmp_path, train, val):
    root = fill(tmp_path / 'data', f'{train}/cat', f'{train}/dog', count=5)
    fill(root, f'{val}/cat', f'{val}/dog', count=3, seed=1)
    cfg, text, notes = config_of(root, tmp_path)
    assert folders_of(cfg) == (train, val) and cfg.classes == ('cat', 'dog')
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 10 and 'cat 5, dog 5.' in text
    assert notes == ['2 of 2 classes have fewer than 10 training images: cat, dog.']


def test_validation_is_preferred_to_a_test_part(tmp_path):
    root = fill(tmp_path / 'data', *(f'{part}/{name}' for part in ('train', 'valid', 'test') for name in 'ab'))
    assert folders_of(config_of(root, tmp_path)[0]) == ('train', 'valid')


def test_a_class_may_be_called_as_a_part(tmp_path):
    root = fill(tmp_path / 'data', *(f'{part}/{name}' for part in ('train', 'val') for name in ('valid', 'broken')))
    cfg, *_ = config_of(root, tmp_path)
    assert folders_of(cfg) == ('train', 'val') and cfg.classes == ('broken', 'valid')
    flat = fill(tmp_path / 'flat', 'valid', 'broken')
    assert config_of(flat, tmp_path, val_share=0.25)[0].classes == ('broken', 'valid')


def test_a_class_may_begin_with_an_underscore(tmp_path):
    root = fill(tmp_path / 'data', *(f'{part}/{name}' for part in ('train', 'val') for name in ('_other', 'cat')))
    fill(root, 'train/@eaDir/1.jpg', 'val/.thumbnails')  # what file managers leave
    assert config_of(root, tmp_path)[0].classes == ('_other', 'cat')


def test_settings_follow_from_the_images(tmp_path):
    root = fill(tmp_path / 'data', 'train/a', 'train/b', 'val/a', count=20)
    cfg, text, notes = config_of(root, tmp_path, qat=True, backbone='engine-s', classes=('b', 'a'))
    assert cfg.classes == ('b', 'a') and cfg.model.head.num_classes == 2 and cfg.model.backbone.arch == 'engine-s'
    assert DATASETS.build(cfg.train_dataloader.dataset).get_data_info(0)['gt_label'] == 1
    assert cfg.input_size == 64 and cfg.test_pipeline[1].scale == (64, 64)  # 70x50: of the shorter side, 64 or more
    # 40 images, a quarter of them a step: 4 steps an epoch, and 3000 of them would be more than 150 epochs
    assert (cfg.batch_size, cfg.max_epochs, cfg.train_cfg.val_interval) == (10, 150, 15)
    assert cfg.auto_scale_lr.base_batch_size == 10
    assert 'qat' in cfg.default_hooks and notes == ['1 of 2 classes have no image for validation: b.']
    large = fill(tmp_path / 'large', 'train/a', 'train/b', 'val/a', size=(640, 480), count=2)
    assert config_of(large, tmp_path)[0].input_size == 224
    assert config_of(large, tmp_path, size=32, epochs=3)[0].max_epochs == 3


def test_a_part_is_set_apart(tmp_path):
    root = fill(tmp_path / 'data', 'flowers/rose', 'flowers/tulip', count=10)
    fill(root, 'flowers/lily', count=1, seed=1)
    shutil.copy(root / 'flowers/rose/0.jpg', root / 'flowers/rose/copy.jpg')
    cfg, text, notes = config_of(root, tmp_path, val_share=0.2)
    lists = [(tmp_path / f'my_{part}.txt').read_text().splitlines() for part in ('train', 'val')]
    assert not set(lists[0]) & set(lists[1]) and sorted(lists[0] + lists[1]) == sorted(
        path.relative_to(root / 'flowers').as_posix() for path in root.rglob('*.jpg')
    )
    assert [sum(name.startswith('tulip') for name in own) for own in lists] == [8, 2]
    assert [sum(name.startswith('lily') for name in own) for own in lists] == [1, 0]
    assert any({'rose/0.jpg', 'rose/copy.jpg'} <= set(own) for own in lists)  # equal ones are together
    parts = [DATASETS.build(cfg[f'{part}_dataloader'].dataset) for part in ('train', 'val')]
    assert [len(part) for part in parts] == [len(own) for own in lists]
    assert cfg.test_dataloader.dataset.ann_file == cfg.val_dataloader.dataset.ann_file
    assert notes[1] == '1 of 3 classes have no image for validation: lily.'
    assert config_of(root, tmp_path, val_share=0.2)[1] == text  # the same another time


def test_names_that_are_not_utf8(tmp_path):
    """As archives from Windows have them: files are found again, in lists too; a class has no name for a config."""
    root = fill(tmp_path / 'data', 'cat', 'dog', count=8)
    (root / 'cat/0.jpg').rename(os.fsdecode(bytes(root) + b'/cat/caf\xe9.jpg'))
    cfg, *_ = config_of(root, tmp_path, val_share=0.25)
    parts = [DATASETS.build(cfg[f'{part}_dataloader'].dataset) for part in ('train', 'val')]
    paths = [part.get_data_info(index)['img_path'] for part in parts for index in range(len(part))]
    found = [os.path.join(place, name) for place, _, names in os.walk(os.fsencode(root)) for name in names]
    assert sorted(map(os.path.normpath, map(os.fsencode, paths))) == sorted(found) and len(found) == 16
    (tmp_path / 'my_train.txt').write_bytes(b'dog/0.jpg\n\xe9/1.jpg\n')  # of no file
    with pytest.raises(DatasetError, match='cannot be read as text'):
        DATASETS.build(cfg.train_dataloader.dataset)
    (root / 'cat').rename(os.fsdecode(bytes(root) + b'/caf\xe9'))
    text, _ = classification_config(Wishes(tmp_path / 'my.py', root, val_share=0.25))
    with pytest.raises(UserError, match=r"my.py' cannot be written as UTF-8: .*caf\\udce9.*Rename that"):
        write_text(tmp_path / 'my.py', text)


def test_a_line_break_in_a_name_is_refused(tmp_path):
    root = fill(tmp_path / 'data', 'cat', 'dog')
    (root / 'cat/0.jpg').rename(root / 'cat/0\n1.jpg')
    with pytest.raises(UserError, match=r"'cat/0\\n1.jpg' has a line break in it: rename the file"):
        config_of(root, tmp_path, val_share=0.25)


def only_images(root):
    fill(root, '.')


def only_val(root):
    fill(root, 'val/a', 'val/b')


def no_split(root):
    fill(root, 'a', 'b')


def two_trainings(root):
    fill(root, 'train_1/a', 'train_2/a', 'val/a')


def other_class(root):
    fill(root, 'train/a', 'train/b', 'val/c')


def one_class(root):
    fill(root, 'train/a', 'val/a')


def sound(root):
    fill(root, 'train/a', 'train/b', 'val/a')


@pytest.mark.parametrize(
    ('make', 'wishes', 'asked'),
    [
        (lambda root: root.mkdir(), {}, "Where are the images? '{root}' holds none; "),
        (
            only_images,
            {},
            "Which images are of which class? '{root}' holds images and no folders. Expected a folder a ",
        ),
        (
            only_val,
            {},
            "Which images are for training? Of '{root}' 'val' is for validation, and no folder for training",
        ),
        (no_split, {}, "Which images are for validation? '{root}' holds one folder of classes, '{root}'. Give another"),
        (two_trainings, {}, "Which is the folder of the training images? '{root}' holds 2: train_1, train_2. Say it: "),
        (other_class, {}, "'{root}/val' has images of 'c', of which '{root}/train' has none. Give images of them, or "),
        (one_class, {}, "'{root}/train' has one class, a: expected at least two to tell apart."),
        (sound, dict(val_share=0.2), "Which images are for validation? '{root}/val' holds some, and --val-share 0.2 "),
        (
            sound,
            dict(classes=('a', 'x')),
            "Which classes? '{root}/train' has the folders 'a', 'b'; --classes names 'a', ",
        ),
        (sound, dict(size=40), 'Which size? --size 40 is no multiple of 32, or below 32: --size 32.'),
    ],
)
def test_what_is_open_is_one_question(tmp_path, make, wishes, asked):
    root = tmp_path / 'data'
    make(root)
    with pytest.raises((Undecided, DatasetError)) as raised:
        config_of(root, tmp_path, **wishes)
    assert str(raised.value).startswith(asked.format(root=root))


def test_no_second_image_to_set_apart(tmp_path):
    root = fill(tmp_path / 'data', 'a', 'b', count=1)
    with pytest.raises(Undecided, match='No class of .* has a second image: --val-images FOLDER'):
        config_of(root, tmp_path, val_share=0.5)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (None, 'The list of images .* does not exist, or is no file'),
        ('', 'lists no image. Expected a path below .* a line, such as a/1.jpg'),
        ('a/0.jpg\nc/0.jpg\n', "1 of the 2 images of .* lie in no folder of a class: 'c/0.jpg'"),
        ('a/0.jpg 0\nb/0.jpg 1\n', "2 of the 2 images of .* do not exist: 'a/0.jpg 0', 'b/0.jpg 1'"),
        ('a/0.jpg\nb/0.jpg\na//0.jpg\n', "1 of the 3 images of .* are there twice: 'a/0.jpg'"),
        ('a/0.jpg\n', 'lists no image of 1 of 2 classes: .b.'),
        (b'\xff\xfe\x00', 'cannot be read as text'),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, said):
    root, path = fill(tmp_path / 'data', 'a', 'b'), tmp_path / 'list.txt'
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((DatasetError, DatasetNotFoundError), match=said):
        ImageFolder(data_root=str(root), ann_file=str(path), pipeline=[])


def test_a_list_is_some_of_the_images(tmp_path):
    root, path = fill(tmp_path / 'data', 'train/a', 'train/b'), tmp_path / 'data/list.txt'
    path.write_bytes('\ufeffb/3.jpg\r\na/1.jpg\r\n\r\n'.encode())  # as Windows' editor writes it
    own = ImageFolder(data_root=str(root), data_prefix=dict(img_path='train'), ann_file='list.txt', pipeline=[])
    found = [own.get_data_info(index) for index in range(len(own))]
    assert [(info['img_path'], info['gt_label']) for info in found] == [
        (f'{root}/train/a/1.jpg', 0),
        (f'{root}/train/b/3.jpg', 1),
    ]
