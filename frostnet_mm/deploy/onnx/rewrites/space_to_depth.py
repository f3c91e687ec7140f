"""First convolutions in a form that an engine computes fast.

onnxruntime gathers the window of an INT8 convolution position by position and row by row, in pieces of as many bytes as
there are channels: with the three of an image that takes most of the time of a stem. With the pixels of s x s blocks as
channels (``SpaceToDepth``), a convolution of stride s has stride 1 and a quarter of the pieces. Weights of pixels that
the window does not reach are 0: the results are the same, bit by bit.

The blocks are made of the float pixels, in front of their quantization: onnxruntime before 1.28 has no SpaceToDepth of
integers, and Reshape, Transpose and Reshape in its place take 1 ms at 320x320, where this takes 0.15.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import OnnxGraph, attributes, groups

CHANNELS = 4  # no more than an image has; wider pieces are gathered fast enough
BLOCKS = ':blocks'  # in the names of tensors whose pixels were put together, followed by the side of a block


def space_to_depth(model: Any) -> list[str]:
    """Let strided convolutions of quantized images read blocks of pixels.

    Args:
        model (onnx.ModelProto): In QDQ form; changed in place. Convolutions of an input whose height and width are
            open, or no multiples of the stride, remain as they are.

    Returns:
        list[str]: The names of the convolutions that were changed.
    """
    from onnx import helper, shape_inference

    graph = OnnxGraph(model.graph)
    sizes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in shape_inference.infer_shapes(model).graph.value_info
    }
    changed = []
    for conv in [node for node in model.graph.node if node.op_type == 'Conv']:
        images, weights = graph.dequantizer(conv.input[0]), graph.dequantizer(conv.input[1])
        quantizer = None if images is None else _of_float(graph, images.input[0])
        if quantizer is None or weights is None or groups(conv) != 1:
            continue
        weight, size = graph.value(weights.input[0]), sizes.get(conv.input[0], [])
        axes = _axes(attributes(conv), size, weight)
        if axes is None:
            continue
        block = axes[0].stride
        values = graph.add(f'{conv.name}:blocks/weight', _weight_of_blocks(weight, axes))
        names = [f'{conv.name}:blocks/{what}' for what in ('images', 'weights')]
        graph.insert(
            conv,
            *_blocks(graph, quantizer, block),
            helper.make_node(
                'DequantizeLinear', [_name(quantizer, block), *images.input[1:]], names[:1], name=names[0]
            ),
            helper.make_node('DequantizeLinear', [values, *weights.input[1:]], names[1:], name=names[1], axis=0),
        )
        conv.input[0], conv.input[1] = names
        del conv.attribute[:]
        pads = [axis.before for axis in axes] + [axis.behind for axis in axes]
        shape = [axis.blocks for axis in axes]
        for name, value in dict(group=1, kernel_shape=shape, strides=[1, 1], dilations=[1, 1], pads=pads).items():
            conv.attribute.append(helper.make_attribute(name, value))
        changed.append(conv.name)
    if changed:
        graph.drop_unused()
        del model.graph.value_info[:]  # shapes of before
    return changed


def _of_float(graph: OnnxGraph, name: str) -> Any | None:
    """The node that quantizes an image; None for the result of a quantized operator, which is fused with that node."""
    quantizer = graph.makers.get(name)
    if quantizer is None or quantizer.op_type != 'QuantizeLinear':
        return None
    maker = graph.makers.get(quantizer.input[0])
    fused = maker is not None and any(graph.dequantizer(source) is not None for source in maker.input)
    return None if fused else quantizer


def _name(quantizer: Any, block: int) -> str:
    """Of the quantized blocks."""
    return f'{quantizer.output[0]}{BLOCKS}{block}'


def _blocks(graph: OnnxGraph, quantizer: Any, block: int) -> list[Any]:
    """Nodes that put out the quantized blocks of an image; none where another convolution has asked for them."""
    from onnx import helper

    result = _name(quantizer, block)
    if result in graph.makers:
        return []
    pixels = f'{result}/pixels'
    nodes = [
        helper.make_node('SpaceToDepth', [quantizer.input[0]], [pixels], name=pixels, blocksize=block),
        helper.make_node('QuantizeLinear', [pixels, *quantizer.input[1:]], [result], name=result),
    ]
    graph.makers[result] = nodes[-1]
    return nodes


def rearranged(pixels: np.ndarray, block: int) -> np.ndarray:
    """What SpaceToDepth makes of pixels (N, C, H, W): (N, block * block * C, H / block, W / block)."""
    count, channels, height, width = pixels.shape
    parts = pixels.reshape(count, channels, height // block, block, width // block, block)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(count, -1, height // block, width // block)


@dataclass(frozen=True)
class _Axis:
    """A convolution along one axis of the image, in pixels and in blocks of ``stride`` pixels.

    Args:
        size (int): Pixels of the image; a multiple of the stride.
        kernel (int): Pixels of the window.
        stride (int): Pixels.
        pad (int): Pixels in front of the image.
        pad_behind (int): And behind it.
    """

    size: int
    kernel: int
    stride: int
    pad: int
    pad_behind: int

    @property
    def first(self) -> int:
        """The first block of the first window; negative in the padding."""
        return -self.pad // self.stride

    @property
    def blocks(self) -> int:
        """Of a window."""
        return (self.kernel - 1 - self.pad) // self.stride - self.first + 1

    @property
    def before(self) -> int:
        """Blocks of padding in front of the image."""
        return -self.first

    @property
    def behind(self) -> int:
        """Blocks of padding behind it; negative where the last blocks are in no window."""
        count = (self.size + self.pad + self.pad_behind - self.kernel) // self.stride + 1
        return count - 1 + self.first + self.blocks - self.size // self.stride

    def place(self, tap: int) -> tuple[int, int]:
        """Block of the window, and pixel of the block, that a pixel of the window lies in."""
        block, pixel = divmod(tap - self.pad, self.stride)
        return block - self.first, pixel


def _axes(options: dict, size: list[int], weight: np.ndarray | None) -> list[_Axis] | None:
    """Both axes of a convolution that can read blocks, else None."""
    if weight is None or weight.ndim != 4 or weight.shape[1] > CHANNELS or len(size) != 4:
        return None
    strides, pads = options.get('strides', [1, 1]), options.get('pads', [0] * 4)
    fixed = options.get('auto_pad', b'NOTSET') == b'NOTSET' and list(options.get('dilations', [1, 1])) == [1, 1]
    if not fixed or strides[0] != strides[1] or strides[0] < 2 or any(not s or s % strides[0] for s in size[2:]):
        return None
    if min(weight.shape[2:]) < strides[0]:
        return None  # skips pixels, which blocks would bring back
    axes = [_Axis(size[2 + i], weight.shape[2 + i], strides[i], pads[i], pads[2 + i]) for i in range(2)]
    return axes if all(axis.behind >= 0 for axis in axes) else None


def _weight_of_blocks(weight: np.ndarray, axes: list[_Axis]) -> np.ndarray:
    """(O, s * s * C, blocks, blocks) of a weight (O, C, kernel, kernel), channels in SpaceToDepth's order."""
    outputs, channels = weight.shape[:2]
    stride, shape = axes[0].stride, [axis.blocks for axis in axes]
    result = np.zeros((outputs, stride, stride, channels, *shape), weight.dtype)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            (down, pixel_row), (right, pixel_column) = axes[0].place(row), axes[1].place(column)
            result[:, pixel_row, pixel_column, :, down, right] = weight[:, :, row, column]
    return result.reshape(outputs, stride * stride * channels, *shape)
