"""What a head does after its network: from outputs to boxes, label maps or classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .description import AGAIN
from .errors import DeploymentError
from .resizing import resize_plane
from .results import ClassScores, Detections, Geometry, LabelMap
from .suppression import suppress

#: Sigmoids of logits this far below the threshold's are below it, whatever the rounding.
MARGIN = 0.01


def _sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over='ignore'):  # exp(89) is infinite in float32, and its inverse 0
        return 1 / (1 + np.exp(-values))


class _Candidates(NamedTuple):
    scores: np.ndarray
    labels: np.ndarray
    anchors: np.ndarray  # index among the anchors of a position
    positions: np.ndarray  # y * width + x


def _confident(logits: np.ndarray, anchors: int, decoding: dict, threshold: float) -> _Candidates:
    """Pairs of prior and class above a threshold, the best ``nms_pre`` of a level (A * C, H, W), by falling score."""
    classes, area = decoding['num_classes'], logits.shape[1] * logits.shape[2]
    softmax, least = decoding['scores'] == 'softmax', np.float32(threshold)
    # most logits are far below: compare them to a bound before anything else is computed
    if threshold <= 0 or threshold >= 1:
        low = np.float32(-np.inf if threshold <= 0 else np.inf)
    else:  # a class's softmax is at most its exponential over that of the background, which comes last
        low = np.float32(math.log(threshold / (1 if softmax else 1 - threshold)) - MARGIN)
    if softmax:
        grid = logits.reshape(anchors, classes + 1, area)
        anchor, position = np.nonzero(grid[:, :-1].max(1) > grid[:, -1] + low)
        rows = grid[anchor, :, position]
        rows = np.exp(rows - rows.max(1, keepdims=True))
        values = rows[:, :-1] / rows.sum(1, keepdims=True)
        row, label = np.nonzero(values > least)
        scores, anchor, position = values[row, label], anchor[row], position[row]
    else:
        index = np.flatnonzero(logits.reshape(-1) > low)
        scores = _sigmoid(logits.reshape(-1)[index])
        index, scores = index[scores > least], scores[scores > least]
        channel, position = np.divmod(index, area)
        anchor, label = np.divmod(channel, classes)
    # the order of mmdet, where the class runs fastest, then the anchor; it decides between equal scores
    order = np.lexsort(((position * anchors + anchor) * classes + label, -scores))
    order = order[: min(decoding['nms_pre'], len(order))]
    return _Candidates(scores[order], label[order], anchor[order], position[order])


def _most_likely(logits: np.ndarray, objectness: np.ndarray, threshold: float) -> _Candidates:
    """YOLOX: the best class of each position, by its score times objectness."""
    sure = _sigmoid(objectness.reshape(-1))
    positions = np.flatnonzero(sure >= np.float32(threshold))
    values = _sigmoid(logits.reshape(len(logits), -1)[:, positions])
    scores = values.max(0) * sure[positions]
    good = scores >= np.float32(threshold)
    return _Candidates(scores[good], values.argmax(0)[good], np.zeros(good.sum(), np.int64), positions[good])


def _decode_boxes(values, found: _Candidates, width: int, level: dict, decoding: dict, size) -> np.ndarray:
    """Boxes (K, 4) in pixels of the network's input."""
    y, x = np.divmod(found.positions, width)
    coder, stride = decoding['coder'], np.asarray(level['stride'], np.float32)
    grid = np.stack([x, y], 1).astype(np.float32)
    if decoding['kind'] == 'anchors':
        priors = np.asarray(level['base_anchors'], np.float32)[found.anchors] + np.tile(grid * stride, 2)
        boxes = _decode_deltas(priors, values, coder)
    else:
        points = (grid + np.float32(level['offset'])) * stride
        if coder['type'] == 'distance':
            boxes = np.concatenate([points - values[:, :2], points + values[:, 2:]], 1)
        else:
            centre, half = values[:, :2] * stride + points, np.exp(values[:, 2:]) * stride / 2
            boxes = np.concatenate([centre - half, centre + half], 1)
    return np.clip(boxes, 0, np.asarray(size[::-1] * 2, np.float32)) if decoding['clip'] else boxes


