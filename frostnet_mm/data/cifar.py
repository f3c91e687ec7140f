"""CIFAR-10 and CIFAR-100 as they are released, to a folder a class."""

import io
import pickle
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..files import new_folder, require_new_folder, write_bytes
from .coco_paths import list_folder
from .errors import DatasetError, DatasetNotFoundError

IMAGES = dict(train=50_000, val=10_000)
SIZE = 32
_WANTED = (
    'Expected cifar-10-python.tar.gz or cifar-100-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, or the folder '
    'that is in it'
)
_CHUNK = 2**20  # bytes
_ARRAYS = ('numpy.core.multiarray', 'numpy._core.multiarray')


class _Release(NamedTuple):
    meta: str
    names: str  # of the classes, in ``meta``
    labels: str  # in a batch
    splits: Mapping[str, tuple[str, ...]]  # files of a split


RELEASES = (
    _Release(
        'batches.meta',
        'label_names',
        'labels',
        dict(train=tuple(f'data_batch_{number}' for number in range(1, 6)), val=('test_batch',)),
    ),
    _Release('meta', 'fine_label_names', 'fine_labels', dict(train=('train',), val=('test',))),
)


class _ArraysAlone(pickle.Unpickler):
    """Reads what the release has: plain values and arrays. A pickle of a stranger may not name anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _ARRAYS and name in ('_reconstruct', 'scalar'):
            return super().find_class(_ARRAYS[hasattr(np, '_core')], name)
        if (module, name) in (('numpy', 'ndarray'), ('numpy', 'dtype'), ('_codecs', 'encode')):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'it names {module}.{name}, which CIFAR has not')


def write_cifar(
    source: str, out: str, progress: Callable[[Iterator, int], Iterator] | None = None
) -> dict[str, Counter]:
    """Write the images of a release, a folder a class.

    Args:
        source (str): ``cifar-10-python.tar.gz``, ``cifar-100-python.tar.gz``, or the folder that is in it.
        out (str): New folder: ``OUT/train/CLASS/00001.png``, ``OUT/val/CLASS/00001.png``.
        progress (Callable, optional): Wraps the iteration over the images, as tqdm does, and takes their number.

    Returns:
        dict[str, Counter]: Images by split and class.

    Raises:
        DatasetNotFoundError: A file is missing.
        DatasetError: One cannot be read.
        UserError: ``out`` is there.
    """
    require_new_folder(out)
    files = _files(Path(source))
    release = next((own for own in RELEASES if own.meta in files), None)
    if release is None:
        raise DatasetError(f"'{source}' has neither {' nor '.join(own.meta for own in RELEASES)}. {_WANTED}.")
    names = _value(source, release.meta, files[release.meta], release.names)
    classes = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    parts = {split: [_batch(source, name, files, release, len(classes)) for name in release.splits[split]]
             for split in release.splits}  # fmt: skip
    counts = {split: Counter({name: 0 for name in classes}) for split in parts}
    with new_folder(out) as partial:
        images = (
            (split, *image)
            for split, batches in parts.items()
            for batch in batches
            for image in zip(*batch, strict=True)
        )
        total = sum(len(labels) for batches in parts.values() for _, labels in batches)
        for split, pixels, label in progress(images, total) if progress else images:
            name = classes[label]
            file = partial / split / name / f'{counts[split][name]:05d}.png'
            counts[split][name] += 1
            write_bytes(file, cv2.imencode('.png', pixels[..., ::-1])[1].tobytes())
    return counts


def _files(source: Path) -> dict[str, bytes]:
    """The files of a release in an archive or a folder, by their names."""
    known = {name for own in RELEASES for name in (own.meta, *sum(own.splits.values(), ()))}
    if not source.exists():
        raise DatasetNotFoundError(f"'{source}' does not exist; {list_folder(str(source.parent))}. {_WANTED}.")
    try:
        if source.is_dir():
            inner = next((path.parent for own in RELEASES for path in source.rglob(own.meta)), source)
            return {path.name: path.read_bytes() for path in inner.iterdir() if path.name in known and path.is_file()}
        with tarfile.open(source) as archive:
            members = [own for own in archive.getmembers() if own.isfile() and Path(own.name).name in known]
            files = {Path(own.name).name: archive.extractfile(own).read() for own in members}
            while archive.fileobj.read(_CHUNK):  # at the end of the stream stands its checksum, behind all files
                pass
            return files
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"'{source}' cannot be read as an archive or a folder ({error}). {_WANTED}; where it is that, it is "
            'damaged: download it again.'
        ) from error


def _value(source: str, name: str, content: bytes, *keys: str) -> Any:
    """One or several values of a pickle, whose keys are bytes or texts."""
    try:
        values = _ArraysAlone(io.BytesIO(content), encoding='bytes').load()
        found = [values[key.encode()] if key.encode() in values else values[key] for key in keys]
    except Exception as error:  # pickle raises nearly anything
        raise DatasetError(
            f"'{name}' of '{source}' cannot be read: {type(error).__name__}: {error}. {_WANTED}."
        ) from error
    return found if len(found) > 1 else found[0]


def _batch(source: str, name: str, files: dict, release: _Release, classes: int) -> tuple[np.ndarray, list[int]]:
    """Images (N, 32, 32, 3), RGB, and their classes."""
    if name not in files:
        raise DatasetNotFoundError(f"'{source}' has no file {name}. {_WANTED}.")
    data, labels = _value(source, name, files[name], 'data', release.labels)
    data, labels = np.asarray(data), [int(label) for label in labels]
    fits = data.dtype == np.uint8 and data.shape == (len(labels), 3 * SIZE * SIZE)
    if not fits or any(not 0 <= label < classes for label in labels):
        raise DatasetError(
            f"'{name}' of '{source}' has data of {data.dtype}, {data.shape}, and {len(labels)} labels: expected uint8, "
            f'(N, {3 * SIZE * SIZE}), and a label from 0 to {classes - 1} each. {_WANTED}.'
        )
    return data.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1), labels
