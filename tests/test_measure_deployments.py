"""Times of deployments from Python: in turns, here or in processes, and what the measuring process imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from frostnet_mm.benchmark.measure import (
    deployments,
    loading,
    machine,
    measure_deployment,
    measure_deployments,
    process,
    timing,
)
from frostnet_mm.benchmark.measure.turns import UNCOUNTED, Turns, rotated, take_turn
from frostnet_mm.device import DeploymentError

DEPLOYMENT = ROOT / 'tests/golden/deployment'


def test_turns_by_hand():
    turns = Turns()
    for times, others, load in (([1.0, 2.0, 3.0], 0.25, 1.0), ([4.0, 4.0], None, None), ([10.0], 0.75, 0.5)):
        turns.add(dict(times=times, others=others, load=load))
    found = turns.timing(batch=8)
    assert (found.latency, found.throughput, found.rounds, found.repetitions) == (4.0, 2.0, 3, 6)
    assert (found.others, found.load) == (0.5, 1.0)  # the median of what is known, and the highest
    assert Turns([[1.0]], [None], [None]).timing().others is None
    with pytest.raises(ValueError, match='0 rounds'):
        Turns().timing()
    calls = []
    turn = take_turn(lambda: calls.append(1), 0.0, 3)
    assert len(turn['times']) == 3 and len(calls) == 3 + UNCOUNTED
    assert rotated('abc') == ['b', 'c', 'a'] and rotated([]) == []


def test_deployments_take_turns(monkeypatch):
    """Each has a turn in every round, not always behind the same one, and its times are its own."""
    order = []

    class Session:
        def load(self, spec):
            assert spec['cpus'] is None and spec['installed'] and spec['precision'] == 'bf16'
            self.name = Path(spec['folder']).name
            return dict(batch=dict(a=1, b=2, c=4)[self.name])

        def measure(self, seconds, least):
            assert (seconds, least) == (0.5, 7)
            order.append(self.name)
            return dict(times=[dict(a=0.5, b=1.0, c=2.0)[self.name]], others=0.0, load=0.0)

    monkeypatch.setattr(deployments, 'Session', Session)
    found = measure_deployments('abc', rounds=3, seconds=0.5, least=7, cool_down=0, bf16=True)
    assert ''.join(order) == 'abcbcacab'
    assert [timing.latency for timing in found] == [0.5, 1.0, 2.0]
    assert [timing.throughput for timing in found] == [2.0, 2.0, 2.0]  # images of 1, 2 and 4 a call
    assert measure_deployments([]) == []


@pytest.mark.parametrize('processes', [False, True])
def test_a_deployment_of_before_is_measured(processes, tmp_path):
    """Here and in a process, which leaves the cores of this one as they were."""
    cpus = os.sched_getaffinity(0)
    options = dict(rounds=2, seconds=0.01, cool_down=0.0, processes=processes)
    found = measure_deployment(DEPLOYMENT, **options, logs=tmp_path)
    assert found.rounds == 2 and found.repetitions >= 2 * timing.LEAST_REPETITIONS
    assert 0 < found.latency < 1 and found.throughput == pytest.approx(1 / found.latency)
    assert found.others >= 0 and found.load >= 0
    assert os.sched_getaffinity(0) == cpus
    assert [path.name for path in tmp_path.iterdir()] == ['0-deployment.log'] * processes


def test_this_process_is_bound_while_it_measures(monkeypatch):
    cpus, seen = os.sched_getaffinity(0), []
    monkeypatch.setattr(timing.time, 'sleep', lambda seconds: seen.append(os.sched_getaffinity(0)))
    measure_deployment(DEPLOYMENT, rounds=1, seconds=0.0, cool_down=0.5)
    assert seen == [set(machine.choose_cpus(1))] and os.sched_getaffinity(0) == cpus


def test_deployments_that_cannot_be_measured(tmp_path):
    with pytest.raises(DeploymentError, match='is no deployment'):
        measure_deployment(tmp_path)
    with pytest.raises(process.WorkerError, match='predictor.py'):
        measure_deployment(tmp_path, processes=True)
    with pytest.raises(ValueError, match='threads=1, rounds=0, batch=1 and least=5 were given, expected numbers'):
        measure_deployment(DEPLOYMENT, rounds=0)
    with pytest.raises(ValueError, match='4096 threads were asked for'):
        measure_deployment(DEPLOYMENT, threads=4096)
    with pytest.raises(DeploymentError, match="onnxruntime does not compute in 'bf16'"):
        measure_deployment(DEPLOYMENT, bf16=True)
    with pytest.raises(
        ValueError, match=r'images of any size, \[1, 3, None, None\]: expected a shape \(height, width\)'
    ):
        loading.deployment_input(dict(input=dict(dtype='float32', shape=[1, 3, None, None])), 1, None)
    fixed = loading.deployment_input(dict(input=dict(dtype='float32', shape=[1, 3, 8, 16])), 1, None)
    assert fixed.shape == (1, 3, 8, 16)


def test_the_measuring_process_imports_neither_torch_nor_mm():
    """The worker as it is started, asked what it has imported once it has measured a deployment."""
    spec = dict(kind='deployment', folder=str(DEPLOYMENT), precision='int8', threads=1, batch=1, shape=None, image=None)
    requests = [dict(command='load', spec=spec), dict(command='measure', seconds=0.0, least=3)]
    code = (
        'import runpy, sys; sys.argv = ["worker"]; '
        f'runpy.run_module({process.WORKER!r}, run_name="__main__"); '
        'print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        input=''.join(json.dumps(request) + '\n' for request in requests),
        env=process._environment(1),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers[1]['times']) == 3 and answers[0]['results']['process_memory_mib'] > 0
    imported = done.stderr.splitlines()[-1].split()
    assert 'onnxruntime' in imported and any(name.startswith('deployed_predictor_') for name in imported)
    assert not {'torch', 'mmcv', 'mmdet', 'mmseg', 'matplotlib', 'onnx'} & set(imported)
