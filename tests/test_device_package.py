"""The package that deployments hold: the face beside it, folders of several versions, deployments of before."""

import ast
import importlib.util
import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from frostnet_mm import device
from frostnet_mm.deploy.deploy import copy_device
from frostnet_mm.device import DeploymentError, Predictor, check_deployment, predictor, read_deployment

PACKAGE = Path(device.__file__).parent
GOLDEN = ROOT / 'tests/golden/deployment'


def load(path, name):
    """A module of a file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def forget():
    """Take what a test loads out of ``sys.modules`` again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith('frostnet_device'):
            del sys.modules[name]


@pytest.fixture
def golden(tmp_path):
    """A deployment of before with the package of now."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / 'golden'))
    copy_device(folder)
    return folder


def run(*arguments, cwd=None):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=100)


# -- the files


def test_the_package_imports_nothing_of_the_rest():
    """Of others NumPy and, within functions, engines and decoders of images; every file is short."""
    files = sorted(PACKAGE.rglob('*.py'))
    assert len(files) >= 19
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) <= 400, file
        depth = len(file.relative_to(PACKAGE).parts)
        tree = ast.parse(text)
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f'{file}: an import from above the package'
                names = [] if node.level else [node.module]
            foreign = {name.partition('.')[0] for name in names} - set(sys.stdlib_module_names)
            assert foreign <= {'numpy'}, f'{file} imports {foreign}'
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth and (node.level or not node.module.startswith('frostnet_mm')), file


def test_public_names_of_the_single_file_are_still_there():
    old = load(GOLDEN / 'predictor.py', 'old_predictor')
    own = {name for name, value in vars(old).items() if not name.startswith('_') and not inspect.ismodule(value)}
    own = {name for name in own if getattr(vars(old)[name], '__module__', old.__name__) == old.__name__}
    own -= {'ENGINES'}  # a table of the file's own functions: engines.find() has taken its place
    assert {'Predictor', 'decode', 'nms', 'exact_session', 'sums_overflow', 'OverflowWarning', 'main'} <= own
    assert {name for name in own if not hasattr(predictor, name)} == set()
    for name in ('read_image', 'preprocess', 'open_network', 'read_deployment', 'DeploymentError', 'Detections'):
        assert getattr(predictor, name) is getattr(device, name)


# -- deployments of before


def test_a_deployment_of_before_runs_in_the_package_of_now():
    outputs = check_deployment(GOLDEN)
    assert len(outputs) == 8 and all(output.passed for output in outputs)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    old = load(GOLDEN / 'predictor.py', 'old_predictor')
    expected, found = (kind(GOLDEN, score_threshold=0.02).predict(image) for kind in (old.Predictor, Predictor))
    assert len(expected.boxes) > 5
    for name in ('boxes', 'scores', 'labels'):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_a_deployment_of_before_runs_by_itself():
    result = run(GOLDEN / 'predictor.py', '--check')
    assert result.returncode == 0, result.stderr
    assert 'onnxruntime computes on this machine what was deployed' in result.stdout
    assert not (GOLDEN / 'frostnet_device').exists()


# -- the face


def test_the_face_is_short():
    tree = ast.parse((PACKAGE / 'predictor.py').read_text())
    assert sum(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body) == 2
    assert tree.body[-1].end_lineno <= 70


def test_a_folder_runs_as_script_and_as_module(golden, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    result = run(golden / 'predictor.py', '--check', cwd=tmp_path / 'elsewhere')
    assert result.returncode == 0 and 'computes on this machine what was deployed' in result.stdout, result.stderr
    code = (
        'import sys; sys.path.insert(0, sys.argv[1])\n'
        'from predictor import Predictor, read_image, preprocess, decode, open_network, nms, DeploymentError\n'
        'import predictor\n'
        'print(Predictor.__module__, len(predictor.check_deployment(sys.argv[1])))\n'
        'print({"torch", "mmengine", "frostnet_mm"} & set(sys.modules))\n'
    )
    result = run('-c', code, golden, cwd=tmp_path / 'elsewhere')
    assert result.stdout.split('\n')[:2] == ['frostnet_device.pipeline 8', 'set()'], result.stderr
    assert run(golden / 'predictor.py', '--check', '--folder', GOLDEN).returncode == 0


def test_a_folder_runs_when_loaded_by_path(golden, forget, capsys):
    module = load(golden / 'predictor.py', 'any_name')
    assert module.main(['--check']) == 0
    assert 'computes on this machine what was deployed' in capsys.readouterr().out
    again = load(golden / 'predictor.py', 'other.name')
    assert again.Predictor is module.Predictor and module.Predictor is not Predictor
    for name in ('any', '__main__'):
        argv, sys.argv = sys.argv, ['predictor.py', '--check']
        try:
            if name == '__main__':
                with pytest.raises(SystemExit) as stop:
                    runpy.run_path(str(golden / 'predictor.py'), run_name=name)
                assert stop.value.code == 0
            else:
                assert runpy.run_path(str(golden / 'predictor.py'))['Predictor'] is module.Predictor
        finally:
            sys.argv = argv


def test_two_versions_in_a_process_do_not_mix(golden, tmp_path, forget):
    other = Path(shutil.copytree(golden, tmp_path / 'other'))
    file = other / 'frostnet_device' / 'errors.py'
    file.write_text(file.read_text() + "\nVERSION = 'other'\n")
    file = other / 'frostnet_device' / 'results.py'
    file.write_text(file.read_text().replace('class LabelMap:', 'class LabelMap:\n    version = "other"\n'))
    first, second = load(golden / 'predictor.py', 'first'), load(other / 'predictor.py', 'second')
    for module, folder in ((first, golden), (second, other)):
        assert Path(inspect.getfile(module.Predictor)).parent == folder / 'frostnet_device'
        assert Path(inspect.getfile(module.LabelMap)).parent == folder / 'frostnet_device'
        assert Path(inspect.getfile(type(module.engines.find('onnxruntime')))).is_relative_to(folder)
        assert module.Predictor(folder).network.description['engine'] == 'onnxruntime'
    assert hasattr(second.LabelMap, 'version') and not hasattr(first.LabelMap, 'version')
    assert first.DeploymentError is not second.DeploymentError
    with pytest.raises(second.DeploymentError, match='is no deployment'):
        second.Predictor(tmp_path)
    assert load(other / 'predictor.py', 'third').LabelMap is second.LabelMap


def test_left_over_modules_of_another_folder_are_not_taken(golden, monkeypatch, forget):
    """Such as after an import that failed."""
    stray = types.ModuleType('frostnet_device.results')
    monkeypatch.setitem(sys.modules, 'frostnet_device.results', stray)
    module = load(golden / 'predictor.py', 'beside')
    assert Path(inspect.getfile(module.Detections)).parent == golden / 'frostnet_device'


def test_a_package_that_cannot_be_imported_leaves_nothing_behind(golden, forget):
    broken = golden / 'frostnet_device' / 'results.py'
    text = broken.read_text()
    broken.write_text('raise RuntimeError("broken")\n')
    with pytest.raises(RuntimeError, match='broken'):
        load(golden / 'predictor.py', 'broken')
    broken.write_text(text)
    assert load(golden / 'predictor.py', 'mended').main(['--check']) == 0


def test_a_face_without_its_package_says_so(golden):
    shutil.rmtree(golden / 'frostnet_device')
    result = run(golden / 'predictor.py', '--check')
    message = rf'{golden / "frostnet_device"} is missing: predictor\.py runs with all .* Copy the whole folder again\.'
    assert result.returncode == 1 and re.fullmatch(f'error: {message}\n', result.stderr)
    with pytest.raises(ImportError, match=message):
        load(golden / 'predictor.py', 'alone')


def test_copies_have_the_package_alone(golden):
    files = {path.relative_to(golden / 'frostnet_device') for path in (golden / 'frostnet_device').rglob('*')}
    assert {path for path in files if path.suffix == '.py'} == {p.relative_to(PACKAGE) for p in PACKAGE.rglob('*.py')}
    assert not [path for path in files if path.name == '__pycache__' or 'test' in path.name]


# -- engines by file


def test_engines_are_found_by_file(golden, forget):
    module = load(golden / 'predictor.py', 'with_engines')
    assert module.engines.names() == ('executorch', 'inductor', 'onnxruntime', 'openvino', 'tensorrt')
    folder = golden / 'frostnet_device' / 'engines'
    text = (folder / 'onnxruntime.py').read_text()
    old, new = "name = module = package = 'onnxruntime'", "name, module, package = 'mine', 'onnxruntime', 'onnxruntime'"
    assert old in text
    (folder / 'mine.py').write_text(text.replace(old, new))
    (folder / 'empty.py').write_text('')
    assert 'mine' in module.engines.names() and module.engines.find('mine').name == 'mine'
    description = json.loads((golden / 'deploy.json').read_text())
    (golden / 'deploy.json').write_text(json.dumps(description | dict(engine='mine')))
    assert module.main(['--check']) == 0
    with pytest.raises(module.DeploymentError, match='file of the engine empty .* expected an object ENGINE in it'):
        module.engines.find('empty')
    with pytest.raises(DeploymentError, match='"engine" is \'mine\', expected one of executorch, inductor, onnx'):
        read_deployment(golden)  # not an engine of this installation


def test_engines_are_registered_by_plug_ins(monkeypatch):
    monkeypatch.setattr(device.engines, '_registered', {})

    class Plugin(device.engines.DeviceEngine):
        name = module = package = 'plugin'

        def open(self, path, description, threads=None):
            raise NotImplementedError

    device.engines.register(Plugin())
    assert device.engines.names() == ('executorch', 'inductor', 'onnxruntime', 'openvino', 'plugin', 'tensorrt')
    engine = device.engines.find('plugin')
    assert isinstance(engine, Plugin) and not engine.saturates(8) and engine.open_onnx(b'', 1) is None
    with pytest.raises(DeploymentError, match=r'needs plugin, which cannot be imported .*: pip install plugin'):
        engine.require()
    with pytest.raises(DeploymentError, match="plugin does not compute in 'bf16'; expected one of float, int8"):
        engine.precision_options('bf16')
    Plugin.name = ''
    with pytest.raises(DeploymentError, match='Plugin has no name'):
        device.engines.register(Plugin())
    with pytest.raises(DeploymentError, match="engine 'base' is not known; expected one of executorch"):
        device.engines.find('base')
