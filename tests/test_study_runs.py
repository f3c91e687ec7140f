"""Runs of tools for a study: what Ctrl-C does to those under way and to those that wait."""

import importlib
import os
import signal
import sys
import threading
import time

import pytest
from conftest import ROOT

TOOL = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])

def save(*_):
    (folder / 'saved').open('a').write('x')
    sys.exit(130)

signal.signal(signal.SIGINT, save)
(folder / 'begun').touch()
time.sleep(float(sys.argv[2]))
(folder / 'ended').touch()
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """tools/studies/_runs.py with a tool that sleeps, and saves when it is interrupted."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools/studies'))
    sys.modules.pop('_runs', None)
    module = importlib.import_module('_runs')
    (tmp_path / 'tool.py').write_text(TOOL)
    monkeypatch.setattr(module, 'TOOLS', tmp_path)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it would be ignored
    yield module
    sys.modules.pop('_runs', None)


def tool(runs, folder, seconds=60.0, code=0):
    folder.mkdir()
    runs.run(['tool.py', str(folder), str(seconds), str(code)], folder / 'log')


def found(root):
    """Which files the tools have left, by folder."""
    return {
        path.name: sorted(f.name for f in path.iterdir() if f.name != 'log') for path in root.iterdir() if path.is_dir()
    }


def interrupt_once(*begun):
    """As Ctrl-C, as soon as these files are there."""

    def wait():
        end = time.monotonic() + 30
        while not all(path.is_file() for path in begun) and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait).start()


def test_an_interrupted_study_stops_its_runs_once_and_begins_no_other(runs, tmp_path):
    folders = [tmp_path / name for name in 'abcd']
    interrupt_once(*(folder / 'begun' for folder in folders[:2]))
    with pytest.raises(KeyboardInterrupt), runs.side_by_side(2) as pool:
        list(pool.map(lambda folder: tool(runs, folder), folders))
    assert found(tmp_path) == dict(a=['begun', 'saved'], b=['begun', 'saved'])
    assert [(tmp_path / name / 'saved').read_text() for name in 'ab'] == ['x', 'x']
    with runs.side_by_side(1) as pool:  # the next study of this process is not stopped
        list(pool.map(lambda folder: tool(runs, folder, 0), [tmp_path / 'e']))
    assert found(tmp_path)['e'] == ['begun', 'ended']


def test_a_run_of_the_main_thread_is_waited_for(runs, tmp_path):
    interrupt_once(tmp_path / 'a' / 'begun')
    with pytest.raises(KeyboardInterrupt), runs.side_by_side(1):
        tool(runs, tmp_path / 'a')
    assert (tmp_path / 'a' / 'saved').read_text() == 'x'


def test_what_comes_after_an_interrupted_run_does_not_begin(runs, tmp_path):
    def two(name):
        with pytest.raises(KeyboardInterrupt):
            tool(runs, tmp_path / name)
        tool(runs, tmp_path / f'{name}2', 0)

    interrupt_once(tmp_path / 'a' / 'begun')
    with pytest.raises(KeyboardInterrupt), runs.side_by_side(1) as pool:
        pool.submit(two, 'a').result()
    assert found(tmp_path) == dict(a=['begun', 'saved'], a2=[])


def test_a_run_that_fails_is_named_and_the_others_go_on(runs, tmp_path):
    codes = dict(a=3, b=0)
    with pytest.raises(runs.StudyError, match='ended with exit status 3'), runs.side_by_side(1) as pool:
        futures = [pool.submit(tool, runs, tmp_path / name, 0, code) for name, code in codes.items()]
        [future.result() for future in futures]
    assert found(tmp_path) == dict(a=['begun', 'ended'], b=['begun', 'ended'])
