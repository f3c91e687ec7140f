"""Features by hand, regressions with known weights, and files of times that are refused."""

import json
import random
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_frostnet import FUSED_660, macs_of

from frostnet_mm import FrostNet
from frostnet_mm.benchmark.measure import Timing
from frostnet_mm.benchmark.measure.scheduler import BusyError
from frostnet_mm.benchmark.measure.timing import summarize
from frostnet_mm.benchmark.store import BenchmarkError
from frostnet_mm.models.frostnet_arch import ARCHS
from frostnet_mm.nas import measured as measured_models
from frostnet_mm.nas import timing
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.features import FEATURES, features_of, mmacs
from frostnet_mm.nas.latency import LatencyModel, agreement, near_pairs, spearman
from frostnet_mm.nas.space import SearchSpace

CONFIG = str(ROOT / 'configs/ssdlite_frostnet_coco.py')


def test_features_by_hand():
    """A stem, a fused block of stride 2, and a Frost block with squeeze and shortcut, at 64x96."""
    arch = dict(stem=16, stages=[[(3, 24, 3, None, 2, 'fused')], [(5, 24, 2, 2, 1)]])
    stem, half, quarter = 3 * 16 * 9, 32 * 48, 16 * 24
    hidden, squeezed, wide = 48, 16, 80  # 16 x 3; 24 / 2 = 12 is 16; (16 + 24) x 2
    found = features_of(arch, (64, 96))
    expected = dict(
        dense_mmacs=stem * half + 16 * hidden * 9 * quarter,
        pointwise_mmacs=(hidden * 24 + 24 * squeezed + 40 * wide + wide * 24) * quarter,
        depthwise_mmacs=wide * 25 * quarter,
        dense=2e6,
        depthwise=1e6,
        concats=1e6,
        activation_mb=16 * half + (hidden + 24 + squeezed + 40 + wide + wide + 24 + 24) * quarter,
        weight_mb=stem + 16 * hidden * 9 + hidden * 24 + 24 * squeezed + 40 * wide + wide * 25 + wide * 24,
    )
    assert tuple(found) == FEATURES == tuple(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value / 1e6), name
    assert features_of(arch, (64, 96), out_indices=(0,))['depthwise'] == 0


@pytest.mark.parametrize(
    'arch, options',
    [('small', {}), (FUSED_660, {}), ('base', dict(output_stride=8, out_indices=(1, 3), in_channels=1))],
)
def test_all_multiply_accumulates_are_counted(arch, options):
    found = mmacs(features_of(arch, (96, 128), **options))
    channels = options.get('in_channels', 3)
    assert found == pytest.approx(macs_of(FrostNet(arch, **options), 1, channels, 96, 128) / 1e6)


@pytest.fixture(scope='module')
def table():
    space = SearchSpace('small')
    archs = timing.choose_networks(space, lambda arch: features_of(arch, (320, 320)), 40, seed=1)
    return [features_of(arch, (320, 320)) for arch in archs]


WEIGHTS = dict(zip(FEATURES, (0.0025, 0.004, 0.02, 0.02, 0.015, 0.03, 0.05, 0.1), strict=True))


def times_of(table, rest=0.4):
    return [rest + sum(WEIGHTS[name] * own[name] for name in FEATURES) for own in table]


def test_networks_to_measure_spread_over_their_multiply_accumulates(table):
    macs = [mmacs(own) for own in table]
    assert macs == sorted(macs) and len(set(macs)) == 40
    assert macs[-1] > 2 * macs[0]
    with pytest.raises(SearchError, match='40 networks were asked for .*, but 2 were found in a space of 2'):
        tiny = SearchSpace(dict(stem=16, stages=[[(3, 24, 2, None, 2)]]), (3, 5), (2,), (None,), ('frost',))
        timing.choose_networks(tiny, lambda arch: features_of(arch, (32, 32)))