def _decode_deltas(priors: np.ndarray, deltas: np.ndarray, coder: dict) -> np.ndarray:
    deltas = deltas * np.asarray(coder['stds'], np.float32) + np.asarray(coder['means'], np.float32)
    centre, size = (priors[:, :2] + priors[:, 2:]) * np.float32(0.5), priors[:, 2:] - priors[:, :2]
    shift, growth = size * deltas[:, :2], deltas[:, 2:]
    limit = np.float32(abs(math.log(coder['wh_ratio_clip'])))
    if coder['ctr_clamp'] is None:
        growth = np.clip(growth, -limit, limit)
    else:
        shift = np.clip(shift, -coder['ctr_clamp'], coder['ctr_clamp'])
        growth = np.minimum(growth, limit)
    centre, half = centre + shift, size * np.exp(growth) * np.float32(0.5)
    return np.concatenate([centre - half, centre + half], 1)


def _output(outputs: dict, name: str, channels: int) -> np.ndarray:
    """An output as a map (channels, H, W)."""
    value = outputs[name]
    if value.ndim != 4 or value.shape[:2] != (1, channels):
        raise DeploymentError(
            f'Output {name} has shape {value.shape}, expected (1, {channels}, height, width). {AGAIN}'
        )
    if np.isnan(value.max()):
        raise DeploymentError(f'Output {name} holds NaN: the network does not compute what was trained.')
    return np.asarray(value[0], np.float32)


def _decode_level(outputs: dict, index: int, decoding: dict, geometry: Geometry, threshold: float):
    """Boxes in pixels of the network's input, scores and labels of one level."""
    level, names = decoding['levels'][index], {kind: every[index] for kind, every in decoding['outputs'].items()}
    anchors = len(level.get('base_anchors', [0]))
    logits = _output(outputs, names['scores'], anchors * (decoding['num_classes'] + (decoding['scores'] == 'softmax')))
    if 'objectness' in names:
        found = _most_likely(logits, _output(outputs, names['objectness'], 1), threshold)
    else:
        found = _confident(logits, anchors, decoding, threshold)
    scores = found.scores
    if 'centerness' in names:
        factors = _output(outputs, names['centerness'], anchors).reshape(anchors, -1)
        scores = scores * _sigmoid(factors[found.anchors, found.positions])
    values = _output(outputs, names['boxes'], anchors * 4).reshape(anchors, 4, -1)[found.anchors, :, found.positions]
    return _decode_boxes(values, found, logits.shape[2], level, decoding, geometry.image), scores, found.labels


def _decode_detections(outputs: dict, decoding: dict, geometry: Geometry, score_threshold: float | None):
    threshold = decoding['score_threshold'] if score_threshold is None else score_threshold
    parts = [_decode_level(outputs, i, decoding, geometry, threshold) for i in range(len(decoding['levels']))]
    boxes, scores, labels = (np.concatenate(kind) for kind in zip(*parts, strict=True))
    if decoding['coder']['type'] == 'yolox':  # its head divides, the others multiply: the last bit differs
        boxes = boxes / np.tile(np.asarray(geometry.scale, np.float32), 2)
    else:
        boxes = boxes * np.tile(np.asarray([1 / s for s in geometry.scale], np.float32), 2)
    good = np.ones(len(boxes), bool)
    if decoding['min_size'] >= 0:
        good &= (boxes[:, 2:] - boxes[:, :2] > np.float32(decoding['min_size'])).all(1)
    if score_threshold is not None and 'centerness' in decoding['outputs']:  # mm compares before centerness
        good &= scores > np.float32(score_threshold)
    return suppress(boxes[good], scores[good], labels[good], decoding)


