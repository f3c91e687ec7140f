"""The wheel, unpacked into a folder of its own and used from another one; the command `frostnet`; names of configs."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import seg_files
import yaml
from conftest import ROOT

from frostnet_mm import commands
from frostnet_mm.engine.config import load_config
from frostnet_mm.files import SHIPPED_CONFIGS, require_config

HEAVY = {'torch', 'mmcv', 'mmdet', 'mmseg', 'torchao', 'matplotlib', 'onnx', 'openvino', 'onnxruntime'}
PARTS = ('frostnet_mm', 'configs', 'tools', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml')
BUILD = 'import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """What `pip install --target` makes of the wheel: the package, and a script for each entry point."""
    source, dist, site = (tmp_path_factory.mktemp(name) for name in ('source', 'dist', 'site'))
    for name in PARTS:
        part = ROOT / name
        if part.is_dir():
            shutil.copytree(part, source / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(part, source / name)
    subprocess.run([sys.executable, '-c', BUILD, dist], cwd=source, check=True, capture_output=True)
    (wheel,) = dist.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(site)
    (info,) = site.glob('*.dist-info')
    scripts = configparser.ConfigParser()
    scripts.read(info / 'entry_points.txt')
    for name, target in scripts['console_scripts'].items():
        module, function = target.split(':')
        (site / name).write_text(f'import sys\nfrom {module} import {function}\nsys.exit({function}())\n')
    return site


@pytest.fixture
def run(site, tmp_path):
    """Run Python in an empty folder, with the unpacked wheel."""

    def run(*arguments):
        environment = dict(os.environ, PYTHONPATH=str(site), OMP_NUM_THREADS='1', COLUMNS='100')
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def files_of(folder, *patterns):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for pattern in patterns
        for file in sorted(folder.rglob(pattern))
        if '__pycache__' not in file.parts and 'setup' not in file.relative_to(folder).parts
    }


def test_the_wheel_holds_configs_tools_and_index(site):
    mim = site / 'frostnet_mm/.mim'
    assert not any(path.is_symlink() for path in site.rglob('*'))
    for folder in ('configs', 'tools'):
        held, own = (files_of(place / folder, '*.py', '*.yml', '*.sh') for place in (mim, ROOT))
        assert held == own and len(own) > 20
    assert (mim / 'model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()


def test_the_index_lists_every_config_once():
    (metafile,) = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    models = yaml.safe_load((ROOT / metafile).read_text())['Models']
    assert sorted(model['Config'] for model in models) == sorted(f'configs/{f.name}' for f in ROOT.glob('configs/*.py'))
    assert [model['Name'] for model in models] == [model['Config'][8:-3] for model in models]


def test_a_config_inherits_one_of_the_wheel_in_a_fresh_folder(run, site, tmp_path):
    (tmp_path / 'my.py').write_text(
        "_base_ = ['frostnet_mm::ssdlite_frostnet_custom.py', 'frostnet_mm::_base_/qat.py']\n"
        "input_size, max_epochs, data_root = (256, 224), 7, 'own'\nclasses = ('cat', 'dog')\n"
        'default_hooks = dict(qat={{_base_.qat_hook}})\n'
    )
    code = """
import json, frostnet_mm
from frostnet_mm.engine.config import load_config
cfg = load_config('my.py')
shipped = load_config('configs/ssdlite_frostnet_coco.py')
print(json.dumps([frostnet_mm.__file__, cfg.train_pipeline[4].scale, cfg.train_dataloader.dataset.data_root,
    cfg.train_cfg.max_epochs, cfg.model.bbox_head.num_classes, cfg.default_hooks.qat.type, cfg.get('default_scope')]))
"""
    done = run('-c', code)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == [str(site / 'frostnet_mm/__init__.py'), [256, 224], 'own', 7, 2, 'frostnet_mm.QATHook', 'mmdet']


def test_mmengine_itself_finds_the_configs_in_folders(run):
    code = """
import frostnet_mm
from mmengine.config import Config
open('my.py', 'w').write("_base_ = 'frostnet_mm::_base_/models/ssdlite.py'")
print(Config.fromfile('my.py').model.bbox_head.num_classes)
"""
    done = run('-c', code)
    assert done.stdout.strip() == '80', done.stderr


def test_the_command_lists_commands_without_heavy_packages(run, site):
    code = """
import runpy, sys
sys.argv = [sys.argv[1], '--help']
try:
    runpy.run_path(sys.argv[0])
except SystemExit as stop:
    print(stop.code, *sys.modules)
