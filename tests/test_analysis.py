"""What tools/analyze_quant.py says about each layer, against sums by hand and against layers made bad on purpose."""

import csv
import json
import math
from types import SimpleNamespace

import cv2
import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional

from frostnet_mm.engine.config import load_config
from frostnet_mm.quantization import DenseQuantizer, QuantizationError, QuantizedNetwork, RangeError
from frostnet_mm.quantization.analysis import ActivationStatistics, SignalToNoise, analyze
from frostnet_mm.quantization.calibration import calibrate
from frostnet_mm.quantization.checkpoint import CALIBRATED, Checkpoint
from frostnet_mm.quantization.fake_quantize import ActivationFakeQuantize
from frostnet_mm.quantization.prepare import prepare_model
from frostnet_mm.quantization.scheme import Scheme
from frostnet_mm.quantization.settings import QuantizationSettings

# Two stages of the backbone and two levels of the head: a capture takes 5 s in place of 20.
CONFIG = f"""
_base_ = {str(ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py')!r}
model = dict(
    backbone=dict(widen_factor=0.35, out_indices=(0, 1)),
    neck=None,
    bbox_head=dict(
        in_channels=(8, 16),
        anchor_generator=dict(strides=[4, 8], ratios=[[2, 3], [2, 3]], min_sizes=[20, 40], max_sizes=[40, 80]),
    ),
)
"""
CLASSES = ('disc', 'square', 'triangle', 'star', 'ring', 'cross')


def decibels(exact, rounded):
    exact, rounded = exact.detach().double(), rounded.detach().double()
    return 10 * math.log10(float((exact**2).sum() / ((exact - rounded) ** 2).sum()))


def random_images(count, height=96, width=128):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, height, width, generator=generator) for _ in range(count)]


# -- tensors


def quantizer(low, high, bits=8):
    module = ActivationFakeQuantize(Scheme())
    module.quant_min, module.quant_max = 0, 2**bits - 1
    module.observing = False
    module.set_range(low, high)
    return module


@pytest.mark.parametrize('bits', [4, 6, 8])
def test_uniform_noise_loses_6_decibels_a_bit(bits):
    module = quantizer(-1, 1, bits)
    statistics = ActivationStatistics(module)
    low, high = (edge * statistics.scale for edge in (statistics.first - 0.499, statistics.last + 0.499))
    torch.manual_seed(0)
    for _ in range(4):
        x = torch.empty(100_000).uniform_(low, high)
        statistics.update(x, module(x), x)
    report = statistics.report()
    assert report.sqnr == pytest.approx(20 * math.log10(2) * bits, abs=0.1)
    assert report.accumulated == report.sqnr
    assert (report.saturated, report.levels) == (0, 1)


def test_saturation_levels_and_noise_of_a_tensor_by_hand():
    module = quantizer(0, 255)  # a scale of 1
    statistics = ActivationStatistics(module)
    x = torch.tensor([-3.0, -0.25, 10.25, 10.5, 255.25, 260.0, 300.0])  # become 0, 0, 10, 10, 255, 255, 255
    statistics.update(x[:3], module(x[:3]), x[:3] + 1)
    statistics.update(x[3:], module(x[3:]), x[3:] + 1)
    report = statistics.report()
    assert report.saturated == pytest.approx(3 / 7)  # -3, 260 and 300; 255.25 is 255
    assert report.levels == 3 / 256
    noise = 3**2 + 0.25**2 + 0.25**2 + 0.5**2 + 0.25**2 + 5**2 + 45**2
    assert report.sqnr == pytest.approx(10 * math.log10(float((x**2).sum()) / noise))
    noise = 2**2 + 0.75**2 + 1.25**2 + 1.5**2 + 1.25**2 + 6**2 + 46**2
    assert report.accumulated == pytest.approx(10 * math.log10(float(((x + 1) ** 2).sum()) / noise))
    assert (report.low, report.high, report.scale, report.zero_point, report.dtype) == (0, 255, 1, 0, 'uint8')


def test_a_tensor_that_is_passed_on_with_its_scale_is_not_counted_twice():
    module = quantizer(0, 255)
    once, twice = ActivationStatistics(module), ActivationStatistics(module)
    x = torch.empty(1000).uniform_(0, 300)
    rounded = module(x)
    once.update(x, rounded, x)
    for entering in (x, rounded):
        twice.update(entering, module(entering), x)
    assert twice.report() == once.report()


def test_what_loses_nothing_is_infinite_and_what_was_zero_is_not():
    exact, dead = SignalToNoise(), SignalToNoise()
    exact.update(torch.ones(3), torch.ones(3))
    dead.update(torch.zeros(3), torch.ones(3))
    assert exact.decibels == math.inf
    assert -math.inf < dead.decibels < -100


