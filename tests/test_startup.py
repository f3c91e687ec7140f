"""What is imported before anything is done: by the package, by --help, and by a wrong path; each in a fresh process."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

HEAVY = ('torch', 'mmcv', 'mmdet', 'mmseg', 'torchao', 'matplotlib', 'onnx', 'openvino', 'onnxruntime')
PROBE = """
import json, os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
status = 0
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as stop:
    status = stop.code
print()
print(json.dumps([status, sorted(name for name in sys.modules if '.' not in name)]))
"""
CONFIG, ABSENT = 'configs/ssdlite_frostnet_coco.py', 'configs/ssdlite_frostnt_coco.py'
SUGGESTION = 'Config configs/ssdlite_frostnt_coco.py does not exist. In configs there are: ssdlite_frostnet_coco.py'
CHECKPOINT = 'Checkpoint absent/none.pth does not exist; expected a file written by torch.save.'
# By tool: arguments with a path that does not exist, and the beginning of what is said; None without any path.
WRONG = {
    'allocate_bits': [
        ([ABSENT, 'none.pth', '--budget', 'size=0.6', '--out', 'absent.py'], SUGGESTION),
        ([CONFIG, 'absent/none.pth', '--budget', 'size=0.6', '--out', 'absent.py'], CHECKPOINT),
    ],
    'analyze_quant': [([ABSENT, 'none.pth'], SUGGESTION), ([CONFIG, 'absent/none.pth'], CHECKPOINT)],
    'benchmark': [([ABSENT], 'Config configs/ssdlite_frostnt_coco.py does not exist.')],
    'calibrate': [([ABSENT, 'none.pth'], SUGGESTION), ([CONFIG, 'absent/none.pth'], CHECKPOINT)],
    'convert_frostnet_weights': [(['absent/none.pth', 'out.pth'], CHECKPOINT)],
    'demo': [],
    'deploy': [
        ([ABSENT, 'none.pth', '--engine', 'openvino', '--out', 'absent'], SUGGESTION),
        ([CONFIG, 'absent/none.pth', '--engine', 'openvino', '--out', 'absent'], CHECKPOINT),
    ],
    'draw_segmentation': [([ABSENT, 'none.pth'], SUGGESTION), ([CONFIG, 'absent/none.pth'], CHECKPOINT)],
    'infer': [
        ([ABSENT, 'none.pth', 'images', '--out', 'absent'], SUGGESTION),
        ([CONFIG, 'absent/none.pth', 'images', '--out', 'absent'], CHECKPOINT),
    ],
    'make_mini_data': [],
    'new_config': [
        (['absent.py', '--data', 'absent', '--task', 'detection'], "Where are the data? 'absent' is no folder.")
    ],
    'plot_curves': [(['absent'], 'absent holds no */vis_data/scalars.json')],
    'prepare_cifar': [(['absent', '--out', 'absent'], "'absent' does not exist: expected cifar-10-python.tar.gz")],
    'prepare_cityscapes': [(['absent'], "The folder 'absent' does not exist.")],
    'prepare_coco': [(['absent'], "The folder 'absent' does not exist.")],
    'prepare_crops': [(['absent', '--out', 'absent'], "The folder 'absent' does not exist.")],
    'prepare_imagenet': [(['absent'], "The folder 'absent' does not exist.")],
    'search': [([ABSENT, '--out', 'absent'], SUGGESTION)],
    'swap_backbone': [
        ([ABSENT, '--out', 'absent.py'], SUGGESTION),
        (['mmdet::ssd/absent', '--out', 'absent.py'], 'Config '),
        (['absent::ssd', '--out', 'absent.py'], "Config absent::ssd: no package 'absent' is installed"),
        (
            [CONFIG, '--checkpoint', 'absent/none.pth', '--out', 'absent.py'],
            '--checkpoint absent/none.pth does not exist',
        ),
    ],
    'test': [([ABSENT, 'none.pth'], SUGGESTION), ([CONFIG, 'absent/none.pth'], CHECKPOINT)],
    'train': [([ABSENT], SUGGESTION), ([CONFIG, '--resume', 'absent/none.pth'], CHECKPOINT)],
    'studies/benchmark_gradboost': [([ABSENT], SUGGESTION)],
    'studies/benchmark_peak': [],
    'studies/benchmark_qat': [([ABSENT], SUGGESTION)],
    'studies/benchmark_rewrites': [(['--network', 'absent.onnx'], 'absent.onnx does not exist')],
    'studies/bits_study': [([ABSENT, 'none.pth'], SUGGESTION), ([CONFIG, 'absent/none.pth'], CHECKPOINT)],
    'studies/measure_models': [([CONFIG, ABSENT], SUGGESTION)],
    'studies/fuzz': [],
    'studies/kill_test': [],
    'studies/kill_tools': [],
    'studies/draw_seam': [],
    'studies/licences': [],
    'studies/memory': [],
    'studies/numerics_study': [([], '--detection-data, --segmentation-data, --classification-data: expected a folder')],
    'studies/profile_training': [([ABSENT], SUGGESTION)],
    'studies/qat_study': [([ABSENT], SUGGESTION)],
    'studies/search_ranking': [(['absent'], 'absent is no folder of tools/search.py')],
    'studies/serving': [(['absent', 'absent.png'], 'absent.png does not exist')],
    'studies/switch_study': [([ABSENT], SUGGESTION)],
    'studies/try_datasets': [(['absent'], "'absent' holds no folder in COCO's or Cityscapes' layout")],
    'studies/zoo': [(['--names', 'mmdet/absent'], '--names mmdet/absent: expected names of mmdet/')],
}


def python(*arguments):
    """Run Python in a process of its own; return what ended it and all that it printed."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def run_tool(name, *arguments):
    """Run a tool; return its exit status, its messages, and the heavy packages that it imported."""
    done = python('-c', PROBE, ROOT / 'tools' / f'{name}.py', *arguments)
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status, done.stdout + done.stderr, sorted(set(modules) & set(HEAVY))


