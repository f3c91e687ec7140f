"""The set-up script: its checks, its stamp, what it keeps and repairs, how it fails. Without network or installing."""

import json
import os
import signal
import stat
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / 'tools' / 'setup'
sys.path.insert(0, str(TOOLS))
import _setup_checks as checks  # noqa: E402
import _setup_run as running  # noqa: E402
import setup_env  # noqa: E402

sys.path.remove(str(TOOLS))
REQUIREMENTS = (
    b"torch==2.13.0\nninja==1.13.2  # a comment\nopencv-python==4.12.0.88\ntomli==2.5.0; python_version < '3.11'\n"
)


def script(path, text):
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def environment(prefix, packages=None, python=None, own=True, version=(3, 11, 7)):
    purelib = prefix / 'site-packages'
    purelib.mkdir(parents=True, exist_ok=True)
    python = python or Path(sys.executable)
    return setup_env.Environment(python, own, version, prefix, prefix, purelib, packages or {})


@pytest.fixture
def pip_calls(tmp_path):
    """An interpreter whose pip only notes its arguments; returns it and a function that reads them."""
    notes = tmp_path / 'pip.txt'
    answer = json.dumps({'python': [3, 11, 7], 'prefix': str(tmp_path), 'include': '/', 'purelib': '/', 'packages': {}})
    python = script(
        tmp_path / 'bin' / 'python',
        f'if [ "$1" = -m ]; then shift 2; echo "$@" >> "{notes}"; else echo \'{answer}\'; fi',
    )
    return python, lambda: notes.read_text().splitlines() if notes.exists() else []


def test_the_finished_environment_is_imported_with_all_that_is_imported_lazily(tmp_path):
    def run(*before):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (*before, ROOT))))
        command = [sys.executable, '-c', setup_env.VERIFY_PACKAGE]
        return subprocess.run(command, capture_output=True, text=True, env=env)

    assert run().returncode == 0
    for name in ('torchao', 'mmdet', 'mmseg'):
        script(tmp_path / name / name / '__init__.py', 'raise ImportError("broken")')
        done = run(tmp_path / name)
        assert done.returncode == 1 and done.stderr.splitlines()[-1] == 'ImportError: broken'


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 13, 0), (2, 7, 18), (4, 0, 0)])
def test_unsupported_python_is_named(version):
    with pytest.raises(checks.SetupError, match=r'supported are 3\.10, 3\.11 and 3\.12') as caught:
        checks.check_python(version, 'python3')
    assert '.'.join(map(str, version)) in str(caught.value)


@pytest.mark.parametrize('version', [(3, 10, 0), (3, 11, 7), (3, 12, 9)])
def test_supported_python_passes(version):
    checks.check_python(version, 'python3')


def test_missing_compiler_says_what_to_install(tmp_path):
    with pytest.raises(checks.SetupError) as caught:
        checks.find_compiler({'PATH': str(tmp_path)})
    for part in (
        'no C++ compiler',
        'apt install g++',
        'dnf install gcc-c++',
        'conda-forge cxx-compiler',
        'xcode-select',
    ):
        assert part in str(caught.value)


def test_compiler_is_found_and_named_explicitly(tmp_path):
    script(tmp_path / 'g++', '')
    assert checks.find_compiler({'PATH': str(tmp_path)}) == {'CXX': 'g++'}
    script(tmp_path / 'cc', '')
    assert checks.find_compiler({'PATH': str(tmp_path)}) == {'CXX': 'g++', 'CC': 'cc'}


def test_cxx_and_cc_are_honoured(tmp_path):
    script(tmp_path / 'g++', '')
    mine = script(tmp_path / 'elsewhere' / 'my-c++', '')
    found = checks.find_compiler({'PATH': str(tmp_path), 'CXX': f'{mine} -m64', 'CC': str(mine)})
    assert found == {'CXX': f'{mine} -m64', 'CC': str(mine)}
    for variable in ('CXX', 'CC'):
        with pytest.raises(checks.SetupError, match=f'{variable}=nowhere-g'):
            checks.find_compiler({'PATH': str(tmp_path), variable: 'nowhere-g'})


