"""Shapes of batch norms without their arithmetic, which takes a third of the time of a capture."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._prims_common import get_computation_dtype, suggest_memory_format

_OPERATOR = torch.ops.aten._native_batch_norm_legit.default


@contextmanager
def light_batch_norms() -> Iterator[None]:
    """Have torch.export find the outputs of a batch norm as such while the context is open.

    Without it some twenty operators, of which the decomposition of a batch norm consists, are run on tensors without
    data for each layer. The graph keeps the batch norm as one operator either way.
    """
    with patch.dict(decomposition_table, {_OPERATOR: _outputs}):
        yield


def _outputs(
    images: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, and mean and deviation of the batch (empty in evaluation), of which only the form is right."""
    own = torch.empty_like(images, memory_format=suggest_memory_format(images))
    size = (images.shape[1],) if training else (0,)
    saved = images.new_empty(size, dtype=get_computation_dtype(images.dtype))
    return own, saved, torch.empty_like(saved)
