"""What a user can mend is a UserError, keeps the built-in base that it had, and is told in one message."""

import ast
from importlib import import_module

import pytest
from conftest import ROOT

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import TrainingInterrupted, UserError

OWN = {
    'apis.swap.parts.RunError': ValueError,
    'benchmark.cells.BenchmarkError': ValueError,
    'benchmark.measure.scheduler.BusyError': ValueError,
    'data.errors.BadImageError': ValueError,
    'data.errors.DatasetError': ValueError,
    'data.errors.DatasetNotFoundError': FileNotFoundError,
    'device.errors.DeploymentError': ValueError,
    'device.errors.ImageError': ValueError,
    'engine.config.ConfigError': ValueError,
    'models.checkpoints.CheckpointError': RuntimeError,
    'models.dense.UnsupportedModelError': TypeError,
    'quantization.errors.QuantizationError': ValueError,
    'quantization.errors.RangeError': ValueError,
}
#: The first goes into a table of the benchmark, the second is caught where it is raised.
NOT_FOR_USERS = {'WorkerError', '_NoDecodingError'}


def test_every_error_of_the_package_is_listed():
    found = set()
    for file in (ROOT / 'frostnet_mm').rglob('*.py'):
        classes = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef))
        found |= {node.name for node in classes if node.name.endswith('Error')}
    assert found - NOT_FOR_USERS - {'UserError'} == {name.rpartition('.')[2] for name in OWN}


@pytest.mark.parametrize(('name', 'base'), OWN.items())
def test_each_is_a_user_error_beside_its_built_in_base(name, base):
    module, _, cls = name.rpartition('.')
    assert issubclass(getattr(import_module(f'frostnet_mm.{module}'), cls), UserError)
    assert issubclass(getattr(import_module(f'frostnet_mm.{module}'), cls), base)


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


@pytest.mark.parametrize('error', [ValueError('ours'), RuntimeError('ours'), KeyError('ours')])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_tool(raising(error))


@pytest.mark.parametrize('code', [None, 0, 1])
def test_what_main_returns_is_the_exit_status(code):
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: code)
    assert stop.value.code == code
