"""The study of numerics: its plan, and its tables against hand calculations, with made up results."""

import importlib
import json
import sys

import pytest
from conftest import ROOT

from frostnet_mm.engine.config import load_config
from frostnet_mm.errors import UserError

FOUR = dict(warmup='1 epochs', weight_bits=4)


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/studies'))
    module = importlib.import_module('numerics_study')
    yield module
    for name in ('numerics_study', '_numerics_plan', '_numerics_report', '_runs', '_tools'):
        sys.modules.pop(name, None)


def test_the_plan_has_each_run_once(study):
    runs = [own for row in study.make_plan().rows.values() for own in row]
    assert len(set(runs)) == len(runs) == len({own.name for own in runs})
    trainings = [own for own in runs if own.variant != 'ptq']
    assert len(trainings) == 16 + 16 + 24 + 12 + 8 + 6 + 4 + 10 + 6 + 2 + 70
    floats = {(own.model, own.seed) for own in runs if own.variant == 'float'}
    assert {(own.model, own.seed) for own in runs if own.variant == 'ptq'} <= floats


@pytest.mark.parametrize(
    'model, numerics, variant, warmup, expected',
    [
        ('mobilenetv2', 'a scale a tensor', 'qat', 0, dict(warmup='0 epochs', weights='tensor')),
        ('frostnet', '4-bit weights', 'statassist', 1, FOUR),
        ('espnetv2', 'a scale a tensor', 'statassist', 1, dict(warmup='10 %', weights='tensor')),
        ('frostnet', 'tensorrt', 'distilled', 1, dict(warmup='1 epochs', numerics='tensorrt', teacher='self')),
        ('mobilenetv2', '4-bit weights', 'distilled-trained', 1, dict(FOUR, teacher='float.pth')),
        ('frostnet', 'a scale a channel', 'gradboost-relative', 1, dict(warmup='1 epochs')),
        ('frostnet', 'a scale a channel', 'statassist-unfrozen', 1, dict(warmup='1 epochs', freeze_bn_at=None)),
        ('mobilenetv2', 'a scale a tensor', 'qat-sgd', 0, dict(warmup='0 epochs', weights='tensor')),
        ('vgg11-classifier', 'a scale a tensor', 'statassist', 1, dict(warmup='1 epochs', weights='tensor')),
        ('mobilenetv2', 'a scale a tensor', 'gradboost-sgd', 1, dict(warmup='1 epochs', weights='tensor')),
    ],
)
def test_a_run_is_a_config(study, tmp_path, model, numerics, variant, warmup, expected):
    own, folder = study.Run(model, numerics, variant, warmup, 3), tmp_path / 'run'
    path = study.write_config(own, folder, tmp_path / 'float.pth')
    expected = {key: str(tmp_path / value) if value == 'float.pth' else value for key, value in expected.items()}
    cfg = load_config(path, classes=('a', 'b'))
    assert cfg.default_hooks.qat == dict(type='frostnet_mm.QATHook') | expected
    assert cfg.randomness.seed == 3
    name = variant.removesuffix('-sgd')
    kind = 'SGD' if variant.endswith('-sgd') else 'AdamW'
    optimizer = cfg.optim_wrapper.optimizer
    boosted = name in sys.modules['_numerics_plan'].BOOSTED
    assert optimizer.type == (f'frostnet_mm.GradBoost{kind}' if boosted else kind) and optimizer.lr > 0
    lengths = {'espnetv2': (4, None), 'vgg11-classifier': (32, 20)}.get(model, (4, 10))
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.get('max_epochs')) == lengths
    assert cfg.train_cfg.val_interval == {'espnetv2': 1800, 'vgg11-classifier': 10}.get(model, 5)
    assert optimizer.get('momentum') == (0.9 if kind == 'SGD' else None)
    folder.mkdir()
    written, resolved = study.digest_of(folder), folder / path.name
    cfg.dump(resolved)  # as a training does in its work dir
    assert study.write_config(own, folder, tmp_path / 'float.pth') == path  # it goes on
    assert written and study.digest_of(folder) not in ('', written)
    path.write_text('other')
    with pytest.raises(UserError, match='run.py was written by another version of this study'):
        study.write_config(own, folder)


@pytest.mark.parametrize('key, value', [('coco/bbox_mAP', 0.5), ('mIoU', 50.0), ('accuracy/top1', 50.0)])
def test_the_metric_of_a_run(study, key, value):
    other = {'loss': 7.0, key: value / 2}
    assert study.main_value(dict(float=other, converted={'loss': 3.0, key: value})) == 0.5
    assert study.main_value(dict(float=other)) == 0.25


def made_up(own):
    base = dict(float=0.55, ptq=0.5, qat=0.52, statassist=0.53).get(own.variant, 0.51)
    value = base + own.seed / 100 * (2 if own.variant == 'statassist' else 1)
    name = 'mIoU' if own.model == 'espnetv2' else 'coco/bbox_mAP'
    metrics = {name: value * (100 if name == 'mIoU' else 1)}
    return dict(float=metrics) | ({} if own.variant == 'float' else dict(converted=metrics))


