"""What the values of labels mean, and what is wrong with the values that were found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .cityscapes import CLASSES, LABEL_IDS_SUFFIX, LABELS, TRAIN_IDS_SUFFIX
from .coco_paths import sample

IGNORED = 255
#: Traffic sign, person, rider, motorcycle as train ids; road, building, wall, pole as label ids.
_RARE = (7, 11, 12, 17)
_RARE_SHARE = 0.2  # of the pixels above 0: 2 % in Cityscapes' train ids, 90 % of its label ids below 19


@dataclass(frozen=True)
class LabelValues:
    """The values that labels may have, as they are stored in the file.

    Args:
        names (Mapping[int, str]): Class by value.
        ignored (frozenset[int]): Values that are neither trained nor evaluated.
        cityscapes (bool): Whether they are Cityscapes' train ids.
    """

    names: Mapping[int, str]
    ignored: frozenset[int]
    cityscapes: bool = False

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        label_map: Mapping[int, int] | None = None,
        reduce_zero_label: bool = False,
        ignore_index: int = IGNORED,
    ) -> 'LabelValues':
        """The values that one of mmseg's data sets reads.

        Args:
            classes (Sequence[str]): Its classes.
            label_map (Mapping[int, int], optional): Index of a class by value, 255 for classes that are left out.
            reduce_zero_label (bool): Whether 0 is ignored and 1 the first class. Default: False.
            ignore_index (int): Default: 255.
        """
        indices = {i: i for i in range(len(classes))} if label_map is None else dict(label_map)
        first = int(bool(reduce_zero_label))
        names = {old + first: classes[new] for old, new in indices.items() if new < len(classes)}
        ignored = {old + first for old, new in indices.items() if new >= len(classes)} | {ignore_index}
        ignored |= {0, IGNORED} if reduce_zero_label else ({IGNORED} if label_map is not None else set())
        cityscapes = tuple(classes) == CLASSES if label_map is None else len(label_map) == len(CLASSES)
        return cls(names, frozenset(ignored), cityscapes)

    def wrong(self, counts: np.ndarray) -> list[int]:
        """Values that are found and mean nothing, of pixels by value (256, )."""
        return [value for value in np.flatnonzero(counts).tolist() if value not in self.names.keys() | self.ignored]

    def classes_in(self, counts: np.ndarray) -> list[int]:
        """Values of classes that are found."""
        return [value for value in np.flatnonzero(counts).tolist() if self._is_class(value)]

    def _is_class(self, value: int) -> bool:
        return value in self.names and value not in self.ignored

    def describe(self, counts: np.ndarray) -> str:
        """The share of each class in words, and which are not found."""
        total = max(int(counts.sum()), 1)
        found = self.classes_in(counts)
        order = sorted(found, key=lambda value: -counts[value])
        parts = [f'{self.names[value]} {_percent(counts[value] / total)}' for value in order]
        parts.append(f'ignored {_percent(sum(counts[value] for value in self.ignored) / total)}')
        absent = [name for value, name in self.names.items() if self._is_class(value) and value not in found]
        return ', '.join(parts) + (f'; not found: {", ".join(absent)}' if absent else '')


def _percent(share: float) -> str:
    return f'{share:.1%}' if share >= 0.001 or share == 0 else '<0.1%'


def wrong_values_message(path: str, labels: np.ndarray, counts: np.ndarray, values: LabelValues, root: str) -> str:
    """Say which values of a label mean nothing, and what mends it.

    Args:
        path (str): The label.
        labels (np.ndarray): uint8 (H, W).
        counts (np.ndarray): Its pixels by value, (256, ).
        values (LabelValues): What is expected.
        root (str): Folder of the data set, for the command.
    """
    wrong = values.wrong(counts)
    row, column = np.argwhere(labels == wrong[0])[0]
    pixels = int(counts[wrong].sum())
    names = [values.names[value] for value in sorted(values.names)]
    message = (
        f"the label '{path}' holds the {_values(wrong)} ({pixels:,} of {labels.size:,} pixels, the first in row {row}, "
        f'column {column}). Expected: {min(values.names)} to {max(values.names)} for the {len(names)} classes '
        f'({sample(names, 3)}), {_listed(sorted(values.ignored))} for what is ignored'
    )
    if values.cityscapes and len(values.names) < wrong[-1] < len(LABELS) - 1 and not counts[IGNORED]:
        return f'{message}. These are label ids, not train ids. {label_ids_mend(root)}'
    if IGNORED in wrong and wrong == [IGNORED]:
        return f'{message}. Save the class as its index, and what is to be ignored as {_listed(sorted(values.ignored))}'
    if wrong == [max(values.names) + 1] and 0 in values.names:
        message += '. If the classes are counted from 1 and 0 is none, set reduce_zero_label=True in the data sets'
    return (
        f'{message}. If it is a class, name all classes in metainfo=dict(classes=...) of the data sets and set '
        f'num_classes of the heads; else correct the pixels: {IGNORED} is ignored'
    )


def label_ids_mend(root: str) -> str:
    """How to get train ids where label ids lie under their name."""
    return (
        f"Where *{LABEL_IDS_SUFFIX} lie beside, 'python tools/prepare_cityscapes.py {root} --overwrite' makes the "
        f'train ids again; else rename these files to *{LABEL_IDS_SUFFIX}, and it makes the *{TRAIN_IDS_SUFFIX} of them'
    )


def _values(values: Sequence[int]) -> str:
    shown = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
    return f'value {shown}' if len(values) == 1 else f'values {shown}'


def _listed(values: Sequence[int]) -> str:
    return ', '.join(map(str, values))


def looks_meaningless(counts: np.ndarray, values: LabelValues, root: str) -> str | None:
    """Judge the values of all labels that were read, each of which may be right by itself.

    Args:
        counts (np.ndarray): Pixels by value, (256, ).
        values (LabelValues): What is expected.
        root (str): Folder of the data set, for the command.

    Returns:
        str or None: Why nothing can be learned from such labels and what mends it, or None.
    """
    found = values.classes_in(counts)
    if not found:
        return (
            f'no pixel has a class, all are ignored ({_listed(_present(counts, values))}). Expected values: '
            f'{min(values.names)} to {max(values.names)}'
        )
    ignored = _present(counts, values)
    if len(found) == 1 and len(values.names) > 1 and ignored:
        only = f'{found[0]} ({values.names[found[0]]})'
        hint = f'If {_listed(ignored)} is the object (masks of 0 and 255), save it as the index of its class, such as 1'
        rest = f'every other pixel is ignored ({_listed(ignored)}): nothing is told apart'
        return f'{only} is the only class, {rest}. {hint}'
    if len(found) == 1 and len(values.names) > 1:
        return f'every pixel is {found[0]} ({values.names[found[0]]}): nothing is told apart'
    if values.cityscapes and _are_label_ids(counts) and not counts[IGNORED]:
        return (
            f'they hold the values {_listed(np.flatnonzero(counts).tolist())}: label ids (7 road, 8 sidewalk, 11 '
            f'building, ...), not train ids (0 road, 1 sidewalk, 2 building, ...). {label_ids_mend(root)}'
        )
    return None


def _present(counts: np.ndarray, values: LabelValues) -> list[int]:
    return sorted(value for value in values.ignored if counts[value])


def _are_label_ids(counts: np.ndarray) -> bool:
    """Whether values up to 18 are label ids: none of the train ids 1 to 6, and signs, people and cycles all over."""
    labelled = counts[1:19].sum()  # 0 is road or unlabeled
    return bool(labelled and not counts[1:7].any() and counts[list(_RARE)].sum() > _RARE_SHARE * labelled)
