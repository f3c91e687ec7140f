"""Decoding and non-maximum suppression as part of an ONNX network: boxes, scores and labels come out of the engine."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...device import DeploymentError

NAMES = ('boxes', 'scores', 'labels')
OUTPUTS = {name: [name] for name in NAMES}
GEOMETRY = 'geometry'  # an input: width and height of the image in the network's input, and the scales of resizing
_LEFT_OUT = -1.0  # the score of a box that suppression is not to see


class _Decoder(nn.Module):
    """The head's outputs of one image to boxes (1, P, 4) in pixels of the network's input, and scores (1, C, P).

    The scores of what mm leaves out before suppression are -1.

    Args:
        decoding (dict): As in ``deploy.json``.
        names (Sequence[str]): The network's outputs.
        shapes (Sequence[tuple[int, ...]]): Their shapes.
        size (tuple[int, int], optional): Height and width of the images in the network's input; None if they are given
            with each image, as the last input.
    """

    def __init__(
        self, decoding: dict, names: Sequence[str], shapes: Sequence[tuple[int, ...]], size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.decoding = decoding
        self.size = size
        self.places = {kind: [names.index(n) for n in every] for kind, every in decoding['outputs'].items()}
        for index, level in enumerate(decoding['levels']):
            height, width = shapes[self.places['scores'][index]][2:]
            priors = _priors(decoding, level, height, width)
            self.register_buffer(f'priors_{index}', torch.from_numpy(priors), persistent=False)

    def forward(self, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.size is None:
            geometry = outputs[-1]
        else:
            geometry = torch.tensor([*self.size[::-1], 1, 1], dtype=torch.float32)
        boxes, scores = [], []
        for index, level in enumerate(self.decoding['levels']):
            priors = getattr(self, f'priors_{index}')
            values = {kind: outputs[every[index]] for kind, every in self.places.items()}
            boxes.append(self._boxes(values['boxes'], priors, float(level['stride'][0]), float(level['stride'][1])))
            scores.append(self._scores(values, len(level.get('base_anchors', [0]))))
        box, score = torch.cat(boxes), torch.cat(scores, 1)
        if self.decoding['clip']:
            box = torch.minimum(box.clamp(min=0), geometry[:2].repeat(2))
        if self.decoding['min_size'] >= 0:
            sides = (box[:, 2:] - box[:, :2]) / geometry[2:]
            large = (sides > self.decoding['min_size']).all(1)
            score = torch.where(large, score, torch.full_like(score, _LEFT_OUT))
        return box.unsqueeze(0), score.unsqueeze(0)

    def _scores(self, values: dict[str, Tensor], anchors: int) -> Tensor:
        """Of shape (C, anchors * H * W)."""
        classes, softmax = self.decoding['num_classes'], self.decoding['scores'] == 'softmax'
        logits = values['scores'].reshape(anchors, classes + softmax, -1)
        scores = logits.softmax(1)[:, :-1] if softmax else logits.sigmoid()
        left_out, threshold = torch.full_like(scores, _LEFT_OUT), self.decoding['score_threshold']
        if 'objectness' in values:  # YOLOX reports the best class of a position alone, and compares its product
            scores = torch.where(scores == scores.amax(1, keepdim=True), scores, left_out)
            product = scores * values['objectness'].reshape(anchors, 1, -1).sigmoid()
            scores = torch.where((scores >= 0) & (product >= threshold), product, left_out)
        else:  # the others compare, and count the best of a level, before centerness
            scores = torch.where(scores > threshold, scores, left_out)
            most = self.decoding['nms_pre']
            if 0 < most < scores.numel():
                least = scores.reshape(-1).topk(most).values[-1]
                scores = torch.where(scores >= least, scores, left_out)
            if 'centerness' in values:
                product = scores * values['centerness'].reshape(anchors, 1, -1).sigmoid()
                scores = torch.where(scores >= 0, product, left_out)
        return scores.permute(1, 0, 2).reshape(classes, -1)

    def _boxes(self, values: Tensor, priors: Tensor, stride_x: float, stride_y: float) -> Tensor:
        """Of shape (anchors * H * W, 4)."""
        anchors = priors.shape[0]
        values = values.reshape(anchors, 4, -1).permute(0, 2, 1)
        coder = self.decoding['coder']
        if coder['type'] == 'distance':
            boxes = torch.cat([priors - values[..., :2], priors + values[..., 2:]], 2)
        else:
            if coder['type'] == 'yolox':
                stride = torch.tensor([stride_x, stride_y])
                centre, half = values[..., :2] * stride + priors, values[..., 2:].exp() * stride / 2
            else:
                centre, half = _decode_deltas(priors, values, coder)
            boxes = torch.cat([centre - half, centre + half], 2)
        return boxes.reshape(-1, 4)


def _priors(decoding: dict, level: dict, height: int, width: int) -> np.ndarray:
    """Boxes (anchors, H * W, 4), or points (1, H * W, 2)."""
    y, x = np.divmod(np.arange(height * width), width)
    grid, stride = np.stack([x, y], 1).astype(np.float32), np.asarray(level['stride'], np.float32)
    if decoding['kind'] == 'anchors':
        anchors = np.asarray(level['base_anchors'], np.float32)
        return anchors[:, None] + np.tile(grid * stride, 2)[None]
    return ((grid + np.float32(level['offset'])) * stride)[None]


def _decode_deltas(priors: Tensor, deltas: Tensor, coder: dict) -> tuple[Tensor, Tensor]:
    """Centres and half sizes."""
    deltas = deltas * torch.tensor(coder['stds']) + torch.tensor(coder['means'])
    centre, size = (priors[..., :2] + priors[..., 2:]) * 0.5, priors[..., 2:] - priors[..., :2]
    shift, growth = size * deltas[..., :2], deltas[..., 2:]
    limit = abs(math.log(coder['wh_ratio_clip']))
    if coder['ctr_clamp'] is None:
        growth = growth.clamp(-limit, limit)
    else:
        shift = shift.clamp(-coder['ctr_clamp'], coder['ctr_clamp'])
        growth = growth.clamp(max=limit)
    return centre + shift, size * growth.exp() * 0.5


def image_size(preprocessing: dict, decoding: dict) -> tuple[int, int] | None:
    """The size (height, width) that every image has in the network's input, as far as decoding is concerned.

    Args:
        preprocessing (dict): As in ``deploy.json``.
        decoding (dict): Likewise.

    Returns:
        tuple[int, int] | None: None where it depends on the image, or the scale of resizing does and matters.
    """
    resize, pad = preprocessing['resize'], preprocessing['pad']
    if decoding['min_size'] > 0:  # in pixels of the original image
        return None
    if pad is not None:
        return pad['height'], pad['width']
    if resize is not None and not resize['keep_ratio']:
        return resize['height'], resize['width']
    return None if decoding['clip'] else (0, 0)


def passing_on(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[bytes, list[str]]:
    """A network that puts out what it is given, to try decoding with by itself.

    Args:
        names (Sequence[str]): Of its outputs.
        shapes (Sequence[tuple[int, ...]]): Of each.

    Returns:
        tuple[bytes, list[str]]: The network as ONNX, and the names of its inputs.
    """
    from onnx import TensorProto, helper

    from ..onnx.export import OPSET

    inputs = [f'{name} given' for name in names]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(own, shapes, strict=True)]
        for own in (inputs, names)
    ]
    nodes = [helper.make_node('Identity', [given], [name]) for given, name in zip(inputs, names, strict=True)]
    graph = helper.make_graph(nodes, 'outputs', *values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=10)
    return model.SerializeToString(), inputs


def with_decoding(content: bytes, decoding: dict, size: tuple[int, int] | None) -> bytes:
    """Append decoding and non-maximum suppression to a network.

    Args:
        content (bytes): The network as ONNX, for one image of a fixed size.
        decoding (dict): As in ``deploy.json``.
        size (tuple[int, int], optional): What :func:`image_size` returned; where it is None, the network gets the input
            ``geometry`` (4,), float32: width and height of the image in the network's input, and the scales of resizing
            in x and y.

    Returns:
        bytes: A network with the outputs ``boxes`` (K, 4), float32 x1, y1, x2, y2 in pixels of its input; ``scores``
        (K,), float32, falling; ``labels`` (K,), int64.

    Raises:
        DeploymentError: The head's decoding has no form in ONNX, or sizes are open.
    """
    import onnx
    from onnx import compose

    from ..onnx.export import OPSET, quiet

    if decoding is None or decoding['kind'] not in ('anchors', 'points'):
        raise DeploymentError(
            'Only detectors whose decoding is known can be deployed with it: leave --with-decode out.'
        )
    if decoding['max_per_image'] is not None and decoding['max_per_image'] < 1:
        raise DeploymentError(
            f'test_cfg.max_per_img={decoding["max_per_image"]} has no form in ONNX, expected at least 1: leave '
            '--with-decode out.'
        )
    network = onnx.load_from_string(content)
    names = [output.name for output in network.graph.output]
    shapes = [tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in network.graph.output]
    if any(0 in shape or shape[0] != 1 for shape in shapes):
        raise DeploymentError(
            'Decoding needs a network for one image of a fixed size: leave --dynamic and --batch out.'
        )
    decoder = _Decoder(decoding, names, shapes, size)
    inputs = [f'{name} decoded' for name in names]
    links = list(zip(names, inputs, strict=True))
    values = [torch.zeros(shape) for shape in shapes]
    if size is None:
        inputs.append(GEOMETRY)
        values.append(torch.ones(4))
    with quiet():
        exported = torch.onnx.export(
            decoder,
            tuple(values),
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=['every box', 'every score'],
            verbose=False,
        ).model_proto
    exported = compose.add_prefix(exported, 'decoding/', rename_inputs=False, rename_outputs=False)
    boxes = sum(int(np.prod(shapes[index])) // 4 for index in decoder.places['boxes'])
    exported.ir_version = network.ir_version
    merged = compose.merge_models(network, exported, io_map=links)
    _suppress(merged.graph, decoding, boxes)
    for item in (merged, merged.graph, *merged.graph.node, *merged.graph.value_info, *merged.graph.initializer):
        del item.metadata_props[:]
    return merged.SerializeToString()


def _suppress(graph: Any, decoding: dict, boxes: int) -> None:
    """Append non-maximum suppression, by class or not, and the best of all."""
    from onnx import TensorProto, helper, numpy_helper

    classes, agnostic = decoding['num_classes'], decoding['class_agnostic'] and decoding['num_classes'] > 1
    constants = dict(
        limit=np.array([decoding['max_per_image'] or boxes * classes], np.int64),
        iou=np.array([decoding['iou_threshold']], np.float32),
        least=np.array([_LEFT_OUT / 2], np.float32),
        flat=np.array([1, 1, -1], np.int64),
        times=np.array([1, classes, 1], np.int64),
        two=np.array(2, np.int64),
        zero=np.array(0, np.int64),
        one=np.array(1, np.int64),
        first=np.array([0], np.int64),
        last=np.array([1, 2], np.int64),
    )
    constants['first two'] = np.array([0, 1], np.int64)
    constants['boxes count'] = np.array(boxes, np.int64)
    prefix = 'suppression/'
    graph.initializer.extend(numpy_helper.from_array(value, prefix + name) for name, value in constants.items())

    def add(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes) -> None:
        inputs = [prefix + name if name in {*constants, *made} - set(NAMES) else name for name in inputs]
        made.update(outputs)
        named = [name if name in NAMES else prefix + name for name in outputs]
        graph.node.append(helper.make_node(kind, inputs, named, f'{prefix}{kind} {outputs[0]}', **attributes))

    made: set[str] = set()
    add('Squeeze', ['every box', 'first'], ['box table'])
    if agnostic:  # every pair of class and box is a box of its own, of one class
        add('Tile', ['every box', 'times'], ['each box'])
        add('Reshape', ['every score', 'flat'], ['each score'])
        add('NonMaxSuppression', ['each box', 'each score', 'limit', 'iou', 'least'], ['chosen'])
        add('Gather', ['chosen', 'two'], ['pair'], axis=1)
        add('Squeeze', ['each score', 'first two'], ['score table'])
        add('Gather', ['score table', 'pair'], ['chosen scores'], axis=0)
    else:
        add('NonMaxSuppression', ['every box', 'every score', 'limit', 'iou', 'least'], ['chosen'])
        add('Gather', ['chosen', 'last'], ['pairs'], axis=1)  # class, box
        add('Squeeze', ['every score', 'first'], ['score table'])
        add('GatherND', ['score table', 'pairs'], ['chosen scores'])
    add('Shape', ['chosen scores'], ['count'])
    add('Min', ['count', 'limit'], ['kept'])
    add('TopK', ['chosen scores', 'kept'], ['scores', 'order'], axis=0)
    if agnostic:
        add('Gather', ['pair', 'order'], ['best'], axis=0)
        add('Div', ['best', 'boxes count'], ['labels'])
        add('Mod', ['best', 'boxes count'], ['places'])
    else:
        add('Gather', ['pairs', 'order'], ['best'], axis=0)
        add('Gather', ['best', 'one'], ['places'], axis=1)
        add('Gather', ['best', 'zero'], ['labels'], axis=1)
    add('Gather', ['box table', 'places'], ['boxes'], axis=0)
    read = {name for node in graph.node for name in node.input}
    for value in [v for v in graph.initializer if v.name.startswith(prefix) and v.name not in read]:
        graph.initializer.remove(value)
    del graph.output[:]
    for name, kind, shape in (
        ('boxes', TensorProto.FLOAT, ['K', 4]),
        ('scores', TensorProto.FLOAT, ['K']),
        ('labels', TensorProto.INT64, ['K']),
    ):
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
