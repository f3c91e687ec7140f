"""What a search is asked to do, what is best of what it saw, and the choice of networks: killed, joined, by chance."""

import copy
import itertools
import multiprocessing
import os
import random
import re
import time

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.optim.scheduler.param_scheduler import INF
from nas_search_parts import BASE, SPACE, milliseconds, plain

from frostnet_mm.models.frostnet_arch import FrostNetArch
from frostnet_mm.nas.architectures import key
from frostnet_mm.nas.candidates import Candidate, CandidateFolder, Evaluator
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.front import fastest, front_of, hypervolume, require_reachable, spread
from frostnet_mm.nas.progress import Progress, duration
from frostnet_mm.nas.settings import SearchSettings
from frostnet_mm.nas.space import SearchSpace
from frostnet_mm.nas.study import NetworkStudy
from frostnet_mm.nas.supernet import shorten

SMALL = SearchSpace(BASE, **SPACE | dict(kernels=(3,), kinds=('frost',)))  # 2 or 4 forms of a block: networks recur
WIDE = SearchSpace(BASE, **SPACE)
SETTINGS = SearchSettings(engine='onnxruntime', trials=14)


def value_of(arch):
    """A metric that prefers large kernels and expansions in some places."""
    return sum(row.kernel * row.expansion / 100 for stage in plain_rows(arch) for row in stage)


def plain_rows(arch):
    return FrostNetArch.from_config(arch).stages


class Counting:
    """Stands in for the evaluator; counts, and stops the process at a call."""

    def __init__(self, stop=None):
        self.keys, self.stop = [], stop

    def __call__(self, arch):
        if len(self.keys) == self.stop:
            raise KeyboardInterrupt
        self.keys.append(key(arch))
        return Candidate(key(arch), plain(arch), 'bbox_mAP', value_of(arch))


def study_of(folder, space=WIDE, joined=False, **options):
    settings = SearchSettings.of(dict(SETTINGS.to_dict(), **options))
    return NetworkStudy(folder, settings, space, milliseconds, 'abc', joined)


# -- settings


def test_settings_of_a_config_and_of_the_command_line():
    found = SearchSettings.of(dict(target_ms=4.2, space=dict(kernels=(3,)), shape=[64, 96]), dict(trials=7, seed=None))
    assert (found.engine, found.target_ms, found.trials, found.seed) == ('openvino', 4.2, 7, 0)
    assert found.shape == (64, 96) and found.weight_bits == 8 and dict(found.space) == dict(kernels=(3,))
    assert SearchSettings.of(None) == SearchSettings()
    assert SearchSettings.of(dict(precision='int8w7')).weight_bits == 7


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(trails=3), "search has the unknown option 'trails'. Did you mean trials?"),
        (dict(engine='tensorrt'), "search.engine='tensorrt': expected one of "),
        (dict(target_ms=0), 'search.target_ms=0: expected milliseconds above 0, or None'),
        (dict(trials=0), 'search.trials=0: expected a whole number from 1'),
        (dict(trials=True), 'search.trials=True: expected a whole number from 1'),
        (dict(val_fraction=1.0), 'search.val_fraction=1.0: expected a part of the training images, 0 to 1'),
        (dict(precision='bf16'), "search.precision='bf16': expected one of int8, int8w7, float"),
        (dict(sampler='tpe'), "search.sampler='tpe': expected one of nsga2, random"),
        (dict(shape=3), 'search.shape=3: expected (height, width) in pixels'),
        (dict(quantize=1), 'search.quantize=1: expected True or False'),
        (dict(weights='layer'), "search.weights='layer': expected one of channel, tensor"),
        (dict(batch_size=0), 'search.batch_size=0: expected a whole number from 1, or None'),
        ([1], 'search=[1] of the config: expected a dict of engine, target_ms'),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(SearchError, match=re.escape(message)):
        SearchSettings.of(options)


# -- what is best


def test_the_front_and_its_hypervolume_against_counting():
    rng = random.Random(0)
    for _ in range(20):
        points = [(rng.randrange(12), rng.randrange(12)) for _ in range(rng.randrange(1, 9))]
        beaten = {
            one for one in points for other in points
            if other != one and other[0] <= one[0] and other[1] >= one[1]
        }  # fmt: skip
        assert front_of(points, lambda point: point) == sorted(set(points) - beaten)
        cells = [(x, y) for x in range(10) for y in range(2, 12) if any(t <= x and m > y for t, m in points)]
        assert hypervolume(points, (10, 2)) == len(cells)
    assert hypervolume([], (1, 0)) == 0
    assert spread(range(10), 4) == [0, 3, 6, 9] and spread([1, 2], 4) == [1, 2] and spread([1, 2], 1) == [2]


