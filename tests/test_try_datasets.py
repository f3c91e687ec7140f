"""The study that takes data sets through the tools: what it calls a fault."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from frostnet_mm.data.generated.mini_coco import generate_mini_coco


@pytest.fixture(scope='module')
def study():
    sys.path.insert(0, str(ROOT / 'tools/studies'))
    try:
        import try_datasets
    finally:
        sys.path.pop(0)
    return try_datasets


@pytest.mark.parametrize(
    ('code', 'text', 'outcome', 'says'),
    [
        (0, 'all is well', 'ok', ''),
        (2, 'log\n\nerror: no class\nhas objects', 'refused', 'no class has objects'),
        (1, 'root\n  PROBLEM: one\n  PROBLEM: two\n', 'refused', 'one; two'),
        (1, '3 of 4 images done\n  failed: a.jpg: it is empty\n', 'refused', 'a.jpg: it is empty'),
        (1, 'log', 'NO MESSAGE', 'exit status 1'),
        (-9, 'error: cut', 'NO MESSAGE', 'exit status -9'),
        (2, 'Traceback (most recent call last):\n  x\nKeyError: 1', 'TRACEBACK', 'KeyError: 1'),
        (None, 'waits', 'HANG', 'waits'),
    ],
)
def test_outcome_of_a_step(study, tmp_path, code, text, outcome, says):
    (tmp_path / 'log').write_text(text)
    assert study.judge(code, tmp_path / 'log') == (outcome, says)


@pytest.mark.parametrize(
    ('row', 'is_fault'),
    [
        (dict(check='ok', train='ok', test='ok', infer='ok'), False),
        (dict(check='refused', train='refused'), False),
        (dict(check='ok', train='ok', test='TRACEBACK', infer='ok'), True),
        (dict(check='ok', train='DISAGREE: refused'), True),
        (dict(check='ok', train='NOTHING LEARNT', test='ok', infer='ok'), True),
    ],
)
def test_what_is_a_fault(study, row, is_fault):
    assert study.faults(dict(name=row)) == ['name'] * is_fault
    assert study.table(dict(name=row)).splitlines()[2].startswith(f'| name | {row["check"]} | {row["train"]} |')


@pytest.mark.slow
def test_good_and_broken_data_sets_are_taken_through(study, tmp_path):
    generate_mini_coco(tmp_path / 'sets/good', num_train=8, num_val=4, progress=False)
    shutil.copytree(tmp_path / 'sets/good', tmp_path / 'sets/cut_off/data')
    for split in ('train', 'val'):
        path = tmp_path / f'sets/cut_off/data/annotations/instances_{split}2017.json'
        path.write_text(path.read_text()[:500])
    # by itself: loggers of other tests in this process have streams that are closed
    command = [sys.executable, ROOT / 'tools/studies/try_datasets.py', tmp_path / 'sets', '--out', tmp_path / 'out']
    done = subprocess.run([*command, '--limit', '1200'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / 'out/results.json').read_text())
    assert list(rows) == ['cut_off', 'good']
    assert [rows['good'][step] for step in study.STEPS] == ['ok'] * 4
    assert rows['good']['loss'] > 0 and set(rows['good']['metrics']) == {'coco/bbox_mAP'}
    assert [rows['cut_off'].get(step) for step in study.STEPS] == ['refused', 'refused', None, None]
    assert 'is cut off: the json stops' in rows['cut_off']['train_says']
    assert '2 data sets, 0 with a fault' in done.stdout
