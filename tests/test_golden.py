"""What earlier versions wrote keeps working: a config, a checkpoint, a deployment (golden/README.md)."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_tool

from frostnet_mm.device import predictor
from frostnet_mm.quantization import Checkpoint

GOLDEN = ROOT / 'tests/golden'
CONFIG, CHECKPOINT, DEPLOYMENT = GOLDEN / 'detector.py', GOLDEN / 'qat.pth', GOLDEN / 'deployment'
METRICS = json.loads((GOLDEN / 'metrics.json').read_text())
DATA = f'data_root={GOLDEN / "coco"}'
IMAGE = GOLDEN / 'coco/val2017/000000.png'


def evaluate(checkpoint, folder, *args):
    out = folder / 'metrics.json'
    options = ('--work-dir', folder / 'work', '--compare', *args, '--out', out, '--cfg-options', DATA)
    assert run_tool('test', CONFIG, checkpoint, *options) == 0
    found = json.loads(out.read_text())['metrics']
    return {name: {key: values[key] for key in METRICS['trained']['float']} for name, values in found.items()}


def ends(key, ranges):
    """Both ends of the range that one end belongs to."""
    return [ranges[f'{key.rpartition(".")[0]}.{end}'] for end in ('min_val', 'max_val')]


def test_metrics_of_an_earlier_checkpoint_are_the_same_to_the_last_digit(tmp_path):
    found = evaluate(CHECKPOINT, tmp_path, '--engine', 'onnxruntime')
    assert found == METRICS['trained'] and list(found) == ['float', 'simulated', 'converted', 'onnxruntime']


def test_calibration_finds_the_same_ranges(tmp_path):
    train = 'train_dataloader.dataset'
    options = (f'{train}.ann_file=annotations/instances_val2017.json', f'{train}.data_prefix.img=val2017/')
    out = tmp_path / 'int8.pth'
    arguments = ('--out', out, '--num-images', 12, '--cfg-options', DATA, *options)
    assert run_tool('calibrate', CONFIG, CHECKPOINT, *arguments) == 0
    expected = json.loads((GOLDEN / 'ranges.json').read_text())
    ranges = {key: value for key, value in Checkpoint.open(out).state_dict.items() if key.startswith('quantization.')}
    assert ranges.keys() == expected.keys() and len(ranges) == 122
    for key, value in ranges.items():  # histograms hang on the order in which an engine sums up
        assert abs(float(value) - expected[key]) <= 0.01 * max(map(abs, ends(key, expected))), key
    found = evaluate(out, tmp_path)
    for name, values in METRICS['calibrated'].items():
        assert abs(found[name]['coco/bbox_mAP'] - values['coco/bbox_mAP']) < 0.01


def test_what_an_earlier_checkpoint_says_is_understood():
    checkpoint = Checkpoint.open(CHECKPOINT)
    assert checkpoint.digest == '60c826c0739d183bfd18fc950bdeb3fdfd423529edf215ca2140d05b936058af'  # sha256sum
    assert checkpoint.classes == ('shape 0', 'shape 1') and checkpoint.quantized
    settings = checkpoint.settings
    assert (settings.scheme.name, settings.scheme.weight_bits, settings.scheme.float_modules) == ('onnx', 8, [])
    assert settings.to_dict() == checkpoint.meta['quantization']['settings']  # written as it was read
    assert str(checkpoint.reached) == checkpoint.meta['quantization']['phase'] == 'QAT, batch norm and ranges frozen'


@pytest.mark.parametrize('arguments', [('--check',), (str(IMAGE), '--score-thr', '0.4')])
def test_an_earlier_deployment_runs_by_itself(arguments, tmp_path):
    folder = tmp_path / 'deployment'
    shutil.copytree(DEPLOYMENT, folder)
    done = subprocess.run(
        [sys.executable, str(folder / 'predictor.py'), *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (
        'computes on this machine what was deployed' if arguments == ('--check',) else '000000.png: '
    ) in done.stdout


def test_an_earlier_deployment_runs_with_the_predictor_of_today(tmp_path):
    """The same boxes as the predictor that lies in the folder, bit by bit."""
    outputs = predictor.check_deployment(DEPLOYMENT)
    assert len(outputs) == 8 and all(output.passed for output in outputs)
    found = predictor.Predictor(DEPLOYMENT, score_threshold=0.02).predict(IMAGE)
    code = (
        'import sys, json; sys.path.insert(0, sys.argv[1]); from predictor import Predictor; '
        'd = Predictor(sys.argv[1], score_threshold=0.02).predict(sys.argv[2]); '
        'print(json.dumps([d.boxes.tolist(), d.scores.tolist(), d.labels.tolist()]))'
    )
    done = subprocess.run(
        [sys.executable, '-B', '-c', code, str(DEPLOYMENT), str(IMAGE)], capture_output=True, text=True, check=True
    )
    boxes, scores, labels = json.loads(done.stdout)
    assert len(boxes) > 3 and np.array_equal(found.boxes, np.float32(boxes))
    assert np.array_equal(found.scores, np.float32(scores)) and np.array_equal(found.labels, labels)


@pytest.mark.slow
def test_an_engine_of_another_package_evaluates_an_earlier_checkpoint(engine_registry, tmp_path):
    """Known by the config's custom_imports alone; it computes what the converted network does, without fusions."""
    config = tmp_path / 'config.py'
    imports = "custom_imports = dict(imports=['frostnet_mm', 'dummy_engine'], allow_failed_imports=False)"
    config.write_text(f'_base_ = {str(CONFIG)!r}\n{imports}\n')
    out = tmp_path / 'metrics.json'
    options = ('--engine', 'dummy', '--work-dir', tmp_path / 'work', '--out', out, '--cfg-options', DATA)
    assert run_tool('test', config, CHECKPOINT, *options) == 0
    found = json.loads(out.read_text())['metrics']['dummy']
    expected = METRICS['trained']['converted']
    assert {key: found[key] for key in expected} == expected and found['rms steps'] < 0.1