def _decode_labels(outputs: dict, decoding: dict, geometry: Geometry, network_size: tuple[int, int]) -> np.ndarray:
    logits, classes = _output(outputs, decoding['output'], decoding['num_classes']), decoding['num_classes']
    labels = np.zeros(geometry.original, np.uint8 if classes <= 256 else np.uint16)
    for index, plane in enumerate(logits):  # one by one: all classes at the image's size may be gigabytes
        plane = resize_plane(plane, network_size, decoding['align_corners'])
        plane = plane[: geometry.image[0], : geometry.image[1]]
        plane = resize_plane(plane, geometry.original, decoding['align_corners'])
        if classes == 1:
            return (_sigmoid(plane) > np.float32(decoding['threshold'])).astype(np.uint8)
        if index == 0:
            best = plane.copy()
            continue
        better = plane > best
        np.copyto(labels, labels.dtype.type(index), where=better)
        np.copyto(best, plane, where=better)
    return labels


def _decode_classes(outputs: dict, decoding: dict) -> np.ndarray:
    name, count = decoding['output'], decoding['num_classes']
    value = np.asarray(outputs[name], np.float32)
    if value.size != count or value.shape[:2] != (1, count):
        raise DeploymentError(f'Output {name} has shape {value.shape}, expected (1, {count}). {AGAIN}')
    logits = value.reshape(count)
    if np.isnan(logits.max()):
        raise DeploymentError(f'Output {name} holds NaN: the network does not compute what was trained.')
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _decoded(outputs: dict, geometry: Geometry, score_threshold: float | None):
    """What a network with decoding has found, in pixels of the original image."""
    boxes, scores, labels = (outputs[name] for name in ('boxes', 'scores', 'labels'))
    if boxes.shape != (len(boxes), 4) or {scores.shape, labels.shape} != {(len(boxes),)}:
        shapes = [value.shape for value in (boxes, scores, labels)]
        raise DeploymentError(f'The network puts out boxes, scores and labels of the shapes {shapes}. {AGAIN}')
    good = scores > np.float32(-np.inf if score_threshold is None else score_threshold)
    scale = np.tile(np.asarray([1 / s for s in geometry.scale], np.float32), 2)
    return boxes[good] * scale, scores[good], labels[good].astype(np.int64)


def decode(
    outputs: Sequence[np.ndarray], description: dict, geometry: Geometry, score_threshold: float | None = None
) -> Detections | LabelMap | ClassScores:
    """What the head does after the network: priors, boxes, suppression; or resizing and the best class; or softmax.

    Args:
        outputs (Sequence[np.ndarray]): The network's outputs for one image.
        description (dict): What :func:`~.description.read_deployment` returned.
        geometry (Geometry): What :func:`~.images.preprocess` returned.
        score_threshold (float, optional): Replaces the description's.

    Returns:
        Detections | LabelMap | ClassScores: In pixels of the original image.

    Raises:
        DeploymentError: An output has another shape than the description says, or is not a number.
    """
    decoding, classes = description['decoding'], description['classes']
    names = [output['name'] for output in description['outputs']]
    by_name = dict(zip(names, outputs, strict=True))
    if decoding['kind'] == 'logits':
        return LabelMap(_decode_labels(by_name, decoding, geometry, geometry.padded), classes)
    if decoding['kind'] == 'classes':
        return ClassScores(_decode_classes(by_name, decoding), classes)
    if decoding['kind'] == 'boxes':
        found = Detections(*_decoded(by_name, geometry, score_threshold), classes)
    else:
        found = Detections(*_decode_detections(by_name, decoding, geometry, score_threshold), classes)
    if np.isnan(found.boxes).any() or np.isnan(found.scores).any():
        raise DeploymentError('Boxes or scores are NaN: the network does not compute what was trained.')
    if len(found.labels) and not 0 <= found.labels.min() <= found.labels.max() < len(classes):
        raise DeploymentError(f'The network puts out labels beyond its {len(classes)} classes. {AGAIN}')
    return found
