"""Epoch-based training that can be resumed in the middle of an epoch."""

from collections.abc import Iterator
from itertools import islice

import torch
from mmengine.dist import all_gather
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler

from ..data.loading import inner_datasets
from ..registry import LOOPS
from .config import ConfigError


class _SkippedStart:
    """A batch sampler without its first batches; their images are not even loaded."""

    def __init__(self, batch_sampler: BatchSampler, skip: int) -> None:
        self.batch_sampler = batch_sampler
        self.skip = skip

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that only an iteration that is begun skips: with workers, DataLoader asks for two and begins
        # one. Persistent workers keep this sampler for the later epochs, which skip nothing.
        skip, self.skip = self.skip, 0
        yield from islice(self.batch_sampler, skip, None)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str):
        return getattr(self.batch_sampler, name)


@LOOPS.register_module()
class ResumableEpochTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, which also goes on in the middle of an epoch.

    mmengine counts epochs and iterations in a checkpoint, but starts an epoch anew on resuming, with iteration counter
    and iteration-based schedulers already advanced. Here the batches that the interrupted epoch has seen are skipped
    (samplers shuffle by seed and epoch, so the order is the same), and neither data nor schedule is repeated.

    Args:
        args, kwargs: As for mmengine's ``EpochBasedTrainLoop``.

    Raises:
        ConfigError: An epoch would have no iteration, or not as many in all processes.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.saved_epoch_length: int | None = None  # set by InterruptHook when a checkpoint is read
        if len(self.dataloader) == 0:
            folder = getattr(inner_datasets(self.dataloader.dataset)[0], 'folder', None)  # of an ImageFolder
            key = 'batch_size' if 'batch_size' in self.runner.cfg else 'train_dataloader.batch_size'
            raise ConfigError(
                f'The training data has {len(self.dataloader.dataset)} images, fewer than a batch of '
                f'{self.dataloader.batch_size}: lower {key}, or check '
                + ('filter_cfg and the annotations.' if folder is None else f"the images in '{folder}'.")
            )
        lengths = sorted({int(length) for length in all_gather(torch.tensor([len(self.dataloader)]))})
        if len(lengths) > 1:
            raise ConfigError(
                f'The processes have from {lengths[0]} to {lengths[-1]} iterations an epoch, and would wait for each '
                'other forever: give all of them as many images (train_dataloader.sampler.round_up=True).'
            )

    def run_epoch(self) -> None:
        """Run one epoch, or what is left of it."""
        done = self._iter - self._epoch * len(self.dataloader)
        saved, self.saved_epoch_length = self.saved_epoch_length, None
        if done != 0 and saved not in (None, len(self.dataloader)):
            print_log(
                f'Epoch {self._epoch + 1} starts anew: an epoch had {saved} iterations when the checkpoint was '
                f'written, and has {len(self.dataloader)} now.',
                logger='current',
            )
        if saved != len(self.dataloader) or not 0 < done <= saved:
            super().run_epoch()
            return
        print_log(
            f'Epoch {self._epoch + 1} goes on after its first {done} of {len(self.dataloader)} iterations.',
            logger='current',
        )
        sampler = getattr(self.dataloader, 'sampler', None)
        if getattr(sampler, 'seed', None) is not None:
            sampler.seed = self.runner.seed  # of the checkpoint; the loader was built before it was read
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        loader = self.dataloader
        original = loader.batch_sampler
        # DataLoader guards the attribute after construction; its iterator reads it anew at every epoch
        object.__setattr__(loader, 'batch_sampler', _SkippedStart(original, done))
        try:
            for idx, data_batch in enumerate(loader, start=done):
                self.run_iter(idx, data_batch)
        finally:
            object.__setattr__(loader, 'batch_sampler', original)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
