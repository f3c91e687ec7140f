"""Predictors for long runs: in threads and processes the same results, and no memory that grows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_predictor import made, openvino_deployment  # noqa: F401  (fixtures)

from frostnet_mm.deploy.deploy import copy_device

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / 'tests' / 'golden'
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from predictor import open_network

def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * 4096 / 2**20

network = open_network(sys.argv[1], threads=1)
images = np.random.default_rng(0).normal(size=network.description['input']['shape']).astype('float32')
first = [output.copy() for output in network(images)]
sizes = []
for call in range(int(sys.argv[2])):
    outputs = network(images)
    if call % 200 == 199:
        sizes.append(resident())
equal = all(np.array_equal(one, other) for one, other in zip(first, outputs))
print(json.dumps(dict(equal=equal, sizes=sizes, sums=[float(o.sum()) for o in first])))
"""


@pytest.mark.skipif(not Path('/proc/self/statm').is_file(), reason='reads the memory of a process from /proc')
@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_two_thousand_calls_do_not_grow(request, tmp_path, engine):
    source = request.getfixturevalue('made' if engine == 'onnxruntime' else 'openvino_deployment')
    folder = shutil.copytree(source, tmp_path / 'deployment')
    copy_device(folder)
    command = [sys.executable, '-c', SCRIPT, str(folder)]
    workers = [
        subprocess.Popen([*command, calls], stdout=subprocess.PIPE, text=True) for calls in ('2000', '400')
    ]  # two processes at once
    one, other = (json.loads(worker.communicate(timeout=120)[0]) for worker in workers)
    assert one['equal'] and other['equal'] and one['sums'] == other['sums']
    # after the first 400 calls nothing is allocated any more: 1600 calls of a leak of 4 KB would be 6 MB
    assert one['sizes'][-1] - one['sizes'][1] < 3


@pytest.mark.skipif(not Path('/proc/self/statm').is_file(), reason='reads the memory of a process from /proc')
def test_processes_of_threads_serve_beside_a_file_that_changes(tmp_path):
    """Two processes of three threads for some seconds; what is open goes on, the changed file is refused."""
    images = sorted((GOLDEN / 'coco/val2017').glob('*.png'))[:3]
    command = [sys.executable, str(ROOT / 'tools/studies/serving.py'), str(GOLDEN / 'deployment'), *map(str, images)]
    command += ['--processes', '2', '--threads', '3', '--minutes', '0.05', '--out', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / 'serving.json').read_text())
    assert [len(process['times']) > 10 for process in found['processes']] == [True, True]
    assert found['processes'][0]['sums'] == found['processes'][1]['sums'] and len(found['processes'][0]['sums']) == 3
    assert 'Results that differ: 0. Failures: 0.' in done.stdout
    assert 'sha256' in found['refused'] or 'changed' in found['refused'], found['refused']
