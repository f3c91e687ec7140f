"""What an engine of another package goes through: deployed, verified, run by itself; found by name, or refused."""

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import EXACT_BITS, ROOT, run_tool

from frostnet_mm.deploy import engines
from frostnet_mm.deploy.deploy import DeployOptions, deploy
from frostnet_mm.deploy.engines import Engine, engine_names, engine_of
from frostnet_mm.deploy.verification import verify
from frostnet_mm.device import DeploymentError, SaturationWarning, read_deployment, saturation
from frostnet_mm.device import engines as device_engines

BUILT_IN = ('onnxruntime', 'openvino', 'executorch', 'inductor', 'tensorrt')
GOLDEN = ROOT / 'tests/golden'


@pytest.fixture
def config(tmp_path, engine_registry):
    """The small detector of before, which imports an engine."""
    path = tmp_path / 'detector_dummy.py'
    base = str(GOLDEN / 'detector.py')
    path.write_text(
        f"_base_ = [{base!r}]\ncustom_imports = dict(imports=['dummy_engine'], allow_failed_imports=False)\n"
    )
    return path


def run_check(folder, cwd):
    """``predictor.py --check`` in a process of its own; it imports neither torch nor mm nor this package."""
    code = (
        'import runpy, sys\n'
        'path = sys.argv.pop(1)\n'
        'try: runpy.run_path(path, run_name="__main__")\n'
        'except SystemExit as stop: assert not stop.code, stop\n'
        'foreign = {"torch", "mmcv", "mmengine", "mmdet", "frostnet_mm"} & set(sys.modules)\n'
        'assert not foreign, foreign\n'
    )
    command = [sys.executable, '-c', code, str(folder / 'predictor.py'), '--check']
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)


