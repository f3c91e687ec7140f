"""Reading the files of checkpoints, with ``weights_only=True``: one from a stranger cannot run code."""

import argparse
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError
from ..files import require_checkpoint

TRUST_VARIABLE = 'FROSTNET_TRUST_CHECKPOINT'
StateDict = dict[str, Tensor]
_SAFETENSORS_TYPES = dict(
    F64=torch.float64,
    F32=torch.float32,
    F16=torch.float16,
    BF16=torch.bfloat16,
    I64=torch.int64,
    I32=torch.int32,
    I16=torch.int16,
    I8=torch.int8,
    U8=torch.uint8,
    BOOL=torch.bool,
)


def _history_statistic(owner: object, name: str) -> object:
    """Stands in for ``getattr``, by which mmengine's logs name their four statistics, and for nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


_NUMPY_CORE = getattr(np, '_core', None) or np.core  # renamed in NumPy 2
# What mmengine's and the authors' training scripts store beside tensors; all of it plain data.
_SAFE_GLOBALS = [
    argparse.Namespace,
    slice,
    HistoryBuffer,
    (_history_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    _NUMPY_CORE.multiarray._reconstruct,
    _NUMPY_CORE.multiarray.scalar,
    *(type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'uint8', 'bool')),
]
_SECTIONS = dict(meta=Mapping)
_SMALL = 1 << 26  # bytes: what a tensor may take, whatever the size of its file


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read or does not fit the model; the message says why and what to do."""


def read_checkpoint(path: str | os.PathLike) -> dict:
    """The content of a checkpoint; as :func:`read_file`."""
    return read_file(path)[0]


def read_file(path: str | os.PathLike) -> tuple[dict, str | None]:
    """Read a checkpoint onto the CPU without running any code that it may hold.

    Args:
        path (str | PathLike): A local file, or a URL or ``open-mmlab://`` name that mmengine resolves.

    Returns:
        tuple[dict, str | None]: The content of the file, and the file's sha256, None where mmengine has read it.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated, not a checkpoint, or holds Python objects other than plain data.
    """
    file = require_checkpoint(path)
    if file is None:
        from mmengine.runner import CheckpointLoader

        return _checked(CheckpointLoader.load_checkpoint(str(path), map_location='cpu'), str(path), 0), None
    safetensors = file.suffix == '.safetensors'
    with reading(file, 'safetensors' if safetensors else 'torch.save'):
        data = file.read_bytes()  # once, for the digest and the content
        content = dict(state_dict=read_safetensors(data)) if safetensors else _unpickled(data)
    return _checked(content, str(file), len(data)), sha256(data).hexdigest()


def is_trusted() -> bool:
    """Whether the user has said that checkpoints may run code."""
    return os.environ.get(TRUST_VARIABLE) == '1'


@contextmanager
def reading(source: str | os.PathLike, kind: str = 'torch.save') -> Iterator[None]:
    """Read a file of torch.save inside: objects that are plain data are known, others are refused.

    Args:
        source (str | PathLike): The file, for messages.
        kind (str): What has written it. Default: 'torch.save'.

    Raises:
        CheckpointError: The file is truncated, not a checkpoint, or holds Python objects other than plain data.
    """
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            yield
    except UserError:
        raise
    except Exception as error:  # there is hardly one that torch's readers do not raise on damaged files
        foreign = re.search(r'(?:GLOBAL|global) ([\w.]+)', str(error))
        if foreign and 'unsupported' in str(error).lower():
            raise CheckpointError(
                f'Checkpoint {source} holds a Python object of type {foreign[1]}, which could run code when it is '
                f'read. If you trust where the file comes from, set {TRUST_VARIABLE}=1 and run again.'
            ) from error
        size = f' ({os.path.getsize(source):,} bytes)' if os.path.isfile(source) else ''
        said = re.search(r'WeightsUnpickler error: \s*(.*)', str(error))  # behind torch's advice to trust the file
        detail = said[1] if said else str(error).splitlines()[0] if str(error) else 'no detail'
        raise CheckpointError(
            f'Checkpoint {source}{size} cannot be read: it is truncated or not a file of {kind} '
            f'({type(error).__name__}: {detail[:500]}). Download or copy it again, or resume from an earlier '
            'checkpoint.'
        ) from error


def _unpickled(data: bytes) -> object:
    if zipfile.is_zipfile(BytesIO(data)):  # torch.save packs nothing
        with zipfile.ZipFile(BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(2 * len(data), _SMALL):
            raise ValueError(f'it would unpack to {unpacked:,} bytes')
    return torch.load(BytesIO(data), map_location='cpu', weights_only=not is_trusted())


def _checked(content: object, source: str, size: int) -> dict:
    """The content of a checkpoint, of the form that is expected of all.

    Raises:
        CheckpointError: It is no dict, its meta is none, or it has tensors that no weights are.
    """
    if not isinstance(content, dict):
        raise CheckpointError(
            f'Checkpoint {source} holds a {type(content).__name__}; expected a dict of tensors or '
            "one with the key 'state_dict'."
        )
    for key, kind in _SECTIONS.items():
        if not isinstance(content.get(key), (kind, type(None))):
            raise CheckpointError(
                f'Checkpoint {source} has a {type(content[key]).__name__} under {key!r}, expected a dict: it is '
                'damaged, or no checkpoint of mm.'
            )
    for name, value in _tensors(content):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            how = 'no numbers' if value.is_meta else 'quantized' if value.is_quantized else 'sparse'
            raise CheckpointError(
                f'Checkpoint {source} has the tensor {name} in a form that no model here has ({how}): expected plain '
                'numbers, as state_dict() of a float model gives them.'
            )
        length = value.numel() * value.element_size()
        if length > max(size, value.untyped_storage().nbytes(), _SMALL):
            raise CheckpointError(
                f'Checkpoint {source} is damaged: its tensor {name} of shape {tuple(value.shape)} would take '
                f'{length:,} bytes, more than the file has.'
            )
    return content


def _tensors(content: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors in dicts and lists, with their names."""
    waiting, seen = [('', content)], set()
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, Tensor):
            yield name, node
        elif isinstance(node, (Mapping, list, tuple)) and id(node) not in seen:
            seen.add(id(node))
            pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
            waiting += [(f'{name}.{key}'.lstrip('.'), value) for key, value in pairs]


def read_safetensors(data: bytes) -> StateDict:
    """The tensors of a safetensors file: the length of a header, the header as JSON, the numbers.

    Args:
        data (bytes): Content of the file.

    Raises:
        ValueError, LookupError, TypeError: It is not such a file.
    """
    end = 8 + int.from_bytes(data[:8], 'little')
    if not 8 < end <= len(data):
        raise ValueError('no header')
    header = json.loads(data[8:end])
    tensors = {}
    for name, entry in header.items():
        if name == '__metadata__':
            continue
        first, last = entry['data_offsets']
        values = torch.from_numpy(np.frombuffer(data[end + first : end + last], np.uint8).copy())
        kind = _SAFETENSORS_TYPES[entry['dtype']]
        values = values.view(kind) if last > first else torch.empty(0, dtype=kind)
        tensors[name] = values.reshape(entry['shape'])
    return tensors
