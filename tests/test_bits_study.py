"""The study of bits: its table against hand calculations, with doubles of the tools."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from frostnet_mm.engine.config import load_config

CONFIG = ROOT / 'configs/ssdlite_frostnet_custom.py'
SIZES = {8: 2.0, 6: 1.5, 4: 1.0}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/studies'))
    module = importlib.import_module('bits_study')
    yield module
    for name in ('bits_study', '_runs', '_tools'):
        sys.modules.pop(name, None)


@pytest.fixture
def calls(study, monkeypatch, tmp_path):
    """The runs of tools that the study asks for; a metric is 0.1 a MB, trained 0.2 more."""
    asked = []

    def run(command, log):
        out, share = Path(command[command.index('--out') + 1]), float(command[4].removeprefix('size='))
        asked.append(('allocate', share, command[command.index('--measured') + 1] if '--measured' in command else None))
        out.write_text(f'_base_ = {str(CONFIG)!r}\n')
        points = [dict(bits=bits, megabytes=size, error=1 / bits) for bits, size in SIZES.items()]
        about = dict(chosen=dict(megabytes=2 * share, error=share), uniform=points)
        out.with_suffix('.json').write_text(json.dumps(about))

    def checkpoint(config, *args):
        folder = args[0] if len(args) == 2 else args[1]
        asked.append((folder.name, config.parent.name if len(args) == 3 else config.parent.parent.name))
        return folder

    def evaluate(config, folder, *args):
        name = folder.parent.name
        size = SIZES[int(name[8:])] if name.startswith('uniform') else 2 * float(name[6:])
        value = 0.1 * size + 0.2 * folder.name.startswith('trained')
        return dict(float={'coco/bbox_mAP': 1.0}, converted={'coco/bbox_mAP': value})

    for name, double in dict(run=run, calibrate=checkpoint, train=checkpoint, evaluate=evaluate).items():
        monkeypatch.setattr(study, name, double)
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    arguments = ['bits_study', str(CONFIG), str(tmp_path / 'epoch_1.pth'), '--out', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', arguments)
    return asked


def test_each_size_with_its_metrics(study, calls, tmp_path, capsys):
    sys.argv += ['--shares', '0.6', '--uniform', '8', '4', '--train', '--seeds', '0', '1']
    study.main()
    rows = capsys.readouterr().out.splitlines()[-5:]
    assert rows[0].endswith('| calibrated | trained, seed 0 | trained, seed 1 |')
    assert rows[2:] == [
        '| 8 bits | 2.000 | 1.25e-01 | 0.200 | 0.400 | 0.400 |',
        '| 0.6 of the size | 1.200 | 6.00e-01 | 0.120 | 0.320 | 0.320 |',
        '| 4 bits | 1.000 | 2.50e-01 | 0.100 | 0.300 | 0.300 |',
    ]
    assert calls.count(('allocate', 0.6, None)) == 1 and len(calls) == 1 + 3 * 3
    found = json.loads((tmp_path / 'out/results.json').read_text())
    assert len(found) == 9 and {row['seed'] for row in found} == {None, 0, 1}
    assert (tmp_path / 'out/bits.png').read_bytes().startswith(b'\x89PNG')
    cfg = load_config(tmp_path / 'out/uniform_4/trained_1/config.py', classes=('a', 'b'))
    assert cfg.default_hooks.qat == dict(type='frostnet_mm.QATHook', weight_bits=4) and cfg.randomness.seed == 1


def test_a_folder_of_another_checkpoint_is_refused(study, calls, tmp_path):
    sys.argv += ['--shares', '0.6', '0.5', '--uniform', '8']
    study.main()
    study.main()  # again: nothing is allocated anew
    measured = str(tmp_path / 'out/share_0.6/mixed.json')  # by the first, for all
    assert [call for call in calls if call[0] == 'allocate'] == [('allocate', 0.6, None), ('allocate', 0.5, measured)]
    (tmp_path / 'epoch_2.pth').write_bytes(b'')
    sys.argv[2] = str(tmp_path / 'epoch_2.pth')
    with pytest.raises(study.UserError, match='checkpoint was .*epoch_1.pth, now it is .*epoch_2.pth'):
        study.main()
