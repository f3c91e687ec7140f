"""What checked data sets share: the share of bad images that they pass over, and flags of images that workers count."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log

from .download_checks import MAX_BAD_FRACTION
from .errors import BadImageError, DatasetError


class CountingDataset:
    """Stands before a data set of mmengine: counters of images, in shared memory, over all workers of a process.

    Args:
        max_bad_fraction (float): Fraction of images, 0 to 1, that may be bad before training stops. Defaults to 0.1.
        *args, **kwargs: Of the data set.
    """

    #: Names of the counters.
    COUNTERS: tuple[str, ...] = ('bad_images',)

    def __init__(self, *args, max_bad_fraction: float = MAX_BAD_FRACTION, **kwargs) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f'max_bad_fraction={max_bad_fraction}, expected a fraction of the images from 0 to 1')
        self.max_bad_fraction = max_bad_fraction
        #: Number of boxes or images by cause, from the check before training.
        self.problems: dict[str, int] = {}
        self._flags: dict[str, torch.Tensor] = {}
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Check and load the annotations, see the base class."""
        if not self._fully_initialized:
            super().full_init()
            self._reset_counters()

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Reduce the data set to a subset in place, see the base class. Counters start at 0."""
        super().get_subset_(indices)
        self._reset_counters()

    def get_subset(self, indices: Sequence[int] | int) -> Any:
        """Make a subset of the data set, see the base class. Its counters start at 0."""
        subset = super().get_subset(indices)
        subset._reset_counters()
        return subset

    def _reset_counters(self) -> None:
        # one flag an image rather than a number: every file counts once, and workers need no lock
        self._flags = {name: torch.zeros(len(self), dtype=torch.uint8).share_memory_() for name in self.COUNTERS}

    def _count(self, name: str) -> int:
        return int(self._flags[name].sum()) if name in self._flags else 0

    def _flag(self, name: str, index: int) -> bool:
        """Flag an image; whether it was not flagged before."""
        is_new = not self._flags[name][index]
        self._flags[name][index] = 1
        return is_new

    def _count_bad(self, index: int, error: BadImageError, which: str, consequence: str = '') -> None:
        """Flag an image that cannot be used, say so once, and stop training where there are too many.

        Args:
            index (int): Of the image.
            error (BadImageError): What is wrong with it.
            which (str): In the message behind 'N of M images of'.
            consequence (str): In evaluation, behind 'Evaluated as a uniform grey image'. Default: ''.

        Raises:
            DatasetError: In training, more than ``max_bad_fraction`` of the images are bad.
        """
        is_new, count = self._flag('bad_images', index), self._count('bad_images')
        if is_new:
            done = f'Evaluated as a uniform grey image{consequence}' if self.test_mode else 'Another image is taken'
            level = logging.ERROR if self.test_mode else logging.WARNING
            self._warn(f'{error}. {done}; {count} of {len(self)} images so far.', level)
        if not self.test_mode and count > self.max_bad_fraction * len(self):
            raise DatasetError(
                f'{count} of {len(self)} images of {which}, more than max_bad_fraction={self.max_bad_fraction}; the '
                f'latest: {error}. Each was logged once. Replace the files, or set max_bad_fraction of the data set.'
            ) from error

    def _is_local(self, path: str) -> bool:
        return isinstance(get_file_backend(path or '.', backend_args=self.backend_args), LocalBackend)

    def _warn(self, message: str, level: int = logging.WARNING) -> None:
        print_log(message, logger='current', level=level)
