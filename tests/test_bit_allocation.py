"""Bits layer by layer: the integer program against brute force, the errors against torch alone, and the tool."""

import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from segmenter_parts import EspParts, GateParts, settled
from test_analysis import CLASSES, CONFIG
from test_scheme import check_converted, prepared
from test_weight_bits import Stack
from tiny_segmenter import images
from torch.nn import functional

from frostnet_mm.apis.evaluation import configure_execution
from frostnet_mm.apis.qat_config import settings_of, write_with_bits
from frostnet_mm.device.description import deployed_weight_bits
from frostnet_mm.engine.config import load_config
from frostnet_mm.models import CheckpointError
from frostnet_mm.models.dense import DenseNetwork, detached
from frostnet_mm.quantization import (
    Checkpoint,
    QATHook,
    QuantizationError,
    QuantizationSettings,
    Scheme,
    bit_allocation,
    prepare_model,
)
from frostnet_mm.quantization.bit_allocation import compare, measure, weight_layers, with_bits
from frostnet_mm.quantization.bit_allocation_program import Budget, allocate
from frostnet_mm.quantization.report import weight_megabytes

# -- the integer program


@pytest.mark.parametrize('seed', range(12))
def test_the_program_finds_what_brute_force_finds(seed):
    """Errors over six orders of magnitude, layers of very different sizes, budgets from tight to loose."""
    rng = np.random.default_rng(seed)
    choices = (8, 6, 4, 3)
    counts = [int(n) for n in rng.integers(10, 200_000, 5)]
    errors = [{b: float(rng.uniform(0.5, 2) * 10 ** rng.uniform(-4, 1) * 4.0**-b) for b in choices} for _ in counts]
    for share in (0.4, 0.55, 0.7, 0.95):
        budget = int(share * 8 * sum(counts))
        fitting = [
            (sum(row[b] for row, b in zip(errors, bits, strict=True)), bits)
            for bits in itertools.product(choices, repeat=5)
            if sum(n * b for n, b in zip(counts, bits, strict=True)) <= budget
        ]
        found = allocate(counts, errors, budget)
        assert sum(n * b for n, b in zip(counts, found, strict=True)) <= budget
        assert sum(row[b] for row, b in zip(errors, found, strict=True)) == pytest.approx(min(fitting)[0], rel=1e-6)


def test_bits_that_bring_nothing_are_not_spent_and_nothing_fits_into_too_little():
    assert allocate([10, 10], [{8: 0.0, 4: 0.0}, {8: 1e-9, 4: 2e-9}], 1000) == [4, 8]
    assert allocate([10, 10], [{8: 0.0, 4: 0.0}, {8: 0.0, 4: 0.0}], 1000) == [4, 4]
    with pytest.raises(QuantizationError, match='budget of 79 bits was given; the fewest .*: 80'):
        allocate([10, 10], [{8: 0.0, 4: 1.0}] * 2, 79)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('size=0.6', 4800),
        ('size=60%', 4800),
        ('bits=5.5', 5500),
        ('size=0.001MB', 7000),  # 8000 bits for all, of which 1000 are taken
        ('size=1KB', 7000),
    ],
)
def test_budgets_in_bits(text, expected):
    assert Budget.parse(text).weight_bits(1000, 1000) == expected


@pytest.mark.parametrize('text', ['0.6', 'size=1.2', 'size=0', 'bits=9', 'bits=5MB', 'size=-1MB', 'size=0MB', 'time=3'])
def test_other_budgets_are_refused(text):
    with pytest.raises(QuantizationError, match=f'--budget {text} was given; expected size=0.6'):
        Budget.parse(text)


# -- what is measured


def rounded(weight, bits, factor=None):
    """A weight rounded by hand: a scale a channel, or with the factor of its norm one a tensor of the folded weight."""
    largest = 2 ** (bits - 1) - 1
    if factor is None:
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / largest
        return (weight / scale).round() * scale
    folded = weight * factor.view(-1, 1, 1, 1)
    scale = folded.abs().max() / largest
    return (folded / scale).round() * scale / factor.view(-1, 1, 1, 1)