def test_a_study_goes_on_and_its_table_is_right(study, tmp_path, monkeypatch, capsys):
    done = []

    def one_run(own, args):
        if len(done) == 20:
            raise KeyboardInterrupt
        done.append(own)
        return made_up(own)

    monkeypatch.setattr(study, 'one_run', one_run)
    command = ['x', '--out', str(tmp_path), '--detection-data', 'd', '--segmentation-data', 's']
    monkeypatch.setattr(sys, 'argv', [*command, '--rows', '1', '5'])
    with pytest.raises(KeyboardInterrupt):
        study.main()
    assert len((tmp_path / 'results.jsonl').read_text().splitlines()) == 20
    monkeypatch.setattr(study, 'one_run', lambda own, args: done.append(own) or made_up(own))
    study.main()
    runs = [own for row in ('1', '5') for own in study.make_plan().rows[row]]
    assert len(done) == len(runs) and set(done) == set(runs)  # nothing twice
    lines = {tuple(part.strip() for part in line.split('|')[1:4]): line for line in capsys.readouterr().out.splitlines()
             if line.startswith('|')}  # fmt: skip
    own = lines['frostnet', 'a scale a tensor', 'statassist, 1 epoch']
    # 0.53 0.55 0.57 0.59 less 0.52 0.53 0.54 0.55: mean 0.025, standard deviation 0.01291, of 4 pairs
    values, differences = '0.530, 0.550, 0.570, 0.590 | 0.560 | 0.026', '+0.025 ± 0.006 (4) | – | -0.005 ± 0.006 (4)'
    assert own == f'| frostnet | a scale a tensor | statassist, 1 epoch | {values} | {differences} |'
    assert lines['frostnet', 'float', 'float'].endswith('| – | – | – |')
    assert lines['mobilenetv2', '4-bit weights', 'qat'].endswith('| 0 of 4 | – | – | – | – | – |')
    assert (tmp_path / 'paired.png').read_bytes()[:4] == b'\x89PNG'


def test_a_run_that_fails_does_not_end_the_others(study, tmp_path, monkeypatch, capsys):
    def one_run(own, args):
        if own.seed == 1:
            raise UserError('no space')
        return made_up(own)

    monkeypatch.setattr(study, 'one_run', one_run)
    command = ['x', '--out', str(tmp_path), '--detection-data', 'd', '--rows', '2', '--jobs', '2']
    monkeypatch.setattr(sys, 'argv', command)
    with monkeypatch.context() as some:
        some.setattr(sys, 'argv', [*command, '--models', 'frostnet', '--seeds', '0', '2'])
        study.main()
    names = {json.loads(line)['run']['model'] for line in (tmp_path / 'results.jsonl').read_text().splitlines()}
    assert names == {'frostnet'} and len(study.Results(tmp_path).known) == 4
    with pytest.raises(UserError, match='4 runs failed:\n.*seed1: no space'):
        study.main()
    assert len((tmp_path / 'results.jsonl').read_text().splitlines()) == 12
    with study.alone(tmp_path), pytest.raises(UserError, match='Another study runs in'):
        study.main()


