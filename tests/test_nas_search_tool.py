"""The search as a user runs it, on a detector and a segmenter, without the validation data, up to deployments."""

import json
import math
import operator
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import seg_files
import torch
from conftest import ROOT, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from nas_search_parts import DETECTION, SEGMENTATION, make_up_times

from frostnet_mm.benchmark.measure import Timing
from frostnet_mm.device import predictor
from frostnet_mm.engine.config import load_config
from frostnet_mm.errors import UserError
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.nas import baselines, measured, search, supernet
from frostnet_mm.nas.candidates import Evaluator
from frostnet_mm.nas.elastic import ElasticFrostNet
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.networks import extract_model
from frostnet_mm.nas.search import Search, SearchOptions
from frostnet_mm.nas.settings import SearchSettings
from frostnet_mm.nas.supernet import write_supernet
from frostnet_mm.quantization import QuantizationSettings
from frostnet_mm.quantization.checkpoint import CALIBRATED, Checkpoint
from frostnet_mm.quantization.prepare import quantized_network

FILES = {'pareto.png', 'report.html', 'results.json', 'study.log', 'supernet.py', 'latency-onnxruntime.json'}


def make_up_models(monkeypatch, calls):
    """Have no model deployed or measured for the report, and compare with one other model only."""
    monkeypatch.setattr(measured, '_deploy', lambda model, setting, folder: folder)
    monkeypatch.setattr(measured, 'require_quiet', lambda limits: None)

    def measure(folders, threads, rounds, seconds):
        calls.append(len(folders))
        return [Timing(0.001 + 0.0001 * i, 0.1, 0.0, 500.0, rounds, 10, 0.0) for i in range(len(folders))]

    monkeypatch.setattr(measured, 'measure_deployments', measure)
    monkeypatch.setattr(search, 'baselines', lambda cfg, say: {'MobileNetV2': cfg.model})


@pytest.fixture(scope='module')
def detection(mini_coco, tmp_path_factory):
    """A whole search of two networks; validation images and annotations do not exist."""
    folder = tmp_path_factory.mktemp('search')
    shutil.copytree(mini_coco, folder / 'data')
    shutil.rmtree(folder / 'data/val2017')
    (folder / 'data/annotations/instances_val2017.json').unlink()
    (folder / 'net.py').write_text(DETECTION)
    calls = dict(timed=[], measured=[])
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_up_times(monkeypatch, calls['timed'])
        make_up_models(monkeypatch, calls['measured'])
        assert run(folder) == 0
    return folder, calls


def run(folder, *args, config='net.py', out='out'):
    options = (f'data_root={folder}/data',)
    return run_tool('search', folder / config, '--out', folder / out, *args, '--cfg-options', *options)


def test_a_search_leaves_what_it_promises(detection):
    folder, calls = detection
    out = folder / 'out'
    assert {path.name for path in out.iterdir()} >= FILES and calls['timed'] == [10, 10, 10, 10]
    results = json.loads((out / 'results.json').read_text())
    assert results['settings']['trials'] == 2 and results['settings']['shape'] == [64, 64]
    (study,) = results['studies']
    assert study['sampler'] == 'nsga2' and len(study['networks']) == 2
    values = {own['key']: own['value'] for own in study['networks']}
    for name, own in results['front'].items():
        assert own['value'] == values[own['key']] and own['key'].startswith(name[4:])
        assert own['measured_ms'] == results['measured'][name]['milliseconds'] >= 1
    assert calls['measured'] == [len(results['front']) + 1]
    assert (out / 'pareto.png').read_bytes()[:4] == b'\x89PNG'
    page = (out / 'report.html').read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and all(name in page for name in results['front'])
    held_out, train = (json.loads((out / f'split/{part}.json').read_text()) for part in ('held_out', 'train'))
    ids = [{image['id'] for image in part['images']} for part in (train, held_out)]
    assert len(ids[0] | ids[1]) == 24 and len(ids[1]) == 5 and not ids[0] & ids[1]
    text = (out / 'supernet.py').read_text()
    assert 'val2017' not in text.replace('config', '') or 'instances_val2017' not in text