def test_the_fastest_network_against_all_of_a_space():
    def forms(run):
        for depth in run.depths:
            yield from itertools.product(*(position.rows for position in run.positions[:depth]))

    runs = [run for stage in SMALL.stages for run in stage]
    best = min(
        (milliseconds(network_of(choice)), choice) for choice in itertools.product(*(list(forms(run)) for run in runs))
    )
    assert milliseconds(fastest(SMALL, milliseconds)) == pytest.approx(best[0], abs=1e-12)
    assert SMALL.size > 50 and SMALL.contains(fastest(SMALL, milliseconds))


def network_of(choice):
    rows, stages = list(choice), []
    for stage in SMALL.stages:
        stages.append(tuple(row for own in rows[: len(stage)] for row in own))
        rows = rows[len(stage) :]
    return FrostNetArch(BASE['stem'], tuple(stages))


def test_a_target_that_no_network_meets_is_refused_with_the_range():
    least = milliseconds(fastest(WIDE, milliseconds))
    require_reachable(WIDE, milliseconds, least)
    require_reachable(WIDE, milliseconds, None)
    message = (
        r'target_ms=0.1: no network of the space meets it. By the latency model the fastest takes '
        rf'{least:.2f} ms, the slowest 0\.\d\d, half of the random ones between 0\.\d\d and 0\.\d\d\. '
        rf'Give a target from {least:.2f} on'
    )
    with pytest.raises(SearchError, match=message):
        require_reachable(WIDE, milliseconds, 0.1)


# -- progress and schedule


def test_progress_says_how_long_it_will_take():
    lines, now = [], iter([0.0, 20.0, 60.0]).__next__
    progress = Progress('networks', 10, 4, lines.append, now)
    progress.reached(5)
    progress.reached(10, 'best 0.5')
    assert lines == ['4 of 10 networks before', '5 of 10 networks, 2 min left',
                     '10 of 10 networks, best 0.5']  # fmt: skip
    assert [duration(value) for value in (40, 600, 7200)] == ['40 s', '10 min', '2.0 h']


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_schedule_is_stretched_to_another_length(by_epoch):
    loop = dict(max_epochs=40, val_interval=4) if by_epoch else dict(max_iters=40, val_interval=4)
    schedule = [
        dict(type='LinearLR', by_epoch=not by_epoch, begin=0, end=30),
        dict(type='CosineAnnealingLR', by_epoch=by_epoch, begin=4, end=40, T_max=36),
        dict(type='MultiStepLR', by_epoch=by_epoch, milestones=[20, 32]),
    ]
    cfg = Config(dict(train_cfg=loop, param_scheduler=schedule, default_hooks=dict(checkpoint=dict(interval=9))))
    shorten(cfg, 5, 4)  # 5 epochs; or 20 iterations
    half = 8 if by_epoch else 2
    assert cfg.train_cfg[f'max_{"epochs" if by_epoch else "iters"}'] == 40 / half
    assert cfg.param_scheduler[0].end == (20 // 4 if by_epoch else 30)  # a warm-up of iterations is no longer than that
    assert [cfg.param_scheduler[1][name] for name in ('begin', 'end', 'T_max')] == [
        max(1, round(n / half)) for n in (4, 40, 36)
    ]
    assert cfg.param_scheduler[2].milestones == [round(20 / half), round(32 / half)]
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.interval, checkpoint.by_epoch, checkpoint.max_keep_ckpts) == (1 if by_epoch else 4, by_epoch, 1)
    with pytest.raises(SearchError, match='expected max_epochs or max_iters'):
        shorten(Config(dict(train_cfg=ConfigDict(type='X'))), 5, 4)


def test_a_schedule_of_which_little_is_left():
    """YOLOX's, of 300 epochs: a warm-up, a cosine, and a constant end, with its pipeline changed 15 epochs before."""
    schedule = [
        dict(type='QuadraticWarmupLR', by_epoch=True, begin=0, end=5),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=5, end=285, T_max=285),
        dict(type='ConstantLR', by_epoch=True, begin=285, end=300),
    ]
    hooks = [dict(type='YOLOXModeSwitchHook', num_last_epochs=15), dict(type='PipelineSwitchHook', switch_epoch=280)]
    for epochs, expected in ((20, [(0, 1), (1, 19), (19, 20)]), (2, [(0, 1), (1, 2)]), (1, [(0, 1)])):
        content = dict(train_cfg=dict(max_epochs=300), param_scheduler=schedule, custom_hooks=hooks)
        cfg = Config(copy.deepcopy(content))
        shorten(cfg, epochs, 100)
        assert [(own.begin, own.end) for own in cfg.param_scheduler] == expected
        last, switch = cfg.custom_hooks[0].num_last_epochs, cfg.custom_hooks[1].switch_epoch
        assert (last, switch) == (1, max(1, round(epochs * 280 / 300)))
    lasting = [dict(type='PolyLR', by_epoch=False, begin=500, end=9000), dict(type='ConstantLR', end=INF)]
    cfg = Config(dict(train_cfg=dict(max_epochs=90), param_scheduler=lasting))
    shorten(cfg, 9, 100)  # iterations that are the whole training are stretched with it
    assert [(own.get('begin'), own.end) for own in cfg.param_scheduler] == [(50, 900), (None, INF)]