@pytest.mark.parametrize('granularity', ['channel', 'tensor'])
def test_the_error_of_one_layer_by_torch_alone(granularity):
    model, network = settled(Stack, weights=granularity)
    found = measure(network, (4, 8), [images(5), images(6)])
    conv, norm = model.backbone.stem, model.backbone.stem_norm
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach() if granularity == 'tensor' else None
    exact = conv.weight.detach().clone()
    runs = []
    with torch.no_grad(), detached(model):
        for weight in (exact, rounded(exact, 4, factor)):
            conv.weight.copy_(weight)
            runs.append(torch.stack([DenseNetwork(model).eval()(images(seed))[0] for seed in (5, 6)]).double())
        conv.weight.copy_(exact)
    expected = float(((runs[1] - runs[0]) ** 2).sum() / (runs[0] ** 2).sum())
    (index,) = (i for i, layer in enumerate(found.layers) if layer.name == 'backbone.stem')
    assert found.errors[index][4] == pytest.approx(expected, rel=1e-3) and expected > 1e-6
    assert found.errors[index][8] < found.errors[index][4]


def test_counts_and_sizes_by_hand_and_the_network_is_left_as_it_was():
    _, network = settled(GateParts)
    before = [(module.quant_max, module.simulating) for module in network.weights()]
    x = images(1)
    expected = network.flat(x)[0]
    found = measure(network, (8, 4), [x])
    assert [(layer.name, layer.count) for layer in found.layers] == [
        ('backbone.stem', 16 * 3 * 9),
        ('backbone.deep', 24 * 16 * 9),
        ('backbone.aspp', 24 * 8),
        ('backbone.gate', 24 * 8),
        ('backbone.skip', 16 * 8),
        ('decode_head.convs.0.conv', 8 * 8 * 9),
        ('decode_head.conv_seg', 8 * 5),
    ]
    assert [(module.quant_max, module.simulating) for module in network.weights()] == before
    assert torch.equal(network.flat(x)[0], expected)
    total = 432 + 3456 + 192 + 192 + 128 + 576 + 40
    bits = found.within(Budget.parse('size=0.6'))
    assert found.size(bits) == sum(c * b for c, b in zip((432, 3456, 192, 192, 128, 576, 40), bits, strict=True))
    assert found.size(bits) <= 0.6 * 8 * total and set(bits) == {4, 8}
    with pytest.raises(QuantizationError, match=r'--budget bits=3.9 was given; .* possible are bits=4 to bits=8\.'):
        found.within(Budget.parse('bits=3.9'))


