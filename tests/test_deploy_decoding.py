"""Decoding as part of an ONNX network against NumPy's, on an image that fills a part of the network's input."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostnet_mm.deploy.heads.onnx_decoding import with_decoding
from frostnet_mm.device import Geometry, decode, geometry_values

CLASSES, MAP = 3, (8, 10)
GEOMETRY = Geometry(original=(90, 200), image=(67, 149), padded=(128, 160), scale=(149 / 200, 67 / 90))
ANCHORS = [[-12, -12, 28, 28], [-20, -4, 36, 20]]


def head_outputs():
    generator = np.random.default_rng(0)
    return {
        'head.0': (2 * generator.normal(size=(1, 2 * CLASSES, *MAP))).astype(np.float32),
        'head.1': (0.6 * generator.normal(size=(1, 8, *MAP))).astype(np.float32),
    }


def network(outputs):
    """Puts out what it is given, whatever the image."""
    one = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), 'one')
    constants = [one, *(numpy_helper.from_array(value, f'{name} of it') for name, value in outputs.items())]
    nodes = [helper.make_node('Min', ['images', 'one'], ['factor'])]
    nodes += [helper.make_node('Mul', [f'{name} of it', 'factor'], [name]) for name in outputs]
    images = helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 1, 1, 1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in outputs.items()]
    graph = helper.make_graph(nodes, 'network', [images], ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize('least', [-1.0, 6.0])
@pytest.mark.parametrize('agnostic', [False, True])
def test_boxes_are_clipped_at_the_image_and_suppressed_as_numpy_does(agnostic, least):
    outputs = head_outputs()
    decoding = dict(
        kind='anchors',
        levels=[dict(stride=[16, 16], base_anchors=ANCHORS)],
        coder=dict(type='delta_xywh', means=[0] * 4, stds=[1] * 4, wh_ratio_clip=0.016, ctr_clamp=None),
        scores='sigmoid',
        num_classes=CLASSES,
        outputs=dict(scores=['head.0'], boxes=['head.1']),
        score_threshold=0.3,
        nms_pre=150,
        iou_threshold=0.5,
        class_agnostic=agnostic,
        max_per_image=100,
        min_size=least,
        clip=True,
    )
    description = dict(decoding=decoding, classes='abc', outputs=[dict(name=name) for name in outputs])
    expected = decode(list(outputs.values()), description, GEOMETRY)
    session = onnxruntime.InferenceSession(with_decoding(network(outputs), decoding, None))
    images = np.ones((1, 1, 1, 1), np.float32)
    boxes, scores, labels = session.run(None, {'images': images, 'geometry': geometry_values(GEOMETRY)})
    assert len(scores) == len(expected.scores) > 50 and labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(boxes / np.tile(GEOMETRY.scale, 2), expected.boxes, atol=1e-3)
    assert boxes[:, [0, 2]].max() <= GEOMETRY.image[1] and boxes[:, [1, 3]].max() <= GEOMETRY.image[0]