# -- the choice


@pytest.mark.parametrize('sampler', ['nsga2', pytest.param('random', marks=pytest.mark.slow)])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, sampler):
    whole = Counting()
    expected = study_of(tmp_path / 'whole', sampler=sampler, target_ms=0.26).run(whole, lambda line: None)
    counts = []
    for stop in (3, 5, 100):
        counting = Counting(stop)
        try:
            found = study_of(tmp_path / 'killed', sampler=sampler, target_ms=0.26).run(counting, lambda line: None)
        except KeyboardInterrupt:
            continue
        finally:
            counts.append(counting.keys)
    assert found == expected and len(found) == 14
    front = [own.key for own in front_of(found, lambda own: own.point)]
    assert front == [own.key for own in front_of(expected, lambda own: own.point)]
    assert [name for keys in counts for name in keys] == whole.keys  # each once, in the same order
    assert study_of(tmp_path / 'killed', sampler=sampler, target_ms=0.26).run(Counting(0), lambda line: None) == found


def test_networks_that_are_too_slow_are_not_evaluated(tmp_path):
    counting, lines = Counting(), []
    study = study_of(tmp_path, target_ms=0.25, sampler='random')
    found = study.run(counting, lines.append)
    assert len(found) == 14 and all(own.ms <= 0.25 for own in found)
    slow = [trial for trial in study.complete() if not trial.user_attrs['feasible']]
    assert slow and all(trial.values[0] > 0.25 for trial in slow)
    assert not {trial.user_attrs['key'] for trial in slow} & set(counting.keys)
    assert {own.key for own in found} == set(counting.keys)
    assert re.fullmatch(r'14 of 14 networks evaluated, best 0\.\d{4}', lines[-1])


def test_a_space_with_fewer_networks_ends_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr('frostnet_mm.nas.study.DRAWS', 4)
    lines = []
    space = SearchSpace(BASE, (3,), (2,), (None, 2), ('frost',), depths=(1, 1))
    found = study_of(tmp_path, space, trials=40, sampler='random').run(Counting(), lines.append)
    assert len(found) == space.size < 40
    assert f'{space.size} networks are left of 160 that were drawn' in lines[-1]


def test_both_samplers_see_the_same_metric(tmp_path, monkeypatch):
    """Networks that both draw are evaluated once."""
    calls = []

    def evaluate(self, arch, name):
        calls.append(name)
        return Candidate(name, plain(arch), 'bbox_mAP', random.random())

    monkeypatch.setattr(Evaluator, '_evaluate', evaluate)
    found = {}
    for sampler in ('nsga2', 'random'):
        evaluator = Evaluator(tmp_path, SETTINGS, lambda line: None)
        study = study_of(tmp_path, SMALL, sampler=sampler, trials=20)
        found[sampler] = {own.key: own.value for own in study.run(evaluator, lambda line: None)}
        assert evaluator.evaluated == len(calls) if sampler == 'nsga2' else evaluator.evaluated < 20
    both = found['nsga2'].keys() & found['random'].keys()
    assert len(both) > 3 and all(found['nsga2'][name] == found['random'][name] for name in both)
    assert len(calls) == len(set(calls)) == len(found['nsga2'] | found['random'])
    assert study.of_samplers().keys() == {('nsga2', 0), ('random', 0)}
    assert {own.key for own in study.of_samplers()['nsga2', 0]} == found['nsga2'].keys()


def work(folder, joined):
    kept = CandidateFolder(folder, 'onnx8')

    def evaluate(arch):
        time.sleep(0.05)
        kept.add(Candidate(key(arch), plain(arch), 'bbox_mAP', value_of(arch)))
        with open(folder / f'{os.getpid()}.txt', 'a') as file:
            file.write(f'{key(arch)}\n')
        return kept.get(key(arch))

    study_of(folder, joined=joined).run(evaluate, lambda line: None)


def test_processes_join(tmp_path):
    """Two at once: both add networks, none is lost, and there are as many as were asked for."""
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=work, args=(tmp_path, joined)) for joined in (False, True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    own = [set(file.read_text().split()) for file in tmp_path.glob('*.txt')]
    found = {network.key for network in study_of(tmp_path).found()}
    assert len(own) == 2 and all(own) and own[0] | own[1] == found
    assert 14 <= len(found) <= 15  # the other one finishes what it has begun
    assert {file.name for file in (tmp_path / 'candidates').iterdir()} == {f'{name}-onnx8.json' for name in found}


def test_files_that_are_broken(tmp_path):
    kept = CandidateFolder(tmp_path, 'onnx8')
    kept.folder.mkdir()
    kept.path('a').write_text('{')
    with pytest.raises(SearchError, match='a-onnx8.json cannot be read .* remove it, and it is measured again'):
        kept.get('a')
    (tmp_path / 'study.log').write_text('{"a": \nnonsense\n')
    with pytest.raises(SearchError, match='study.log is no journal that can be read .* remove it'):
        study_of(tmp_path).run(Counting(), lambda line: None)
