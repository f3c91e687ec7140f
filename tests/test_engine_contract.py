"""What holds for every engine that is registered."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import EXACT_BITS, ROOT
from segmenter_parts import settled
from tiny_segmenter import images
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy import engines
from frostnet_mm.deploy.deploy import copy_device
from frostnet_mm.deploy.engines import count_operators, engine_names, engine_of
from frostnet_mm.deploy.engines.base import time_whole
from frostnet_mm.deploy.flat_network import converted_network, traceable
from frostnet_mm.deploy.onnx.export import onnx_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.device import (
    DeploymentError,
    compare_outputs,
    open_network,
    saturation,
)
from frostnet_mm.device import engines as device_engines
from frostnet_mm.quantization import convert
from frostnet_mm.quantization.scheme import PRESETS

BUILT_IN = ('onnxruntime', 'openvino', 'executorch', 'inductor', 'tensorrt')
NAMES = (*engine_names(), 'dummy')
GOLDEN = ROOT / 'tests/golden'
SHAPE = (1, 3, 32, 48)


class Parts(nn.Module):
    """A dense, a depthwise and a 1x1 convolution: what every engine has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return (self.last(functional.relu(self.depthwise(functional.relu(self.stem(x))))),)


@lru_cache
def networks(preset):
    """The converted network, and a function of the same in float, made for a preset."""
    model, network = settled(Parts, numerics=preset, weight_bits=EXACT_BITS)

    def in_float(batch):
        network.simulate(False)
        return network.flat(batch)[:1]

    return converted_network(model, convert(network)), in_float


def describe(engine, folder, files, flat):
    """A deploy.json without decoding."""
    return dict(
        format=1,
        engine=engine.name,
        precision='int8',
        numerics=dict(weight_bits=EXACT_BITS),
        network=files[0],
        files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        task='segmentation',
        classes=['road'],
        palette=[],
        input=dict(name='images', shape=list(SHAPE), dtype='float32'),
        outputs=[dict(name=name) for name in flat.names],
        decoding=None,
        preprocessing=dict(
            resize=None, pad=None, size_divisor=1, bgr_to_rgb=True, mean=[0] * 3, std=[1] * 3, baked=False
        ),
    )


written = {}


@pytest.fixture(params=NAMES)
def engine(request):
    if request.param == 'dummy':
        request.getfixturevalue('dummy_engine')
    found = engine_of(request.param)
    try:
        found.require()
    except DeploymentError as error:
        pytest.skip(str(error))
    return found


@pytest.fixture
def case(engine, tmp_path_factory):
    """A network written for an engine; once each, for some compile it."""
    if engine.name not in written:
        folder = tmp_path_factory.mktemp(engine.name)
        flat, in_float = networks(engine.preset)
        files = engine.write(flat, images(7)[:1], folder)
        (folder / 'deploy.json').write_text(json.dumps(describe(engine, folder, files, flat)))
        written[engine.name] = SimpleNamespace(folder=folder, files=files, flat=flat, in_float=in_float)
    return written[engine.name]


# -- every engine


def test_built_in_engines_come_first():
    assert engine_names()[:5] == BUILT_IN and set(BUILT_IN) <= set(device_engines.names())


def test_it_says_what_it_is(engine, case):
    about = engine.describe()
    assert json.loads(json.dumps(about)) == about
    assert about['name'] == engine.name == engine.device.name and about['installed'] is True
    assert about['version'] == importlib.metadata.version(engine.device.package)
    assert about['presets'] == list(engine.presets) and set(engine.presets) <= set(PRESETS)
    assert {'float', 'int8'} <= set(engine.precisions) <= {'float', 'int8', 'bf16'}
    endings = [Path(file).suffix for file in case.files]
    assert endings == about['formats'] == list(engine.formats)


def test_its_file_for_devices_is_one_of_the_package_or_its_own(engine, tmp_path):
    copy_device(tmp_path, engine)
    copied = tmp_path / 'frostnet_device' / 'engines' / f'{engine.name}.py'
    source = engine.device_file or ROOT / f'frostnet_mm/device/engines/{engine.name}.py'
    assert (engine.device_file is None) == (engine.name in BUILT_IN)
    assert copied.read_text() == source.read_text()


def test_it_computes_what_was_trained(engine, case):
    batches = [images(seed)[:1] for seed in (7, 8)]
    network = open_network(case.folder, threads=1)
    found = [network(batch.numpy()) for batch in batches]
    assert all(np.array_equal(*pair) for pair in zip(found[0], network(batches[0].numpy()), strict=True))
    with torch.no_grad():
        expected, in_float = (
            [[value.numpy() for value in run(batch)] for batch in batches] for run in (case.flat, case.in_float)
        )
    (output,) = compare_outputs(case.flat.names, found, expected, in_float)
    assert output.passed and output.reference_error > 0
    network.close()
    with pytest.raises(DeploymentError, match='closed'):
        network(batches[0].numpy())


def test_it_counts_and_times(engine, case):
    inputs = [images(seed)[:1].numpy() for seed in range(3)]
    layers = engine.profile(case.folder, inputs, 1)
    counts = count_operators(layers)
    if engine.stand_in:  # of which the times would say nothing
        assert not layers
        return
    assert sum(counts.values()) == len(layers) > 0 and sum(layer.milliseconds for layer in layers) > 0
    assert sum(count for kind, count in counts.items() if kind.endswith(' int8')) >= 1
    if engine.profiles_operators:
        convolutions = [layer for layer in layers if 'conv' in layer.kind.lower() or 'MatMul' in layer.kind]
        assert len(convolutions) >= 3 and all(layer.milliseconds > 0 for layer in convolutions)
    precision, milliseconds = time_whole(case.folder, inputs, 1)
    assert precision == 'int8' and milliseconds > 0


