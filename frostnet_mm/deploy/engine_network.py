"""An engine in the place of a model's dense network: mm's pipeline, decoding and metrics around it stay the same."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..device import DeploymentError, Network
from ..models.dense import attach, unwrap
from .flat_network import FlatNetwork


class EngineNetwork:
    """Runs the dense network of a model in an engine.

    Args:
        network (Network): A deployment without baked preprocessing.
        flat (FlatNetwork): What it was made from; it says how the outputs nest.

    Raises:
        DeploymentError: The deployment normalizes images itself, or has other outputs.
    """

    def __init__(self, network: Network, flat: FlatNetwork) -> None:
        description = network.description
        if description['preprocessing']['baked']:
            raise DeploymentError(
                'The deployment normalizes images itself, but mm has done so already: deploy without --bake.'
            )
        names = tuple(output['name'] for output in description['outputs'])
        if names != flat.names:
            raise DeploymentError(f'The deployment has the outputs {names}, the model {flat.names}.')
        self.network = network
        self.flat = flat
        self.batch: int | None = description['input']['shape'][0]

    def __call__(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Run on images (N, 3, H, W); a batch that the engine was not written for goes through it in parts."""
        array = images.detach().cpu().float().contiguous().numpy()
        parts = [self.network(part) for part in self._parts(array)]
        values = [torch.from_numpy(np.concatenate(pieces)) for pieces in zip(*parts, strict=True)]
        return self.flat.nest([value[: len(array)].to(images.device) for value in values])

    def _parts(self, array: np.ndarray) -> list[np.ndarray]:
        if self.batch is None:
            return [array]
        missing = -len(array) % self.batch
        if missing:
            array = np.concatenate([array, np.repeat(array[-1:], missing, 0)])
        return np.split(array, len(array) // self.batch)

    def __deepcopy__(self, memo: dict) -> 'EngineNetwork':
        return self  # an engine's session cannot be copied, and need not be


def attach_engine(model: nn.Module, network: Network, flat: FlatNetwork) -> None:
    """Have a model run its dense network in an engine.

    Args:
        model (nn.Module): The model.
        network (Network): A deployment of it.
        flat (FlatNetwork): What the deployment was made from.
    """
    attach(unwrap(model), EngineNetwork(network, flat))
