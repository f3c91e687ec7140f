"""Batch norms folded into convolutions or made ones: by the simulation in evaluation mode, and when it is converted.

Both compute the very same numbers. Otherwise the last digit of a float would decide a rounding differently here and
there, and each such step grows from layer to layer.
"""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from .fake_quantize import SMALLEST_SCALE, ActivationFakeQuantize, WeightFakeQuantize
from .quantizer import BATCH_NORM, TRANSPOSED, batch_norm_of, has_statistics, is_convolution, is_quantized_norm


def affine_of(
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds in evaluation mode, each of shape (C,)."""
    factor = torch.rsqrt(variance + eps)
    factor = factor if gamma is None else factor * gamma
    return factor, (0.0 if beta is None else beta) - mean * factor


def folded_weight(
    weight: Tensor, factor: Tensor, axis: int, quantizer: WeightFakeQuantize | None
) -> tuple[Tensor, Tensor | None]:
    """A convolution's weight times the factors of its batch norm.

    A quantized weight is rounded before, and the scale of its channel multiplied by the magnitude of the factor: the
    integers are those that were trained, with the factor's sign.

    Args:
        weight (Tensor): The weight.
        factor (Tensor): Of shape (C_out,).
        axis (int): The dimension of the output channels.
        quantizer (WeightFakeQuantize, optional): That of the weight.

    Returns:
        tuple[Tensor, Tensor | None]: The folded weight, and its scales (C_out,) if it is quantized.
    """
    shape = [-1 if d == axis else 1 for d in range(weight.dim())]
    if quantizer is None:
        return weight * factor.view(shape), None
    return quantizer(weight) * factor.view(shape), quantizer.folded_scale(weight, factor)


def rounded_bias(bias: Tensor | None, inputs: ActivationFakeQuantize, scale: Tensor) -> Tensor | None:
    """A bias on the grid of the 32 bit accumulator that it is added to, as integer engines need it.

    Args:
        bias (Tensor, optional): Of shape (C_out,).
        inputs (ActivationFakeQuantize): The quantizer of the convolution's input.
        scale (Tensor): The scales of its weight, of shape (C_out,).
    """
    if bias is None:
        return None
    step = inputs.calculate_qparams()[0].to(scale.device) * scale
    return (bias / step).round().clamp(-(2.0**31), 2.0**31 - 128) * step  # the largest float32 below 2^31


def scale_with_room(scale: Tensor, bias: Tensor | None, inputs: ActivationFakeQuantize) -> Tensor:
    """The scales of a weight, raised where the bias would not fit into the accumulator.

    A channel whose weight is about 0 has a scale of about 0, in whose tiny steps its bias is too many.

    Args:
        scale (Tensor): The scales of the weight, of shape (C_out,).
        bias (Tensor, optional): Of shape (C_out,).
        inputs (ActivationFakeQuantize): The quantizer of the convolution's input.
    """
    if bias is None:
        return scale
    # half of the 31 bits: the products are added to it
    step = inputs.calculate_qparams()[0].to(scale.device)
    return torch.maximum(scale, bias.detach().abs() / (step * 2.0**30)).clamp(min=SMALLEST_SCALE)


def fold_in_passing(
    weight: Tensor,
    bias: Tensor | None,
    norm: tuple | None,
    axis: int,
    quantizer: WeightFakeQuantize | None,
    inputs: ActivationFakeQuantize | None,
) -> tuple[Tensor, Tensor | None]:
    """The weight and the bias that a convolution is converted to, from their present values.

    Args:
        weight (Tensor): The weight.
        bias (Tensor, optional): Of shape (C_out,).
        norm (tuple, optional): The batch norm behind it: weight, bias, mean, variance and eps.
        axis (int): The dimension of the weight's output channels.
        quantizer (WeightFakeQuantize, optional): That of the weight.
        inputs (ActivationFakeQuantize, optional): That of the input.

    Returns:
        tuple[Tensor, Tensor | None]: Rounded where they are quantized.
    """
    scale = None if quantizer is None else quantizer.scale(weight)
    if norm is not None:
        factor, shift = affine_of(*norm)
        weight, scale = folded_weight(weight, factor, axis, quantizer)
        bias = (0.0 if bias is None else bias) * factor + shift
    if scale is not None:
        scale = scale if inputs is None else quantizer.joined(scale_with_room(scale, bias, inputs))
        weight = quantizer.with_scale(weight, scale)
        bias = bias if inputs is None else rounded_bias(bias, inputs, scale)
    return weight, bias


def norm_as_convolution(
    factor: Tensor, shift: Tensor, inputs: ActivationFakeQuantize
) -> tuple[Tensor, Tensor, WeightFakeQuantize]:
    """A batch norm as a depthwise 1x1 convolution.

    Args:
        factor (Tensor): What it multiplies by, of shape (C,).
        shift (Tensor): What it adds, of shape (C,).
        inputs (ActivationFakeQuantize): The quantizer of its input.

    Returns:
        tuple[Tensor, Tensor, WeightFakeQuantize]: The weight (C, 1, 1, 1), the bias (C,) on the accumulator's grid, and
        the quantizer of the weight: integers of ±127, or 0 for a factor of 0.
    """
    quantizer = WeightFakeQuantize(inputs.scheme.for_constants())
    quantizer.fix(scale_with_room(factor.abs() / quantizer.quant_max, shift, inputs))
    return factor.view(-1, 1, 1, 1), rounded_bias(shift, inputs, quantizer.fixed_scale), quantizer


def norm_in_passing(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    inputs: ActivationFakeQuantize | None,
) -> Tensor:
    """A batch norm that no convolution comes before.

    Args:
        x (Tensor): Of shape (N, C, ...).
        gamma (Tensor, optional): Of shape (C,), as the following ones.
        beta (Tensor, optional): Likewise.
        mean (Tensor): Likewise.
        variance (Tensor): Likewise.
        eps (float): Added to the variance.
        inputs (ActivationFakeQuantize, optional): The quantizer of x if the norm computes in INT8, as a convolution; in
            float it is a product and a sum.
    """
    factor, shift = affine_of(gamma, beta, mean, variance, eps)
    if inputs is None:
        shape = [1, -1] + [1] * (x.dim() - 2)
        return x * factor.view(shape) + shift.view(shape)
    weight, bias, quantizer = norm_as_convolution(factor, shift, inputs)
    return nn.functional.conv2d(x, quantizer(weight), bias, groups=len(factor))


def _joins(root: nn.Module, quantizer: Node) -> bool:
    """Whether a weight is stored with other scales than it has in training: one that several convolutions share."""
    return root.get_submodule(str(quantizer.target)).scheme.weight_granularity == 'tensor'


def fold_norms(graph: Graph, root: nn.Module) -> None:
    """Change a graph in evaluation mode so that it folds its batch norms, and rounds its biases, in passing.

    Args:
        graph (Graph): Changed in place.
        root (nn.Module): What the graph reads.
    """

    def quantizer_at(node: Any, kind: type) -> Node | None:
        """The quantizer that is called at a node, as a value of the graph."""
        calls = isinstance(node, Node) and node.op == 'call_module'
        if calls and isinstance(root.get_submodule(str(node.target)), kind):
            return graph.get_attr(str(node.target))
        return None

    for conv in [node for node in graph.nodes if is_convolution(node)]:
        norm, weight = batch_norm_of(conv), conv.args[1]
        last = conv if norm is None else norm
        with graph.inserting_before(last):
            quantizer = quantizer_at(weight, WeightFakeQuantize)
            weight = weight if quantizer is None else weight.args[0]
            bias = conv.args[2] if len(conv.args) > 2 else None
            if norm is None and (quantizer is None or (bias is None and not _joins(root, quantizer))):
                continue
            arguments = (
                weight,
                bias,
                None if norm is None else (*norm.args[1:5], norm.args[7]),
                1 if conv.target in TRANSPOSED else 0,
                quantizer,
                quantizer_at(conv.args[0], ActivationFakeQuantize),
            )
            pair = graph.call_function(fold_in_passing, arguments)
            parts = [graph.call_function(operator.getitem, (pair, index)) for index in (0, 1)]
            folded = graph.call_function(conv.target, (conv.args[0], *parts, *conv.args[3:]))
        folded.meta = dict(last.meta)
        last.replace_all_uses_with(folded)
        graph.erase_node(last)
        if norm is not None:
            graph.erase_node(conv)
    for norm in [node for node in graph.nodes if node.target in BATCH_NORM and has_statistics(node)]:
        with graph.inserting_before(norm):
            inputs = quantizer_at(norm.args[0], ActivationFakeQuantize) if is_quantized_norm(norm) else None
            result = graph.call_function(norm_in_passing, (*norm.args[:5], norm.args[7], inputs))
        result.meta = dict(norm.meta)
        norm.replace_all_uses_with(result)
        graph.erase_node(norm)
    for node in reversed(list(graph.nodes)):  # weights' quantizers, which are called within
        if node.op in ('call_module', 'get_attr') and not node.users:
            graph.erase_node(node)
