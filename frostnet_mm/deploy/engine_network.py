"""An engine in the place of a model's dense network: mm's pipeline, decoding and metrics around it stay the same."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..device import DeploymentError, Network
from ..models.dense import OutputLayout


class EngineNetwork:
    """Runs the dense network of a model in an engine: what :func:`frostnet_mm.models.dense.attached` takes.

    Args:
        network (Network): A deployment without baked preprocessing.
        layout (OutputLayout): Of the network that it was made from.

    Raises:
        DeploymentError: The deployment normalizes images itself, or has other outputs.
    """

    def __init__(self, network: Network, layout: OutputLayout) -> None:
        description = network.description
        if description['preprocessing']['baked']:
            raise DeploymentError(
                'The deployment normalizes images itself, but mm has done so already: deploy without --bake.'
            )
        names = tuple(output['name'] for output in description['outputs'])
        if names != layout.names:
            raise DeploymentError(f'The deployment has the outputs {names}, the model {layout.names}.')
        self.network = network
        self.layout = layout
        self.batch: int | None = description['input']['shape'][0]

    def __call__(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Run on images (N, 3, H, W); a batch that the engine was not written for goes through it in parts."""
        array = images.detach().cpu().float().contiguous().numpy()
        parts = [self.network(part) for part in self._parts(array)]
        values = [torch.from_numpy(np.concatenate(pieces)) for pieces in zip(*parts, strict=True)]
        return self.layout.nest([value[: len(array)].to(images.device) for value in values])

    def _parts(self, array: np.ndarray) -> list[np.ndarray]:
        if self.batch is None:
            return [array]
        missing = -len(array) % self.batch
        if missing:
            array = np.concatenate([array, np.repeat(array[-1:], missing, 0)])
        return np.split(array, len(array) // self.batch)

    def __deepcopy__(self, memo: dict) -> 'EngineNetwork':
        return self  # an engine's session cannot be copied, and need not be
