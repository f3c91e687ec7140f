"""The version guard: each rule on tables of versions, and the environment that the tests run in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from frostnet_mm import compat

ROOT = Path(__file__).resolve().parent.parent
FORKS = {
    'python': '3.11.7',
    'torch': '2.13.0+cpu',
    'torchao': '0.18.0',
    'setuptools': '84.2.1',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
}
OFFICIAL = {
    'python': '3.10.13',
    'torch': '2.1.2+cu121',
    'setuptools': '69.5.1',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
}


def problems(base, ops_error=None, **changes):
    """Find problems in a table; ``torch=None`` takes one out, underscores in names stand for hyphens."""
    table = {**base, **{name.replace('_', '-'): version for name, version in changes.items()}}
    return compat.find_problems(table, ops_error)


def only(found, fatal=True):
    assert len(found) == 1, [str(problem) for problem in found]
    assert found[0].fatal is fatal
    return found[0]


@pytest.mark.parametrize('table', [FORKS, OFFICIAL])
def test_tested_sets_have_no_problem(table):
    assert compat.find_problems(table) == []


@pytest.mark.parametrize(
    'missing',
    [['onedl_mmdetection'], ['onedl_mmsegmentation'], ['onedl_mmdetection', 'onedl_mmsegmentation'], ['setuptools']],
)
def test_mmdet_and_mmseg_may_each_be_missing(missing):
    assert problems(FORKS, **dict.fromkeys(missing)) == []


def test_supported_versions_are_the_pinned_ones():
    pins = dict(re.findall(r'^([\w-]+)==([\w.]+)', (ROOT / 'requirements.txt').read_text(), re.M))
    for name in ('torch', 'torchao', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'):
        tested, low, end = compat.SUPPORTED[name]
        assert tested == pins[name]
        assert compat._release(low) <= compat._release(tested)
        assert end is None or compat._release(tested) < compat._release(end)


@pytest.mark.parametrize(
    ('text', 'release'),
    [
        ('2.13.0+cpu', (2, 13)),
        ('2.2.0', (2, 2)),
        ('2.2', (2, 2)),
        ('2.0.0rc4', (2,)),
        ('82', (82,)),
        ('2.10.0a0+git1', (2, 10)),
    ],
)
def test_release(text, release):
    assert compat._release(text) == release


def test_nothing_installed_lists_all_three():
    found = compat.find_problems({'python': '3.11.7'})
    assert [problem.found for problem in found] == [
        'torch is not installed',
        'mmengine is not installed',
        'mmcv is not installed',
    ]
    assert found[0].fix == 'pip install torch==2.13.0'
    assert found[2].fix == 'pip install --no-build-isolation --no-cache-dir onedl-mmcv==2.3.6'


def test_old_torch():
    found = problems(OFFICIAL, torch='2.0.1+cu118')
    problem = only(found)
    assert problem.found == 'torch 2.0.1+cu118 is installed'
    assert problem.supported == 'torch >= 2.1 (tested: 2.13.0)'


def test_torch_older_than_the_forks_were_released_for_is_a_warning():
    assert 'torch 2.3.1 with onedl-mmcv 2.3.6' in only(problems(FORKS, torch='2.3.1', torchao=None), fatal=False).found
    assert problems(FORKS, torch='2.4.0', torchao=None) == []


@pytest.mark.parametrize(
    ('torch', 'torchao', 'bad'), [('2.5.1', None, False), ('2.6.0', None, True), ('2.13.0', '0.18.0', True)]
)
def test_official_mmengine_and_the_weights_only_default(torch, torchao, bad):
    found = problems(OFFICIAL, torch=torch, torchao=torchao)
    if not bad:
        assert found == []
        return
    problem = only(found)
    assert problem.found == f'mmengine 0.10.7, mmcv 2.1.0, mmdet 3.3.0, mmsegmentation 1.2.2 with torch {torch}'
    assert 'torch < 2.6' in problem.supported
    assert problem.fix == (
        'pip uninstall -y mmengine mmcv mmdet mmsegmentation && pip install --no-build-isolation --no-cache-dir '
        'onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1 onedl-mmsegmentation==1.4.2'
    )


def test_official_packages_on_the_fork_of_mmengine_with_new_torch_are_a_warning():
    table = {
        'torch': '2.13.0',
        'torchao': '0.18.0',
        'setuptools': '84.2.1',
        'onedl-mmengine': '0.10.12',
        'mmcv': '2.1.0',
    }
    assert only(compat.find_problems(table), fatal=False).found == 'mmcv 2.1.0 with torch 2.13.0'


@pytest.mark.parametrize(('setuptools', 'bad'), [('81.0.0', False), ('82.0.0', True), ('84.2.1', True)])
def test_official_mmengine_needs_pkg_resources(setuptools, bad):
    found = problems(OFFICIAL, setuptools=setuptools)
    assert len(found) == bad
    if bad:
        assert only(found).fix == 'pip install "setuptools<82"'
        assert f'mmengine 0.10.7 with setuptools {setuptools}' in str(found[0])


@pytest.mark.parametrize(
    ('changes', 'names'),
    [
        ({'mmcv': '2.2.0'}, ['mmdet', 'mmsegmentation']),
        ({'mmcv': '2.2.0', 'mmdet': None}, ['mmsegmentation']),
        ({'mmcv': None, 'onedl_mmcv': '2.3.6', 'torch': '2.5.1', 'mmsegmentation': None}, ['mmdet']),
    ],
)
def test_official_mmdet_and_mmseg_refuse_mmcv_2_2(changes, names):
    found = problems(OFFICIAL, **changes)
    assert [problem.found.split()[0] for problem in found] == names
    assert all('refuses mmcv >= 2.2' in problem.supported and problem.fatal for problem in found)


@pytest.mark.parametrize(
    ('changes', 'pair', 'reinstall'),
    [
        ({'mmcv': '2.1.0'}, 'onedl-mmcv 2.3.6 and mmcv 2.1.0', 'onedl-mmcv==2.3.6'),
        ({'mmengine': '0.10.7'}, 'onedl-mmengine 0.10.12 and mmengine 0.10.7', 'onedl-mmengine==0.10.12'),
        ({'mmdet': '3.3.0'}, 'onedl-mmdetection 3.5.1 and mmdet 3.3.0', 'onedl-mmdetection==3.5.1'),
        (
            {'mmsegmentation': '1.2.2'},
            'onedl-mmsegmentation 1.4.2 and mmsegmentation 1.2.2',
            'onedl-mmsegmentation==1.4.2',
        ),
        (
            {'mmpretrain': '1.2.0', 'onedl_mmpretrain': '1.3.6'},
            'onedl-mmpretrain 1.3.6 and mmpretrain 1.2.0',
            'onedl-mmpretrain',
        ),
    ],
)
def test_fork_and_official_package_at_once(changes, pair, reinstall):
    first = problems(FORKS, **changes)[0]
    assert first.fatal
    assert first.found == f'{pair} are both installed and overwrite each other'
    both = [words.split()[0] for words in pair.split(' and ')]
    # Removing one takes the other's files with it, so that the one to keep has to be installed again.
    assert first.fix.startswith(f'pip uninstall -y {" ".join(both)} && pip install ')
    assert first.fix.endswith(reinstall)


@pytest.mark.parametrize(
    ('changes', 'fatal'),
    [
        ({'onedl_mmengine': '0.9.0'}, True),
        ({'onedl_mmengine': '0.11.0'}, True),
        ({'onedl_mmcv': '2.2.9'}, True),
        ({'onedl_mmcv': '2.4.0'}, True),
        ({'onedl_mmdetection': '3.4.0'}, True),
        ({'onedl_mmsegmentation': '1.5.0'}, True),
        ({'torchao': '0.17.0'}, True),
        ({'torchao': '0.19.0'}, True),
        ({'python': '3.13.0'}, False),
    ],
)
def test_versions_outside_the_ranges(changes, fatal):
    problem = only(problems(FORKS, **changes), fatal)
    assert list(changes.values())[0] in problem.found


@pytest.mark.parametrize('torch', ['2.9.0', '2.13.0+cpu'])
def test_torchao_is_required(torch):
    problem = only(problems(FORKS, torchao=None, torch=torch), fatal=True)
    assert problem.found == 'torchao is not installed'
    assert problem.supported == 'torchao >= 0.18, < 0.19 (tested: 0.18.0)'
    assert problem.fix == 'pip install torchao==0.18.0'


def test_float_models_need_no_torchao_with_an_older_torch():
    assert problems(FORKS, torchao=None, torch='2.8.0') == problems(FORKS) == []
    problem = only(problems(FORKS, torch='2.8.0'), fatal=True)
    assert problem.fix == 'pip uninstall -y torchao' and 'torch >= 2.9' in problem.supported


def test_two_opencv_of_different_versions_are_a_warning():
    assert problems(FORKS, opencv_python='4.12.0.88', opencv_python_headless='4.12.0.88') == []
    problem = only(problems(FORKS, opencv_python='5.0.0.93', opencv_python_headless='4.12.0.88'), fatal=False)
    assert problem.fix.startswith('pip uninstall -y opencv-python opencv-python-headless && ')


def test_mmcv_without_operators():
    lite = only(problems(FORKS, onedl_mmcv=None, mmcv_lite='2.1.0', torch='2.5.1', torchao=None), fatal=True)
    assert lite.found == 'mmcv-lite 2.1.0 is installed'
    assert lite.fix.startswith('pip uninstall -y mmcv-lite && ')
    bare = only(problems(FORKS, "ModuleNotFoundError: No module named 'mmcv._ext'"))
    assert bare.found == 'onedl-mmcv 2.3.6 is installed without its compiled operators (mmcv._ext)'


def test_mmcv_compiled_for_another_torch():
    for text in (
        'ImportError: _ext.so: undefined symbol: _ZN3c10',
        'TypeError: nms(): incompatible function arguments.',
    ):
        problem = only(problems(FORKS, text))
        assert problem.found == f'the operators of onedl-mmcv 2.3.6 do not run with torch 2.13.0+cpu: {text}'
        assert problem.fix == (
            'pip uninstall -y onedl-mmcv && pip install --no-build-isolation --no-cache-dir onedl-mmcv==2.3.6'
        )


def test_missing_system_library_is_not_blamed_on_mmcv():
    problem = only(
        problems(FORKS, 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory')
    )
    assert problem.found.startswith('OpenCV does not load')
    assert 'opencv-python-headless' in problem.fix


def test_this_environment_passes():
    assert compat.operators_error() is None
    assert compat.find_problems(compat.installed_versions()) == []
    compat.check_environment()


def test_every_problem_is_listed_and_can_be_skipped(monkeypatch):
    table = {'torch': '2.0.0', 'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'setuptools': '84.2.1'}
    monkeypatch.setattr(compat, 'installed_versions', lambda: {**dict.fromkeys(compat.LOOKED_UP), **table})
    monkeypatch.delenv(compat.SKIP_VARIABLE, raising=False)
    with pytest.raises(compat.IncompatibleEnvironment) as caught:
        compat.check_environment()
    text = str(caught.value)
    for part in (
        '1. torch 2.0.0',
        '2. mmengine 0.10.7 with setuptools 84.2.1',
        '3. mmcv-lite',
        'make setup',
        'to mend: ',
    ):
        assert part in text
    assert isinstance(caught.value, ImportError)
    monkeypatch.setenv(compat.SKIP_VARIABLE, '1')
    with pytest.warns(UserWarning) as warned:
        compat.check_environment()
    assert len(warned) == 3


@pytest.fixture
def bare_mmcv(tmp_path):
    """A package in place of mmcv, without operators."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').touch()
    return package


