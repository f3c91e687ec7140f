"""The masks of point-wise spatial attention (Zhao et al. 2018, PSANet) as operators that can be captured.

mmcv computes them by a compiled operator of its own; here they are elements gathered along the channels.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor

COLLECT = 0  # mmcv's number of that type; 1 is 'distribute'


def psa_mask(masks: Tensor, psa_type: int, mask_size: int | tuple[int, int]) -> Tensor:
    """What ``mmcv.ops.psa_mask.psa_mask`` computes: for each place, the weights of all places of the map.

    Args:
        masks (Tensor): Of shape (N, mask height * mask width, H, W): for each place, weights of those around it.
        psa_type (int): 0 to collect (a place reads the others), 1 to distribute (the others read it).
        mask_size (int | tuple[int, int]): Height and width of the masks.

    Returns:
        Tensor: Of shape (N, H * W, H, W); 0 where the mask does not reach.
    """
    rows, columns = (mask_size, mask_size) if isinstance(mask_size, int) else mask_size
    batch, _, height, width = masks.shape
    down, down_known = _offsets(height, rows, masks.device)
    across, across_known = _offsets(width, columns, masks.device)
    index = down[:, None, :, None] * columns + across[None, :, None, :]  # read place, own place
    known = down_known[:, None, :, None] & across_known[None, :, None, :]
    shape = (1, height * width, height, width)
    found = masks.gather(1, index.reshape(shape).expand(batch, -1, -1, -1)) * known.reshape(shape).to(masks.dtype)
    if psa_type == COLLECT:
        return found
    return found.flatten(2).transpose(1, 2).reshape(batch, -1, height, width)


def _offsets(size: int, places: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each read and each own row: the row of the mask, and whether there is one."""
    index = torch.arange(size, device=device)
    offsets = index[:, None] - index[None, :] + (places - 1) // 2
    return offsets.clamp(0, places - 1), (offsets >= 0) & (offsets < places)


@contextmanager
def gathered_psa_masks() -> Iterator[None]:
    """Have the function above compute mmcv's masks while the context is open."""
    module = sys.modules.get('mmcv.ops.psa_mask')
    with nullcontext() if module is None else patch.object(module, 'psa_mask', psa_mask):
        yield
