"""tools/studies/fuzz.py: a short run over spoilt files, and faults that it must notice."""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_tool

from frostnet_mm.errors import UserError

STUDIES = ROOT / 'tools' / 'studies'


@pytest.fixture
def fuzz(monkeypatch):
    """The module, as tools import each other."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import fuzz

    return fuzz


def rows_of(out):
    return [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]


def test_spoilt_files_end_in_a_result_or_one_message(tmp_path, capfd):
    """Resumed in the middle: the results are those of one run."""
    command = ('--kind', 'images', 'coco', 'labels', '--seed', '7', '--out', tmp_path)
    assert run_tool('studies/fuzz', '--inputs', '45', *command) == 0, capfd.readouterr().out
    first = rows_of(tmp_path)
    assert Counter(row['kind'] for row in first) == dict(images=24, coco=12, labels=9)
    assert {row['outcome'] for row in first} == {'result', 'refused'}
    cut = (tmp_path / 'results.jsonl').read_text().splitlines(True)[:30]
    (tmp_path / 'results.jsonl').write_text(''.join(cut) + '{"kind": "ima')  # killed while it wrote
    assert run_tool('studies/fuzz', '--inputs', '45', *command) == 0
    again = (tmp_path / 'results.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in (*again[:30], again[30][again[30].index('{"seed"') :], *again[31:])]
    known = {(row['kind'], row['number']): row for row in first}
    assert len(rows) == len(first)
    for row in rows:
        assert row['outcome'] == known[row['kind'], row['number']]['outcome']


def planted(fuzz, way):
    """A kind of which every third input does something that it must not."""

    class Planted(fuzz.Kind):
        name, share = 'planted', 1.0

        def write(self, rng, folder):
            (folder / 'input').write_text('x')
            return way

        def run(self, rng, folder, out):
            if int(folder.name.rpartition('-')[2]) % 3:
                if rng.random() < 0.5:
                    raise UserError('expected another file')
                (out / 'result').write_text('allowed')
                return 'fine'
            dict(
                traceback=lambda: {}['x'],
                silent=lambda: (_ for _ in ()).throw(UserError(' ')),
                talks=lambda: (_ for _ in ()).throw(UserError('x' * 5000)),
                hangs=lambda: time.sleep(60),
                dies=lambda: ctypes.string_at(0),
                memory=lambda: np.ones(5 << 30, np.uint8),
                writes=lambda: (folder / 'elsewhere').write_text('x'),
                removes=lambda: os.remove(folder / 'input'),
                executes=lambda: os.system('true'),
                connects=lambda: socket.create_connection(('127.0.0.1', 9), 0.1),
                canary=lambda: os.close(os.open(folder / fuzz.CANARY, os.O_CREAT)),
            )[way]()
            return 'did it'

    return Planted()


@pytest.mark.parametrize(
    'way, outcome',
    [
        ('traceback', 'TRACEBACK'),
        ('silent', 'NO MESSAGE'),
        ('talks', 'LONG MESSAGE'),
        ('hangs', 'HANG'),
        ('dies', 'SIGNAL'),
        ('memory', 'MEMORY'),
        ('writes', 'WRITE'),
        ('removes', 'WRITE'),
        ('executes', 'EXECUTED'),
        ('connects', 'CONNECTED'),
        ('canary', 'EXECUTED'),
    ],
)
def test_what_must_not_happen_is_noticed(fuzz, way, outcome, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(fuzz.KINDS, 'planted', planted(fuzz, way))
    monkeypatch.setattr(
        sys, 'argv', ['fuzz.py', '--inputs', '7', '--kind', 'planted', '--limit', '0.3' if way == 'hangs' else '30']
    )
    sys.argv += ['--out', str(tmp_path)]
    assert fuzz.main() == 1
    rows = rows_of(tmp_path)
    assert [row['number'] for row in rows] == list(range(7))
    assert [row['outcome'] for row in rows if row['number'] % 3 == 0] == [outcome] * 3
    assert all(row['outcome'] in ('result', 'refused') for row in rows if row['number'] % 3)
    kept = sorted(path.name for path in (tmp_path / 'findings').iterdir())
    assert kept == ['planted-0', 'planted-3', 'planted-6']
    assert outcome in (tmp_path / 'findings/planted-3/finding.txt').read_text()
    if way == 'dies':
        assert signal.SIGSEGV.name in rows[0]['text']
    assert f'| planted | 7 | {Counter(row["outcome"] for row in rows)["result"]} |' in capfd.readouterr().out


def test_an_input_is_made_of_its_number_alone(fuzz, tmp_path):
    contents = []
    for attempt, number in enumerate((5, 6, 5)):
        folder = Path(tmp_path / str(attempt))
        folder.mkdir()
        kind = fuzz.KINDS['coco']
        kind.write(fuzz.generator(3, kind.name, number), folder)
        contents.append((folder / 'train.json').read_bytes())
    assert contents[0] == contents[2] != contents[1]