def test_some_numerics_of_a_row_alone(study, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(study, 'one_run', lambda own, args: done.append(own) or made_up(own))
    command = ['x', '--out', str(tmp_path), '--detection-data', 'd', '--rows', '3', '5', '--seeds', '0']
    monkeypatch.setattr(sys, 'argv', [*command, '--models', 'frostnet', '--numerics', 'tensorrt', '4-bit weights'])
    study.main()
    assert [(own.numerics, own.variant) for own in done] == [
        ('tensorrt', 'qat'), ('tensorrt', 'statassist'), ('', 'float'), ('4-bit weights', 'ptq'), ('tensorrt', 'ptq')
    ]  # fmt: skip


def test_what_is_not_complete_is_marked(study, tmp_path):
    results = study.Results(tmp_path)
    for seed in (0, 2):
        own = study.Run('mobilenetv2', '4-bit weights', 'qat', 0, seed)
        results.add(own, made_up(own), [])
    later = study.Run('mobilenetv2', 'a scale a tensor', 'gradboost', 1, 0)
    for own in (later, study.Run('mobilenetv2', 'a scale a tensor', 'statassist', 1, 0)):
        results.add(own, made_up(own), [])
    lines = list(study.table(study.Results(tmp_path).known, study.make_plan()))[2:]
    assert any('0.520, 0.540 (2 of 4)' in line for line in lines)
    (line,) = [line for line in lines if '| gradboost, 1 epoch |' in line and 'mobilenetv2' in line]
    assert line.endswith('| – | – | -0.020 (1) | – |')  # 0.51 less StatAssist's 0.53
    with pytest.raises(
        UserError, match='has runs with --cfg-options .none., now it is max_epochs=2: give another --out'
    ):
        results.require(['max_epochs=2'])
    with (tmp_path / 'results.jsonl').open('a') as file:
        file.write('{"run": ')
    with pytest.raises(Exception, match='results.jsonl cannot be read'):
        study.Results(tmp_path)
    assert json.loads((tmp_path / 'results.jsonl').read_text().splitlines()[0])['run']['seed'] == 0


def test_finished_runs_are_evaluated_on_engines_later(study, tmp_path, monkeypatch, capsys):
    asked = []

    def evaluate(config, checkpoint, folder, options, of):
        asked.append((config.name, checkpoint.name, options[:2], of))
        value = 0.541 if 'seed1' in config.name else 0.515
        return {'openvino': {'coco/bbox_mAP': value, 'rms steps': 0.6}}

    results, runs = study.Results(tmp_path), [study.Run('frostnet', '4-bit weights', 'qat', 0, seed) for seed in (0, 1)]
    for own in (*runs, study.Run('frostnet', '', 'float', 0, 0)):
        results.add(own, made_up(own), [])
    folder = tmp_path / runs[0].name
    folder.mkdir()
    for name in (f'{folder.name}.py', 'epoch_10.pth'):
        (folder / name).write_text('')
    (folder / 'trained').write_text(str(folder / 'epoch_10.pth'))
    monkeypatch.setattr(study, 'evaluate', evaluate)
    command = ['x', '--out', str(tmp_path), '--detection-data', 'd', '--rows', '2', '5', '--models', 'frostnet']
    monkeypatch.setattr(study, 'one_run', lambda own, args: pytest.fail('nothing is trained'))
    monkeypatch.setattr(
        study, 'make_plan', lambda: study.Plan({'2': runs, '5': [study.Run('frostnet', '', 'float', 0, 0)]})
    )
    monkeypatch.setattr(sys, 'argv', [*command, '--engine', 'openvino'])
    with pytest.raises(UserError, match='1 runs failed:\n.*seed1 has no config or no checkpoint any more'):
        study.main()
    assert asked == [(f'{folder.name}.py', 'epoch_10.pth', ['--engine', 'openvino'], 'openvino')]
    assert study.Results(tmp_path).known[runs[0]]['openvino']['coco/bbox_mAP'] == 0.515
    (tmp_path / runs[1].name).mkdir()
    (tmp_path / f'{runs[1].name}.py').write_text('')
    (tmp_path / runs[1].name / 'calibrated.pth').write_text('')
    study.main()
    assert len(asked) == 2  # the first one not again
    # integers 0.52 and 0.53, the engine 0.515 and 0.541
    assert '| frostnet | 4-bit weights | qat | openvino | 2 | 0.525 | 0.528 | +0.011 |' in capsys.readouterr().out


def test_classifiers_have_a_table_of_ways(study):
    """Top-1 on the engine where there is one; what is not there is a dash, a network that is not there no line."""
    known = {}
    for variant, value, engine in (('float', 30.0, None), ('qat', 28.0, 27.5), ('statassist', 29.0, 29.26)):
        own = study.Run('alexnet-classifier', 'a scale a tensor' if engine else '', variant, variant == 'statassist', 0)
        metrics = {'accuracy/top1': value, 'accuracy/top5': 60.0}
        known[own] = dict(float=metrics) | (dict(converted=metrics) if engine else {})
        if engine:
            known[own]['openvino'] = {'accuracy/top1': engine, 'rms steps': 0.5}
    lines = list(study.classifier_table(known, study.make_plan()))
    channel = 'a scale a channel, qat | a scale a channel, statassist, 1 epoch'
    assert lines[0] == f'| network | float | {channel} | {channel.replace("channel", "tensor")} |'
    assert lines[2:] == ['| alexnet | 0.300 | – | – | 0.275 | 0.293 |']
    assert list(study.classifier_table({}, study.make_plan())) == []


def test_a_teacher_that_was_trained_is_the_float_run_of_the_seed(study, tmp_path, monkeypatch):
    trained, args = [], [str(tmp_path / 'float.pth')]
    monkeypatch.setattr(study, 'train', lambda config, folder, options: trained.append(config) or args[0])
    monkeypatch.setattr(study, 'evaluate', lambda *rest: {})
    own = study.Run('mobilenetv2', 'a scale a tensor', 'distilled-trained', 1, 1)
    arguments = study.argparse.Namespace(out=tmp_path, detection_data='d', cfg_options=[], engine=None)
    with pytest.raises(UserError, match='mobilenetv2_float_seed1 is not there: .* begins with it, run its row first'):
        study.one_run(own, arguments)
    (tmp_path / 'mobilenetv2_float_seed1').mkdir()
    study.one_run(own, arguments)
    assert [config.stem for config in trained] == ['mobilenetv2_float_seed1', own.name]
    assert load_config(trained[1], classes=('a', 'b')).default_hooks.qat.teacher == args[0]
