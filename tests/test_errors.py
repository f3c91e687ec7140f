"""What a user can mend is a UserError, keeps the built-in base that it had, and is told in one message."""

import ast
from importlib import import_module

import pytest
from conftest import ROOT
from torch import nn, zeros

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import TrainingInterrupted, UserError

#: The built-in errors as which those that catch them know ours.
KEPT = {
    'BadImageError': ValueError,
    'BenchmarkError': ValueError,
    'BusyError': ValueError,
    'CheckpointError': RuntimeError,
    'ConfigError': ValueError,
    'DatasetError': ValueError,
    'DatasetNotFoundError': FileNotFoundError,
    'DeploymentError': ValueError,
    'ImageError': ValueError,
    'QuantizationError': ValueError,
    'RangeError': ValueError,
    'RunError': ValueError,
    'UnsupportedModelError': TypeError,
}
#: The text of the first stands in a table of the benchmark; capture catches the others.
NOT_FOR_USERS = {'WorkerError', 'OtherGraphError', 'SizeArithmeticError'}


def own_errors():
    """All public errors of the package, from its source: name to module."""
    found = {}
    for file in (ROOT / 'frostnet_mm').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith('Error') and node.name[0] != '_':
                found[node.name] = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
    return {name: module for name, module in found.items() if name not in NOT_FOR_USERS}


@pytest.mark.parametrize(('name', 'module'), own_errors().items())
def test_every_error_is_a_user_error(name, module):
    assert issubclass(getattr(import_module(module), name), UserError)


@pytest.mark.parametrize(('name', 'base'), KEPT.items())
def test_each_keeps_its_built_in_base(name, base):
    assert issubclass(getattr(import_module(own_errors()[name]), name), base)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ('error', 'code', 'said'),
    [
        (UserError('a: mend it'), 2, '\nerror: a: mend it\n'),
        (FileNotFoundError('b does not exist'), 2, '\nerror: b does not exist\n'),
        (PermissionError(13, 'Permission denied', '/c'), 2, "\nerror: [Errno 13] Permission denied: '/c'\n"),
        (TrainingInterrupted(), 130, ''),
        (KeyboardInterrupt(), 130, '\ninterrupted\n'),
    ],
)
def test_what_a_tool_says_and_its_exit_status(error, code, said, capsys):
    with pytest.raises(SystemExit) as stop:
        run_tool(raising(error))
    assert stop.value.code == code
    assert capsys.readouterr().err == said


def test_what_the_system_says_of_a_missing_file_gets_the_way_out(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_tool(lambda: (tmp_path / 'absent').read_text())
    assert f'error: {tmp_path}/absent does not exist. If it belongs to a data set' in capsys.readouterr().err


def test_an_image_too_small_for_a_layer_is_no_traceback(capsys):
    with pytest.raises(SystemExit):
        run_tool(lambda: nn.MaxPool2d(3)(zeros(1, 1, 1, 1)))
    said = capsys.readouterr().err
    assert said.startswith(
        '\nerror: The images are too small for the network: a layer cannot work on its map (Given in'
    )


@pytest.mark.parametrize('error', [ValueError('ours'), RuntimeError('ours'), KeyError('ours')])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_tool(raising(error))


@pytest.mark.parametrize('code', [None, 0, 1])
def test_what_main_returns_is_the_exit_status(code):
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: code)
    assert stop.value.code == code
