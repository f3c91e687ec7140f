"""Deformable convolutions (Dai et al. 2017, arXiv 1703.06211) as operators that can be captured and that engines have.

mmcv computes them by compiled operators of its own. Here the map is sampled at the places of each element of the kernel
(grid_sample), and the samples are the channels of a 1x1 convolution, which computes in INT8 like any other.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

Pair = int | tuple[int, int]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """What ``mmcv.ops.deform_conv2d`` computes; it takes no bias either.

    Args:
        x (Tensor): Of shape (N, C, H, W).
        offset (Tensor): Of shape (N, deform_groups * K_h * K_w * 2, H_out, W_out): y and x of each element.
        weight (Tensor): Of shape (C_out, C / groups, K_h, K_w).
        stride, padding, dilation, groups: Of the convolution.
        deform_groups (int): Parts of the channels with offsets of their own.
        bias, im2col_step: Of mmcv's; without effect.
    """
    return modulated_deform_conv2d(x, offset, None, weight, None, stride, padding, dilation, groups, deform_groups)


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """What ``mmcv.ops.modulated_deform_conv2d`` computes (version 2, Zhu et al. 2018, arXiv 1811.11168).

    Args:
        x, offset, weight, stride, padding, dilation, groups, deform_groups: As of :func:`deform_conv2d`.
        mask (Tensor, optional): Factors of shape (N, deform_groups * K_h * K_w, H_out, W_out); None for 1.
        bias (Tensor, optional): Of shape (C_out,).
    """
    rows, columns = weight.shape[2:]
    size, places = offset.shape[2:], rows * columns
    offset = offset.reshape(-1, places, 2, *size)
    grid = [
        (offset[:, :, axis] + _places(axis, weight, size, stride, padding, dilation)) * (2 / x.shape[2 + axis])
        + (1 / x.shape[2 + axis] - 1)
        for axis in (1, 0)  # x before y
    ]
    grid = torch.stack(grid, -1).flatten(1, 2)
    parts = x.reshape(-1, x.shape[1] // deform_groups, *x.shape[2:])
    samples = torch.nn.functional.grid_sample(parts, grid, 'bilinear', 'zeros', align_corners=False)
    samples = samples.unflatten(2, (places, size[0]))
    if mask is not None:
        samples = samples * mask.reshape(-1, 1, places, *size)
    samples = samples.reshape(-1, x.shape[1] * places, *size)
    return torch.nn.functional.conv2d(samples, weight.flatten(1)[:, :, None, None], bias, groups=groups)


def _places(axis: int, weight: Tensor, size: torch.Size, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Row (axis 0) or column (1) that each element of a kernel reads for each output: (K_h * K_w, H_out, W_out)."""
    step, before, apart = (value if isinstance(value, int) else value[axis] for value in (stride, padding, dilation))
    index = torch.arange(weight.shape[2] * weight.shape[3], device=weight.device)
    index = index % weight.shape[3] if axis else index // weight.shape[3]
    shape = [-1, 1, 1]
    shape[1 + axis], shape[0] = -1, 1
    along = torch.arange(-before, size[axis] * step - before, step, dtype=weight.dtype, device=weight.device)
    return (index * apart).view(-1, 1, 1) + along.view(shape)


@contextmanager
def sampled_deformable() -> Iterator[None]:
    """Have the functions above compute mmcv's deformable convolutions, under whatever names they are imported."""
    module = sys.modules.get('mmcv.ops')
    with ExitStack() as stack:
        for function in (deform_conv2d, modulated_deform_conv2d) if module is not None else ():
            _replace(stack, getattr(module, function.__name__, None), function)
        yield


def _replace(stack: ExitStack, original: object, function: Callable) -> None:
    for module in list(sys.modules.values()):
        names = [name for name, value in list(getattr(module, '__dict__', {}).items()) if value is original]
        for name in names if original is not None else ():
            stack.enter_context(patch.object(module, name, function))