def test_it_runs_onnx_or_says_that_it_reads_none(engine, tmp_path):
    flat, _ = networks('onnx')
    content, names = onnx_of(flat, images(7)[:1], False, None), list(flat.names)
    array = images(9)[:1].numpy()
    if not engine.reads_onnx:
        for call in (
            lambda: engine.run_onnx(content, array, names),
            lambda: engine.open_onnx(content, 1),
            lambda: engine.write_onnx(content, tmp_path),
        ):
            with pytest.raises(DeploymentError, match=f'{engine.name} reads no ONNX'):
                call()
        return
    (found,) = engine.run_onnx(content, array, names)
    with torch.no_grad():
        (expected,) = (value.numpy() for value in flat(torch.from_numpy(array)))
    step = (expected.max() - expected.min()) / 255
    assert np.abs(found - expected).mean() < step
    (tmp_path / 'network.onnx').write_bytes(content)
    for source in (content, str(tmp_path / 'network.onnx')):
        values = engine.open_onnx(source, 1)({'images': array})
        (value,) = values.values() if hasattr(values, 'values') else values
        assert np.abs(value - found).mean() < step
    with pytest.raises(DeploymentError, match="does not compute in 'fp4'; expected one of float, int8"):
        engine.open_onnx(content, 1, 'fp4')
    layers = verify.check_layers(engine, onnx.load_from_string(content), traceable(flat), array)
    assert len(layers) >= 3 and not verify.failed_layers(layers)


def test_it_computes_in_the_precisions_that_it_names(engine, case):
    for precision in engine.precisions:
        network = open_network(case.folder, threads=1, **engine.precision_options(precision))
        assert all(np.isfinite(value).all() for value in network(images(7)[:1].numpy()))
        if precision != 'int8' and not engine.stand_in:
            assert engine.profile(case.folder, [images(7)[:1].numpy()], 1, **engine.precision_options(precision))
    with pytest.raises(DeploymentError, match=f"{engine.name} does not compute in 'fp4'; expected one of float, int8"):
        engine.precision_options('fp4')


def test_it_refuses_what_it_does_not_do(engine, case, tmp_path, monkeypatch):
    wrong = next((preset for preset in PRESETS if not engine.accepts(preset)), 'tflite')
    with pytest.raises(
        DeploymentError,
        match=rf"last\.pth was quantized with numerics='{wrong}', which {engine.name} does not run; expected numerics="
        rf"'{engine.preset}'.*python tools/calibrate\.py CONFIG CHECKPOINT --numerics {engine.preset}",
    ):
        engine.check_preset(wrong, 'last.pth')
    assert engine.check_preset(engine.preset, 'last.pth') is None
    with pytest.raises(DeploymentError, match=rf"{engine.name} has no option \['speed'\], expected one of"):
        open_network(case.folder, speed=11)
    network = open_network(case.folder)
    with pytest.raises(DeploymentError, match=r'given float32 of shape \(1, 3, 16, 48\), it expects float32 of shape'):
        network(np.zeros((1, 3, 16, 48), np.float32))
    if not engine.dynamic_shapes:
        with pytest.raises(DeploymentError, match='give --shape instead of --dynamic'):
            engine.write(case.flat, images(7), tmp_path, dynamic=True)
    monkeypatch.setattr(engines.base, 'find_spec', lambda name: None)
    with pytest.raises(
        DeploymentError, match=rf'{engine.name} is not installed \(module .*pip install {engine.device.package}'
    ):
        engine.require()
    assert engine.describe()['installed'] is False


def test_its_sums_do_not_saturate_but_with_weights_of_8_bits_on_some_cpus(engine, monkeypatch):
    for saturates in (True, False, None):
        monkeypatch.setattr(saturation, 'cpu_saturates', lambda saturates=saturates: saturates)
        assert engine.saturates(None) is engine.saturates(7) is False
        assert engine.saturates(8) is (bool(saturates) and engine.name in ('openvino', 'inductor'))


SIGNALS = """
import signal, sys, threading
import numpy as np
from frostnet_mm.device import engines

run = [engines.find(sys.argv[1]).open_onnx(open(sys.argv[2], 'rb').read(), 1)]
if run[0] is None:
    sys.exit('reads no ONNX')
found = run[0](dict(x=np.full((1, 2), 3, np.float32)))
assert np.array_equal(np.asarray(list(found.values())[0] if hasattr(found, 'values') else found[0]), [[3, 3]])
del found
freed = threading.Thread(target=run.clear)  # as a server that loads another network does
freed.start(), freed.join()
came = []
signal.signal(signal.SIGINT, lambda *_: came.append('SIGINT'))
signal.raise_signal(signal.SIGINT)
print(came)
"""


@pytest.mark.parametrize('name', BUILT_IN)
def test_signals_arrive_behind_it(name, tmp_path):
    """OpenVINO leaves a signal stack behind that is no longer there: Ctrl-C would end in a crash."""
    x, y = (onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, [1, 2]) for key in 'xy')
    graph = onnx.helper.make_graph([onnx.helper.make_node('Relu', ['x'], ['y'])], 'graph', [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, tmp_path / 'relu.onnx')
    command = [sys.executable, '-c', SIGNALS, name, str(tmp_path / 'relu.onnx')]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    if 'reads no ONNX' in done.stderr:
        pytest.skip(f'{name} reads no ONNX')
    assert (done.returncode, done.stdout) == (0, "['SIGINT']\n"), done.stderr
