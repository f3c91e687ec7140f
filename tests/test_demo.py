"""`make demo` from a trained checkpoint to the report: every arithmetic and engine, times, pictures."""

import importlib
import json
import re
import shutil
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import EXACT_BITS, ROOT
from test_golden import CHECKPOINT, CONFIG, GOLDEN, METRICS

from frostnet_mm.engine.config import load_config

COUNTS = dict(train=dict(images=48), val=dict(images=12))


@pytest.fixture
def demo(monkeypatch):
    """The module of tools/demo.py."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('demo')


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_the_configs_of_the_demos_load(demo, task):
    """They moved once, and no test told."""
    cfg = load_config(demo.DEMOS[task].path, classes=())
    assert cfg.default_hooks.qat.type == 'frostnet_mm.QATHook' and 'GradBoost' in cfg.optim_wrapper.optimizer.type


def test_a_contact_sheet_has_every_picture_whole(demo, tmp_path):
    files = []
    for index, size in enumerate([(4, 6), (5, 3), (5, 6), (2, 2)]):
        files.append(tmp_path / f'{index}.png')
        cv2.imwrite(str(files[-1]), np.full((*size, 3), index, np.uint8))
    sheet = cv2.imdecode(np.frombuffer(sys.modules['_demo_engines'].contact_sheet(files), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (5 + 8 + 2, 3 * 6 + 2 * 8, 3)
    values, counts = np.unique(sheet[..., 0], return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        0: 24,
        1: 15,
        2: 30,
        3: 4,
        255: 15 * 34 - 73,
    }


def test_a_trained_demo_ends_on_engines(demo, tmp_path, monkeypatch, capsys):
    """The golden checkpoint in the place of what the demo trains, at its metrics."""
    own = replace(
        demo.DEMOS['detection'], config=CONFIG, generate=lambda folder: COUNTS, shape=(128, 128), images=range(3)
    )
    monkeypatch.setitem(demo.DEMOS, 'detection', own)
    work_dir = tmp_path / 'demo'
    length = load_config(CONFIG).train_cfg.max_epochs
    argv = ['demo.py', '--work-dir', str(work_dir), '--data', str(GOLDEN / 'coco'), '--epochs', str(length)]
    monkeypatch.setattr(sys, 'argv', argv)
    demo.prepare(demo.parse_args())
    shutil.copy(CHECKPOINT, work_dir / f'epoch_{length}.pth')
    for name in ('curves.png', 'predictions.png'):
        shutil.copy(GOLDEN / 'coco/val2017/000000.png', work_dir / name)
    engines = sys.modules['_demo_engines']
    monkeypatch.setattr(engines, 'ROUNDS', 1)
    monkeypatch.setattr(engines, 'SECONDS', 0.05)
    demo.main()
    printed = capsys.readouterr().out
    results = json.loads((work_dir / 'results.json').read_text())
    assert list(results['metrics']) == ['float', 'simulated', 'converted', 'openvino', 'onnxruntime']
    assert results['weight_bits'] == EXACT_BITS
    expected = METRICS['trained']
    assert results['metrics']['float']['coco/bbox_mAP'] == expected['float']['coco/bbox_mAP']
    if EXACT_BITS == 8:
        for name in ('simulated', 'converted', 'onnxruntime'):
            assert results['metrics'][name]['coco/bbox_mAP'] == expected[name]['coco/bbox_mAP']
    table = {
        tuple(cell.strip() for cell in line.split('|')[1:3]): [cell.strip() for cell in line.split('|')[3:7]]
        for line in printed.splitlines()
        if line.startswith('| ')
    }
    int8 = 'INT8' if EXACT_BITS == 8 else 'INT8, weights of 7 bits'
    assert [key for key in table if key[0] in ('openvino', 'onnxruntime')] == [
        (engine, name) for engine in ('openvino', 'onnxruntime') for name in ('float', int8)
    ]
    for engine in ('openvino', 'onnxruntime'):
        metric, milliseconds, ratio, size = table[engine, int8]
        assert metric == f'{results["metrics"][engine]["coco/bbox_mAP"]:.3f}'
        whole = float(table[engine, 'float'][1].rstrip('*'))
        assert float(ratio) == pytest.approx(float(milliseconds.rstrip('*')) / whole, rel=0.02)
        assert 0 < float(size) < 5
    report = (work_dir / 'report.html').read_text()
    assert report.count('data:image/png;base64') == 4  # latency, curves, two sheets of predictions
    assert not re.findall(r'(?:src|href)="(?!data:)', report)
    assert cv2.imread(str(work_dir / 'predictions_openvino.png')) is not None
    before = (work_dir / 'results.json').stat().st_mtime_ns
    demo.main()  # again: nothing is done twice
    assert 'cells, 5 of them measured already' in capsys.readouterr().out
    assert (work_dir / 'results.json').stat().st_mtime_ns == before
