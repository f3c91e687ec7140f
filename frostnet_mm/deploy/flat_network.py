"""A model's dense network as an engine sees it: one tensor of images in, a flat tuple of tensors out."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.utils import _pytree as pytree

from ..models.dense import DenseNetwork
from ..quantization.capture import output_names
from ..quantization.convert import ConvertedNetwork

aten = torch.ops.aten
PROBE_SHAPE = (1, 3, 128, 160)


class FlatNetwork(nn.Module):
    """The dense network for inference, without the feature maps that only training reads.

    Args:
        network (nn.Module): Images (N, 3, H, W) to a flat tuple of tensors.
        spec (pytree.TreeSpec): How they nest.
        names (tuple[str, ...]): A name for each tensor.
        keep_features (bool): Whether the model reads feature maps at inference, as a two-stage detector does.
    """

    def __init__(self, network: nn.Module, spec: Any, names: tuple[str, ...], keep_features: bool) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.indices = [i for i, name in enumerate(names) if keep_features or not name.startswith('feature')]
        self.names = tuple(names[i] for i in self.indices)
        self.exports: dict[tuple, bytes] = {}  # files made of it, see export.onnx_of

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on images (N, 3, H, W)."""
        values = self.network(images)
        return tuple(values[i] for i in self.indices)

    def nest(self, values: list[Tensor]) -> tuple[Any, list[Tensor]]:
        """The outputs as :meth:`frostnet_mm.models.DenseNetwork.forward` returns them; None for what is left out."""
        every: list[Tensor | None] = [None] * self.spec.num_leaves
        for index, value in zip(self.indices, values, strict=True):
            every[index] = value
        return pytree.tree_unflatten(every, self.spec)


class _FloatNetwork(nn.Module):
    """The mm modules themselves with a flat output."""

    def __init__(self, dense: DenseNetwork) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.dense(images)))


class _IntegerNetwork(nn.Module):
    """A converted network with a flat output."""

    def __init__(self, converted: ConvertedNetwork) -> None:
        super().__init__()
        self.converted = converted

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.converted.flat(images)


@torch.no_grad()
def float_network(model: nn.Module) -> FlatNetwork:
    """The dense network of a model in float.

    Args:
        model (nn.Module): A detector of mmdet or a segmenter of mmseg, in evaluation mode, with nothing attached.

    Raises:
        UnsupportedModelError: It is none of these.
    """
    dense = DenseNetwork(model).eval()
    probe = torch.zeros(PROBE_SHAPE, device=next(dense.parameters()).device)
    _, spec = pytree.tree_flatten(dense(probe))
    return FlatNetwork(_FloatNetwork(dense), spec, output_names(spec, dense.head_name), _reads_features(dense)).eval()


def converted_network(model: nn.Module, converted: ConvertedNetwork) -> FlatNetwork:
    """The dense network of a model in integers.

    Args:
        model (nn.Module): The model that was converted.
        converted (ConvertedNetwork): What :func:`frostnet_mm.quantization.convert` returned.
    """
    keep = _reads_features(DenseNetwork(model))
    return FlatNetwork(_IntegerNetwork(converted), converted.spec, converted.names, keep)


def _reads_features(dense: DenseNetwork) -> bool:
    return dense.kept_features is None


@dataclass(frozen=True)
class Normalization:
    """What a model's data preprocessor does to an image.

    Args:
        mean (tuple[float, ...]): Of each channel, in the order that the network reads.
        std (tuple[float, ...]): Likewise.
        flip (bool): Whether the network reads RGB, images being BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool


def traceable(network: FlatNetwork, baked: Normalization | None = None) -> nn.Module:
    """What exporters are given: names of modules survive in it.

    Args:
        network (FlatNetwork): The network.
        baked (Normalization, optional): Put the normalization in front: the input is then (N, H, W, 3), uint8, BGR, as
            cameras and OpenCV give it.

    Returns:
        nn.Module: Images to a flat tuple of tensors.
    """
    inner = network.network
    if not isinstance(inner, _IntegerNetwork):
        return network if baked is None else _Baked(network, baked)
    source = inner.converted.module
    graph = Graph()
    values = graph.graph_copy(source.graph, {})
    graph.output(tuple(values[i] for i in network.indices))
    module = GraphModule(source, graph)
    if baked is not None:
        _bake(module, baked)
    module.recompile()
    return module


class _Baked(nn.Module):
    """A network with the normalization in front."""

    def __init__(self, network: nn.Module, baked: Normalization) -> None:
        super().__init__()
        self.network = network
        for name, value in _normalizing_convolution(baked).items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images.permute(0, 3, 1, 2).to(torch.float32)
        return self.network(torch.conv2d(x, self.baked_weight, self.baked_bias))


def _normalizing_convolution(baked: Normalization) -> dict[str, Tensor]:
    """Swapping channels, subtracting the mean and dividing by the deviation, as one 1x1 convolution.

    As three operators they took 2.5 ms in onnxruntime at 192x192, a third of the whole network.
    """
    scale = 1 / torch.tensor(baked.std, dtype=torch.float64)
    order = torch.eye(3, dtype=torch.float64)
    weight = scale.view(3, 1) * (order.flip(1) if baked.flip else order)
    bias = -torch.tensor(baked.mean, dtype=torch.float64) * scale
    return dict(baked_weight=weight.float().view(3, 3, 1, 1), baked_bias=bias.float())


def _bake(module: GraphModule, baked: Normalization) -> None:
    """Put the operators of :class:`_Baked` behind the input of a graph."""
    graph = module.graph
    images = next(node for node in graph.nodes if node.op == 'placeholder')
    readers = list(images.users)
    for name, value in _normalizing_convolution(baked).items():
        module.register_buffer(name, value)
    with graph.inserting_before(next(node for node in graph.nodes if node in images.users)):
        x = graph.call_function(aten.permute.default, (images, [0, 3, 1, 2]))
        x = graph.call_function(aten.to.dtype, (x, torch.float32))
        constants = graph.get_attr('baked_weight'), graph.get_attr('baked_bias')
        x = graph.call_function(aten.conv2d.default, (x, *constants))
    for reader in readers:
        reader.replace_input_with(images, x)
    graph.lint()
