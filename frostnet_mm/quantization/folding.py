"""Batch norms folded into convolutions: by the simulation in evaluation mode, and for good when it is converted.

Both compute the very same numbers. Otherwise the last digit of a float would decide a rounding differently here and
there, and each such step grows from layer to layer.
"""

import operator

import torch
from torch import Tensor
from torch.fx import Graph

from .fake_quantize import WeightFakeQuantize
from .quantizer import BATCH_NORM, TRANSPOSED, batch_norm_of, is_convolution


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
    scale = quantizer.scale(weight) * factor.abs()
    return quantizer(weight) * factor.view(shape), scale


def fold_in_passing(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    axis: int,
    quantizer: WeightFakeQuantize | None,
) -> tuple[Tensor, Tensor]:
    """The weight and the bias that a convolution has once its batch norm is folded, from their present values."""
    factor, shift = affine_of(gamma, beta, mean, variance, eps)
    weight, scale = folded_weight(weight, factor, axis, quantizer)
    if scale is not None:
        weight = quantizer.with_scale(weight, scale)
    return weight, (0.0 if bias is None else bias) * factor + shift


def norm_in_passing(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """A batch norm that no convolution comes before, as a product and a sum."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    factor, shift = affine_of(gamma, beta, mean, variance, eps)
    return x * factor.view(shape) + shift.view(shape)


def fold_norms(graph: Graph, weight_quantizers: dict[str, WeightFakeQuantize]) -> None:
    """Change a graph in evaluation mode so that it folds its batch norms in passing.

    Args:
        graph (Graph): Changed in place.
        weight_quantizers (dict[str, WeightFakeQuantize]): By the target of their calls.
    """
    for conv in [node for node in graph.nodes if is_convolution(node)]:
        norm, weight, quantizer = batch_norm_of(conv), conv.args[1], None
        if norm is None:
            continue
        with graph.inserting_before(norm):
            if weight.op == 'call_module' and weight.target in weight_quantizers:
                quantizer, weight = graph.get_attr(str(weight.target)), weight.args[0]
            bias = conv.args[2] if len(conv.args) > 2 else None
            axis = 1 if conv.target in TRANSPOSED else 0
            arguments = (weight, bias, *norm.args[1:5], norm.args[7], axis, quantizer)
            pair = graph.call_function(fold_in_passing, arguments)
            parts = [graph.call_function(operator.getitem, (pair, index)) for index in (0, 1)]
            folded = graph.call_function(conv.target, (conv.args[0], *parts, *conv.args[3:]))
        folded.meta = dict(norm.meta)
        norm.replace_all_uses_with(folded)
        graph.erase_node(norm)
        graph.erase_node(conv)
    for norm in [node for node in graph.nodes if node.target in BATCH_NORM]:
        with graph.inserting_before(norm):
            result = graph.call_function(norm_in_passing, (*norm.args[:5], norm.args[7]))
        result.meta = dict(norm.meta)
        norm.replace_all_uses_with(result)
        graph.erase_node(norm)
    for node in reversed(list(graph.nodes)):  # weights' quantizers, which are called within
        if node.op in ('call_module', 'get_attr') and not node.users:
            graph.erase_node(node)