def test_it_goes_on_where_it_was(detection, monkeypatch, capsys):
    """Again, everything is there; with two trials more, only these are evaluated; the front is measured anew."""
    folder, _ = detection
    out, calls = folder / 'out', []
    monkeypatch.setattr(Evaluator, '_measure', lambda self, model: (calls.append(model), ('bbox_mAP', 0.5))[1])
    monkeypatch.setattr(Evaluator, '_network', lambda self, arch: arch)
    make_up_times(monkeypatch, calls)
    make_up_models(monkeypatch, calls)
    before = {
        name: (out / name).read_bytes()
        for name in ('supernet.py', 'latency-onnxruntime.json', 'measured-onnxruntime.json')
    }
    shutil.copytree(out, folder / 'again')
    assert run(folder, out='again') == 0 and not calls
    for name, content in before.items():
        assert (folder / 'again' / name).read_bytes() == content
    weights = (folder / 'again/supernet/epoch_1.pth').stat().st_mtime_ns
    assert run(folder, '--trials', '4', '--join', out='again') == 0 and len(calls) == 2
    assert (folder / 'again/supernet/epoch_1.pth').stat().st_mtime_ns == weights
    capsys.readouterr()
    assert run(folder, '--trials', '4', '--sampler', 'random', '--stage', 'search', out='again') == 0
    assert run(folder, '--trials', '4', '--stage', 'report', out='again') == 0
    assert '| MobileNetV2 | 1.' in capsys.readouterr().out
    studies = json.loads((folder / 'again/results.json').read_text())['studies']
    assert [(own['sampler'], len(own['networks'])) for own in studies] == [('nsga2', 4), ('random', 4)]
    assert all(own['hypervolume'] > 0 for own in studies)


def test_metrics_that_tell_nothing_are_said(detection, monkeypatch, capsys):
    folder, _ = detection
    shutil.copytree(folder / 'out', folder / 'alike', ignore=shutil.ignore_patterns('candidates', 'study.log'))
    monkeypatch.setattr(Evaluator, '_network', lambda self, arch: arch)
    for value, said in ((lambda: 0.0, True), (iter([0.1, 0.2, 0.3, 0.4]).__next__, False)):
        monkeypatch.setattr(Evaluator, '_measure', lambda self, model, value=value: ('bbox_mAP', value()))
        assert run(folder, '--stage', 'search', '--trials', '2' if said else '4', out='alike') == 0
        assert ('All of them have the same metric, 0.0000' in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    'args, message',
    [
        (('--stage', 'search', '--target-ms', '0.01'), 'target_ms=0.01: no network of the space meets it'),
        (('--epochs', '7'), 'holds a search with another epochs (7, before 1), and its weights'),
        (('--stage', 'search', '--threads', '2'), 'latency-onnxruntime.json is of threads=1, and 2 is asked for'),
        (('--engine', 'nothing'), "search.engine='nothing': expected one of"),
        (
            ('--stage', 'report', '--target-ms', '9'),
            'holds no network of the study "nsga2, onnxruntime int8, 1 thread, ',
        ),
    ],
)
def test_what_does_not_fit_is_one_message(detection, capsys, args, message):
    folder, _ = detection
    assert run(folder, *args) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count('error: ') == 1 and 'Traceback' not in printed


def test_a_first_start_that_failed_is_forgotten(detection, monkeypatch, tmp_path):
    """Its data, options and lists are not kept: nothing was measured or trained with them."""
    folder, out = detection[0], tmp_path / 'new'
    data = {'data_root': f'{folder}/data'}
    first = Search(folder / 'net.py', out, dict(epochs=7), data | {'train_dataloader.dataset.data_prefix.img': 'no'})
    with pytest.raises(UserError, match='exist'):
        first.run(('supernet',))
    Search(folder / 'net.py', out, dict(epochs=7), data | {'train_cfg.max_epochs': None})
    (out / 'split').mkdir()
    (out / "split/of one's own.json").write_text('{}')
    with pytest.raises(SearchError, match='expected max_epochs or max_iters'):
        write_supernet(load_config(out / 'config.py'), SearchSettings(epochs=7), out)
    assert [path.name for path in (out / 'split').iterdir()] == ["of one's own.json"]
    lines = []
    mended = Search(folder / 'net.py', out, {}, data, SearchOptions(say=lines.append))
    assert json.loads((out / 'search.json').read_text())['epochs'] == mended.settings.epochs != 7
    assert mended.cfg.train_dataloader.dataset.data_root == f'{folder}/data' and not lines