class Tied(GateParts):
    """Two convolutions of one weight, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.twin = torch.nn.Conv2d(24, 8, 1)
        self.twin.weight = self.aspp.weight

    def forward(self, x):
        y = functional.relu(self.deep(functional.relu(self.stem(x))))
        return (self.aspp(y) + self.twin(y) + self.gate(y) + self.gate(functional.relu(y - 1)),)


def test_a_shared_weight_is_one_layer_and_overrides_are_kept(monkeypatch):
    scheme = Scheme(overrides={'backbone.deep': 5, 'decode_head': 'float'})
    network = prepared(Tied, scheme, monkeypatch)
    layers = weight_layers(network)
    assert [(layer.name, layer.count, layer.fixed) for layer in layers] == [
        ('backbone.stem', 432, None),
        ('backbone.deep', 3456, 5),
        ('backbone.aspp', 192, None),
        ('backbone.gate', 192, None),
    ]
    found = measure(network, (8, 2), [images(1)])
    assert [sorted(row) for row in found.errors] == [[2, 8], [5], [2, 8], [2, 8]]
    new = with_bits(scheme, found.layers, [8, 5, 2, 8])
    network = prepared(Tied, new, monkeypatch)
    assert {m.name: m.quant_max for m in network.weights()} == {
        'backbone.stem.weight': 127,
        'backbone.deep.weight': 15,
        'backbone.twin.weight': 1,
        'backbone.gate.weight': 127,
    }
    with pytest.raises(QuantizationError, match='overrides of the config give bits to all layers already'):
        measure(network, (8, 2), [images(1)])


def trained():
    """A segmenter that has learned to tell bright from dark."""
    model, network = settled(EspParts)
    with detached(model):
        dense = DenseNetwork(model).train()
        optimizer = torch.optim.Adam(dense.parameters(), 0.01)
        for step in range(60):
            x = functional.interpolate(images(step)[:, :, ::8, ::8], (32, 48))
            target = (x.mean(1)[:, ::2, ::2] * 2).round().clamp(-2, 2).long() + 2
            loss = functional.cross_entropy(dense(x)[0], target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    return network.eval()


def test_mixed_bits_have_less_error_than_the_same_everywhere():
    network = trained()
    batches = [functional.interpolate(images(100 + i)[:, :, ::8, ::8], (32, 48)) for i in range(4)]
    choices = (8, 6, 5, 4, 3, 2)
    found = measure(network, choices, batches)
    points = compare(network, found, found.within(Budget.parse('bits=4')), choices, batches)
    uniform = {point['bits']: point for point in points['uniform']}
    chosen = points['chosen']
    assert chosen['megabytes'] <= uniform[4]['megabytes'] and chosen['error'] < 0.8 * uniform[4]['error']
    assert [point['error'] for point in points['uniform']] == sorted(point['error'] for point in points['uniform'])
    for point in points['mixed']:
        same = uniform.get(round(point['bits']))
        assert same is None or point['megabytes'] > same['megabytes'] or point['predicted'] <= same['predicted']


@pytest.mark.parametrize('granularity', ['channel', 'tensor'])
def test_mixed_bits_are_converted_as_they_are_simulated_and_fit(granularity, monkeypatch):
    network = prepared(EspParts, Scheme(weight_granularity=granularity), monkeypatch)
    found = measure(network, (8, 7, 5, 4, 2), [images(1)])
    budget = (found.others + 5.3 * sum(found.counts)) / 8e6
    bits = found.within(Budget.parse(f'size={budget:.7f}MB'))
    assert len(set(bits)) > 2
    network = prepared(EspParts, with_bits(network.scheme, found.layers, bits), monkeypatch)
    assert 0.9 * budget < weight_megabytes(network) <= budget
    check_converted(network)


# -- overrides as an option


def test_the_hook_takes_overrides():
    hook = QATHook(weight_bits=4, float_modules=['neck'], overrides={'backbone.stages.0': dict(bits=8), 'head': 7})
    scheme = hook.settings.scheme
    assert scheme == Scheme(weight_bits=4, overrides={'backbone.stages.0': 8, 'head': 7, 'neck': 'float'})
    assert scheme.precision_of(['backbone.stages.0.conv']) == 8 and scheme.precision_of(['backbone.stages.1']) == 4
    assert Scheme.from_dict(scheme.to_dict()) == scheme
    assert scheme.most_weight_bits == 8 == deployed_weight_bits(dict(precision='int8', numerics=scheme.to_dict()))
    # where sums saturate, no layer may have more than 7
    assert scheme.with_weights(bits=7).bit_overrides == {'backbone.stages.0': 7, 'head': 7}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(overrides={'neck': 9}), r"overrides\['neck'\]=9 was given, expected 2 to 8"),
        (dict(overrides={'neck': dict(bit=8)}), r"overrides\['neck'\]={'bit': 8} was given; expected dict\(bits=…\)"),
        (dict(overrides=['neck']), r"overrides=\['neck'\] was given; expected bits by module"),
        (dict(overrides={'neck': 8}, float_modules=['neck']), "float_modules and overrides were both given for 'neck'"),
        (dict(overrides={'neck': 8}, scheme=dict(numerics='onnx')), 'scheme and overrides were both given'),
    ],
)
def test_wrong_overrides(options, message):
    with pytest.raises(QuantizationError, match=message):
        QATHook(**options)


def test_ranges_belong_to_any_bits_unless_scales_were_trained():
    _, network = settled(GateParts)
    for learned in (False, True):
        shape = dict(learned_scales=learned, example_shape=(2, 3, 32, 48))
        written = Checkpoint({}, 'last.pth')
        written.quantize(network, QuantizationSettings.of(**shape), 'QAT')
        mixed = QuantizationSettings.of(overrides={'backbone.deep': 4}, **shape)
        if learned:
            with pytest.raises(CheckpointError, match=r'QATHook\(overrides=None\)'):
                written.check(network, mixed)
        else:
            written.check(network, mixed)


def test_evaluation_takes_the_bits_of_the_checkpoint():
    _, network = settled(GateParts)
    for mixed in ({'backbone.deep': 4}, {}):
        written = Checkpoint({}, 'last.pth')
        written.quantize(network, QuantizationSettings.of(overrides=mixed, float_modules=['neck']), 'QAT')
        own = dict(type='frostnet_mm.QATHook', overrides={'backbone.stem': dict(bits=3), 'neck': 'float'})
        cfg = Config(dict(default_hooks=dict(qat=own)))
        configure_execution(cfg, written, 'simulated')
        assert settings_of(cfg).scheme == Scheme(overrides=mixed | {'neck': 'float'})


# -- the tool


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A float config with a checkpoint, and a config with a QATHook over it."""
    folder = tmp_path_factory.mktemp('allocated')
    (folder / 'config.py').write_text(CONFIG)
    hook = "dict(type='frostnet_mm.QATHook', weights='tensor', warmup=0, example_shape=(2, 3, 288, 416), overrides={})"
    pinned = hook.replace('{}', "{'bbox_head': dict(bits=8)}")
    (folder / 'qat.py').write_text(f"_base_ = './config.py'\ndefault_hooks = dict(qat={pinned})\n")
    (folder / 'listed.py').write_text(f"_base_ = './config.py'\ncustom_hooks = [{hook}]\n")
    cfg = load_config(folder / 'config.py', classes=CLASSES)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=model.state_dict()), folder / 'float.pth')
    return folder