def test_every_tool_is_listed():
    tools = {file.stem for file in (ROOT / 'tools').glob('*.py')}
    studies = {f'studies/{file.stem}' for file in (ROOT / 'tools/studies').glob('*.py')}
    assert {name for name in tools | studies if not name.split('/')[-1].startswith('_')} == set(WRONG)


def test_the_package_is_imported_without_heavy_packages():
    done = python('-c', 'import frostnet_mm, sys; print(*sys.modules)')
    assert done.returncode == 0, done.stderr
    assert 'frostnet_mm.registry' in done.stdout.split()
    assert set(done.stdout.split()) & set(HEAVY) == set()
    assert done.stderr == ''


@pytest.mark.parametrize('folder', ['tools', 'tools/studies'])
def test_a_tool_works_with_the_package_of_its_own_checkout(tmp_path, folder):
    """Whichever is installed, or found by PYTHONPATH first, as in a second checkout beside one environment."""
    own = tmp_path / 'checkout'
    (own / 'tools/studies').mkdir(parents=True)
    (own / 'frostnet_mm').mkdir()
    (own / 'frostnet_mm/__init__.py').write_text('print("its own")\n')
    for name in ('tools/_path.py', 'tools/studies/_tools.py'):
        (own / name).write_text((ROOT / name).read_text())
    first = '_path' if folder == 'tools' else '_tools'
    (own / folder / 'tool.py').write_text(f'import {first}\nimport frostnet_mm\n')
    done = python(own / folder / 'tool.py')
    assert (done.returncode, done.stdout) == (0, 'its own\n'), done.stderr


def test_data_sets_of_mm_are_imported_without_a_word_about_packages_that_nobody_asked_for():
    done = python('-c', 'import frostnet_mm, mmdet.datasets, mmseg.datasets')
    assert done.returncode == 0 and 'OneDL' not in done.stdout + done.stderr


@pytest.mark.parametrize('name', WRONG)
def test_help_needs_no_heavy_package(name):
    status, printed, heavy = run_tool(name, '--help')
    assert (status, heavy) == (0, [])
    assert 'usage:' in printed


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'), [(name, *case) for name, cases in WRONG.items() for case in cases]
)
def test_a_wrong_path_is_said_before_a_heavy_package_is_imported(name, arguments, message):
    status, printed, heavy = run_tool(name, *arguments)
    assert (status, heavy) == (2, [])
    assert f'\nerror: {message}' in printed and 'Traceback' not in printed


def test_the_probe_sees_heavy_packages(tmp_path):
    """The tests above can fail: a tool that imports torch first is found."""
    tool = tmp_path / 'tool.py'
    tool.write_text('import torch\nraise SystemExit(2)\n')
    done = python('-c', PROBE, tool)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 2 and 'torch' in modules


def test_packages_offer_their_names_lazily():
    code = """
import sys
import frostnet_mm
assert frostnet_mm.models.__all__ and 'FrostNet' in dir(frostnet_mm) and 'QATHook' in dir(frostnet_mm.quantization)
assert 'torch' not in sys.modules
try:
    frostnet_mm.FrostNot
except AttributeError as error:
    assert str(error) == "module 'frostnet_mm' has no attribute 'FrostNot'", error
from frostnet_mm.quantization.scheme import WEIGHT_BITS
assert 'torch' not in sys.modules
import frostnet_mm.quantization.convert  # sets the attribute `convert` of the package, as Python does for every module
from frostnet_mm.quantization import QATHook, convert, prepare_model
assert convert.__module__ == 'frostnet_mm.quantization.convert' and callable(convert)
assert frostnet_mm.convert is convert and frostnet_mm.QATHook is QATHook
from frostnet_mm import *
assert FrostNet.__module__ == 'frostnet_mm.models.backbones.frostnet'
assert {'DenseNetwork', 'QATHook', 'load_config', 'CheckedCocoDataset', '__version__'} <= set(globals())
"""
    done = python('-c', code)
    assert done.returncode == 0, done.stderr
    assert 'torchao' not in done.stderr and 'pytree' not in done.stderr  # what they warn of at import


@pytest.mark.parametrize(
    ('absent', 'missing', 'there'),
    [('mmdet', 'SSDLiteHead', 'LRASPPHead'), ('mmseg', 'LRASPPHead', 'SSDLiteHead')],
)
def test_either_of_mmdet_and_mmseg_may_be_absent(absent, missing, there):
    code = f"""
import sys
sys.modules[{absent!r}] = None
import frostnet_mm
assert {missing!r} not in frostnet_mm.__all__ and {there!r} in frostnet_mm.__all__
from mmengine.registry import HOOKS, MODELS, TRANSFORMS
for registry, name in ((MODELS, 'FrostNet'), (MODELS, {there!r}), (HOOKS, 'QATHook'), (TRANSFORMS, 'LoadImage')):
    assert registry.get('frostnet_mm.' + name).__module__.startswith('frostnet_mm.'), name
assert MODELS.get('frostnet_mm.{missing}') is None
"""
    done = python('-c', code)
    assert done.returncode == 0, done.stderr
