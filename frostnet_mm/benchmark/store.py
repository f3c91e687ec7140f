"""Results in a folder: a file of JSON, up to date after every result, so that an interrupted run goes on from there."""

import json
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ..errors import UserError
from ..files import write_text

DONE, BUSY, FAILED = 'done', 'busy', 'failed'


class BenchmarkError(UserError, ValueError):
    """The benchmark cannot be run as asked; the message says why and what to do."""


class Entry(Protocol):
    """What a store keeps: a result."""

    status: str

    @property
    def key(self) -> Hashable:
        """What it is a result of; a later result of the same takes its place."""

    def to_dict(self) -> dict:
        """All as plain data."""


Kept = TypeVar('Kept', bound=Entry)
Item = TypeVar('Item')


def counts(status: str, allow_busy: bool = False) -> bool:
    """Whether the times of a result with a status ('done', 'busy' or 'failed') may be shown and compared."""
    return status == DONE or (status == BUSY and allow_busy)


@dataclass(frozen=True)
class Kind(Generic[Kept]):
    """What one kind of result is kept in.

    Args:
        file (str): Name of the file.
        entries (str): Its key that holds the list of results.
        read (Callable): Makes a result of plain data, as :meth:`Entry.to_dict` gave it.
        about (Callable): What is kept of the machine of :func:`describe_machine`.
        compared (tuple[str, ...]): Keys of that in which results must agree to be compared with each other.
    """

    file: str
    entries: str
    read: Callable[[dict], Kept]
    about: Callable[[dict], dict]
    compared: tuple[str, ...]


class Store(Generic[Kept]):
    """The results of a kind in a folder.

    Args:
        kind (Kind): The kind.
        folder (str | PathLike): Where its file lies.
        machine (dict): Of :func:`describe_machine`.
        drop (bool): Begin with none where those in the folder are of another machine or of other versions. Default:
            False, which refuses.

    Attributes:
        results (dict): By key, in the order in which they came.
        remarks (dict): What is written into the file beside them, and not read.

    Raises:
        BenchmarkError: The results there are of another machine or of other versions, or cannot be read.
    """

    def __init__(self, kind: Kind[Kept], folder: str | os.PathLike, machine: dict, drop: bool = False) -> None:
        self.kind = kind
        self.path = Path(folder) / kind.file
        self.machine = kind.about(machine)
        self.results: dict[Hashable, Kept] = {}
        self.remarks: dict[str, Any] = {}
        if self.path.is_file():
            self._read(drop)

    def _read(self, drop: bool) -> None:
        try:
            content = json.loads(self.path.read_text())
            previous = content['machine']
            changed = [name for name in self.kind.compared if previous.get(name) != self.machine[name]]
            results = [self.kind.read(values) for values in content[self.kind.entries]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchmarkError(
                f'{self.path} is no file of this benchmark ({type(error).__name__}: {error}): remove it, or give '
                'another --out.'
            ) from error
        if changed and not drop:
            raise BenchmarkError(
                f'{self.path} holds results of another machine or of other packages ({", ".join(changed)} differ), '
                'which do not compare with those of this one: give another --out, or measure all again with --again.'
            )
        if not changed:
            self.results = {result.key: result for result in results}

    def pending(self, items: Iterable[Item], allow_busy: bool, again: bool = False) -> list[Item]:
        """The items, each with a ``key``, that have no result that counts; all of them with ``again``."""
        return [item for item in items if again or not self._counts(item.key, allow_busy)]

    def _counts(self, key: Hashable, allow_busy: bool) -> bool:
        return key in self.results and counts(self.results[key].status, allow_busy)

    def add(self, result: Kept) -> None:
        """Keep a result, in the file too."""
        self.results[result.key] = result
        self.write()

    def write(self) -> None:
        """Write the file."""
        entries = [entry.to_dict() for entry in self.results.values()]
        content: dict[str, Any] = {'machine': self.machine, self.kind.entries: entries, **self.remarks}
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False))

    def of(self, items: Iterable[Item]) -> list[Kept]:
        """The results of items with a ``key``, in their order; those not measured yet are left out."""
        return [self.results[item.key] for item in items if item.key in self.results]