def allocate_tool(folder, config, data, *args):
    fixed = ('--num-images', 2, '--device', 'cpu', '--choices', 8, 4)
    return run_tool(
        'allocate_bits', folder / config, folder / 'float.pth', *args, *fixed, '--cfg-options', f'data_root={data}'
    )


def megabytes(path):
    """What the network of a written config takes, by its own report."""
    cfg = load_config(path, classes=CLASSES)
    init_default_scope('mmdet')
    settings = settings_of(cfg)
    return weight_megabytes(prepare_model(MODELS.build(cfg.model), settings)), settings.scheme


def test_tool_writes_a_config_that_keeps_the_hook_and_calibrates(folder, mini_coco, capsys):
    out = folder / 'mixed.py'
    assert allocate_tool(folder, 'qat.py', mini_coco, '--budget', 'size=0.7', '--out', out) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.with_suffix('.json').read_text())
    hook = load_config(out, classes=CLASSES).default_hooks.qat
    assert (hook.type, hook.weights, hook.warmup) == ('frostnet_mm.QATHook', 'tensor', 0)
    size, scheme = megabytes(out)
    layers = content['layers']
    weights = sum(layer['weights'] for layer in layers)
    assert sum(layer['weights'] * layer['bits'] for layer in layers) <= 0.7 * 8 * weights
    assert size == pytest.approx(content['chosen']['megabytes'], rel=1e-9)
    assert all(scheme.precision_of([layer['name']]) == layer['bits'] for layer in layers)
    assert {layer['bits'] for layer in layers} == {4, 8}
    assert all(layer['bits'] == 8 and layer['fixed'] for layer in layers if layer['name'].startswith('bbox_head'))
    assert all(f'\n{layer["name"]} ' in printed for layer in layers) and 'tools/train.py' in printed
    assert cv2.imread(str(out.with_suffix('.png'))).std() > 10
    options = '--cfg-options', f'data_root={mini_coco}', 'test_dataloader.num_workers=0'
    options += ('test_dataloader.persistent_workers=False',)
    int8 = folder / 'int8.pth'
    assert run_tool('calibrate', out, folder / 'float.pth', '--out', int8, '--num-images', 2, *options) == 0
    assert Checkpoint.open(int8).scheme == scheme
    assert run_tool('test', out, int8, '--work-dir', folder / 'work', *options) == 0