def test_an_engine_of_another_package_is_deployed(config, tmp_path):
    assert 'dummy' not in engine_names()
    out = tmp_path / 'out'
    description = deploy(config, GOLDEN / 'qat.pth', 'dummy', out, DeployOptions(weight_bits=EXACT_BITS))
    assert engine_names()[-1] == 'dummy'
    assert description['engine'] == 'dummy' and description['network'] == 'network.onnx'
    assert description['verification']['layers']['count'] > 20
    assert max(output['rms_steps'] for output in description['verification']['outputs']) < 2
    assert read_deployment(out) == description
    result = run_check(out, tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'dummy computes on this machine what was deployed' in result.stdout
    with pytest.raises(DeploymentError, match='"engine" is \'dummy\', expected one of executorch'):
        device_engines._registered.clear()
        read_deployment(out)  # a process that does not know it reads the folder with its own predictor.py


def test_decoding_is_appended_for_an_engine_of_another_package(config, tmp_path):
    options = DeployOptions(weight_bits=EXACT_BITS, decode=True, check=False, num_images=0)
    description = deploy(config, GOLDEN / 'qat.pth', 'dummy', tmp_path / 'out', options)
    assert [output['name'] for output in description['outputs']] == ['boxes', 'scores', 'labels']


def test_the_tool_takes_any_engine_that_is_registered(config, tmp_path, capsys):
    out = ('--out', tmp_path / 'out', '--weight-bits', EXACT_BITS)
    assert run_tool('deploy', config, GOLDEN / 'qat.pth', '--engine', 'dummy', *out) == 0
    assert 'operators in dummy' in capsys.readouterr().out
    assert run_tool('deploy', config, GOLDEN / 'qat.pth', '--engine', 'tflite', *out) == 2
    error = capsys.readouterr().err
    assert error.count('error:') == 1
    assert (
        "'tflite' is not known; expected one of onnxruntime, openvino, executorch, inductor, tensorrt, dummy." in error
    )


def test_what_an_engine_does_not_do_is_refused_before_it_is_written(config, tmp_path, dummy_engine, monkeypatch):
    kind, out = dummy_engine.DummyEngine, tmp_path / 'out'

    def deploy_with(**options):
        deploy(config, GOLDEN / 'qat.pth', 'dummy', out, DeployOptions(**options))

    monkeypatch.setattr(kind, 'write', lambda *args: pytest.fail('it was written'))
    with monkeypatch.context() as patch:
        patch.setattr(kind, 'reads_onnx', False)
        with pytest.raises(DeploymentError, match='dummy reads no ONNX.*leave --with-decode out'):
            deploy_with(decode=True)
    monkeypatch.setattr(dummy_engine.DummyDevice, 'precisions', {'float': {}})
    with pytest.raises(DeploymentError, match="dummy does not compute in 'int8'; expected one of float"):
        deploy_with()
    assert not out.exists()


class EntryPoint(SimpleNamespace):
    """Of an installed package."""

    def load(self):
        return self.result()


@pytest.fixture
def entry_points(engine_registry, monkeypatch):
    found = []
    monkeypatch.setattr(engines, 'entry_points', lambda group: found if group == 'frostnet_mm.engines' else [])
    engines._load_plugins.cache_clear()
    yield found
    engines._load_plugins.cache_clear()


def test_engines_are_known_by_entry_points(entry_points):
    calls = []

    def load():
        calls.append(1)
        return __import__('dummy_engine')

    entry_points.append(EntryPoint(name='dummy', value='dummy_engine', result=load))
    assert engine_names() == (*BUILT_IN, 'dummy') and engine_of('dummy').name == 'dummy' and len(calls) == 1
    assert device_engines.find('dummy') is engine_of('dummy').device


def test_an_entry_point_may_name_a_class(entry_points):
    class MyDevice(type(device_engines.find('onnxruntime'))):
        name = 'mine'

    class Mine(Engine):
        name, device = 'mine', MyDevice()

        def write(self, network, example, folder, dynamic=False, baked=None):
            raise NotImplementedError

    entry_points.append(EntryPoint(name='mine', value='package:Mine', result=lambda: Mine))
    assert engine_names() == (*BUILT_IN, 'mine') and isinstance(engine_of('mine'), Mine)

    assert device_engines.find('mine') is Mine.device and engine_of('mine').device_file == Path(__file__)
    Mine.device = device_engines.find('onnxruntime')
    with pytest.raises(DeploymentError, match="'mine' has a device called 'onnxruntime': expected the same name"):
        engine_of('mine')

    class Other(Mine):
        pass

    engines.ENGINES.register_module(module=Other)
    with pytest.raises(DeploymentError, match=r"Two engines are called 'mine': .*\.Mine and .*\.Other\. Give one"):
        engine_names()


def test_a_broken_entry_point_leaves_the_others(entry_points):
    def load():
        raise ImportError('no module named wonder')

    entry_points.append(EntryPoint(name='wonder', value='wonder.engine', result=load))
    with pytest.warns(UserWarning, match=r'engine wonder of another package \(wonder\.engine\) cannot be imported'):
        assert engine_names() == BUILT_IN
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # said once
        assert engine_of('onnxruntime').name == 'onnxruntime'
        with pytest.raises(
            DeploymentError, match="'wonder' is not known; .*ImportError: no module named wonder. Update"
        ):
            engine_of('wonder')


# -- saturation is spoken of once


@pytest.mark.parametrize('refused', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_saturation_is_said_once(tmp_path, monkeypatch, refused):
    """By the error where the verification refuses, else by one warning."""
    pytest.importorskip('openvino')
    for module in (saturation, verify):
        monkeypatch.setattr(module, 'cpu_saturates', lambda: True)
    if refused:
        monkeypatch.setattr(verify, 'failed_layers', lambda *args: [verify.LayerDifference('stem', 9, 100, 0.5)])
    else:  # also where it does saturate
        monkeypatch.setattr(verify, 'require_agreement', lambda *args: None)
    options = DeployOptions(weight_bits=8, num_images=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if refused:
            with pytest.raises(DeploymentError) as error:
                deploy(GOLDEN / 'detector.py', GOLDEN / 'qat.pth', 'openvino', tmp_path / 'out', options)
            assert str(error.value).count('has no VNNI') == 1
        else:
            deploy(GOLDEN / 'detector.py', GOLDEN / 'qat.pth', 'openvino', tmp_path / 'out', options)
    assert sum(w.category is SaturationWarning for w in caught) == (0 if refused else 1)
