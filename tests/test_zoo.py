"""The study that takes a model of every family to the engines: what it chooses, finds, and calls a fault."""

import argparse
import json
import sys
import time

import pytest
import torch
from conftest import ROOT
from tiny_segmenter import segmenter
from torch import nn

from frostnet_mm.errors import UserError
from frostnet_mm.quantization import network as network_module


@pytest.fixture(scope='module')
def zoo():
    sys.path.insert(0, str(ROOT / 'tools/studies'))
    try:
        import zoo
    finally:
        sys.path.pop(0)
    return zoo


@pytest.fixture(scope='module')
def one_model(zoo):
    import _zoo_model

    return _zoo_model


# -- what is chosen


def test_families_and_the_smallest_config_of_each(zoo):
    families = zoo.find_families(None)
    assert families['mmdet/retinanet'] == 'retinanet_r18_fpn_1x_coco'
    assert families['mmdet/yolox'] == 'yolox_nano_8xb8-300e_coco'
    assert families['mmdet/rtmdet'] == 'rtmdet_tiny_8xb32-300e_coco'
    assert families['mmseg/segformer'].startswith('segformer_mit-b0_')
    assert families['mmseg/stdc'] == 'stdc1_4xb12-80k_cityscapes-512x1024'
    assert len(families) > 120 and zoo.NOT_DENSE < set(families)
    assert not {'mmdet/_base_', 'mmdet/lvis', 'mmdet/sort', 'mmseg/dsdl'} & set(families)
    assert zoo.find_families(['mmdet/fcos']) == {'mmdet/fcos': families['mmdet/fcos']}
    with pytest.raises(UserError, match='--names mmdet/fcso: expected names of mmdet/atss, '):
        zoo.find_families(['mmdet/fcso'])


def test_each_config_that_the_table_names_is_there(zoo):
    from _zoo_families import SPECIAL

    from frostnet_mm.files import require_config

    for name, special in SPECIAL.items():
        if 'config' in special:
            require_config(f'{name.replace("/", "::", 1)}/{special["config"]}.py')


def test_what_is_repeated_is_cut(zoo):
    from _zoo_families import shorten

    model = dict(backbone=dict(depths=[2, 2, 18, 1], depth=50), necks=[dict(num_layers=(3, 1), num_outs=4)])
    model['train_cfg'] = dict(sampler=dict(num=512, pos_fraction=0.25))
    shorten(model)
    assert model.pop('train_cfg') == dict(sampler=dict(num=64, pos_fraction=0.25))
    assert model == dict(backbone=dict(depths=[2, 2, 2, 1], depth=50), necks=[dict(num_layers=[2, 1], num_outs=4)])
    for outputs, count, expected in (((9, 14, 19, 23), 4, [0, 1, 2, 3]), ((11,), 2, [1]), (-1, 2, [1])):
        model = dict(num_layers=24, out_indices=outputs)
        shorten(model)
        assert model == dict(num_layers=count, out_indices=expected)
    query = dict(num_layers=6)  # without maps of each layer
    shorten(query)
    assert query == dict(num_layers=6)


# -- what is found


