"""Which tensors of a network are quantized, for torchao's PT2E flow.

The stock quantizers leave operators in float once a network is deployed: adds, concats and pools beside the
convolutions cost a dequantization and a quantization each, which eats what INT8 gains (docs/quantization.md). This one
covers what detectors and segmenters are made of, so that a tensor is quantized wherever an INT8 operator reads or
writes it.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from .drop_path import drop_path
from .fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from .scheme import Scheme

aten = torch.ops.aten
KEY = 'quantization_annotation'  # torchao's

CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.linear.default}
TRANSPOSED = {aten.conv_transpose2d.input}
BATCH_NORM = {aten.batch_norm.default}
RECTIFIERS = {aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default}
ADDS = {aten.add.Tensor}
MULTIPLICATIONS = {aten.mul.Tensor}
CONCATS = {aten.cat.default}
# The result keeps the scale of the input: its values are some of the input's, or lie between them.
SAME_SCALE = {
    aten.max_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.pixel_shuffle.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    drop_path,
}
# The result has a range of its own.
AVERAGES = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim}
GRID_SAMPLER = aten.grid_sampler.default
# What engines compute in INT8 without weights.
INTEGER = ADDS | MULTIPLICATIONS | CONCATS | SAME_SCALE | AVERAGES


def keeps_scale(node: Node) -> bool:
    """Whether the values of a node are some of its input's, or lie between them, or are the zeros around it.

    A range of its own for a padded map would be almost that of the map: OpenVINO 2026.4 takes scales that differ by
    0.3 % for equal, and up to 1 % of the elements came out a step off.
    """
    if node.target is aten.constant_pad_nd.default:
        return len(node.args) < 3 or node.args[2] == 0
    if node.target is aten.pad.default:  # with sizes of the map in its widths
        mode, value = (*node.args[2:], *('constant', None)[len(node.args) - 2 :])
        return mode != 'constant' or not value
    return node.target in SAME_SCALE


def weight_of(node: Node) -> str | None:
    """The parameter name of a convolution's weight, or None where it is computed."""
    weight = node.args[1]
    return str(weight.target) if isinstance(weight, Node) and weight.op == 'get_attr' else None


def depends_on_images(node: Node) -> bool:
    """Whether a value is computed from the images, and not from parameters alone."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node.op == 'placeholder':
            return True
        if node not in seen:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return False


def is_convolution(node: Node) -> bool:
    """Whether a node is a convolution, a transposed one, or a linear layer."""
    return node.op == 'call_function' and (node.target in CONVOLUTIONS or node.target in TRANSPOSED)


def rectifier_bounds(node: Node) -> tuple[float, float] | None:
    """The clamp that a node is, if it is ReLU, ReLU6 or a hardtanh from 0; None otherwise."""
    if node.op != 'call_function' or node.target not in RECTIFIERS:
        return None
    if node.target is aten.relu.default:
        return 0.0, math.inf
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    ends = (-1.0, 1.0) if node.target is aten.hardtanh.default else (None, math.inf)
    low, high = (*node.args[1:], *ends[len(node.args) - 1 :])
    return (0.0, math.inf if high is None else float(high)) if low == 0 else None


def _positions(model: GraphModule) -> set[Node]:
    """What only says where a map is sampled: 8 bits of a place in the map would be steps of whole pixels."""
    found: set[Node] = set()
    for node in reversed(model.graph.nodes):
        if node.op == 'call_function' and node.users:
            reads_grid = (user.target is GRID_SAMPLER and user.args[0] is not node for user in node.users)
            if all(user in found or reads for user, reads in zip(node.users, reads_grid, strict=True)):
                found.add(node)
    return found


def _single_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def groups_of_transposed(conv: Node) -> int:
    """The groups of a transposed convolution."""
    return conv.args[6] if len(conv.args) > 6 else 1


def batch_norm_of(conv: Node) -> Node | None:
    """The batch norm that alone reads a convolution, which then folds into it.

    A transposed convolution with groups, whose output channels lie in two dimensions of the weight, folds none; nor
    does a linear layer of tokens (N, L, C), whose norm is of dimension 1.
    """
    if conv.target in TRANSPOSED and groups_of_transposed(conv) != 1:
        return None
    user = _single_user(conv)
    if user is None or user.target not in BATCH_NORM or user.args[0] is not conv or not has_statistics(user):
        return None
    return None if conv.target is aten.linear.default and user.meta['val'].dim() != 2 else user


def has_statistics(norm: Node) -> bool:
    """Whether a batch norm keeps running statistics; one without normalizes by the batch in evaluation too."""
    return norm.args[3] is not None


def is_standalone_norm(node: Node) -> bool:
    """Whether a node is a batch norm of feature maps (N, C, H, W) that folds into no convolution.

    Such a norm follows a concat, an add or the images. It is a depthwise 1x1 convolution whose weight is its factor: a
    scale a channel makes the integers ±127, so that nothing is lost.
    """
    if node.op != 'call_function' or node.target not in BATCH_NORM or node.meta['val'].dim() != 4:
        return False
    if not has_statistics(node):
        return False
    source = node.args[0]
    return not (is_convolution(source) and batch_norm_of(source) is node)


def is_quantized_norm(node: Node) -> bool:
    """Whether a standalone batch norm of an annotated graph computes in INT8."""
    return KEY in node.meta and is_standalone_norm(node)


def _with_rectifier(node: Node) -> Node:
    """The rectifier that alone reads a node, or the node itself."""
    user = _single_user(node)
    return user if user is not None and rectifier_bounds(user) is not None else node


def _sources(node: Node) -> list[Node]:
    """The tensors that an operator without weights reads."""
    first = node.args[0] if node.args else ()
    sources = first if isinstance(first, (list, tuple)) else node.args[:2]
    return [source for source in sources if isinstance(source, Node)]


def _is_map(node: object) -> bool:
    """Whether a node's value is a tensor of floats with at least 2 dimensions."""
    value = node.meta.get('val') if isinstance(node, Node) else None
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2


