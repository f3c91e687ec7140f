"""Types given as classes, as in mm's pure-Python configs: recognised as their names are."""

import json

import pytest
from conftest import run_tool
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, HOOKS, MODELS, TRANSFORMS, init_default_scope
from test_golden import CHECKPOINT, CONFIG, DATA, METRICS

from frostnet_mm.apis.evaluation import configure_execution, qat_hook
from frostnet_mm.apis.inference import build_pipeline
from frostnet_mm.apis.model import load_model
from frostnet_mm.deploy.heads.describe import describe_model
from frostnet_mm.deploy.loaded_model import set_input_size
from frostnet_mm.engine.config import load_config
from frostnet_mm.engine.runner import build_runner
from frostnet_mm.quantization import Checkpoint, QATHook

REGISTRIES, NAMES = (TRANSFORMS, DATASETS, MODELS, HOOKS), ('mmdet.', '')


def with_classes(node):
    """The same config with classes in the place of their names, where a registry knows them."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'type' and isinstance(value, str):
                node[key] = next((found for name in NAMES for r in REGISTRIES if (found := r.get(name + value))), value)
            else:
                with_classes(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            with_classes(value)
    return node


class Mine(QATHook):
    """A user's own."""


@pytest.fixture
def configs():
    """The golden config, with names and with classes."""
    named, classes = (load_config(CONFIG, {'data_root': DATA.partition('=')[2]}) for _ in range(2))
    init_default_scope('mmdet')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'default_hooks', 'model'):
        with_classes(classes[name])
    assert classes.default_hooks.qat.type is QATHook and isinstance(classes.model.neck.type, type)
    return named, classes


def test_pipelines_and_descriptions_are_the_same(configs):
    model, _ = load_model(CONFIG, CHECKPOINT, 'cpu', execution='float')
    described = [describe_model(model, cfg) for cfg in configs]
    assert described[0] == described[1] and described[0]['preprocessing']['resize']['width'] == 128
    pipelines = [[type(step) for step in build_pipeline(cfg).transforms] for cfg in configs]
    assert pipelines[0] == pipelines[1] and len(pipelines[0]) == 3
    for cfg in configs:
        set_input_size(cfg, (64, 96))
    assert [describe_model(model, cfg)['preprocessing']['resize'] for cfg in configs] == [
        dict(width=96, height=64, keep_ratio=False)
    ] * 2


@pytest.mark.parametrize('where', ['default_hooks', 'custom_hooks'])
@pytest.mark.parametrize(
    'kind', [QATHook, 'QATHook', 'frostnet_mm.QATHook', 'frostnet_mm.quantization.hook.QATHook', 'an object']
)
def test_a_hook_is_recognised_wherever_and_however_it_is_given(kind, where, configs):
    cfg = configs[0]
    hook = QATHook(warmup=0) if kind == 'an object' else ConfigDict(type=kind, warmup=0)
    del cfg.default_hooks['qat']
    if where == 'custom_hooks':
        cfg.custom_hooks = [hook]
    elif kind == 'an object':
        pytest.skip("mmengine's default hooks are configs, not objects, in a Config")
    else:
        cfg.default_hooks['mine'] = hook
    configure_execution(cfg, Checkpoint.open(CHECKPOINT), 'converted', 7)
    hooks = [*cfg.get('custom_hooks', []), *cfg.default_hooks.values()]
    ours = [one for one in hooks if one is hook or 'QATHook' in str(one.get('type'))]
    assert len(ours) == 1
    found = (
        (hook.execution, hook.settings.scheme.weight_bits)
        if kind == 'an object'
        else (
            ours[0]['execution'],
            ours[0]['weight_bits'],
        )
    )
    assert found == ('converted', 7)


def test_a_derived_hook_counts(configs, tmp_path):
    cfg = configs[0]
    del cfg.default_hooks['qat']
    cfg.work_dir, cfg.custom_hooks = str(tmp_path), [dict(type=Mine, warmup=0)]
    assert isinstance(qat_hook(build_runner(cfg)), Mine)


def test_a_pure_python_config_reports_each_arithmetic_as_it_is(tmp_path):
    """With a second hook, all three columns would be simulated INT8."""
    cfg = load_config(CONFIG, {'data_root': DATA.partition('=')[2]})
    del cfg.default_hooks['qat']
    cfg.pop('qat_hook', None)
    cfg.pop('custom_hooks', None)
    text = cfg.pretty_text
    imports = 'from frostnet_mm.quantization import QATHook\n'
    config = tmp_path / 'pure.py'
    config.write_text(f"{imports}{text}\ncustom_hooks = [dict(type=QATHook, warmup='2 epochs')]\n")
    out = tmp_path / 'metrics.json'
    assert run_tool('test', config, CHECKPOINT, '--work-dir', tmp_path, '--compare', '--out', out) == 0
    found = json.loads(out.read_text())['metrics']
    expected = METRICS['trained']
    for name in ('float', 'simulated', 'converted'):
        assert {key: found[name][key] for key in expected[name]} == expected[name]
    assert expected['float'] != expected['simulated']
