"""INT8 simulated without a captured graph: where layers change from step to step, and ranges with them."""

import torch
from torch import Tensor

from ..quantization.fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from ..quantization.folding import affine_of
from ..quantization.scheme import Scheme


class BatchRounding:
    """Rounds activations to the range of the batch at hand, and weights by their own largest magnitudes.

    It has no state, as networks that share their weights have no ranges in common. Gradients pass straight through. The
    inputs of a concatenation have scales of their own even where the scheme deploys them with one.

    Args:
        scheme (Scheme): Which numbers are rounded to.
    """

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self._activations = ActivationFakeQuantize(scheme, averaging_constant=1.0)  # no average: the latest range
        self._activations.observing_in_evaluation = True
        self._weights = WeightFakeQuantize(scheme)

    def activations(self, x: Tensor) -> Tensor:
        """Round a tensor, once: what was rounded here before passes as it is."""
        if getattr(x, 'is_rounded', False):
            return x
        rounded = self._activations.to(x.device)(x)
        rounded.is_rounded = True
        return rounded

    def weights(self, weight: Tensor, gamma: Tensor | None, variance: Tensor | None, eps: float) -> Tensor:
        """Round the weight of a convolution with a batch norm behind.

        Args:
            weight (Tensor): (C_out, C_in / groups, K, K).
            gamma (Tensor, optional): The factors of the norm (C_out,); with one scale a tensor, it is that of the
                weight times what the norm multiplies by.
            variance (Tensor, optional): Its running variance (C_out,).
            eps (float): Its eps.
        """
        self._weights.norm_factor = None
        if self.scheme.weight_granularity == 'tensor' and variance is not None:
            with torch.no_grad():
                factor = affine_of(gamma, None, torch.zeros_like(variance), variance, eps)[0].detach()
            self._weights.norm_factor = lambda: factor
        return self._weights(weight)