def test_what_was_measured_serves_another_budget(folder, mini_coco, capsys, monkeypatch):
    first, anew, taken = (folder / f'{name}.py' for name in ('first', 'anew', 'taken'))
    for out, budget in ((first, 'size=0.7'), (anew, 'size=0.8')):
        assert allocate_tool(folder, 'qat.py', mini_coco, '--budget', budget, '--out', out) == 0
    measured = '--measured', first.with_suffix('.json')
    with monkeypatch.context() as patch:
        patch.setattr(bit_allocation, 'measure', None)
        assert allocate_tool(folder, 'qat.py', mini_coco, '--budget', 'size=0.8', '--out', taken, *measured) == 0
    one, other = (json.loads(path.with_suffix('.json').read_text()) for path in (anew, taken))
    assert one['layers'] == other['layers'] and one['chosen'] == other['chosen']
    capsys.readouterr()
    broken = folder / 'broken.json'
    content = json.loads(first.with_suffix('.json').read_text())
    renamed = [content['layers'][0] | dict(name='x'), *content['layers'][1:]]
    for text, words in (
        ('{', 'cannot be taken over: Expecting property name'),
        ('[]', 'cannot be taken over'),
        (json.dumps(content | dict(images=3)), 'images is 3, now 2'),
        (json.dumps(content | dict(sha256='0')), 'sha256 is 0, now'),
        (json.dumps(content | dict(choices=[8, 5])), 'choices is [8, 5], now [8, 4]'),
        (json.dumps(content | dict(layers=renamed)), "it is of another network: there is ('x', "),
        (json.dumps(content | dict(layers=None)), 'it holds no errors of layers'),
    ):
        broken.write_text(text)
        more = '--out', folder / 'never.py', '--measured', broken
        assert allocate_tool(folder, 'qat.py', mini_coco, '--budget', 'size=0.8', *more) == 2
        printed = capsys.readouterr().err
        assert printed.count('\nerror: ') == 1 and words in printed and 'leave it out' in printed
    assert not (folder / 'never.py').exists()


@pytest.mark.slow
def test_tool_takes_a_float_config_and_hooks_in_a_list(folder, mini_coco):
    out = folder / 'from_float.py'
    how = ('--out', out, '--numerics', 'executorch', '--example-shape', 288, 416)
    assert allocate_tool(folder, 'config.py', mini_coco, '--budget', 'size=0.001MB', *how) == 2  # even 4 bits take more
    assert not out.exists()
    assert allocate_tool(folder, 'config.py', mini_coco, '--budget', 'bits=5', *how) == 0
    assert settings_of(load_config(out, classes=CLASSES)).scheme.name == 'executorch'
    out = folder / 'from_list.py'
    assert allocate_tool(folder, 'listed.py', mini_coco, '--budget', 'bits=5', '--out', out) == 0
    (hook,) = load_config(out, classes=CLASSES).custom_hooks
    assert hook.weights == 'tensor' and len(hook.overrides) > 5


def test_tool_refuses_with_one_message(folder, mini_coco, capsys):
    (folder / 'there.py').write_text('')
    for arguments, words in (
        (('--budget', 'size=0.6', '--out', folder / 'there.py'), 'there.py exists already; give --overwrite'),
        (('--budget', 'size=0.6', '--out', folder / 'new.txt'), 'expected the name of a .py config'),
        (('--budget', 'size=0.6', '--out', folder / 'qat.py'), 'is the config itself'),
        (('--budget', 'half', '--out', folder / 'new.py'), '--budget half was given; expected size=0.6'),
    ):
        assert allocate_tool(folder, 'qat.py', mini_coco, *arguments) == 2
        printed = capsys.readouterr().err
        assert printed.count('\nerror: ') == 1 and words in printed and 'Traceback' not in printed
    assert not (folder / 'new.py').exists() and (ROOT / 'tools/allocate_bits.py').is_file()


def test_a_config_that_would_be_read_otherwise_replaces_nothing(tmp_path):
    (tmp_path / 'base.py').write_text(
        "default_hooks = dict(qat=dict(type='frostnet_mm.QATHook', numerics='executorch'))\n"
    )
    out = tmp_path / 'mixed.py'
    out.write_text('# of before\n')
    base = str(tmp_path / 'base.py')
    with pytest.raises(AssertionError, match='mixed.py would be read with another arithmetic'):
        write_with_bits(base, Config.fromfile(base), Scheme(overrides={'backbone': 4}), {}, out, [], {})
    assert out.read_text() == '# of before\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['base.py', 'mixed.py']
