"""Small generated data and one short training, shared by the tests that need them."""

import importlib
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from frostnet_mm.data.generated.mini_coco import generate_mini_coco
from frostnet_mm.device import cpu_saturates
from frostnet_mm.device import engines as device_engines
from frostnet_mm.registry import ENGINES

ROOT = Path(__file__).resolve().parent.parent
EXACT_BITS = 7 if cpu_saturates() else 8  # of weights that every engine computes exactly on this machine
SHORT = (
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=6',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
    'model.backbone.widen_factor=0.5',
)


def run_tool(name, *args):
    """Run tools/NAME.py in this process; return its exit status."""
    argv, script = sys.argv, ROOT / 'tools' / f'{name}.py'
    sys.argv = [f'tools/{name}.py', *map(str, args)]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name='__main__')
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = argv
        sys.path.remove(str(script.parent))
    return 0


@pytest.fixture(scope='session', autouse=True)
def quick_mmengine():
    """What mmengine does in each run, and what took half the time of all tests.

    It has yapf lay out each config that it logs, three times a run; and each data set collects garbage, in a process
    that holds what hundreds of tests have left.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **options: (text, False))
        patch.setattr('mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(autouse=True)
def own_signals():
    """A training that ends in an error leaves its handlers in place, which processes forked later would inherit."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def engine_registry(monkeypatch):
    """What a test registers as an engine is forgotten behind it; a file that did so is imported again."""
    own = {key: kind for key, kind in ENGINES.module_dict.items() if kind.__module__.startswith('frostnet_mm.')}
    monkeypatch.setattr(ENGINES, '_module_dict', own)
    monkeypatch.setattr(device_engines, '_registered', {})
    monkeypatch.delitem(sys.modules, 'dummy_engine', raising=False)
    return ENGINES


@pytest.fixture
def dummy_engine(engine_registry):
    """The engine of another package (dummy_engine.py), registered."""
    return importlib.import_module('dummy_engine')


@pytest.fixture(scope='session')
def mini_coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('mini_coco') / 'data'
    generate_mini_coco(root, num_train=24, num_val=8, progress=False)
    return root


@pytest.fixture(scope='session')
def trained(mini_coco, tmp_path_factory):
    """Work dir of a finished training of two epochs."""
    work_dir = tmp_path_factory.mktemp('trained') / 'run'
    assert (
        run_tool(
            'train',
            ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py',
            '--work-dir',
            work_dir,
            '--cfg-options',
            f'data_root={mini_coco}',
            *SHORT,
        )
        == 0
    )
    return work_dir
