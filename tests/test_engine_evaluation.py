"""mm's evaluators with an engine at the seam, and the model's own arithmetic there again afterwards."""

from types import SimpleNamespace

import pytest
from conftest import ROOT

from frostnet_mm.apis.evaluation import configure_execution, load_runner_weights, qat_hook
from frostnet_mm.deploy.engine_network import EngineNetwork
from frostnet_mm.deploy.evaluation import evaluate_engines
from frostnet_mm.engine.config import load_config
from frostnet_mm.engine.runner import build_runner
from frostnet_mm.quantization import Checkpoint

GOLDEN = ROOT / 'tests/golden'
CONFIG, CHECKPOINT = str(GOLDEN / 'detector.py'), str(GOLDEN / 'qat.pth')
OPTIONS = dict(data_root=f'{GOLDEN}/coco/')
BATCHES = 2  # 12 images, 8 at a time


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """A Runner with a quantized detector, how often its own network has run, and how often an engine."""
    work_dir = tmp_path_factory.mktemp('evaluation')
    checkpoint = Checkpoint.open(CHECKPOINT)
    cfg = load_config(CONFIG, OPTIONS)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    configure_execution(cfg, checkpoint, 'simulated')
    runner = build_runner(cfg)
    load_runner_weights(runner, checkpoint)
    case = SimpleNamespace(runner=runner, ran=dict(own=0, engine=0))
    qat_hook(runner).network.register_forward_pre_hook(lambda *_: count(case, 'own'))
    case.simulated = runner.test()
    assert ran(case) == dict(own=BATCHES, engine=0)
    return case


def count(case, what):
    case.ran[what] += 1


def ran(case):
    """What has run since this was asked before."""
    found, case.ran = case.ran, dict(own=0, engine=0)
    return found


@pytest.fixture
def counted(case, monkeypatch):
    run = EngineNetwork.__call__

    def counting(network, images):
        count(case, 'engine')
        return run(network, images)

    monkeypatch.setattr(EngineNetwork, '__call__', counting)
    return case


def test_the_model_is_itself_after_an_evaluation_in_an_engine(counted, monkeypatch):
    """After each engine, and after one that fails."""
    runner = counted.runner
    hooks, network = list(runner.hooks), qat_hook(runner).network
    names = ['onnxruntime', 'openvino']
    evaluation = evaluate_engines(runner, CONFIG, Checkpoint.open(CHECKPOINT), names, 'int8', OPTIONS, check=False)
    name, metrics = next(evaluation)
    assert name == 'onnxruntime' and metrics['evaluation s'] > 0
    assert metrics['coco/bbox_mAP'] == pytest.approx(counted.simulated['coco/bbox_mAP'], abs=0.01)
    assert ran(counted) == dict(own=0, engine=BATCHES)
    assert runner.model.__dict__['extract_feat'].execute is network
    assert runner.test_loop.run() == counted.simulated
    assert ran(counted) == dict(own=BATCHES, engine=0)

    def fail(network, images):
        raise RuntimeError('the engine fails')

    monkeypatch.setattr(EngineNetwork, '__call__', fail)
    with pytest.raises(RuntimeError, match='the engine fails'):
        next(evaluation)
    assert runner.model.__dict__['extract_feat'].execute is network
    assert runner.test_loop.run() == counted.simulated
    assert ran(counted) == dict(own=BATCHES, engine=0)
    assert [id(hook) for hook in runner.hooks] == [id(hook) for hook in hooks]


def test_the_hook_stands_aside_only_while_the_context_is_open(case):
    runner, hook = case.runner, qat_hook(case.runner)

    def attached_by(event):
        runner.model.__dict__['extract_feat'] = None
        getattr(hook, event)(runner)
        return runner.model.__dict__['extract_feat'] is not None

    network = runner.model.__dict__['extract_feat']
    try:
        for event in ('before_test', 'before_val'):
            with hook.standing_aside():
                with pytest.raises(KeyError), hook.standing_aside():
                    raise KeyError
                assert not attached_by(event)
            assert attached_by(event)
    finally:
        runner.model.__dict__['extract_feat'] = network
