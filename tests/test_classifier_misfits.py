"""Classifiers whose parts do not fit each other or their images, and backbones that put out one map, not a tuple."""

import numpy as np
import pytest
import torch
from conftest import run_tool
from mmengine.model import BaseModule
from small_classifier import QAT, write_small_classifier
from test_image_folder import three_classes
from torch import nn

from frostnet_mm.deploy.flat_network import float_network, traceable
from frostnet_mm.deploy.onnx.export import export_onnx, exported_program
from frostnet_mm.models.dense import DenseNetwork, UnsupportedModelError
from frostnet_mm.quantization.capture import capture
from frostnet_mm.registry import MODELS

ort = pytest.importorskip('onnxruntime')


@pytest.fixture
def wrong(tmp_path):
    """A head that reads other channels than the backbone has."""
    return write_small_classifier(tmp_path / 'wrong.py', three_classes(tmp_path / 'data'), QAT, in_channels=64)


@pytest.mark.parametrize(
    'arguments',
    [
        ('train',),
        ('train', '--cfg-options', 'default_hooks.qat=None', 'custom_hooks=[]'),
        ('deploy', 'random', '--float', '--engine', 'onnxruntime'),
        ('deploy', 'random', '--engine', 'onnxruntime'),
    ],
)
def test_a_head_that_does_not_fit_is_named_by_every_tool(wrong, tmp_path, capfd, arguments):
    tool, *rest = arguments
    out = ('--work-dir', tmp_path / 'out') if tool == 'train' else ('--out', tmp_path / 'out')
    head = rest[:1] if tool == 'deploy' else []
    assert run_tool(tool, wrong, *head, *out, *rest[len(head) :]) == 2
    said = capfd.readouterr()
    assert 'error: head.fc reads 64 channels and gets 48: give model.head the in_channels of what lies' in said.err
    assert 'Traceback' not in said.out + said.err and 'fake_tensor' not in said.err


class OneMap(BaseModule):
    """A backbone that puts out a tensor, as mmcv's ResNet and AlexNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, images):
        return self.conv(images)


def classifier(backbone, head):
    model = MODELS.build(
        dict(
            type='frostnet_mm.ImageClassifier',
            data_preprocessor=dict(type='mmengine.ImgDataPreprocessor'),
            backbone=dict(type='frostnet_mm.FrostNet'),
            head=head,
        )
    )
    model.backbone = backbone
    return model.eval()


def test_the_batch_of_a_single_map_is_no_number_of_maps():
    """Deployed for any batch, it was the example's."""
    torch.manual_seed(0)
    model = classifier(OneMap(), dict(type='frostnet_mm.ClsHead', in_channels=8, num_classes=3))
    network = float_network(model, (None, None))
    exported = export_onnx(traceable(network, None), network.names, torch.randn(1, 3, 40, 32), dynamic=True)
    session = ort.InferenceSession(exported.SerializeToString(), providers=['CPUExecutionProvider'])
    for shape in ((1, 3, 40, 32), (3, 3, 65, 48), (5, 3, 24, 24)):
        images = torch.randn(shape)
        (found,) = session.run(None, {'images': images.numpy()})
        assert np.allclose(found, model.head(model.backbone(images)).detach().numpy(), atol=1e-5)


class EightRows(nn.Module):
    """Does something of its own with images of eight rows, as those of the example are."""

    def forward(self, images):
        return images.mean(2) if images.shape[2] == 8 else images.amax(2)


def test_a_network_of_one_size_is_not_deployed_for_all():
    with pytest.raises(UnsupportedModelError, match='for images with a height of 8 alone: it cannot be left open'):
        export_onnx(EightRows(), ['rows'], torch.randn(2, 3, 8, 80), dynamic=True)
    assert export_onnx(EightRows(), ['rows'], torch.randn(2, 3, 8, 80)).graph.output[0].name == 'rows'


def test_a_capture_names_the_size_that_it_was_tried_with():
    """A dense layer for images of one size: the option that gives it."""
    head = dict(type='frostnet_mm.LogitsHead', num_classes=2)
    model = classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 2)), head)
    message = r'backbone\.2 reads 3600 channels and gets 7688: .* image of 64x33 .*QATHook\(example_shape=\(2, 3, H, W'
    with pytest.raises(UnsupportedModelError, match=message):
        capture(DenseNetwork(model), (2, 3, 64, 33))
    assert capture(DenseNetwork(model), (2, 3, 32, 32)).fixed_size[2:] == (32, 32)


def test_an_open_batch_is_open_from_one_image():
    """For every engine that reads the traced network: torch takes a size of 1 for a constant."""
    network = OneMap()
    run = exported_program(network, torch.randn(1, 3, 40, 32), dynamic=True).module()
    for shape in ((1, 3, 40, 32), (3, 3, 48, 64)):
        images = torch.randn(shape)
        assert torch.allclose(run(images), network(images), atol=1e-6)