def test_known_weights_are_recovered(table):
    times = times_of(table)
    model = LatencyModel.fit(table, times)
    for name, value in (WEIGHTS | dict(rest=0.4)).items():
        assert model.weights[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    other = features_of('large', (320, 320))
    assert model.predict(other) == pytest.approx(times_of([other])[0], rel=1e-6)
    assert model.check.spearman == pytest.approx(1) and model.check.largest_error < 1e-6
    assert model.check.in_band == 1 and 0.5 < model.check.in_band_macs < 1 and model.check.pairs > 40
    model.check.require()
    assert json.loads(json.dumps(model.to_dict()))['check']['networks'] == 40


def test_noise_of_a_real_machine_is_borne(table):
    times = np.array(times_of(table)) * np.random.default_rng(0).normal(1, 0.03, len(table))
    model = LatencyModel.fit(table, times)
    model.check.require()
    assert 0.95 <= model.check.spearman < 1 and model.check.largest_error < 0.15
    assert min(model.weights.values()) >= 0


def test_each_network_is_predicted_by_those_that_are_left(table):
    times = np.array(times_of(table)) * np.random.default_rng(1).normal(1, 0.1, len(table))
    predicted = [
        LatencyModel.fit(table[:i] + table[i + 1 :], np.delete(times, i)).predict(table[i]) for i in range(len(table))
    ]
    errors = np.abs(predicted / times - 1)
    check = LatencyModel.fit(table, times).check
    assert check.largest_error == pytest.approx(errors.max()) and check.median_error == pytest.approx(np.median(errors))
    assert check.spearman == pytest.approx(spearman(predicted, times)) and 0 < check.spearman_macs < 1


def test_what_ranks_badly_is_refused(table):
    times = times_of(table)
    shuffled = random.Random(0).sample(times, len(times))
    with pytest.raises(SearchError, match=r'The file ranks the 40 networks .* Spearman correlation of -?0\.\d+ \(lea'):
        LatencyModel.fit(table, shuffled).check.require('The file')
    macs = [mmacs(own) for own in table]  # times that are nothing else
    with pytest.raises(SearchError, match=r'±10% of multiply-accumulates in \d+% of \d+ pairs, and multiply-acc'):
        LatencyModel.fit(table, macs).check.require()
    for features, values in ((table[:17], times[:17]), (table, times[:-1]), (table, [0.0, *times[1:]])):
        with pytest.raises(SearchError, match='expected at least 18 networks, each with a time above 0'):
            LatencyModel.fit(features, values)
    apart = sorted(table, key=mmacs)[::2]
    apart = [own | dict(dense_mmacs=1.3**index * 1e4) for index, own in enumerate(apart + apart)]
    with pytest.raises(SearchError, match='has 0 pairs of networks within ±10% .* Measure more networks'):
        LatencyModel.fit(apart, times_of(apart)).check.require()


def test_rank_correlations_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0
    assert near_pairs([100, 109, 111, 130]) == [(1, 0), (2, 1)]
    assert agreement([1, 2, 2], [5, 6, 4], [(1, 0), (2, 1), (2, 0)]) == pytest.approx((1 + 0.5 + 0) / 3)
    assert agreement([1], [1], []) == 0.0


# -- times through deployments


@pytest.fixture
def setting(monkeypatch):
    monkeypatch.setattr(timing, 'require_quiet', lambda limits: None)
    return timing.Setting(CONFIG, 'onnxruntime', (320, 320))


@pytest.fixture
def measured(monkeypatch):
    """Deployments and times made up: the folder's name, and how busy the machine is."""
    calls, others = [], {}
    monkeypatch.setattr(timing, '_deploy', lambda setting, arch, folder: folder)

    def measure(folders, threads, rounds, seconds):
        assert folders[-1].name == timing.REFERENCE  # in turns with every group
        calls.append([folder.name for folder in folders[:-1]])
        return [Timing(0.002, 0.1, 0.0, 500.0, rounds, 10, others.get(folder.name, 0.0)) for folder in folders]

    monkeypatch.setattr(timing, 'measure_deployments', measure)
    return calls, others


def test_times_are_kept_and_measured_once(setting, measured, tmp_path):
    calls, others = measured
    space = SearchSpace('small')
    archs = [space.sample(random.Random(seed)) for seed in range(13)]
    names = [space.key(arch) for arch in archs]
    others[names[4]] = 1.0
    store = timing.latency_store(tmp_path, setting)
    with pytest.raises(SearchError, match=r'1 of 13 networks were measured while the machine was busy: other .* 1.00'):
        timing.time_networks(archs, setting, store, rounds=3, say=lambda line: None)
    busy = [names[4]]
    assert calls == [names[::2], busy, names[1::2], *[busy] * 4]  # twice in each of three passes
    others.clear()
    again = timing.latency_store(tmp_path, setting)  # as after Ctrl-C or kill -9
    found = timing.time_networks(archs, setting, again, rounds=3, say=lambda line: None)
    assert calls[7:] == [[names[4]]]
    assert [entry.key for entry in found] == names and {entry.status for entry in found} == {'done'}
    assert found[0].milliseconds == found[0].reference == 2.0 and found[0].rounds == 3
    assert found[3].features == features_of(archs[3], (320, 320))
    assert timing.time_networks(archs[:2], setting, again, say=lambda line: None) == found[:2] and len(calls) == 8


def test_times_of_groups_compare_whatever_the_pace_of_the_machine(table):
    """Three groups, of which two are measured while the machine is slower: the model is that of a steady one."""
    steady, paces = times_of(table), [1.0, 1.2, 1.1]
    groups = [paces[index % 3] for index in range(len(table))]
    entry = dict(arch={}, status='done', reason='', spread=0.1, rounds=7, others=0.0)
    networks = [
        timing.TimedNetwork(features=features, milliseconds=ms * pace, reference=4 * pace, **entry)
        for features, ms, pace in zip(table, steady, groups, strict=True)
    ]
    assert timing.comparable(networks) == pytest.approx(steady)  # as in the group that was disturbed least
    model = timing.fit_latency(networks)
    assert asdict(model.check) == pytest.approx(asdict(LatencyModel.fit(table, steady).check))
    wrong = [1.12, 0.95, 1.0]  # references that were disturbed themselves: what the group's networks say corrects them
    disturbed = [replace(own, reference=own.reference * wrong[index % 3]) for index, own in enumerate(networks)]
    found = np.array(timing.comparable(disturbed)) / np.array(steady)
    assert found.max() / found.min() < 1.005
    old = [replace(own, reference=None) for own in networks]
    assert timing.comparable(old) == [own.milliseconds for own in networks]


def test_undisturbed_calls_compare_on_a_machine_that_is_disturbed(setting, monkeypatch, tmp_path):
    """Most calls take up to three times as long; a network of which no call of many turns was undisturbed is told."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(timing, '_deploy', lambda setting, arch, folder: folder)

    def measure(folders, threads, rounds, seconds):
        every = []
        for index in range(len(folders)):
            slower = rng.uniform(0.5, 3.0, (11, 20))
            slower = np.where(slower < 1, 1.0, slower * (2 if index == 0 else 1))
            slower[::2] *= 1.4 if index == 1 else 1.0
            every.append((slower * (index + 2) / 1000).tolist())
        return [summarize(turns) for turns in every]

    monkeypatch.setattr(timing, 'measure_deployments', measure)
    space, store = SearchSpace('small'), timing.latency_store(tmp_path, setting)
    archs = [space.sample(random.Random(seed)) for seed in range(4)]
    found = timing.time_networks(archs, setting, store, allow_busy=True, say=lambda line: None)
    assert [own.status for own in found] == ['done', 'busy', 'done', 'done']
    assert found[1].reason == 'busy: the fastest calls of every second turn are 40% from those of the others'
    assert [own.ratio for own in found] == pytest.approx([2 / 6, 3 / 6, 4 / 6, 5 / 6])  # the reference is the last
    assert found[0].milliseconds / found[0].reference > 1.5 * 2 / 6  # the median would mislead
    pace = found[0].reference
    assert timing.comparable(found) == pytest.approx([pace * index / 6 for index in (2, 3, 4, 5)])


def test_models_that_were_disturbed_are_measured_again_together(setting, monkeypatch, tmp_path):
    rounds, said = [], []
    busy = [{'b'}, set()]  # who is disturbed in each round

    def measure(folders, threads, count, seconds):
        others = busy[len(rounds)] if len(rounds) < len(busy) else {'a'}
        rounds.append([folder.name for folder in folders])
        number = len(rounds)
        return [Timing(number / 1000, 0.1, 0.0, 1.0, count, 9, float(folder.name in others)) for folder in folders]

    monkeypatch.setattr(measured_models, 'require_quiet', lambda limits: None)
    monkeypatch.setattr(measured_models, '_deploy', lambda model, setting, folder: folder.with_name(model['name']))
    monkeypatch.setattr(measured_models, 'measure_deployments', measure)
    models = {name: dict(name=name) for name in 'ab'}
    found = measured_models.measure_models(models, setting, tmp_path, say=said.append)
    assert rounds == [['a', 'b']] * 2 and {own.milliseconds for own in found.values()} == {2.0}
    assert '1 of 2 were disturbed (busy: other' in said[-1]
    assert measured_models.measure_models(models, setting, tmp_path, say=said.append) == found and len(rounds) == 2
    with pytest.raises(SearchError, match='1 of 2 models were measured while the machine was busy'):
        measured_models.measure_models(models, setting, tmp_path, again=True, say=said.append)
    assert len(rounds) == 2 + timing.PASSES


def test_the_regression_stands_in_the_file_of_times(setting, measured, tmp_path, table):
    space, store = SearchSpace('small'), timing.latency_store(tmp_path, setting)
    archs = timing.choose_networks(space, setting.features, 40, seed=1)
    timing.time_networks(archs, setting, store, say=lambda line: None)
    with pytest.raises(SearchError, match=re.escape(f'The latency model of {store.path} ranks the 40 networks')):
        timing.fit_latency(list(store.results.values()), store)  # all of one time
    content = json.loads(store.path.read_text())
    assert set(content) == {'machine', 'networks', 'regression'} and content['regression']['check']['spearman'] == 0.0
    assert content['machine']['engine'] == 'onnxruntime' and content['machine']['shape'] == [320, 320]
    assert len(timing.latency_store(tmp_path, setting).results) == 40
    with pytest.raises(SearchError, match='ranks the 40 networks'):
        timing.read_latency(store.path)


def test_a_file_of_times_is_read_to_predict(setting, tmp_path, table):
    store = timing.latency_store(tmp_path, setting)
    with pytest.raises(SearchError, match='latency-onnxruntime.json does not exist; expected the times of networks'):
        timing.read_latency(store.path)
    archs = timing.choose_networks(SearchSpace('small'), setting.features, 40, seed=1)
    for arch, own, time in zip(archs, table, times_of(table), strict=True):
        values = dict(status='done', reason='', milliseconds=time, spread=0.1, rounds=7, others=0.0)
        store.add(timing.TimedNetwork(arch.to_config(), own, **values))
    with pytest.raises(SearchError, match='latency-onnxruntime.json holds no regression yet: finish measuring'):
        timing.read_latency(store.path)
    fitted = timing.fit_latency(list(store.results.values()), store)
    model, conditions = timing.read_latency(store.path)
    assert model == fitted and conditions == store.machine
    content = json.loads(store.path.read_text())
    del content['regression']['weights']['dense']
    store.path.write_text(json.dumps(content))
    with pytest.raises(SearchError, match='latency-onnxruntime.json lacks dense: finish measuring'):
        timing.read_latency(store.path)
    for text in ('{', '[]', '{"regression": {}}'):
        store.path.write_text(text)
        with pytest.raises(SearchError, match='is no file of times .* remove it and measure again'):
            timing.read_latency(store.path)


@pytest.mark.parametrize('name', timing.CONDITIONS)
def test_times_of_other_conditions_are_refused(setting, measured, tmp_path, name):
    store = timing.latency_store(tmp_path, setting)
    timing.time_networks(['small'], setting, store, say=lambda line: None)
    content = json.loads(store.path.read_text())
    content['machine'][name] = 'another'
    store.path.write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match=rf'another machine or of other packages \({name} differ\)'):
        timing.latency_store(tmp_path, setting)
    assert timing.latency_store(tmp_path, setting, again=True).results == {}


def test_times_of_the_searched_backbone_compare_and_of_another_head_do_not(setting):
    own = setting.conditions()['model']
    for options, same in (
        ({'model.backbone.arch': 'base', 'model.backbone.widen_factor': 0.5}, True),
        ({'model.bbox_head.num_classes': 3}, False),
        ({'model.backbone.output_stride': 16}, False),
    ):
        other = timing.Setting(CONFIG, 'onnxruntime', (320, 320), cfg_options=options)
        assert (other.conditions()['model'] == own) is same


def test_a_busy_machine_is_refused_before_anything_is_measured(setting, measured, tmp_path, monkeypatch):
    def refuse(limits):
        raise BusyError('busy')

    monkeypatch.setattr(timing, 'require_quiet', refuse)
    store = timing.latency_store(tmp_path, setting)
    with pytest.raises(BusyError):
        timing.time_networks(['small'], setting, store)
    assert not measured[0]
    timing.time_networks(['small'], setting, store, allow_busy=True, say=lambda line: None)
    assert len(measured[0]) == 1


def test_a_network_is_deployed_with_the_architecture_that_was_asked_for(tmp_path, monkeypatch):
    """As far as the engine: the model that is handed over has the searched backbone, the config's neck and head."""
    found = []
    monkeypatch.setattr(timing, 'deploy_model', lambda source, engine, folder, options: found.append((source, options)))
    setting = timing.Setting(CONFIG, 'onnxruntime', (64, 96), 'float')
    arch = ARCHS['small']
    table = arch.to_config()
    table['stages'][1][0] = (3, *table['stages'][1][0][1:3], None, 2, 'fused')
    timing._deploy(setting, SearchSpace(table, depths=(1, 3)).base, tmp_path)
    ((source, deployed),) = found
    assert source.model.backbone.arch.to_config()['stages'][1] == [(3, 40, 3, None, 2, 'fused')]
    assert source.model.backbone.out_channels == tuple(stage[-1].channels for stage in arch.stages)
    assert deployed.shape == (64, 96) and deployed.precision == 'float' and not deployed.check
    with torch.no_grad():
        assert source.network(torch.zeros(1, 3, 64, 96))[0].shape[0] == 1