def test_missing_compiler_stops_before_anything_is_made(tmp_path):
    """The whole script, on a machine (a PATH) without a compiler."""
    target = tmp_path / 'venv'
    env = {key: value for key, value in os.environ.items() if key not in ('CXX', 'CC')}
    done = subprocess.run(
        [sys.executable, TOOLS / 'setup_env.py', '--venv', target],
        capture_output=True, text=True, env={**env, 'PATH': str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith('setup: there is no C++ compiler')
    assert not target.exists()


def test_missing_headers_and_broken_compiler(tmp_path):
    with pytest.raises(checks.SetupError, match='Python.h is missing') as caught:
        checks.check_toolchain({'CXX': 'c++'}, tmp_path)
    assert 'python3-dev' in str(caught.value)
    (tmp_path / 'Python.h').touch()
    broken = script(tmp_path / 'broken-c++', 'echo "fatal error: vector: No such file" >&2; exit 1')
    with pytest.raises(checks.SetupError, match='fails on a two-line program') as caught:
        checks.check_toolchain({'CXX': str(broken)}, tmp_path)
    assert 'fatal error: vector' in str(caught.value)


def test_this_machines_toolchain_passes():
    checks.check_toolchain(checks.find_compiler(os.environ), Path(sysconfig.get_path('include')))


def test_full_disk(tmp_path):
    checks.check_disk(tmp_path / 'not' / 'there' / 'yet', 0.001)
    with pytest.raises(checks.SetupError, match='about 1e[+]06 GB are needed'):
        checks.check_disk(tmp_path / 'not' / 'there' / 'yet', 1e6)


def test_official_packages_in_the_way(tmp_path):
    checks.check_rivals({'onedl-mmcv': '2.3.6', 'mmpretrain': '1.2.0'})
    with pytest.raises(checks.SetupError, match='pip uninstall mmcv mmengine'):
        checks.check_rivals({'mmengine': '0.10.7', 'mmcv': '2.1.0', 'numpy': '2.2.6'})


def test_folder_that_is_no_venv_is_left_alone(tmp_path):
    precious = tmp_path / 'thesis.tex'
    precious.touch()
    with pytest.raises(checks.SetupError, match='is no virtual environment'):
        setup_env.ensure_venv(tmp_path, False)
    assert precious.exists()


# ---------------------------------------------------------------- stamp


def test_pins_leave_out_comments_and_markers():
    assert setup_env.parse_pins(REQUIREMENTS.decode()) == {
        'torch': '2.13.0', 'ninja': '1.13.2', 'opencv-python': '4.12.0.88'}  # fmt: skip
    real = setup_env.parse_pins((ROOT / 'requirements.txt').read_text())
    assert real['torch'] == '2.13.0' and real['onedl-mmcv'] == '2.3.6'
    assert set(setup_env.BUILD_TOOLS) <= real.keys()
    assert 'opencv-python-headless' not in real and 'torchvision' not in real


def test_stamp_holds_for_exactly_what_was_installed(tmp_path):
    packages = {'torch': '2.13.0+cpu', 'ninja': '1.13.2', 'frostnet-mm': '0.1.0'}
    done = environment(tmp_path, packages)
    assert not setup_env.is_complete(done, REQUIREMENTS)
    stamp = tmp_path / setup_env.STAMP
    stamp.write_text(json.dumps({'key': setup_env.stamp_key(REQUIREMENTS, done)}))
    assert setup_env.is_complete(done, REQUIREMENTS)

    assert not setup_env.is_complete(done, REQUIREMENTS + b'six==1.17.0\n')
    assert not setup_env.is_complete(environment(tmp_path, packages, version=(3, 12, 1)), REQUIREMENTS)
    assert not setup_env.is_complete(environment(tmp_path, {**packages, 'torch': '2.13.0+cu130'}), REQUIREMENTS)
    for name in ('ninja', 'frostnet-mm'):  # somebody removed it since
        rest = {key: value for key, value in packages.items() if key != name}
        assert not setup_env.is_complete(environment(tmp_path, rest), REQUIREMENTS)
    for broken in ('', '{"key": ', '[]', '{}'):
        stamp.write_text(broken)
        assert not setup_env.is_complete(done, REQUIREMENTS)


def test_half_installed_packages_are_forgotten(tmp_path):
    whole, half = tmp_path / 'whole-1.0.dist-info', tmp_path / 'half-2.0.dist-info'
    for folder in (whole, half):
        folder.mkdir()
        (folder / 'METADATA').touch()
        (folder / 'INSTALLER').touch()
    (whole / 'RECORD').touch()
    (tmp_path / '~hole').mkdir()
    (tmp_path / 'whole').mkdir()
    assert setup_env.remove_half_installed(tmp_path) == ['half-2.0']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['whole', 'whole-1.0.dist-info']


def test_probe_reads_this_environment():
    found = setup_env.probe(Path(sys.executable), own=True)
    assert found.version == tuple(sys.version_info[:3])
    assert found.prefix == Path(sys.prefix)
    assert found.packages['pytest'] == pytest.__version__
    assert (found.include / 'Python.h').is_file()


# ---------------------------------------------------------------- torch


PINNED = setup_env.parse_pins((ROOT / 'requirements.txt').read_text())
PINS = {'torch': '2.13.0', **dict.fromkeys(setup_env.BUILD_TOOLS, '1.0')}


def test_torch_is_installed_where_there_is_none(tmp_path, pip_calls):
    python, calls = pip_calls
    setup_env.install_torch(environment(tmp_path, {}, python), PINS)
    assert calls() == ['install torch==2.13.0 ninja==1.0 packaging==1.0 setuptools==1.0 wheel==1.0']


def test_torch_and_what_is_built_without_it_are_installed_beside_each_other(tmp_path, pip_calls, monkeypatch):
    python, calls = pip_calls
    before = environment(tmp_path, {}, python)
    monkeypatch.setattr(setup_env, 'probe', lambda *args, **kwargs: before)
    setup_env.install_beside_torch(before, (ROOT / 'requirements.txt').read_text())
    options, files = (
        'install --no-deps --no-build-isolation -r',
        [tmp_path / f'frostnet-{n}.txt' for n in ('others', 'torch')],
    )
    tools = ' '.join(f'{name}=={PINNED[name]}' for name in setup_env.BUILD_TOOLS)
    first, *rest = (f'install --no-deps --no-build-isolation {tools}', *(f'{options} {file}' for file in files))
    assert sorted(calls()[:3]) == sorted([first, *rest])
    assert calls().index(first) < calls().index(rest[0])  # which the others may be built with
    assert calls()[3:] == [f'install torch=={PINNED["torch"]}']  # with what it depends on
    others, torch = (file.read_text().splitlines() for file in files)
    wanted = [line for line in (ROOT / 'requirements.txt').read_text().splitlines() if '==' in line and line[0] != '#']
    assert torch[0] == f'torch=={PINNED["torch"]}' and len(others) > 1.5 * len(torch)
    assert sorted([*others, *torch, *tools.split()]) == sorted(line for line in wanted if not line.startswith('onedl-'))


def test_one_of_two_that_fails_is_shown_and_an_error_ends_the_other(tmp_path):
    log = tmp_path / 'log'
    with pytest.raises(checks.SetupError, match='(?s)exit 3.*no such package'):
        with running.beside(['sh', '-c', 'sleep 0.2; echo no such package; exit 3'], log, {}):
            pass
    started = time.monotonic()
    with pytest.raises(checks.SetupError, match='disk full'):
        with running.beside([sys.executable, '-c', 'import time; time.sleep(50)'], log, {}):
            raise checks.SetupError('disk full')
    assert time.monotonic() - started < 20


def test_users_torch_is_kept(tmp_path, pip_calls, capsys):
    python, calls = pip_calls
    setup_env.install_torch(environment(tmp_path, {'torch': '2.9.1+cu128', 'ninja': '1.0'}, python), PINS)
    constraint = tmp_path / 'frostnet-constraint.txt'
    assert calls() == [f'install -c {constraint} packaging==1.0 setuptools==1.0 wheel==1.0']
    assert constraint.read_text() == 'torch==2.9.1+cu128\n'
    assert 'torch 2.9.1+cu128 is there and is kept' in capsys.readouterr().out


def test_pinned_torch_with_all_tools_needs_no_pip(tmp_path, pip_calls, capsys):
    python, calls = pip_calls
    setup_env.install_torch(environment(tmp_path, {**PINS, 'torch': '2.13.0+cpu'}, python), PINS)
    assert calls() == []
    assert 'note' not in capsys.readouterr().out


def test_too_old_torch_is_not_replaced_but_refused(tmp_path, pip_calls):
    python, calls = pip_calls
    with pytest.raises(checks.SetupError, match='torch 2.3.1 is installed; 2.4 or newer'):
        setup_env.install_torch(environment(tmp_path, {'torch': '2.3.1'}, python), PINS)
    assert calls() == []


# ---------------------------------------------------------------- mmcv


def fake_mmcv_python(tmp_path, failures):
    """An interpreter in which mmcv's operators fail a number of times; its pip notes its arguments."""
    (tmp_path / 'failures').write_text('x' * failures)
    return script(
        tmp_path / 'bin' / 'python',
        f'''cd "{tmp_path}"
if [ "$1" = -m ]; then shift 2; echo "$MAX_JOBS $@" >> pip.txt; exit 0; fi
case "$2" in
*cpp_extension*) echo '{{"gpu": false, "cuda": null, "home": null}}';;
*mmcv.ops*) if [ -s failures ]; then
    printf %s "$(cut -c2- failures)" > failures; echo "ImportError: undefined symbol" >&2; exit 1; fi;;
esac''',
    )


@pytest.mark.parametrize(
    ('installed', 'failures', 'expected'),
    [
        (True, 0, []),
        (False, 0, ['plain']),
        (False, 1, ['plain', 'anew']),  # pip's cache held a build for another torch
        (True, 1, ['anew']),
    ],
)
def test_mmcv_is_built_as_often_as_needed(tmp_path, monkeypatch, installed, failures, expected):
    monkeypatch.setenv('MAX_JOBS', '3')
    python = fake_mmcv_python(tmp_path, failures)
    packages = {'torch': '2.13.0', **({'onedl-mmcv': '2.3.6'} if installed else {})}
    setup_env.install_mmcv(environment(tmp_path, packages, python), '2.3.6', {'CXX': 'c++'})
    plain = '3 install --no-deps --no-build-isolation -v onedl-mmcv==2.3.6'
    lines = {'plain': plain, 'anew': f'{plain} --no-cache-dir --force-reinstall'}
    notes = tmp_path / 'pip.txt'
    assert (notes.read_text().splitlines() if notes.exists() else []) == [lines[name] for name in expected]


def test_mmcv_that_never_works_is_an_error(tmp_path):
    python = fake_mmcv_python(tmp_path, 9)
    with pytest.raises(checks.SetupError, match='operators do not run with torch 2.13.0') as caught:
        setup_env.install_mmcv(environment(tmp_path, {'torch': '2.13.0'}, python), '2.3.6', {'CXX': 'c++'})
    assert 'undefined symbol' in str(caught.value)
    assert setup_env.LOG in str(caught.value)


def test_gpu_without_nvcc_is_told_before_compiling(tmp_path):
    python = script(tmp_path / 'bin' / 'python', 'echo \'{"gpu": true, "cuda": "13.0", "home": null}\'')
    with pytest.raises(checks.SetupError, match='Install the CUDA 13.0 toolkit'):
        setup_env.check_cuda(environment(tmp_path, python=python))


def test_two_opencv_become_one(tmp_path, pip_calls, monkeypatch):
    python, calls = pip_calls
    both = dict.fromkeys(('opencv-python', 'opencv-python-headless'), '4.12.0.88')
    after = environment(tmp_path, {'torch': '2.13.0', **both}, python)
    monkeypatch.setattr(setup_env, 'probe', lambda *args, **kwargs: after)
    setup_env.install_packages(after, REQUIREMENTS.decode())
    assert calls()[0].startswith('install --no-deps --no-build-isolation -c ')
    assert calls()[1:] == [
        'uninstall -y opencv-python-headless',
        'install --no-deps --force-reinstall opencv-python==4.12.0.88',
    ]
    written = (tmp_path / 'frostnet-requirements.txt').read_text()
    assert 'torch==' not in written and 'ninja==1.13.2' in written and 'tomli==2.5.0;' in written


# ---------------------------------------------------------------- running


def test_failure_shows_first_errors_and_the_end(tmp_path):
    python = script(
        tmp_path / 'bin' / 'python',
        'echo "FAILED: nms.o"; echo "nms.cpp:3: error: no member"; i=0;'
        'while [ $i -lt 100 ]; do i=$((i+1)); echo "noise $i"; done; exit 7',
    )
    with pytest.raises(checks.SetupError) as caught:
        setup_env.pip(environment(tmp_path, python=python), ['install', 'x'])
    text = str(caught.value)
    assert '(exit 7)' in text and 'nms.cpp:3: error: no member' in text
    assert 'noise 100' in text and 'noise 80' not in text
    log = tmp_path / setup_env.LOG
    assert str(log) in text
    assert log.read_text().startswith(f'\n$ {python} -m pip install x\nFAILED')


def test_only_the_failing_step_is_shown(tmp_path):
    log = tmp_path / 'log'
    running.run_logged(['sh', '-c', 'echo earlier error: harmless'], log, {}, lambda *_: None)
    with pytest.raises(checks.SetupError) as caught:
        running.run_logged(['sh', '-c', 'echo later; exit 1'], log, {}, lambda *_: None)
    assert 'later' in str(caught.value) and 'harmless' not in str(caught.value)


def test_ninjas_progress_is_read(tmp_path, capsys):
    seen = []
    command = ['sh', '-c', 'echo "  [1/78] c++ a"; echo "  [2/78] c++ b"; echo "warning: [9/9]"; sleep 1.5']
    running.run_logged(command, tmp_path / 'log', {}, lambda progress, seconds: seen.append((progress, seconds)))
    assert seen[0][0] == '[2/78]' and 0.5 < seen[0][1] < 10
    last = [0.0]
    running.show_progress('[2/78]', 29.0, last)
    running.show_progress('[2/78]', 95.2, last)
    assert capsys.readouterr().out == '      mmcv: 1 min 35 s, [2/78] files compiled\n'
    assert last == [95.2]


def test_environment_variables_reach_the_command(tmp_path):
    running.run_logged(['sh', '-c', 'echo jobs=$MAX_JOBS'], tmp_path / 'log', {'MAX_JOBS': '5'}, lambda *_: None)
    assert 'jobs=5' in (tmp_path / 'log').read_text()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_children_and_says_how_to_go_on(tmp_path, number):
    """The real script in a venv whose pip hangs, as in the middle of a compilation."""
    pid = tmp_path / 'pid'
    facts = json.dumps(
        {'python': [3, 11, 7], 'prefix': str(tmp_path / 'venv'), 'include': sysconfig.get_path('include'),
         'purelib': str(tmp_path), 'packages': {'torch': '2.13.0'}}
    )  # fmt: skip
    script(
        tmp_path / 'venv' / 'bin' / 'python',
        f'case "$*" in "-m pip install"*) sleep 60 & echo $! > "{pid}"; wait;; *) echo \'{facts}\';; esac',
    )
    (tmp_path / 'venv' / 'pyvenv.cfg').touch()
    process = subprocess.Popen(
        [sys.executable, TOOLS / 'setup_env.py', '--venv', tmp_path / 'venv'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )
    deadline = time.monotonic() + 20
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == 'setup: interrupted; run the same command again to go on, finished steps are kept.'
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.05)
    assert not (tmp_path / 'venv' / setup_env.STAMP).exists()


def test_finished_environment_returns_at_once(tmp_path, capsys, monkeypatch):
    """With the real pins and a stamp, no step is taken, the lock is not touched and nothing is said."""
    requirements = (ROOT / 'requirements.txt').read_bytes()
    packages = {**setup_env.parse_pins(requirements.decode()), 'torch': '2.12.0+cu130', 'frostnet-mm': '0.1.0'}
    packages['opencv-python-headless'] = packages.pop('opencv-python')
    venv = tmp_path / 'venv'
    facts = {'python': [3, 12, 1], 'prefix': str(venv), 'include': '/', 'purelib': str(venv), 'packages': packages}
    script(venv / 'bin' / 'python', f"echo '{json.dumps(facts)}'")
    key = setup_env.stamp_key(requirements, environment(venv, packages, version=(3, 12, 1)))
    (venv / setup_env.STAMP).write_text(json.dumps({'key': key}))
    monkeypatch.setattr(signal, 'signal', lambda *args: None)  # main's handlers are for its own process
    started = time.monotonic()
    assert setup_env.main(['--venv', str(venv)]) == 0
    assert time.monotonic() - started < 1
    assert capsys.readouterr() == ('', '')
    assert not (venv / setup_env.LOCK).exists()
