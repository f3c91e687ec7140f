"""What differs between a training that was killed and gone on with, and one that was not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from frostnet_mm.apis.visualization.scalars import read_scalars
from frostnet_mm.models import read_checkpoint

# Of a run, not of what it computes: times, the commit of the folder that it was started in, and which old files were
# still there to be removed (that none is left is seen by the files).
OWN = re.compile(
    r'(^|[./])(time|data_time|experiment_name|cfg|eta|memory|at_iter|iter_time|mmengine_version|removed_checkpoints)$'
)


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two work dirs: files, all that the checkpoints hold, logged losses and metrics.

    Args:
        one (Path): Of the training that nothing happened to.
        other (Path): Of the one to compare with it.

    Returns:
        list[str]: Names with both values; empty where all is equal to the last bit.
    """
    return checkpoint_differences(one, other) + [
        f'log: {text}' for text in compare(*map(_logged, (one, other)), roots=(str(one), str(other)))
    ]


def checkpoint_differences(one: Path, other: Path) -> list[str]:
    """As :func:`differences`, without what was logged."""
    files = [sorted(path.name for path in work_dir.glob('*.pth')) for work_dir in (one, other)]
    found = [f'files: {files[0]}, {files[1]}'] if files[0] != files[1] else []
    found += [f'left behind: {path.name}' for path in other.iterdir() if path.name.endswith('.unfinished')]
    named = [(work_dir / 'last_checkpoint').read_text().rpartition('/')[2] for work_dir in (one, other)]
    found += [f'last_checkpoint: {named}'] if named[0] != named[1] else []
    for name in sorted(set(files[0]) & set(files[1])):
        contents = [read_checkpoint(work_dir / name) for work_dir in (one, other)]
        found += [f'{name}: {text}' for text in compare(*contents, roots=(str(one), str(other)))]
    return found


def compare(one: Any, other: Any, name: str = '', roots: tuple[str, str] = ('', '')) -> Iterator[str]:
    """Go down two values side by side, and say where they differ.

    Args:
        one, other: Tensors, arrays, numbers, texts, and dicts and lists of such.
        name (str): Of the place.
        roots (tuple[str, str]): The folders of both, which texts may name.
    """
    if OWN.search(name):
        return
    if isinstance(one, HistoryBuffer) and isinstance(other, HistoryBuffer):
        one, other = vars(one), vars(other)
        one, other = ({k: v for k, v in each.items() if k.endswith('history')} for each in (one, other))
    if type(one) is not type(other):
        yield f'{name} is {type(one).__name__}, {type(other).__name__}'
    elif isinstance(one, dict):
        for key in dict.fromkeys([*one, *other]):
            place = f'{name}.{key}' if name else str(key)
            if key in one and key in other:
                yield from compare(one[key], other[key], place, roots)
            elif not OWN.search(place):
                yield f'{place} is in the {"first" if key in one else "second"} only'
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield f'{name} has {len(one)}, {len(other)} entries'
        for index, pair in enumerate(zip(one, other, strict=False)):
            yield from compare(*pair, f'{name}.{index}', roots)
    elif not _equal(one, other, roots):
        yield f'{name}: {_short(one)}, {_short(other)}'


def _equal(one: Any, other: Any, roots: tuple[str, str]) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, str):
        return one.replace(roots[0], '') == other.replace(roots[1], '')
    return one == other or (one != one and other != other)


def _bytes(value: torch.Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def _short(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f'{type(value).__name__} of {tuple(value.shape)}'
    return repr(value)[:60]


def _logged(work_dir: Path) -> dict[str, dict]:
    """Losses by iteration and metrics by step, as ``tools/plot_curves.py`` reads them; what repeats is kept."""
    found: dict[str, dict] = {}
    for record in read_scalars(work_dir):
        place = f'iteration {record["iter"]}' if 'iter' in record else f'validation {record["step"]}'
        while place in found:
            place += ' again'
        found[place] = record
    return found
