"""The check of a segmentation data set before it is used: all headers, and the labels of a sample to the last pixel."""

import os.path as osp
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .cityscapes import LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX, to_train_ids
from .errors import BadImageError, DatasetError
from .segmentation_files import Fault, Pair, header_fault
from .segmentation_labels import count_values, read_labels
from .segmentation_values import LabelValues, looks_meaningless, wrong_values_message

LABELS_READ = 64  # spread over the data set: half a second at 2 megapixels
LABELS_COMPARED = 4  # with the label ids beside them
LABELS_READ_AT_MOST = 1000  # to make sure of a suspicion
HEADERS_READ = 20_000


@dataclass
class Findings:
    """What a check found.

    Args:
        faults (dict[int, Fault]): What is wrong with single pairs, by index.
        counts (np.ndarray): (256, ), pixels by value of the labels that were read.
        read (int): How many these are.
        unlabelled (list[str]): Those without a pixel of a class.
        forms (Counter): How many are stored otherwise than as 8 bit grey or palette.
    """

    faults: dict[int, Fault] = field(default_factory=dict)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    read: int = 0
    unlabelled: list[str] = field(default_factory=list)
    forms: Counter = field(default_factory=Counter)

    def kinds(self) -> dict[str, int]:
        """Number of faulty pairs by kind."""
        return dict(Counter(fault.kind for fault in self.faults.values()))


def check_pairs(pairs: Sequence[Pair], values: LabelValues, oriented: bool, root: str) -> Findings:
    """Check the files of a data set.

    Args:
        pairs (Sequence[Pair]): Images and labels; without labels only the images are looked at.
        values (LabelValues): What labels may hold.
        oriented (bool): Whether EXIF orientation is applied to images.
        root (str): Folder of the data set, for messages.

    Returns:
        Findings: Faults of single pairs, and what the labels hold.

    Raises:
        DatasetError: Labels hold values that mean nothing, all are ignored, have one class only, or are label ids.
    """
    findings = Findings()
    for index in spread(len(pairs), HEADERS_READ):
        if (fault := header_fault(pairs[index], oriented)) is not None:
            findings.faults[index] = fault
    left = [index for index in range(len(pairs)) if index not in findings.faults and pairs[index].label is not None]
    chosen = [left[position] for position in spread(len(left), LABELS_READ)]
    wrong = [text for index in chosen if (text := _read(index, pairs[index].label, values, root, findings))]
    if wrong:
        more = f' {len(wrong)} of {len(chosen)} labels that were read hold such values.' if len(chosen) > 1 else ''
        raise DatasetError(f'{wrong[0]}.{more}')
    if values.cityscapes:
        _compare_ids([pairs[index].label for index in chosen], root)
    if findings.read and looks_meaningless(findings.counts, values, root):
        _make_sure(pairs, [index for index in left if index not in set(chosen)], values, root, findings)
    return findings


def _make_sure(pairs: Sequence[Pair], rest: list[int], values: LabelValues, root: str, findings: Findings) -> None:
    """Read on until a suspicion is refuted; raise if it is not."""
    for position in spread(len(rest), LABELS_READ_AT_MOST):
        text = _read(rest[position], pairs[rest[position]].label, values, root, findings)
        if text is not None:
            raise DatasetError(f'{text}.')
        if looks_meaningless(findings.counts, values, root) is None:
            return
    reason = looks_meaningless(findings.counts, values, root)
    raise DatasetError(
        f"The labels in '{osp.dirname(pairs[0].label)}' and the like cannot be used, by the {findings.read} of "
        f'{len(pairs)} '
        f'that were read: {reason}.'
    )


def spread(total: int, count: int) -> list[int]:
    """At most ``count`` indices, evenly spread over ``total``."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def _read(index: int, path: str, values: LabelValues, root: str, findings: Findings) -> str | None:
    """Read a label into the findings; what is wrong with its values."""
    try:
        labels, form = read_labels(path)
    except BadImageError as error:
        findings.faults[index] = Fault('label unreadable', str(error))
        return None
    counts = count_values(labels)
    findings.read += 1
    findings.counts += counts
    if form is not None:
        findings.forms[form] += 1
    if values.wrong(counts):
        return wrong_values_message(path, labels, counts, values, root)
    if not values.classes_in(counts):
        findings.unlabelled.append(path)
    return None


def _compare_ids(labels: Sequence[str], root: str) -> None:
    """Hold train ids against the label ids that lie beside them."""
    beside = [(path, path.removesuffix(TRAIN_IDS_SUFFIX) + LABEL_IDS_SUFFIX) for path in labels]
    beside = [(path, other) for path, other in beside if path.endswith(TRAIN_IDS_SUFFIX) and osp.isfile(other)]
    for position in spread(len(beside), LABELS_COMPARED):
        path, other = beside[position]
        try:
            train, ids = read_labels(path).values, read_labels(other).values
            same = np.array_equal(train, to_train_ids(ids))
        except (BadImageError, ValueError):
            continue  # the file that training reads has been looked at already
        if not same:
            what = 'holds label ids, not train ids' if np.array_equal(train, ids) else 'is not what its label ids give'
            raise DatasetError(
                f"the label '{path}' {what} ('{osp.basename(other)}' beside it): 'python tools/prepare_cityscapes.py "
                f"{root} --overwrite' makes the train ids again."
            )