# -- a network by hand


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.two = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = functional.avg_pool2d(functional.relu(self.norm(self.one(x))), 2)
        return self.two(torch.cat([functional.max_pool2d(x, 3, 1, 1), x], 1))  # with scales shared by several tensors


class Dense(nn.Module):
    """Stands in for a DenseNetwork."""

    head_name = 'head'

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = Head()
        nn.init.uniform_(self.head.norm.weight, -1.5, 1.5)
        nn.init.normal_(self.head.norm.running_mean)

    def forward(self, images):
        return (self.head(images),), []


@pytest.fixture(scope='module', params=['onnx', 'executorch'])
def small(request):
    dense = Dense().eval()
    network = QuantizedNetwork(dense, DenseQuantizer(Scheme.preset(request.param)), (2, 3, 40, 56)).eval()
    images = random_images(2, 24, 32)
    calibrate(network, images, 'average')
    return SimpleNamespace(head=dense.head, network=network, images=images, analysis=analyze(network, images))


def test_a_network_by_hand(small):
    head, network = small.head, small.network
    modules = {module.name: module for module in network.modules() if hasattr(module, 'name')}
    reports = {layer.name: layer for layer in small.analysis.layers}
    exact, entering, leaving = ([] for _ in range(3))
    with torch.no_grad():
        weight = modules['head.one.weight'](head.one.weight)
        for images in small.images:
            exact.append(functional.relu(head.norm(head.one(images))))
            rounded = functional.conv2d(modules['images'](images), weight, stride=2, padding=1)
            entering.append(functional.relu(head.norm(rounded)))
            leaving.append(modules['head.one.output'](head.norm(rounded)))
    exact, entering, leaving = (torch.cat(values) for values in (exact, entering, leaving))
    report = reports['head.one.output']
    assert modules['head.one.output'].rectified  # the reference lies behind the rectifier that the quantizer does
    assert report.sqnr == pytest.approx(decibels(entering, leaving), abs=0.01)
    assert report.accumulated == pytest.approx(decibels(exact, leaving), abs=0.01)
    assert report.accumulated < report.sqnr
    steps = (entering / report.scale).round()
    assert report.saturated == pytest.approx(float((steps > 255).float().mean()), abs=1e-4)
    report = reports['head.one.weight']
    assert report.sqnr == pytest.approx(decibels(head.one.weight, weight), abs=0.01)
    largest = head.one.weight.detach().abs().amax((1, 2, 3))
    assert report.scale_ratio == pytest.approx(float(largest.max() / largest.min()))
    assert report.shape == (6, 3, 3, 3)


def test_outputs_and_order_of_a_network(small):
    network = small.network
    with torch.no_grad():
        simulated = torch.cat([network.flat(images)[0] for images in small.images])
        network.simulate(False)
        exact = torch.cat([network.flat(images)[0] for images in small.images])
        network.simulate(True)
    (output,) = small.analysis.outputs
    assert (output.name, small.analysis.images) == ('head.0', 2)
    assert output.accumulated == pytest.approx(decibels(exact, simulated), abs=0.01)
    names = [layer.name for layer in small.analysis.layers]
    assert names[:3] == ['images', 'head.one.weight', 'head.one.output'] and names[-1] == 'head.two.weight'
    assert sorted(names) == sorted(module.name for module in (*network.activations(), *network.weights()))


