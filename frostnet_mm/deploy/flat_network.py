"""A model's dense network as an engine sees it: one tensor of images in, a flat tuple of tensors out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from ..models.dense import DenseNetwork, OutputLayout, family_of
from ..models.input_channels import input_channels
from ..quantization.convert import ConvertedNetwork

aten = torch.ops.aten
#: Sizes of images that show how outputs nest; the larger ones are for networks with more strides, such as SSD300.
PROBE_SIZES = ((128, 160), (320, 320), (512, 512), (1024, 1024))
MOST_CHANNELS = 16  # of images


class FlatNetwork(nn.Module):
    """The dense network for inference, without the feature maps that only training reads.

    Args:
        network (nn.Module): Images (N, 3, H, W) to a flat tuple of all outputs.
        layout (OutputLayout): Which of them are put out, their names, and how they nest.
    """

    def __init__(self, network: nn.Module, layout: OutputLayout) -> None:
        super().__init__()
        self.network = network
        self.layout = layout
        self.exports: dict[tuple, bytes] = {}  # files made of it, see export.onnx_of

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each tensor."""
        return self.layout.names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on images (N, 3, H, W)."""
        return self.layout.select(self.network(images))


class _FloatNetwork(nn.Module):
    """The mm modules themselves with a flat output."""

    def __init__(self, dense: DenseNetwork, layout: OutputLayout) -> None:
        super().__init__()
        self.dense = dense
        self.layout = layout

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.layout.flatten(self.dense(images))


class _IntegerNetwork(nn.Module):
    """A converted network with a flat output."""

    def __init__(self, converted: ConvertedNetwork) -> None:
        super().__init__()
        self.converted = converted

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.converted.flat(images)


@torch.no_grad()
def float_network(model: nn.Module, size: tuple[int | None, ...] = (None, None)) -> FlatNetwork:
    """The dense network of a model in float.

    Args:
        model (nn.Module): A model of a known family, in evaluation mode, with nothing attached.
        size (tuple[int | None, ...]): Height and width of its images, where it takes no others. Default: any.

    Raises:
        UnsupportedModelError: It is of none.
    """
    dense = DenseNetwork(model).eval()
    layout = OutputLayout.of(_probe(dense, input_channels(model), size), dense.head_name)
    return FlatNetwork(_FloatNetwork(dense, layout), _for_inference(layout, model)).eval()


def _probe(dense: DenseNetwork, channels: int, fixed: tuple[int | None, ...]) -> tuple:
    """What a network puts out for the smallest images that it takes."""
    device = next(dense.parameters()).device
    sizes = [tuple(own or side for own, side in zip(fixed, size, strict=True)) for size in PROBE_SIZES]
    for size in sizes[:-1]:
        with suppress(RuntimeError, ValueError):
            return dense(torch.zeros((1, channels, *size), device=device))
    return dense(torch.zeros((1, channels, *sizes[-1]), device=device))


def converted_network(model: nn.Module, converted: ConvertedNetwork) -> FlatNetwork:
    """The dense network of a model in integers.

    Args:
        model (nn.Module): The model that was converted.
        converted (ConvertedNetwork): What :func:`frostnet_mm.quantization.convert` returned.
    """
    return FlatNetwork(_IntegerNetwork(converted), _for_inference(converted.layout, model))


def _for_inference(layout: OutputLayout, model: nn.Module) -> OutputLayout:
    return layout.for_inference(family_of(model).features_at_inference)


@dataclass(frozen=True)
class Normalization:
    """What a model's data preprocessor does to an image.

    Args:
        mean (tuple[float, ...]): Of each channel, in the order that the network reads.
        std (tuple[float, ...]): Likewise.
        flip (bool): Whether the network reads RGB, images being BGR.

    A network with it takes pixels (N, H, W, channels), see :func:`pixels_last`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool

    @classmethod
    def of(cls, settings: dict) -> 'Normalization':
        """That of a deployment's ``preprocessing``."""
        return cls(tuple(settings['mean']), tuple(settings['std']), settings['bgr_to_rgb'])

    def apply(self, images: Tensor) -> Tensor:
        """Pixels (N, H, W, channels) to what a network without it takes, float32 (N, channels, H, W)."""
        return _normalized(images, *_normalizing_convolution(self).values())


def pixels_last(shape: Sequence[int]) -> bool:
    """Whether the shape of a network's input is (N, H, W, channels): no image is so narrow."""
    return shape[-1] is not None and shape[-1] <= MOST_CHANNELS


def traceable(network: FlatNetwork, baked: Normalization | None = None) -> nn.Module:
    """What exporters are given: names of modules survive in it.

    Args:
        network (FlatNetwork): The network.
        baked (Normalization, optional): Put the normalization in front: the input is then (N, H, W, 3), uint8, BGR, as
            cameras and OpenCV give it; or float32 where the padding is no such pixel.

    Returns:
        nn.Module: Images to a flat tuple of tensors.
    """
    inner = network.network
    if not isinstance(inner, _IntegerNetwork):
        return network if baked is None else _Baked(network, baked)
    source = inner.converted.module
    graph = Graph()
    values = graph.graph_copy(source.graph, {})
    graph.output(network.layout.select(values))
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
        return self.network(_normalized(images, self.baked_weight, self.baked_bias))


def _normalized(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.conv2d(images.permute(0, 3, 1, 2).to(torch.float32), weight, bias)


def _normalizing_convolution(baked: Normalization) -> dict[str, Tensor]:
    """Swapping channels, subtracting the mean and dividing by the deviation, as one 1x1 convolution.

    As three operators they took 2.5 ms in onnxruntime at 192x192, a third of the whole network.
    """
    scale = 1 / torch.tensor(baked.std, dtype=torch.float64)
    count = len(baked.std)
    order = torch.eye(count, dtype=torch.float64)
    weight = scale.view(count, 1) * (order.flip(1) if baked.flip else order)
    bias = -torch.tensor(baked.mean, dtype=torch.float64) * scale
    return dict(baked_weight=weight.float().view(count, count, 1, 1), baked_bias=bias.float())


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