def in_place_of_mmcv(package, code):
    """Run code in a process of its own; return its last line of output."""
    environment = dict(os.environ, PYTHONPATH=f'{package.parent}:{ROOT}')
    environment.pop(compat.SKIP_VARIABLE, None)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.splitlines()[-1]


def test_missing_operators_are_told_on_import_and_need_no_torch(bare_mmcv):
    assert compat.missing_operators() is None
    code = """
import sys
try:
    import frostnet_mm
except ImportError as error:
    print('without its compiled operators (mmcv._ext)' in str(error), {'torch', 'mmcv'} & set(sys.modules))
"""
    assert in_place_of_mmcv(bare_mmcv, code) == 'True set()'


def broken(package):
    """Give a package operators that cannot be loaded."""
    suffix = __import__('sysconfig').get_config_var('EXT_SUFFIX')
    (package / f'_ext{suffix}').write_bytes(b'not an extension')


@pytest.mark.parametrize(
    'first',
    [
        'from frostnet_mm import FrostNet',
        'from frostnet_mm.models.decode_heads import LRASPPHead',
        'from frostnet_mm.apis.model import load_model',
        'from frostnet_mm.engine.runner import build_runner; build_runner(None)',
    ],
)
def test_operators_that_do_not_load_are_told_before_anything_of_mm_fails(bare_mmcv, first):
    broken(bare_mmcv)
    code = f"""
from frostnet_mm.compat import IncompatibleEnvironment
try:
    {first}
except IncompatibleEnvironment as error:
    print([line for line in str(error).splitlines() if 'do not run with torch' in line and 'ImportError' in line])
"""
    assert in_place_of_mmcv(bare_mmcv, code).startswith("['1. the operators of onedl-mmcv 2.3.6 do not run with torch")


def test_operators_are_run_once(monkeypatch):
    calls = []
    monkeypatch.setattr(compat, 'operators_error', lambda: calls.append(1))
    compat.check_operators.cache_clear()
    compat.check_operators()
    compat.check_operators()
    assert calls == [1]


def test_extension_that_does_not_load_is_reported(tmp_path, bare_mmcv):
    """A real import of a broken extension module, in place of mmcv's."""
    broken(bare_mmcv)
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(tmp_path)!r})
spec = importlib.util.spec_from_file_location('compat', {compat.__file__!r})
module = sys.modules['compat'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.operators_error())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('ImportError: ')
    assert '_ext' in done.stdout