def test_a_network_is_left_as_it_was_and_refused_where_figures_would_be_wrong(small):
    network = small.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.simulate(False)
    analyze(network, small.images)
    assert not network.simulating
    network.simulate(True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(QuantizationError, match='no image'):
        analyze(network, [])
    with pytest.raises(RangeError, match='images has values that are not finite'):
        analyze(network, [torch.full((1, 3, 24, 32), math.nan)])
    with pytest.raises(QuantizationError, match='training mode'):
        analyze(network.train(), small.images)
    network.eval()


def test_channels_of_zeros_do_not_count_as_small_scales(small):
    weight = small.head.two.weight.data
    before = weight.clone()
    try:
        weight[0], weight[1] = 0, 5 * weight[1:].abs().max()
        ratio = float(weight[1].max() / weight[2:].abs().amax((1, 2, 3)).min())
        report = next(r for r in analyze(small.network, small.images).layers if r.name == 'head.two.weight')
        assert report.scale_ratio == pytest.approx(ratio)
        weight.zero_()
        report = next(r for r in analyze(small.network, small.images).layers if r.name == 'head.two.weight')
        assert (report.scale_ratio, report.sqnr) == (None, math.inf)
    finally:
        weight.copy_(before)


def test_learned_scales_are_the_ones_that_count():
    network = QuantizedNetwork(Dense().eval(), DenseQuantizer(learned_scales=True), (2, 3, 40, 56)).eval()
    images = random_images(2, 24, 32)
    calibrate(network, images, 'minmax')
    network.start_learning()
    module = next(module for module in network.activations() if module.name == 'head.one.output')
    name, scale = module.name, module.calculate_qparams()[0].item()
    before, after = ({}, {})
    for reports in (before, after):
        reports.update({layer.name: layer for layer in analyze(network, images).layers})
        module.log_scale.data.sub_(math.log(4))
    assert after[name].scale == pytest.approx(scale / 4)
    assert after[name].high == pytest.approx(before[name].high / 4)
    assert after[name].saturated > 100 * before[name].saturated
    assert after[name].sqnr < before[name].sqnr - 10


# -- a detector of mm, and the tool


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """A detector with ranges, and its checkpoint."""
    folder = tmp_path_factory.mktemp('analyzed')
    (folder / 'config.py').write_text(CONFIG)
    cfg = load_config(folder / 'config.py', classes=CLASSES)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    settings = QuantizationSettings(example_shape=(2, 3, 288, 416))
    network = prepare_model(model.eval(), settings)
    calibrate(network, random_images(2), 'minmax')
    meta = dict(dataset_meta=dict(classes=CLASSES))
    checkpoint = Checkpoint(dict(meta=meta, state_dict=model.state_dict()), 'int8.pth')
    checkpoint.quantize(network, settings, CALIBRATED)
    torch.save(checkpoint.content, folder / 'int8.pth')
    floats = {key: value for key, value in model.state_dict().items() if not key.startswith('quantization.')}
    torch.save(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=floats), folder / 'float.pth')
    return SimpleNamespace(network=network, folder=folder)


@pytest.mark.parametrize('factor', [0.5, 20])
@pytest.mark.parametrize('name', ['backbone.stages.0.1.expand.conv.output', 'backbone.stages.0.2.project.conv.output'])
def test_a_layer_with_a_wrong_range_is_the_worst(detector, name, factor):
    module = next(module for module in detector.network.activations() if module.name == name)
    low, high = float(module.min_val), float(module.max_val)
    images = random_images(1)
    assert analyze(detector.network, images).worst(1)[0].name != name
    module.set_range(low * factor, high * factor)
    try:
        worst = analyze(detector.network, images).worst(2)
    finally:
        module.set_range(low, high)
    assert worst[0].name == name and worst[0].sqnr < worst[1].sqnr - 3
    assert worst[0].saturated > 0 if factor < 1 else worst[0].levels < 0.1


def analyze_tool(checkpoint, data, *args):
    config = checkpoint.with_name('config.py')
    return run_tool('analyze_quant', config, checkpoint, *args, '--cfg-options', f'data_root={data}')


def test_tool_writes_table_files_and_picture(detector, mini_coco, capsys):
    arguments = '--num-images', 3, '--split', 'val', '--device', 'cpu'
    assert analyze_tool(detector.folder / 'int8.pth', mini_coco, *arguments) == 0
    out = detector.folder / 'quantization'
    assert {path.name for path in out.iterdir()} == {'layers.csv', 'layers.json', 'layers.png'}
    content = json.loads((out / 'layers.json').read_text())
    assert (content['images'], content['split']) == (3, 'val')
    with open(out / 'layers.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['name'] for row in rows] == [entry['name'] for entry in content['layers'] + content['outputs']]
    assert {row['kind'] for row in rows} == {'activation', 'weight', 'output'}
    by_sqnr = sorted(content['layers'], key=lambda layer: float(layer['sqnr']))
    printed = capsys.readouterr().out
    assert f'20 of {len(content["layers"])} layers' in printed
    places = [printed.index(f'\n{layer["name"]} ') for layer in by_sqnr[:20]]
    assert places == sorted(places)
    assert f'\n{by_sqnr[25]["name"]} ' not in printed
    picture = cv2.imread(str(out / 'layers.png'))
    assert picture.std() > 10 and picture.shape[1] > 1000


def test_tool_refuses_what_it_cannot_analyze(detector, mini_coco, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    for checkpoint, arguments, words in (
        ('float.pth', (), 'is a float checkpoint: it has no activation ranges'),
        ('none.pth', (), 'none.pth does not exist'),
        ('int8.pth', ('--out', tmp_path / 'file'), 'is a file, expected a folder'),
    ):
        assert analyze_tool(detector.folder / checkpoint, mini_coco, *arguments) == 2
        printed = capsys.readouterr().err
        assert printed.count('\nerror: ') == 1 and words in printed and 'Traceback' not in printed
