"""Fake quantization of activations and weights: INT8 arithmetic simulated in float32, and the ranges it needs.

An activation is rounded to ``scale * (q - zero_point)`` with one scale a tensor, a weight to ``scale * q`` with one
scale an output channel. Gradients pass where the value lies in range and are zero elsewhere (straight-through
estimator).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase

from .errors import RangeError
from .rounding import SMALLEST_SCALE, RoundChannels, RoundTensor, begun, round_through, scaled_gradient
from .scheme import Scheme

_GO_BACK = 'Check the loss and the learning rate, or go back to an earlier checkpoint.'


class ActivationFakeQuantize(FakeQuantizeBase):
    """Observes the range of a tensor and rounds it to 8 bits.

    The range is a moving average of each batch's minimum and maximum, widened to contain 0, as in torch.

    Args:
        scheme (Scheme): The type of the integers, and whether 0 lies in their middle.
        averaging_constant (float): Weight of a new batch in the moving average. Default: 0.01.
        learned_scales (bool): Train the scale (learned step size quantization, Esser et al. 2020, arXiv 1902.08153).
            Its parameter is the logarithm of the scale, so that a step of the optimizer changes a scale by a share of
            itself and never its sign; it holds 0 until :meth:`start_learning`. Default: False.
        kwargs: Further fields of torchao's ``QuantizationSpec``, which do not apply here.
    """

    is_dynamic = False
    qscheme = torch.per_tensor_affine
    ch_axis = -1

    def __init__(
        self, scheme: Scheme, averaging_constant: float = 0.01, learned_scales: bool = False, **kwargs
    ) -> None:
        super().__init__()
        # The phase of training belongs to the hook, not to each layer's state.
        del self.fake_quant_enabled, self.observer_enabled
        self.simulating = True
        self.observing = True
        self.observing_in_evaluation = False
        self.scheme = scheme
        self.dtype = getattr(torch, scheme.activation_dtype)
        self.quant_min, self.quant_max = scheme.activation_range
        self.averaging_constant = averaging_constant
        self.low, self.high, self.inplace = -math.inf, math.inf, False
        self.name = '?'
        self.observer: nn.Module | None = None
        self.shared = False  # by several tensors of a network, such as the inputs of a concat
        self._pass: tuple[Tensor, ...] | None = None  # the range before this pass, and the ends that it has seen
        self.register_buffer('min_val', torch.tensor([math.inf]))
        self.register_buffer('max_val', torch.tensor([-math.inf]))
        self.log_scale = nn.Parameter(torch.zeros(1)) if learned_scales else None

    def rectify(self, low: float, high: float, inplace: bool = False) -> None:
        """Apply a clamp (0 and infinity for ReLU, 0 and 6 for ReLU6) to the tensor before anything else.

        Args:
            low (float): Smallest value.
            high (float): Largest value.
            inplace (bool): Whether the tensor may be changed, as nothing else reads it. Default: False.
        """
        self.low, self.high, self.inplace = low, high, inplace

    @property
    def rectified(self) -> bool:
        """Whether a rectifier is part of this quantizer."""
        return self.low > -math.inf or self.high < math.inf

    @property
    def initialized(self) -> bool:
        """Whether a range was observed, loaded or learned."""
        return bool((self.max_val >= self.min_val).all())

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take a tensor into the range."""
        if self.observer is not None:
            self.observer(x.clamp(self.low, self.high) if self.rectified else x)
            return
        # amin and amax apart: five times faster than aminmax on a CPU. Behind a rectifier the minimum is known.
        smallest = x.amin() if self.low == -math.inf else torch.zeros_like(self.min_val)
        largest = x.amax().clamp(self.low, self.high)
        smallest, largest = smallest.clamp(max=0.0).reshape(1), largest.clamp(min=0.0).reshape(1)
        if self.shared:
            smallest, largest = self._join(smallest, largest)
        fresh = self.max_val < self.min_val
        for value, new in ((self.min_val, smallest), (self.max_val, largest)):
            value.copy_(torch.where(fresh, new, torch.lerp(value, new.to(value.dtype), self.averaging_constant)))

    def begin_pass(self) -> None:
        """Count what is observed from now on as a new batch, if several tensors share the range."""
        self._pass = None
        if self.observer is not None:
            self.observer.begin_pass()

    def _join(self, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Take back what this pass has added to the range so far, and return the ends of all that it has seen.

        A moving average over one tensor after another would cut off the larger of them.
        """
        if self._pass is None:
            before = self.min_val.clone(), self.max_val.clone()
        else:
            *before, lowest, highest = self._pass
            self.min_val.copy_(before[0])
            self.max_val.copy_(before[1])
            smallest, largest = torch.minimum(smallest, lowest), torch.maximum(largest, highest)
        self._pass = (*before, smallest, largest)
        return smallest, largest

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Set the range, widened to contain 0."""
        self.min_val.fill_(min(low, 0.0))
        self.max_val.fill_(max(high, 0.0))

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scale (float32) and zero point (int32), each of shape (1,)."""
        scale = self._observed_scale().clamp(min=SMALLEST_SCALE)
        if self.scheme.activation_symmetric:
            zero_point = torch.full_like(self.min_val, (self.quant_min + self.quant_max + 1) // 2)
        else:
            zero_point = (self.quant_min - (self.min_val / scale).round()).clamp(self.quant_min, self.quant_max)
        if self.learning:
            scale = self.log_scale.detach().exp()
        return scale, zero_point.to(torch.int32)

    def _observed_scale(self) -> Tensor:
        """The step with which the integers hold the observed range, of shape (1,)."""
        steps = self.quant_max - self.quant_min
        if self.scheme.activation_symmetric:
            scale = torch.maximum(-self.min_val, self.max_val) / (steps // 2)
        else:
            scale = (self.max_val - self.min_val) / steps
        return torch.where(scale == 0, 1 / steps, scale)  # nothing but zeros, which any step holds

    def check_range(self) -> None:
        """Raise an error that names the layer if the range is not one to quantize with.

        Raises:
            RangeError: No range was observed, it is empty, or not finite.
        """
        low, high = float(self.min_val), float(self.max_val)
        if math.isnan(low) or math.isnan(high):
            raise RangeError(f'The range of {self.name} is not a number: its values were NaN. {_GO_BACK}')
        if low == math.inf and high == -math.inf:
            raise RangeError(
                f'{self.name} has no range: no image has passed through it. Train at least one iteration of warm-up, '
                'or calibrate with tools/calibrate.py.'
            )
        if math.isinf(low) or math.isinf(high) or high - low > torch.finfo(torch.float32).max:
            raise RangeError(
                f'The range of {self.name} is infinite ({low:g} to {high:g}): its values overflowed. {_GO_BACK}'
            )
        if low > high:
            raise RangeError(f'The range of {self.name} is empty ({low:g} to {high:g}): the checkpoint is damaged.')

    @property
    def dead(self) -> bool:
        """Whether all values observed are 0, as behind a batch norm that begins with a weight of 0."""
        return bool((self.min_val == self.max_val).all())

    @property
    def learning(self) -> bool:
        """Whether the scale is a trained one by now."""
        return self.log_scale is not None and bool(self.log_scale.detach() != 0)

    @torch.no_grad()
    def start_learning(self) -> None:
        """Take the observed range as the first value of the learned scale."""
        if not self.learning:
            self.check_range()
            self.log_scale.copy_(begun(self._observed_scale().log()))

    def forward(self, x: Tensor) -> Tensor:
        """Rectify, observe and round, as far as each is switched on.

        Args:
            x (Tensor): A tensor of any shape.

        Returns:
            Tensor: Of the same shape.
        """
        if self.observing and (self.training or self.observing_in_evaluation):
            self.observe(x.detach())
        if not self.simulating:
            return self._rectified(x)
        if self.training and self.learning:  # in evaluation, the very operations of the converted network
            return self._learned(x)
        if x.device.type != 'cpu' or x.dtype != torch.float32:
            x = self._rectified(x)
            scale, zero_point = self.calculate_qparams()
            return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, self.quant_min, self.quant_max)
        scale, zero_point = self.calculate_qparams()
        bounds = (self.quant_min, self.quant_max)
        return RoundTensor.apply(x, float(scale), int(zero_point), bounds, self.low, self.high)

    def _rectified(self, x: Tensor) -> Tensor:
        if not self.rectified:
            return x
        inplace = self.inplace and not x.is_leaf
        if self.low == 0 and self.high == math.inf:
            return x.relu_() if inplace else x.relu()
        return nn.functional.hardtanh(x, self.low, self.high, inplace)

    def _learned(self, x: Tensor) -> Tensor:
        x = self._rectified(x)
        zero_point = float(self.calculate_qparams()[1])
        scale = scaled_gradient(self.log_scale.exp(), 1.0 / math.sqrt(x.numel() * self.quant_max))
        q = (x / scale).clamp(self.quant_min - zero_point, self.quant_max - zero_point)
        return round_through(q) * scale

    def extra_repr(self) -> str:
        """The layer and its range."""
        return f'{self.name}, {self.dtype}, range=({float(self.min_val):g}, {float(self.max_val):g})'


class WeightFakeQuantize(FakeQuantizeBase):
    """Rounds a convolution's weight to signed integers, symmetric: its largest magnitude is the largest integer.

    It has no state: the scale follows from the weight. A batch norm behind the convolution multiplies each output
    channel by one factor, which a scale a channel takes up exactly, so the integers are those of the folded weight.
    With one scale a tensor, that of the folded weight, channel c has here that scale divided by its factor.

    Args:
        scheme (Scheme): Bits and granularity.
        bits (int, optional): Of a module with an override. Default: the scheme's.
        ch_axis (int): The dimension of the output channels. Default: 0.
        learned_scales (bool): Train the scales, by their logarithms. Default: False.
        kwargs: Further fields of torchao's ``QuantizationSpec``, which do not apply here.
    """

    is_dynamic = False
    qscheme = torch.per_channel_symmetric

    dtype = torch.int8

    def __init__(
        self,
        scheme: Scheme,
        bits: int | None = None,
        ch_axis: int | None = 0,
        learned_scales: bool = False,
        **kwargs,
    ) -> None:
        super().__init__()
        del self.fake_quant_enabled, self.observer_enabled
        self.simulating = True
        self.scheme = scheme
        self.quant_max = scheme.largest_weight(bits)
        self.quant_min = -self.quant_max
        self.ch_axis = ch_axis or 0
        self.name = '?'
        self.learned_scales = learned_scales
        self.norm_factor: Callable[[], Tensor] | None = None  # what the batch norm behind multiplies by, (C_out,)
        self.log_scale: nn.Parameter | None = None  # made when the number of channels is known
        self.fixed_scale: Tensor | None = None

    @property
    def _one_scale(self) -> bool:
        return self.scheme.weight_granularity == 'tensor'

    def make_learnable(self, weight: Tensor) -> None:
        """Create the parameter of a learned scale, which holds zeros until :meth:`start_learning`.

        One scale a tensor is that of the weight with its batch norm folded in.
        """
        count = 1 if self._one_scale else weight.shape[self.ch_axis]
        self.log_scale = nn.Parameter(torch.zeros(count, device=weight.device))

    @torch.no_grad()
    def start_learning(self, weight: Tensor) -> None:
        """Take the largest magnitudes as the first value of the learned scales."""
        if not self.learning:
            scale = self._observed_scale(weight)
            if self._one_scale:
                scale = (scale if self.norm_factor is None else scale * self._factor())[:1]  # equal in all channels
            self.log_scale.copy_(begun(scale.log()))

    @property
    def learning(self) -> bool:
        """Whether the scales are trained ones by now."""
        return self.log_scale is not None and bool((self.log_scale.detach() != 0).any())

    def _factor(self) -> Tensor:
        """The magnitudes of what the batch norm multiplies by, of shape (C_out,)."""
        return self.norm_factor().abs().clamp(min=SMALLEST_SCALE)

    def _learned_scale(self, weight: Tensor) -> Tensor:
        """The trained scales, of shape (C_out,), with their gradient."""
        scale = self.log_scale.exp()
        if not self._one_scale:
            return scale
        return scale.expand(weight.shape[self.ch_axis]) if self.norm_factor is None else scale / self._factor()

    def _largest(self, weight: Tensor) -> Tensor:
        return weight.detach().abs().amax([d for d in range(weight.dim()) if d != self.ch_axis])

    def scale(self, weight: Tensor) -> Tensor:
        """The scales of a weight, of shape (C_out,)."""
        if self.fixed_scale is not None:
            return self.fixed_scale
        if self.learning:
            return self._learned_scale(weight).detach()
        return self._observed_scale(weight)

    def folded_scale(self, weight: Tensor, factor: Tensor) -> Tensor:
        """The scales (C_out,) of a weight times the factors (C_out,) of its batch norm."""
        return self.joined(self.scale(weight) * factor.abs())

    def joined(self, scale: Tensor) -> Tensor:
        """The scales that a folded weight is stored with: one for all channels if the scheme has one a tensor."""
        return scale.max().expand_as(scale) if self._one_scale else scale

    @torch.no_grad()
    def _observed_scale(self, weight: Tensor) -> Tensor:
        largest = self._largest(weight)
        if self._one_scale and self.norm_factor is None:
            largest = largest.max().expand_as(largest)
        elif self._one_scale:
            factor = self._factor()
            largest = (largest * factor).max() / factor
        return (largest / self.quant_max).clamp(min=SMALLEST_SCALE)

    def with_scale(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round a weight to other scales than its own, of shape (C_out,)."""
        shape = [-1 if d == self.ch_axis else 1 for d in range(weight.dim())]
        return RoundChannels.apply(weight, scale.clamp(min=SMALLEST_SCALE).view(shape), self.quant_max)

    def fix(self, scale: Tensor) -> None:
        """Keep these scales from now on, as conversion to integers needs it."""
        self.fixed_scale, self.norm_factor = scale.clamp(min=SMALLEST_SCALE), None

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scales (float32) and zero points (all 0, int64), of shape (C_out,); :meth:`fix` comes before.

        Raises:
            RuntimeError: No scales were fixed.
        """
        if self.fixed_scale is None:
            raise RuntimeError(f'{self.name}: fix() comes before calculate_qparams().')
        return self.fixed_scale, torch.zeros_like(self.fixed_scale, dtype=torch.int64)

    def forward(self, weight: Tensor) -> Tensor:
        """Round a weight.

        Args:
            weight (Tensor): Of shape (C_out, C_in / groups, K_h, K_w), or (C_in, C_out, K_h, K_w) where ``ch_axis`` is
            1.

        Returns:
            Tensor: Of the same shape.
        """
        if not self.simulating:
            return weight
        if self.training and self.learning:
            shape = [-1 if d == self.ch_axis else 1 for d in range(weight.dim())]
            factor = 1.0 / math.sqrt(weight.numel() / self.log_scale.numel() * self.quant_max)
            scale = scaled_gradient(self._learned_scale(weight), factor).view(shape)
            return round_through((weight / scale).clamp(self.quant_min, self.quant_max)) * scale
        return self.with_scale(weight, self.scale(weight))

    def extra_repr(self) -> str:
        """The layer."""
        return f'{self.name}, {self.dtype}, ch_axis={self.ch_axis}'
