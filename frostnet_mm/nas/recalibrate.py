"""Statistics of batch norms from images: a network that was cut out of another one has none of its own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import SearchError

PASS_IMAGES = 32  # in one pass: a few hundred MB of activations at 320x320


class _Pooled:
    """Mean and variance of all that passes through a batch norm (Chan et al. 1979)."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.momentum = norm, norm.momentum
        self.count = 0
        norm.momentum = 1.0  # the running statistics are those of the latest batch
        self.handle = norm.register_forward_hook(self._add)

    def _add(self, norm: _BatchNorm, args: tuple, output: Tensor) -> None:
        count = args[0].numel() // args[0].shape[1]
        mean, variance = norm.running_mean.double(), norm.running_var.double()  # the variance is the unbiased one
        if not self.count:
            self.count, self.mean, self.squares = count, mean, variance * (count - 1)
            return
        total, shift = self.count + count, mean - self.mean
        self.squares = self.squares + variance * (count - 1) + shift**2 * (self.count * count / total)
        self.mean, self.count = self.mean + shift * (count / total), total

    def close(self) -> None:
        self.handle.remove()
        self.norm.momentum = self.momentum
        if self.count:
            self.norm.running_mean.copy_(self.mean)
            self.norm.running_var.copy_(self.squares / max(self.count - 1, 1))


@contextmanager
def _gathering(norms: list[_BatchNorm], network: nn.Module) -> Iterator[None]:
    """Have batch norms, and nothing else, in training mode, and set their statistics at the end."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    for norm in norms:
        norm.training = True
    pooled = [_Pooled(norm) for norm in norms]
    try:
        yield
    finally:
        for each in pooled:
            each.close()
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def recalibrate(
    network: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object] | None = None
) -> int:
    """Replace the running statistics of all batch norms by those of some images.

    They are the statistics of the batches joined into one. Up to 32 images of one size go through the network together,
    each norm normalizing by all of them; of several such passes the statistics are pooled.

    Args:
        network (nn.Module): Plain modules, such as a :class:`~frostnet_mm.DenseNetwork`; no network that other tensors
            are put into (:class:`ElasticFrostNet`), but what was extracted from it.
        batches (Iterable[Tensor]): Preprocessed images of shape (N, 3, H, W): training images.
        forward (Callable, optional): Runs it on images. Default: the network itself.

    Returns:
        int: The number of images.

    Raises:
        SearchError: There is no image.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    total = 0
    with _gathering(norms, network):
        for images in _joined(batches):
            (forward or network)(images)
            total += len(images)
    if not total:
        raise SearchError('There was no image to take the statistics of batch norms from.')
    return total


def _joined(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches joined up to the number of images of a pass, as long as their sizes agree."""
    waiting: list[Tensor] = []
    for images in batches:
        held = sum(map(len, waiting))
        if waiting and (held + len(images) > PASS_IMAGES or images.shape[1:] != waiting[0].shape[1:]):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(images)
    if waiting:
        yield torch.cat(waiting)
