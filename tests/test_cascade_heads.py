"""Segmenters whose decode heads read each other's outputs: one dense network, with the losses that mm computes."""

import onnx
import pytest
import torch
from mmengine.config import ConfigDict
from tiny_segmenter import HEAD, PREPROCESSOR
from torch import nn
from upstream_models import build_config, losses_of, random_batch

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.models.dense import DenseNetwork, UnsupportedModelError, attached, detached
from frostnet_mm.quantization import QuantizationSettings, convert, prepare_model
from frostnet_mm.quantization.calibration import calibrate

SIZE = (32, 64)
PLAIN = dict(HEAD, dropout_ratio=0, norm_cfg=dict(type='BN'))
AUXILIARY = dict(PLAIN, in_index=1, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
CASCADED = {key: value for key, value in PLAIN.items() if key not in ('num_convs', 'concat_input')}
OCR = dict(CASCADED, type='OCRHead', ocr_channels=8)
POINTS = dict(CASCADED, type='PointHead', in_index=[0], in_channels=[8])
POINTS.pop('norm_cfg')


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return x, torch.relu(self.down(x))


def cascade(*heads, auxiliary=None):
    model = dict(
        type='CascadeEncoderDecoder',
        num_stages=len(heads),
        data_preprocessor=PREPROCESSOR,
        backbone=dict(type=Backbone),
        decode_head=[dict(head) for head in heads],
        auxiliary_head=auxiliary and dict(auxiliary),
        test_cfg=dict(mode='whole'),
    )
    return build_config(ConfigDict(model), 'mmseg')


def run_itself(model, images):
    with detached(model):
        return DenseNetwork(model)(images)


@pytest.mark.parametrize(
    ('heads', 'auxiliary', 'keys'),
    [
        ((PLAIN, OCR), None, ('decode_0.loss_ce', 'decode_1.loss_ce')),
        ((PLAIN, OCR, OCR), None, ('decode_0.loss_ce', 'decode_1.loss_ce', 'decode_2.loss_ce')),
        ((PLAIN, OCR), AUXILIARY, ('decode_0.loss_ce', 'decode_1.loss_ce', 'aux.loss_ce')),
    ],
)
def test_losses_and_predictions_are_those_of_mm(heads, auxiliary, keys):
    model = cascade(*heads, auxiliary=auxiliary)
    expected, _ = losses_of(model, SIZE)
    assert set(keys) < set(expected) and len({expected[key] for key in keys}) == len(keys)
    model.eval()
    batch = random_batch(model, SIZE, False)
    with torch.no_grad():
        logits = [sample.seg_logits.data for sample in model.predict(batch['inputs'], batch['data_samples'])]
    with attached(model, lambda images: run_itself(model, images)):
        with torch.no_grad():
            samples = model.predict(batch['inputs'], batch['data_samples'])
        model.train()
        found, _ = losses_of(model, SIZE)
    assert found == pytest.approx(expected, rel=1e-5)
    for one, sample in zip(logits, samples, strict=True):
        assert torch.allclose(one, sample.seg_logits.data, atol=1e-5)


def test_a_cascade_is_trained_converted_and_deployed_as_one_network():
    model = cascade(PLAIN, OCR, auxiliary=AUXILIARY)
    network = prepare_model(model, QuantizationSettings.of(example_shape=(2, 3, *SIZE)))
    assert network.program.layout.names == ('decode_head', 'feature.0', 'feature.1')
    model.eval()
    calibrate(network, [torch.randn(2, 3, *SIZE) for _ in range(2)], 'minmax')
    network.simulate(True)
    model.train()
    numbers, total = losses_of(model, SIZE)
    total.backward()
    assert {'decode_0.loss_ce', 'decode_1.loss_ce', 'aux.loss_ce'} < set(numbers)
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    network.observe(False)
    model.eval()
    flat = converted_network(model, convert(network))
    assert flat.names == ('decode_head',)
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        assert flat(image)[0].shape == (1, 5, 16, 32)
    for name in ('onnxruntime', 'openvino'):
        content = onnx.load_from_string(onnx_of(flat, image, False, None))
        layers = verify.check_layers(engine_of(name), content, traceable(flat), image.numpy())
        assert layers and not verify.failed_layers(layers, engine_of(name).layer_share), name
    batch = random_batch(model, SIZE, False)
    with attached(model, lambda images: (flat(images)[0], [None, None])), torch.no_grad():
        samples = model.predict(batch['inputs'], batch['data_samples'])
    assert [sample.seg_logits.shape for sample in samples] == [SIZE] * 2


def test_a_head_that_chooses_what_it_reads_is_refused():
    message = r'^CascadeEncoderDecoder has the decode head PointHead behind another one, whose own loss and predict '
    with pytest.raises(UnsupportedModelError, match=message):
        prepare_model(cascade(PLAIN, POINTS))