def test_other_values_than_a_search_was_begun_with_are_said(detection):
    """Those that its weights do not depend on by themselves, such as a learning rate."""
    folder, lines = detection[0], []
    options, given = SearchOptions(say=lines.append), {'data_root': f'{folder}/data'}
    Search(folder / 'net.py', folder / 'out', {}, given, options)
    assert not lines
    Search(folder / 'net.py', folder / 'out', {}, given | {'optim_wrapper.optimizer.lr': 7.0}, options)
    (line,) = lines
    assert 'was begun with other values of optim_wrapper; they stay, as' in line and 'config.py has them' in line


def test_stages_in_the_wrong_order(detection, capsys, tmp_path):
    folder, _ = detection
    assert run(folder, '--join', out=tmp_path / 'new') == 2
    assert 'latency-onnxruntime.json does not exist; expected the times of networks' in capsys.readouterr().err
    shutil.copy(folder / 'out/latency-onnxruntime.json', tmp_path / 'new')
    assert run(folder, '--join', out=tmp_path / 'new') == 2
    assert 'supernet.py does not exist: run --stage supernet first' in capsys.readouterr().err


def test_a_missing_optuna_is_one_message(detection, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    assert run(detection[0]) == 2
    assert 'pip install "optuna>=5,<6"' in capsys.readouterr().err


def build(config, options=None):
    cfg = load_config(config, options)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def found_of(folder):
    (float_config,) = sorted((folder / 'out/found').glob('*[!t].py'))[:1]
    return float_config, float_config.with_name(f'{float_config.stem}_qat.py')


def test_a_found_network_is_the_one_that_was_evaluated_trains_and_deploys(detection, tmp_path):
    folder, _ = detection
    check_found(folder)
    train_found(folder, tmp_path, ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=18'])
    deploy_found(folder, tmp_path, 'epoch_1.pth')


def check_found(folder):
    """The parameters of a found config are those of the network that was cut out."""
    config, _ = found_of(folder)
    options = dict(data_root=f'{folder}/data')
    arch = load_config(config, options).model.backbone.arch
    found, elastic = build(config, options), build(folder / 'out/supernet.py')
    assert isinstance(elastic.backbone, ElasticFrostNet)
    expected = extract_model(elastic, arch.to_dict())
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (found, expected)]
    assert shapes[0] == shapes[1]
    assert sum(map(torch.numel, DenseNetwork(found).parameters())) > 1000


def train_found(folder, tmp_path, length):
    """One iteration of QAT."""
    options = [f'data_root={folder}/data', *length, 'default_hooks.qat.warmup=0', 'val_dataloader=None']
    options += [f'default_hooks.qat.{name}=None' for name in ('freeze_bn_at', 'freeze_observers_at')]
    assert run_tool('train', found_of(folder)[1], '--work-dir', tmp_path / 'run', '--cfg-options', *options) == 0


def deploy_found(folder, tmp_path, name, *shape):
    """On an engine, and checked there."""
    out, images = tmp_path / 'deployed', sorted((folder / 'data').rglob('*.jpg'))[:2]
    args = ('--engine', 'onnxruntime', *shape, '--out', out, '--images', *images)
    args += ('--cfg-options', f'data_root={folder}/data')
    assert run_tool('deploy', found_of(folder)[1], tmp_path / 'run' / name, *args) == 0
    assert predictor.main(['--folder', str(out), '--check']) == 0


def test_the_metric_is_what_the_ordinary_tools_say(detection, tmp_path):
    """The best network as a calibrated checkpoint of its found config, evaluated by tools/test.py."""
    folder, _ = detection
    results = json.loads((folder / 'out/results.json').read_text())
    name, own = max(results['front'].items(), key=lambda item: item[1]['value'])
    evaluator = Evaluator(folder / 'out', SearchSettings(engine='onnxruntime'))
    model = evaluator._network(own['arch'])
    meta = dict(dataset_meta=dict(classes=evaluator.runner.cfg.classes))
    checkpoint = Checkpoint(dict(meta=meta, state_dict=model.state_dict()), 'found')
    checkpoint.quantize(quantized_network(model), QuantizationSettings.of('onnx', weight_bits=8), CALIBRATED)
    torch.save(checkpoint.content, tmp_path / 'found.pth')
    held_out = folder / 'out/split/held_out.json'
    options = [f'data_root={folder}/data', f'test_dataloader.dataset.ann_file={held_out}',
               'test_dataloader.dataset.data_prefix.img=train2017/', f'test_evaluator.ann_file={held_out}']  # fmt: skip
    args = ('--work-dir', tmp_path, '--out', tmp_path / 'metrics.json', '--cfg-options', *options)
    assert run_tool('test', folder / f'out/found/{name}.py', tmp_path / 'found.pth', *args) == 0
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['execution'] == 'simulated'
    assert metrics['metrics']['coco/bbox_mAP'] == own['value'] > 0


@pytest.fixture(scope='module')
def segmentation(tmp_path_factory):
    """The same of a segmenter; there are no validation images."""
    folder = tmp_path_factory.mktemp('segmentation')
    seg_files.write(folder / 'data', 20)
    (folder / 'net.py').write_text(SEGMENTATION)
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_up_times(monkeypatch)
        make_up_models(monkeypatch, [])
        assert run(folder) == 0
    return folder


SEG_LENGTH = ['train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=1']


@pytest.mark.slow
def test_a_segmenter_is_searched_and_what_was_found_trains(segmentation, tmp_path):
    results = json.loads((segmentation / 'out/results.json').read_text())
    assert results['metric'] == 'mIoU' and len(results['studies'][0]['networks']) == 2
    assert 'qat_segmentation.py' in found_of(segmentation)[1].read_text()
    check_found(segmentation)
    train_found(segmentation, tmp_path, SEG_LENGTH)


@pytest.mark.slow
def test_a_found_segmenter_deploys(segmentation, tmp_path):
    train_found(segmentation, tmp_path, SEG_LENGTH)
    deploy_found(segmentation, tmp_path, 'iter_1.pth', '--shape', 64, 96)


def test_the_supernet_trains_by_the_ordinary_tool(detection, tmp_path):
    """As tools/dist_train.sh calls it; the config and its lists are all that is needed."""
    folder, _ = detection
    options = [f'work_dir={tmp_path}/run', 'val_dataloader=None', 'train_dataloader.batch_size=16']
    assert run_tool('train', folder / 'out/supernet.py', '--work-dir', tmp_path / 'run', '--cfg-options', *options) == 0
    assert (tmp_path / 'run/epoch_1.pth').is_file()


@pytest.mark.slow
def test_how_a_supernet_ranks_networks_that_are_trained_from_scratch(detection, monkeypatch, capsys):
    """With trainings that find made up metrics; tau is counted pair by pair."""
    folder, done, scratch, run_other = detection[0] / 'out', [], [0.3, 0.1, 0.2, 0.4], subprocess.run

    def answer(command, *args, **options):
        if len(command) < 2 or Path(command[1]).name not in ('train.py', 'test.py'):
            return run_other(command, *args, **options)
        tool, given = Path(command[1]).stem, dict(zip(command, command[1:], strict=False))
        if tool == 'train':
            cfg = Config.fromfile(command[2])
            assert cfg.train_dataloader.dataset.ann_file == str(folder / 'split/train.json')
            assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file == str(folder / 'split/held_out.json')
            assert cfg.default_hooks.qat.weights == 'tensor' and cfg.model.backbone.type == 'frostnet_mm.FrostNet'
            Path(given['--work-dir'], 'last_checkpoint').write_text('last.pth')
        else:
            done.append(command)
            metrics = {'coco/bbox_mAP': scratch[len(done) - 1]}
            Path(given['--out']).write_text(json.dumps(dict(metrics=metrics)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr('subprocess.run', answer)
    args = (folder, '--count', 4, '--weights', 'tensor')
    assert run_tool('studies/search_ranking', *args) == 0 == run_tool('studies/search_ranking', *args)
    assert len(done) == 4  # once
    found = json.loads((folder / 'ranking/tensor.json').read_text())
    values = [row['supernet'][0] for row in found['networks']]
    assert [row['trained'] for row in found['networks']] == [[value] for value in scratch]
    signs = [(a > b) - (a < b) for i, a in enumerate(values) for b in values[:i]]
    order = [1 if a > b else -1 for i, a in enumerate(scratch) for b in scratch[:i]]
    ties = sum(not sign for sign in signs)
    tau = sum(map(operator.mul, signs, order)) / math.sqrt(len(signs) * (len(signs) - ties))
    assert found['taus'][0][0] == pytest.approx(tau) and f'{tau:.2f} (' in capsys.readouterr().out
    assert (folder / 'ranking/tensor.png').read_bytes().startswith(b'\x89PNG')


def test_a_config_that_is_quantized_is_refused(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/ssdlite_frostnet_coco.py')
    cfg.default_hooks['qat'] = dict(type='frostnet_mm.QATHook')
    with pytest.raises(search.SearchError, match='The config trains in simulated INT8 .QATHook.*Give its float config'):
        supernet.write_supernet(cfg, SearchSettings(engine='onnxruntime'), tmp_path)


# -- what found networks are compared with


def test_mobilenet_in_the_place_of_the_backbone_is_the_baseline_of_the_configs():
    options = dict(classes=('a', 'b'))
    cfg = load_config(ROOT / 'configs/ssdlite_frostnet_custom.py', classes=options['classes'])
    expected = load_config(ROOT / 'configs/ssdlite_mobilenetv2_custom.py', classes=options['classes']).model
    lines = []
    found = baselines.baselines(cfg, lines.append)
    variants = [f'FrostNet {name}' for name in ('small', 'base', 'large', 'engine-s', 'engine-m', 'engine-l')]
    assert list(found) == [*variants, 'MobileNetV2'] and not lines
    own = found['MobileNetV2']
    assert tuple(own.backbone.out_indices) == expected.backbone.out_indices == (2, 4, 7)
    for part, names in (('neck', ('in_channels', 'out_channels')), ('bbox_head', ('in_channels',))):
        for name in names:
            assert tuple(own[part][name]) == tuple(expected[part][name]), name
    assert (
        found['FrostNet base'].backbone.arch['stages']
        == search.plain_backbone(cfg.model.backbone, 'base')['arch']['stages']
    )


def test_mobilenet_is_the_baseline_of_classifiers():
    cfg, lines = load_config(ROOT / 'configs/frostnet_custom_cls.py', classes=('a', 'b')), []
    own = baselines.baselines(cfg, lines.append)['MobileNetV2']
    assert not lines and own.backbone.to_dict() == dict(type='mmdet.MobileNetV2', out_indices=(7,))
    assert (own.head.in_channels, own.head.hidden_channels) == (1280, 1280)


def test_maps_that_mobilenet_does_not_have():
    assert baselines.mobilenet([4, 8, 16, 32], 'mmseg') == dict(type='mmseg.MobileNetV2', out_indices=(1, 2, 4, 6))
    assert baselines.mobilenet([4, 16], 'mmseg') == dict(
        type='mmseg.MobileNetV2', out_indices=(1, 6), strides=(1, 2, 2, 2, 1, 1, 1), dilations=(1, 1, 1, 1, 1, 2, 2)
    )  # as configs/lraspp_mobilenetv2_cityscapes.py
    for strides, scope in (([16, 32, 32], 'mmdet'), ([8, 8], 'mmseg'), ([2, 32], 'mmdet'), ([8], 'mmpretrain')):
        with pytest.raises(baselines.ConfigError, match='it has (no maps of the strides|one map of a stride)'):
            baselines.mobilenet(strides, scope)


def test_the_tool_names_its_options():
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools/search.py'), '--help'], capture_output=True, text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    assert done.returncode == 0 and '--join' in done.stdout