"""
    done = run('-c', code, site / 'frostnet')
    *printed, last = done.stdout.splitlines()
    assert last.startswith('None ') and not HEAVY & set(last.split())
    listed = [line.split('  ')[1].strip() for line in printed if line.startswith('  ')]
    assert listed == list(commands.COMMANDS)
    assert str(site / 'frostnet_mm/.mim/configs') in done.stdout


def test_a_command_is_its_tool(run, site):
    own, tool = run(site / 'frostnet', 'calibrate', '--help'), run(ROOT / 'tools/calibrate.py', '--help')
    assert own.returncode == 0 and own.stdout.startswith('usage: frostnet calibrate ')
    assert own.stdout[own.stdout.index('positional') :] == tool.stdout[tool.stdout.index('positional') :]
    wrong = run(site / 'frostnet', 'train', 'ssdlite_frostnt_coco.py')
    assert wrong.returncode == 2
    near = 'ssdlite_frostnet_coco.py, ssdlite_frostnet_qat_coco.py, ssdlite_frostnet_base_coco.py'
    place = site / 'frostnet_mm/.mim/configs'
    assert wrong.stderr == f'\nerror: Config ssdlite_frostnt_coco.py does not exist. In {place} there are: {near}.\n'


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (['trian', 'x.py'], "frostnet has no command 'trian'. Did you mean train? `frostnet --help` lists them."),
        (['xyzzy'], "frostnet has no command 'xyzzy'. `frostnet --help` lists them."),
        (
            ['prepare', 'x'],
            'frostnet prepare needs a kind: coco, cityscapes, imagenet, cifar, crops, such as `frostnet prepare coco`.',
        ),
    ],
)
def test_an_unknown_command_is_one_message(given, message, capsys):
    with pytest.raises(SystemExit) as stop:
        commands.main(given)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f'\nerror: {message}\n'


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Write a tool, and call the command whose name it has."""
    monkeypatch.setattr(commands, 'SHIPPED_TOOLS', tmp_path)
    for name, value in (('argv', sys.argv), ('path', sys.path), ('modules', sys.modules)):
        monkeypatch.setattr(sys, name, type(value)(value))

    def call(body, *arguments):
        (tmp_path / 'train.py').write_text(f'import sys\nfrom frostnet_mm.cli import run_tool\n{body}')
        commands.main(['train', *arguments])

    return call


@pytest.mark.parametrize(
    ('body', 'status'),
    [('return 3', 3), ('raise KeyboardInterrupt', 130), ("raise FileNotFoundError('none')", 2), ('pass', None)],
)
def test_the_exit_status_is_the_tools(tool, body, status):
    with pytest.raises(SystemExit) as stop:
        tool(f"def main():\n    {body}\nif __name__ == '__main__':\n    run_tool(main)\n")
    assert stop.value.code == status


def test_a_defect_keeps_its_traceback_and_arguments_arrive(tool):
    with pytest.raises(ZeroDivisionError):
        tool('1 / 0')
    with pytest.raises(SystemExit) as stop:
        tool('sys.exit(repr(sys.argv))', 'my.py', '--amp')
    assert stop.value.code == "['frostnet train', 'my.py', '--amp']"


@pytest.mark.parametrize(
    ('own', 'words'),
    [
        ('frostnet calibrate', ['frostnet', 'test']),
        ('frostnet prepare coco', ['frostnet', 'test']),
        ('tools/calibrate.py', ['python', 'tools/test.py']),
        ('/a/b/tools/train.py', ['python', '/a/b/tools/test.py']),
        ('/usr/bin/pytest', ['python', 'tools/test.py']),
    ],
)
def test_the_next_tool_is_named_as_this_one_was(monkeypatch, own, words):
    monkeypatch.setattr(sys, 'argv', [own])
    assert commands.words_for('test') == words


def test_every_command_has_its_tool():
    tools = {command.tool for command in commands.COMMANDS.values()}
    assert tools <= {file.stem for file in ROOT.glob('tools/*.py')}


def test_a_path_goes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'ssdlite_frostnet_coco.py'
    assert require_config(name) == require_config(f'configs/{name}') == SHIPPED_CONFIGS / name
    assert require_config(f'frostnet_mm::{name[:-3]}').resolve() == SHIPPED_CONFIGS / name
    (tmp_path / name).write_text('own = 1\n')
    assert load_config(name).own == 1
    for absent in ('../ssdlite_frostnet_coco.py', str(tmp_path / 'none' / name)):
        with pytest.raises(FileNotFoundError, match='does not exist'):
            require_config(absent)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation', 'classification'])
def test_own_data_in_five_commands(run, site, tmp_path, task, mini_coco):
    """Each command is the one that the one before has printed."""
    root, own = mini_coco, tmp_path / 'own'
    if task == 'segmentation':
        for part, count in (('train', 6), ('val', 2)):
            seg_files.write(own, count, part, size=(96, 96), labels=lambda i: seg_files.labels_of(i, size=(96, 96)))
    elif task == 'classification':
        for name, images in (('first', '0123'), ('second', '4567')):
            (own / name).mkdir(parents=True)
            for image in images:
                shutil.copy(sorted((root / 'train2017').iterdir())[int(image)], own / name)
    given = ['--data', root if task == 'detection' else own, '--task', task, '--size', '96', '--epochs', '1']
    given += ['--val-share', '0.25'] if task == 'classification' else []
    done = run(site / 'frostnet', 'new', 'my.py', *given)
    quick = ['--cfg-options', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    quick += ['val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False']
    ran = []
    while 'found.png' not in (line := printed_command(done)):
        words = line.split()[1:]
        if words[0] == 'train':
            words += quick
        if words[0] == 'deploy':
            words[words.index('openvino')] = 'onnxruntime'
        done = run(site / 'frostnet', *words)
        ran.append(words[0])
    assert ran == ['train', 'calibrate', 'test', 'deploy']
    pictures = dict(detection=root / 'val2017', segmentation=own / 'images/val', classification=own / 'first')
    picture = next(pictures[task].iterdir())
    done = run(*[str(picture) if word == 'IMAGE' else word for word in line.split()[1:]])
    assert done.returncode == 0 and (tmp_path / 'found.png').is_file(), done.stderr


def printed_command(done):
    assert done.returncode == 0, done.stderr
    last = next(line for line in reversed(done.stdout.splitlines()) if ': frostnet ' in line or ': python ' in line)
    return last[last.index(': frostnet ' if ': frostnet ' in last else ': python ') + 2 :]