class DenseQuantizer(Quantizer):
    """Annotates convolutions with their batch norm and rectifier, adds, products, concats, pools, resizes and views.

    Args:
        scheme (Scheme, optional): Which numbers are rounded to. Default: the preset 'onnx'.
        averaging_constant (float): Weight of a new batch in the moving average of the ranges. Default: 0.01.
        learned_scales (bool): Train the scales (LSQ). Default: False.
    """

    def __init__(
        self, scheme: Scheme | None = None, averaging_constant: float = 0.01, learned_scales: bool = False
    ) -> None:
        super().__init__()
        self.scheme = scheme or Scheme.preset('onnx')
        self.learned_scales = learned_scales
        qmin, qmax = self.scheme.activation_range
        self.activation = QuantizationSpec(
            dtype=getattr(torch, self.scheme.activation_dtype),
            quant_min=qmin,
            quant_max=qmax,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=ActivationFakeQuantize.with_args(
                scheme=self.scheme, averaging_constant=averaging_constant, learned_scales=learned_scales
            ),
        )

    # -- the two methods of torchao's Quantizer

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write the annotations into a graph's nodes."""
        self._quantized: set[Node] = set()
        self._feeding: dict[Node, bool] = {}
        self._norms: dict[tuple[str, ...], int] = {}  # numbers of the norms that weights are folded with
        only_output = {node for node in model.graph.nodes if self._read_only_by_output(node)}
        skip_output = set() if self.scheme.quantize_outputs else only_output
        positions = _positions(model)
        skip_output |= positions
        for node in model.graph.nodes:
            if node.op == 'placeholder':
                self._quantized.add(node)
                node.meta[KEY] = QuantizationAnnotation(output_qspec=self.activation, _annotated=True)
            elif node in positions and not is_convolution(node):
                continue
            elif node.op == 'call_function' and KEY not in node.meta and not self._stays_float(node):
                self._annotate_node(node, skip_output)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to validate beyond what :meth:`annotate` does."""

    # -- one operator

    def _weight(self, node: Node, axis: int) -> QuantizationSpec:
        """How a convolution's weight is rounded.

        torchao has convolutions that read one weight share a quantizer if their specifications agree in a few fields,
        ``ch_axis`` among them, of which nothing else comes. With one scale a tensor, which is of the weight with its
        batch norm, each norm needs one of its own (the levels of RTMDet's head).
        """
        bits = self.scheme.precision_of(self._names(node))
        norm = batch_norm_of(node) if self.scheme.weight_granularity == 'tensor' else None
        reader = 0 if norm is None else 1 + self._norms.setdefault(tuple(map(str, norm.args[1:5])), len(self._norms))
        largest = self.scheme.largest_weight(bits)
        return QuantizationSpec(
            dtype=torch.int8,
            quant_min=-largest,
            quant_max=largest,
            qscheme=torch.per_channel_symmetric,
            ch_axis=axis + 2 * reader,
            # torchao passes its own ch_axis on to classes with PerChannel in their name only
            observer_or_fake_quant_ctr=WeightFakeQuantize.with_args(
                scheme=self.scheme, bits=bits, learned_scales=self.learned_scales, ch_axis=axis
            ),
        )

    def _annotate_node(self, node: Node, skip_output: set[Node]) -> None:
        if is_convolution(node):
            self._annotate_convolution(node, skip_output)
        elif not self._any_quantized(_sources(node)) and not self._feeds_convolution(node):
            return  # between operators in float, rounding would cost and gain nothing
        elif node.target in ADDS | MULTIPLICATIONS and all(map(_is_map, node.args[:2])):
            self._annotate_inputs_and_end(node, node.args[:2], skip_output)
        elif node.target in CONCATS:
            self._annotate_concat(node, skip_output)
        elif keeps_scale(node):
            self._annotate_same_scale(node, skip_output)
        elif node.target in AVERAGES or is_standalone_norm(node):
            self._annotate_inputs_and_end(node, node.args[:1], skip_output)
        elif rectifier_bounds(node) is not None and node.args[0] in self._quantized:
            self._annotate_inputs_and_end(node, node.args[:1], skip_output)

    def _annotate_convolution(self, node: Node, skip_output: set[Node]) -> None:
        weight, axis = node.args[1], 0
        bias = node.args[2] if len(node.args) > 2 else None
        if depends_on_images(weight) or (bias is not None and depends_on_images(bias)):
            return  # no integers can be stored for it
        if node.target in TRANSPOSED:
            user = _single_user(node)
            alone = user is None or user.target not in BATCH_NORM
            if groups_of_transposed(node) != 1 and (alone or bias is not None):
                return  # its output channels lie in two dimensions of the weight
            axis = 1  # with groups, the channels of the same place in each share a scale
        inputs = {node.args[0]: self.activation, weight: self._weight(node, axis)}
        node.meta[KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        last = batch_norm_of(node) or node
        last = _with_rectifier(last)
        for inner in (batch_norm_of(node), last):
            if inner is not None and inner is not node:
                inner.meta[KEY] = QuantizationAnnotation(_annotated=True)
        self._end(last, skip_output)

    def _annotate_inputs_and_end(self, node: Node, inputs: Iterable[Node], skip_output: set[Node]) -> None:
        node.meta[KEY] = QuantizationAnnotation(
            input_qspec_map={source: self.activation for source in inputs}, _annotated=True
        )
        last = node if rectifier_bounds(node) is not None else _with_rectifier(node)
        if last is not node:
            last.meta[KEY] = QuantizationAnnotation(_annotated=True)
        self._end(last, skip_output)

    def _annotate_concat(self, node: Node, skip_output: set[Node]) -> None:
        sources = list(node.args[0])
        if not self.scheme.shared_concat or node in skip_output:
            self._annotate_inputs_and_end(node, sources, skip_output)
            return
        shared = SharedQuantizationSpec((sources[0], node))
        inputs = {sources[0]: self.activation}  # first: torchao asks for the order, and a source may occur twice
        for source in sources[1:]:
            inputs.setdefault(source, shared)
        node.meta[KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=shared, _annotated=True)
        self._quantized.add(node)

    def _annotate_same_scale(self, node: Node, skip_output: set[Node]) -> None:
        source = node.args[0]
        annotation = QuantizationAnnotation(input_qspec_map={source: self.activation}, _annotated=True)
        if node not in skip_output:
            annotation.output_qspec = SharedQuantizationSpec((source, node))
        node.meta[KEY] = annotation
        self._quantized.add(node)

    def _end(self, node: Node, skip_output: set[Node]) -> None:
        """Quantize the result of a pattern, unless it is an output that stays float."""
        if node not in skip_output:
            node.meta[KEY].output_qspec = self.activation
            self._quantized.add(node)

    # -- questions

    def _any_quantized(self, nodes: Iterable[Node]) -> bool:
        return any(node in self._quantized for node in nodes)

    def _feeds_convolution(self, node: Node) -> bool:
        """Whether a convolution reads a node's value, perhaps after adds, concats, pools and views."""
        if node not in self._feeding:
            self._feeding[node] = False
            both = node.target in ADDS | MULTIPLICATIONS
            if (
                (node.target in INTEGER or is_standalone_norm(node) or rectifier_bounds(node) is not None)
                and (not both or all(map(_is_map, node.args[:2])))
                and not self._stays_float(node)
            ):
                self._feeding[node] = any(
                    is_convolution(user)
                    and user.args[0] is node
                    and not self._stays_float(user)
                    or self._feeds_convolution(user)
                    for user in node.users
                )
        return self._feeding[node]

    def _stays_float(self, node: Node) -> bool:
        return self.scheme.stays_float(self._names(node))

    def _names(self, node: Node) -> list[str]:
        """What a node is known by: the modules that it was traced in, and the weight that it reads."""
        names = module_paths(node)
        if is_convolution(node) and weight_of(node):
            names.append(weight_of(node))
        return names

    def _read_only_by_output(self, node: Node) -> bool:
        """Whether all that happens to a node's value is that it leaves the network, perhaps reshaped."""
        if node.op != 'call_function' or not node.users:
            return False
        return all(
            user.op == 'output' or (keeps_scale(user) and self._read_only_by_output(user)) for user in node.users
        )


def module_paths(node: Node) -> list[str]:
    """The names of the modules that a node was traced in, outermost first, as ``named_modules`` gives them."""
    return [path for path, _ in (node.meta.get('nn_module_stack') or {}).values() if path]
