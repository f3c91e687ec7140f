"""CIFAR as it is released: made up archives of its form, read against the layout that its authors describe."""

import gzip
import io
import os
import pickle
import tarfile
import zlib

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_tool

from frostnet_mm.data.cifar import write_cifar
from frostnet_mm.data.errors import DatasetError, DatasetNotFoundError
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.engine.config import load_config
from frostnet_mm.errors import UserError

FILES = {10: [*(f'data_batch_{number}' for number in range(1, 6)), 'test_batch'], 100: ['train', 'test']}
NAMES = {10: ('airplane', 'cat'), 100: ('apple', 'bee', 'cup')}


def release(path, kind=10, key=str.encode, change=None, images=3):
    """An archive of the form of CIFAR-10 or CIFAR-100, and the arrays in it."""
    generator, arrays, content = np.random.default_rng(0), {}, {}
    words = dict(label_names='label_names', labels='labels') if kind == 10 else {}
    words = words or dict(label_names='fine_label_names', labels='fine_labels')
    names = [key(name) for name in NAMES[kind]]
    content['batches.meta' if kind == 10 else 'meta'] = {key(words['label_names']): names, key('num_vis'): 3072}
    for name in FILES[kind]:
        data = generator.integers(0, 256, (images, 3072), dtype=np.uint8)
        labels = [int(label) for label in generator.permutation(images) % len(NAMES[kind])]
        arrays[name] = data, labels
        content[name] = {key('data'): data, key(words['labels']): labels, key('batch_label'): key(name)}
    pickles = {name: pickle.dumps(value, protocol=2) for name, value in content.items()}
    if change:
        change(pickles)
    with tarfile.open(path, 'w:gz') as archive:
        for name, data in pickles.items():
            entry = tarfile.TarInfo(f'cifar-{kind}/{name}')
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return arrays


@pytest.mark.parametrize('kind, key', [(10, str.encode), (10, str), (100, str.encode)])
@pytest.mark.parametrize('unpacked', [False, True])
def test_a_release_becomes_folders(tmp_path, capsys, kind, key, unpacked):
    arrays, source, out = release(tmp_path / 'cifar.tar.gz', kind, key), tmp_path / 'cifar.tar.gz', tmp_path / 'out'
    if unpacked:
        with tarfile.open(source) as archive:
            archive.extractall(tmp_path / 'here', filter='data')
        source = tmp_path / 'here'
    assert run_tool('prepare_cifar', source, '--out', out) == 0
    said = capsys.readouterr().out
    for split, files in (('train', FILES[kind][:-1]), ('val', FILES[kind][-1:])):
        data = np.concatenate([arrays[name][0] for name in files])
        labels = [label for name in files for label in arrays[name][1]]
        assert f'{out}/{split}: {len(labels)} images of {len(NAMES[kind])} classes; the release has' in said
        for label, name in enumerate(NAMES[kind]):
            own = data[[index for index, each in enumerate(labels) if each == label]]
            found = sorted((out / split / name).glob('*.png'))
            assert len(found) == len(own)
            for path, image in zip(found, own, strict=True):
                # "The first 1024 entries contain the red channel values, the next 1024 the green, and the final 1024
                # the blue. The image is stored in row-major order"
                pixels = cv2.imread(str(path))
                assert pixels.shape == (32, 32, 3)
                for row, column in ((0, 0), (3, 17), (31, 30)):
                    place = 32 * row + column
                    assert [*pixels[row, column]] == [image[2048 + place], image[1024 + place], image[place]]
    cfg = load_config(ROOT / 'configs/frostnet_cifar.py', dict(data_root=str(out)))
    assert cfg.classes == NAMES[kind] == ImageFolder(data_root=str(out / 'train'), pipeline=[]).metainfo['classes']


class Evil:
    def __reduce__(self):
        return os.mkdir, ('made by a pickle',)


@pytest.mark.parametrize(
    'change, error, message',
    [
        (lambda files: files.pop('data_batch_3'), DatasetNotFoundError, 'has no file data_batch_3'),
        (lambda files: files.pop('batches.meta'), DatasetError, 'has neither batches.meta nor meta'),
        (
            lambda files: files.update(test_batch=pickle.dumps(Evil())),
            DatasetError,
            'it names posix.mkdir, which CIFAR',
        ),
        (lambda files: files.update(test_batch=files['test_batch'][:99]), DatasetError, "'test_batch' of"),
        (lambda files: files.update(test_batch=pickle.dumps([1])), DatasetError, "'test_batch' of"),
        (
            lambda files: files.update(test_batch=pickle.dumps(dict(data=np.zeros((2, 3072)), labels=[0, 1]))),
            DatasetError,
            'has data of float64',
        ),
        (
            lambda files: files.update(test_batch=pickle.dumps(dict(data=np.zeros((1, 3072), np.uint8), labels=[7]))),
            DatasetError,
            'a label from 0 to 1 each',
        ),
    ],
)
def test_what_is_no_release_is_refused(tmp_path, monkeypatch, change, error, message):
    monkeypatch.chdir(tmp_path)
    release('cifar.tar.gz', change=change)
    with pytest.raises(error, match=message):
        write_cifar('cifar.tar.gz', 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['cifar.tar.gz']


def test_files_that_are_no_archive(tmp_path):
    release(tmp_path / 'whole.tar.gz', images=40)
    (tmp_path / 'part.tar.gz').write_bytes((tmp_path / 'whole.tar.gz').read_bytes()[:9000])
    for name, message in (('part.tar.gz', 'cannot be read as an archive'), ('no.tar.gz', 'does not exist; ')):
        with pytest.raises(DatasetError, match=message):
            write_cifar(str(tmp_path / name), str(tmp_path / 'out'))
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/a.png').write_text('')
    with pytest.raises(UserError, match='is there and not empty: give a new folder'):
        write_cifar(str(tmp_path / 'whole.tar.gz'), str(tmp_path / 'out'))


@pytest.mark.parametrize('place', [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_damaged_archives_leave_nothing(tmp_path, place):
    """Some bytes of the stream are others: what gzip's checksum alone tells, or zlib, or tar."""
    release(tmp_path / 'whole.tar.gz', images=20)
    content = bytearray((tmp_path / 'whole.tar.gz').read_bytes())
    at = min(int(place * len(content)), len(content) - 8)  # the last 8 bytes are checksum and size
    content[at : at + 4] = bytes(255 - value for value in content[at : at + 4])
    (tmp_path / 'part.tar.gz').write_bytes(content)
    with pytest.raises((zlib.error, gzip.BadGzipFile)), gzip.open(tmp_path / 'part.tar.gz') as stream:
        stream.read()
    with pytest.raises(DatasetError, match='cannot be read as an archive .*it is damaged: download it again'):
        write_cifar(str(tmp_path / 'part.tar.gz'), str(tmp_path / 'out'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['part.tar.gz', 'whole.tar.gz']