class Backbone(nn.Module):
    """Two convolutions with a norm: a map of 8 channels at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x):
        return (torch.relu(self.last(torch.relu(self.norm(self.stem(x))))),)


class Detached(Backbone):
    """Loses the gradient of its stem where it is captured, and not in float."""

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return (self.last(x.detach() if torch.compiler.is_exporting() else x),)


class Branching(Backbone):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


class Failing(Backbone):
    """Cannot be trained in float either."""

    def forward(self, x):
        raise KeyError('mm')


def study_of(one_model, backbone):
    """A study of a segmenter of the test's own in place of a config's."""

    class Tiny(one_model.Study):
        def build(self):
            self.model, self.classes, self.size = segmenter(backbone), 5, (64, 96)

    return Tiny('mmseg/tiny', 'tiny')


def test_a_network_is_taken_to_both_engines(zoo, one_model):
    saved = []
    row = one_model.take_through(study_of(one_model, Backbone), saved.append)
    assert [row.get(step) for step in zoo.STEPS] == ['ok'] * 6, row
    assert [row['running'] for row in saved] == list(zoo.STEPS)
    assert (row['int8'], row['fixed']) == (1.0, False) and row['config'] == 'mmseg::tiny/tiny' and zoo.works(row)


class Bound(Backbone):
    """Its graph holds for images of one size."""

    def forward(self, x):
        return (torch.nn.functional.adaptive_avg_pool2d(super().forward(x)[0], int(x.shape[2] * 0.25)),)


def test_a_network_that_is_bound_to_a_size_is_captured_at_that_of_the_study(one_model):
    study = study_of(one_model, Bound)
    study.build()
    study.capture()
    assert study.facts['fixed'] and study.network.program.fixed_size[2:] == study.size


@pytest.mark.parametrize(
    ('backbone', 'outcomes', 'says'),
    [
        (Detached, ['ok', 'ok', 'WRONG'], 'backbone.stem.weight, backbone.stem.bias, backbone.norm.weight'),
        (Branching, ['ok', 'refused'], 'backbone (Branching) cannot be captured as a graph.'),
        (Failing, ['ok', 'mm'], "KeyError: 'mm'"),
    ],
)
def test_a_network_that_goes_no_further(zoo, one_model, backbone, outcomes, says):
    row = one_model.take_through(study_of(one_model, backbone), lambda row: None)
    assert [row[step] for step in zoo.STEPS if step in row] == outcomes
    assert says in row['says'] and not zoo.works(row)


def test_a_raw_exception_is_a_defect_with_its_place(zoo, one_model, monkeypatch):
    def broken(*args):
        raise AttributeError('raw')

    monkeypatch.setattr(network_module, 'capture', broken)
    row = one_model.take_through(study_of(one_model, Backbone), lambda row: None)
    assert (row['capture'], row['says']) == ('DEFECT', 'AttributeError: raw')
    assert row['place'].startswith('frostnet_mm/quantization/network.py:') and row['place'].endswith(' in broken')


def test_a_converted_network_that_is_off_is_found(one_model):
    simulated = torch.linspace(-1, 1, 4000)
    one_step = torch.zeros(4000)
    one_step[:4] = 1 / 256
    one_model.compare('map', simulated, simulated + one_step)
    with pytest.raises(one_model.StudyError, match=r'map of .* up to 1\.99 steps off the simulation, on 0\.10%'):
        one_model.compare('map', simulated, simulated + 2 * one_step)
    with pytest.raises(one_model.StudyError, match=r'on 0\.12%'):
        one_step[4] = 1 / 256
        one_model.compare('map', simulated, simulated + one_step)
    with pytest.raises(one_model.StudyError):
        one_model.compare('map', simulated, simulated * torch.nan)


# -- many, each in a process of its own


class Fake:
    """A study whose step named like itself misbehaves."""

    def __init__(self, name):
        self.name, self.config, self.facts, self.size = name, 'fake::fake/fake', {}, (64, 96)
        self.build = self.capture = self.step = self.convert = self.onnxruntime = self.openvino = lambda: None

    def fails_in_float(self):
        return None


def hang():
    time.sleep(60)


def spin():
    while True:
        pass


def eat():
    kept = bytearray(300 << 20)
    kept[::4096] = b'1' * len(kept[::4096])
    time.sleep(60)


def raise_(error):
    raise error


def test_many_in_processes_of_their_own(zoo, tmp_path, monkeypatch):
    good, hanging, eating, dying, raw = (Fake(f'mmdet/{name}') for name in ('good', 'hang', 'eat', 'die', 'raw'))
    hanging.step, eating.capture = hang, eat
    dying.convert = lambda: sys.modules['os']._exit(3)
    raw.openvino = lambda: raise_(IndexError('list | index'))
    monkeypatch.setattr(zoo, 'WAIT', 6)
    rows = {}
    args = argparse.Namespace(out=tmp_path, limit=1, memory=0.15, jobs=5)
    zoo.run_all([good, hanging, eating, dying, raw], args, rows.__setitem__)
    found = {name.split('/')[1]: [row.get(step, '–') for step in zoo.STEPS] for name, row in rows.items()}
    assert found == dict(
        good=['ok'] * 6,
        hang=['ok', 'ok', 'TIME', '–', '–', '–'],
        eat=['ok', 'MEMORY', '–', '–', '–', '–'],
        die=['ok', 'ok', 'ok', 'DEFECT', '–', '–'],
        raw=['ok'] * 5 + ['DEFECT'],
    )
    assert rows['mmdet/hang']['says'] == 'It waited longer than the limit.'
    assert rows['mmdet/die']['says'] == 'The process ended with status 3.'
    assert 'IndexError: list | index' in (tmp_path / 'mmdet_raw.log').read_text()
    assert zoo.summary(rows) == (
        '5 families; 1 of 5 dense networks that mm trains here work (20%), 2 DEFECT, 1 TIME, 1 MEMORY'
    )
    line = next(line for line in zoo.table(rows).splitlines() if 'mmdet/raw' in line)
    assert line == '| mmdet/raw | `fake` | 64x96 | ok | ok | ok | ok | DEFECT | – | IndexError: list / index |'


def test_the_limit_is_time_of_a_core(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, 'WAIT', 300)
    spinning, rows = Fake('mmdet/spin'), {}
    spinning.convert = spin
    zoo.run_all([spinning], argparse.Namespace(out=tmp_path, limit=1, memory=1, jobs=1), rows.__setitem__)
    assert (rows['mmdet/spin']['convert'], rows['mmdet/spin']['says']) == ('TIME', 'It took longer than the limit.')


def test_what_is_done_is_not_done_again(zoo, tmp_path, monkeypatch, capsys):
    done = dict.fromkeys(zoo.STEPS, 'ok') | dict(config='mmdet::fcos/one', size=[64, 96], int8=1.0)
    (tmp_path / 'results.json').write_text(json.dumps({'mmdet/fcos': done}))
    monkeypatch.setattr(sys, 'argv', ['zoo.py', '--out', str(tmp_path), '--names', 'mmdet/fcos'])
    monkeypatch.setattr(zoo, 'run_all', lambda *args: pytest.fail('done again'))
    assert zoo.main() == 0
    assert '| mmdet/fcos | `one` | 64x96 | ok | ok | ok | ok | ok | 100% |  |' in capsys.readouterr().out
    (tmp_path / 'results.json').write_text(json.dumps({'mmdet/fcos': done | dict(step='WRONG')}))
    assert zoo.main() == 1
