"""The version guard: it names every unsupported combination of packages and the command that mends it.

Otherwise each of them ends in an error deep in mmcv or mmengine, some only when the first checkpoint is loaded. On
import of ``frostnet_mm`` it reads the packages' versions; before models are built it runs mmcv's compiled operators.
"""

import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

SKIP_VARIABLE = 'FROSTNET_SKIP_VERSION_GUARD'

# Distribution: (tested, oldest accepted, first not accepted or None); a test compares this to requirements.txt.
# The official packages import under the same names as the forks; accepted with a torch and setuptools of their time.
SUPPORTED: dict[str, tuple[str, str, str | None]] = {
    'torch': ('2.13.0', '2.1', None),
    'torchao': ('0.18.0', '0.18', '0.19'),  # of which parts are used that may change from one minor version to the next
    'onedl-mmengine': ('0.10.12', '0.10.8', '0.11'),
    'onedl-mmcv': ('2.3.6', '2.3', '2.4'),
    'onedl-mmdetection': ('3.5.1', '3.5', '3.6'),
    'onedl-mmsegmentation': ('1.4.2', '1.4', '1.5'),
    'mmengine': ('0.10.7', '0.10.0', '0.11'),
    'mmengine-lite': ('0.10.7', '0.10.0', '0.11'),
    'mmcv': ('2.1.0', '2.0.0', '2.3'),
    'mmdet': ('3.3.0', '3.0.0', '3.4'),
    'mmsegmentation': ('1.2.2', '1.0.0', '1.3'),
}
QUANTIZATION_TORCH = '2.9'  # from here an exported graph can be had without guards on the size of the images
PYTHON_TESTED = ((3, 10), (3, 12))
FORK_TORCH_MIN = '2.4'  # onedl-mmcv's own lower bound
WEIGHTS_ONLY_TORCH = (
    '2.6'  # from here torch.load reads tensors only by default, which the official mmengine does not know
)
NO_PKG_RESOURCES = '82'  # the setuptools that dropped pkg_resources, which the official mmengine imports
OFFICIAL_MMCV_END = '2.2'  # mmdet <= 3.3.0 and mmsegmentation <= 1.2.2 assert mmcv < 2.2.0

# The import name, and the distributions that write its files; two of them at once overwrite each other.
FAMILIES = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-full', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
OPENCV = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')
_NO_OPERATORS = "No module named 'mmcv._ext'"
LOOKED_UP = ('torch', 'torchao', 'setuptools', *OPENCV, *(name for family in FAMILIES.values() for name in family))


class IncompatibleEnvironment(ImportError):  # noqa: N818  (a state of the environment, as the message says)
    """The installed packages cannot work together; the message lists all that is wrong and how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the environment.

    Args:
        found: What is installed.
        supported: What would be right, and why.
        fix: The command that mends it.
        fatal: Whether nothing can work (an error), or something may not (a warning). Default: True.
    """

    found: str
    supported: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f'{self.found}\n    supported: {self.supported}\n    to mend:   {self.fix}'


def _release(text: str) -> tuple[int, ...]:
    """Turn ``2.13.0+cpu`` into ``(2, 13)``: the release without trailing zeros, so that 2.2 equals 2.2.0."""
    numbers = [int(number) for number in re.match(r'[\d.]*', text)[0].split('.') if number]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _older(text: str, bound: str) -> bool:
    return _release(text) < _release(bound)


def _install(*names: str, before: str = '') -> str:
    """Spell the command that installs the tested versions (mmcv is compiled for the torch that is there)."""
    pins = ' '.join(f'{name}=={SUPPORTED[name][0]}' for name in names)
    # pip's cache is keyed by mmcv's source, not by torch: it may hold a build for another one.
    build = '--no-build-isolation --no-cache-dir ' if 'onedl-mmcv' in names else ''
    return f'{before}pip install {build}{pins}'


def _to_fork(installed: list[str], family_names: list[str]) -> str:
    """Spell the command that replaces official packages by the forks."""
    forks = [FAMILIES[name][0] for name in family_names]
    return _install(*forks, before=f'pip uninstall -y {" ".join(installed)} && ')


def _check_missing(versions: Mapping[str, str | None]) -> list[Problem]:
    problems = []
    if not versions.get('torch'):
        problems.append(Problem('torch is not installed', _range('torch'), _install('torch')))
    for family in ('mmengine', 'mmcv'):  # mmdet and mmseg may each be missing: one can use the other alone
        if not any(versions.get(name) for name in FAMILIES[family]):
            fork = FAMILIES[family][0]
            problems.append(Problem(f'{family} is not installed', _range(fork), _install(fork)))
    torch = versions.get('torch')
    if torch and not _older(torch, QUANTIZATION_TORCH) and not versions.get('torchao'):
        problems.append(Problem('torchao is not installed', _range('torchao'), _install('torchao')))
    return problems


def _range(name: str) -> str:
    tested, low, end = SUPPORTED[name]
    return f'{name} >= {low}{f", < {end}" if end else ""} (tested: {tested})'


def _check_ranges(versions: Mapping[str, str | None]) -> list[Problem]:
    problems = []
    for name, (_, low, end) in SUPPORTED.items():
        there = versions.get(name)
        if there and (_older(there, low) or (end and not _older(there, end))):
            mend = name if name in ('torch', 'torchao') or name.startswith('onedl-') else None
            family = next((key for key, names in FAMILIES.items() if name in names), None)
            fix = _install(mend) if mend else _to_fork([name], [family])
            problems.append(Problem(f'{name} {there} is installed', _range(name), fix))
    torch, torchao = versions.get('torch'), versions.get('torchao')
    if torch and torchao and _older(torch, QUANTIZATION_TORCH):
        why = f'torch >= {QUANTIZATION_TORCH} for quantization, or no torchao (float models then work)'
        problems.append(Problem(f'torch {torch} with torchao {torchao}', why, 'pip uninstall -y torchao'))
    torch, mmcv = versions.get('torch'), versions.get('onedl-mmcv')
    if torch and mmcv and not _older(torch, SUPPORTED['torch'][1]) and _older(torch, FORK_TORCH_MIN):
        problems.append(
            Problem(
                f'torch {torch} with onedl-mmcv {mmcv}',
                f'torch >= {FORK_TORCH_MIN}, which onedl-mmcv is released for',
                _install('torch', 'onedl-mmcv'),
                fatal=False,
            )
        )
    python = versions.get('python')
    if python and not PYTHON_TESTED[0] <= (_release(python) + (0,))[:2] <= PYTHON_TESTED[1]:
        problems.append(
            Problem(
                f'Python {python}', 'Python 3.10 to 3.12', 'make setup PYTHON=python3.11 VENV=.venv.311', fatal=False
            )
        )
    return problems


def _check_duplicates(versions: Mapping[str, str | None]) -> list[Problem]:
    problems = []
    for family, names in FAMILIES.items():
        there = [name for name in names if versions.get(name)]
        if len(there) > 1:
            listed = ' and '.join(f'{name} {versions[name]}' for name in there)
            fork = names[0]
            fix = (
                _to_fork(there, [family])
                if fork in SUPPORTED
                else f'pip uninstall -y {" ".join(there)} && pip install {fork}'
            )
            problems.append(
                Problem(f'{listed} are both installed and overwrite each other', f'one of them: {fork}', fix)
            )
    opencv = {name: versions[name] for name in OPENCV if versions.get(name)}
    if len(set(opencv.values())) > 1:  # of one version they are the same files, but for the windows
        listed = ' and '.join(f'{name} {there}' for name, there in opencv.items())
        first, there = next(iter(opencv.items()))
        fix = f'pip uninstall -y {" ".join(opencv)} && pip install --no-deps {first}=={there}'
        problems.append(Problem(f'{listed} overwrite each other', 'one OpenCV package', fix, fatal=False))
    return problems


def _check_official(versions: Mapping[str, str | None]) -> list[Problem]:
    problems = []
    official = {family: [name for name in names[1:] if versions.get(name)] for family, names in FAMILIES.items()}
    official.pop('mmpretrain')  # optional, and nothing here loads checkpoints through it
    here = {family: names for family, names in official.items() if names}
    listed = ', '.join(f'{name} {versions[name]}' for names in here.values() for name in names)
    everything = [name for names in here.values() for name in names]
    torch, tools = versions.get('torch'), versions.get('setuptools')
    if here and torch and not _older(torch, WEIGHTS_ONLY_TORCH):
        if 'mmengine' in here:
            why = f'torch < {WEIGHTS_ONLY_TORCH} (its torch.load refuses checkpoints read the old way), or the forks'
        else:
            why = f'torch < {WEIGHTS_ONLY_TORCH} (the official packages were not released since), or the forks'
        fix = _to_fork(everything, list(here))
        problems.append(Problem(f'{listed} with torch {torch}', why, fix, fatal='mmengine' in here))
    if 'mmengine' in here and tools and not _older(tools, NO_PKG_RESOURCES):
        name = here['mmengine'][0]
        problems.append(
            Problem(
                f'{name} {versions[name]} with setuptools {tools}',
                f'setuptools < {NO_PKG_RESOURCES} (later: no pkg_resources, which the official mmengine imports)',
                f'pip install "setuptools<{NO_PKG_RESOURCES}"',
            )
        )
    mmcv = next((name for name in ('onedl-mmcv', 'mmcv') if versions.get(name)), None)
    for family in ('mmdet', 'mmseg'):
        if family in here and mmcv and not _older(versions[mmcv], OFFICIAL_MMCV_END):
            name = here[family][0]
            problems.append(
                Problem(
                    f'{name} {versions[name]} with {mmcv} {versions[mmcv]}',
                    f'the official {name} refuses mmcv >= {OFFICIAL_MMCV_END}; {FAMILIES[family][0]} accepts it',
                    _to_fork([name], [family]),
                )
            )
    return problems


def _check_operators(versions: Mapping[str, str | None], ops_error: str | None) -> list[Problem]:
    mmcv = next((name for name in FAMILIES['mmcv'] if versions.get(name)), None)
    rebuild = _install('onedl-mmcv', before=f'pip uninstall -y {mmcv} && ')
    if mmcv == 'mmcv-lite':
        return [Problem(f'mmcv-lite {versions[mmcv]} is installed', 'mmcv with its compiled operators', rebuild)]
    if not mmcv or not ops_error:
        return []
    torch = versions.get('torch')
    shared = re.search(r'lib(GL|gthread|glib|EGL|SM|Xext|Xrender)[-.\d]*\.so[.\d]*', ops_error)
    if shared:  # from importing cv2, on which mmcv depends
        fix = 'pip uninstall -y opencv-python && pip install --no-deps --force-reinstall opencv-python-headless'
        fix += '   (or, on Debian/Ubuntu: sudo apt install libgl1 libglib2.0-0)'
        return [Problem(f'OpenCV does not load: {ops_error}', f'OpenCV with the system library {shared[0]}', fix)]
    if _NO_OPERATORS in ops_error:
        found = f'{mmcv} {versions[mmcv]} is installed without its compiled operators (mmcv._ext)'
        return [Problem(found, 'mmcv compiled while torch was installed', rebuild)]
    found = f'the operators of {mmcv} {versions[mmcv]} do not run with torch {torch}: {ops_error}'
    return [Problem(found, 'mmcv compiled for the torch that is installed', rebuild)]


def find_problems(versions: Mapping[str, str | None], ops_error: str | None = None) -> list[Problem]:
    """List what is wrong with a set of installed packages.

    Args:
        versions: Distribution name to its version, or None where it is not installed; ``python`` for Python's own.
        ops_error: What importing mmcv's operators and running one raised, or None.

    Returns:
        All problems, in the order in which they are best mended.
    """
    return [
        *_check_missing(versions),
        *_check_duplicates(versions),
        *_check_ranges(versions),
        *_check_official(versions),
        *_check_operators(versions, ops_error),
    ]


def installed_versions() -> dict[str, str | None]:
    """Look up the versions of the packages that the guard knows, without importing them."""
    versions: dict[str, str | None] = {'python': '.'.join(map(str, sys.version_info[:3]))}
    for name in LOOKED_UP:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def operators_error() -> str | None:
    """Run one compiled operator on one box; return what it raised, or None.

    Importing is not enough: an extension compiled for another torch may load and then not know its tensors.
    """
    try:
        import torch
        from mmcv import _ext

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        _ext.nms(boxes, torch.ones(1), iou_threshold=0.5, offset=0)
    except Exception as error:  # whatever it is, it is reported with its text
        return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
    return None


def missing_operators() -> str | None:
    """What importing mmcv's operators would raise where there is no file of them, found without importing mmcv."""
    spec = find_spec('mmcv')
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in Path(folder).glob('_ext.*')]
    return None if files else _NO_OPERATORS


def check_environment() -> None:
    """Check the installed packages; called when ``frostnet_mm`` is imported. Imports none of them.

    Raises:
        IncompatibleEnvironment: If something cannot work. With FROSTNET_SKIP_VERSION_GUARD=1 it is a warning instead.
    """
    _report(find_problems(installed_versions(), missing_operators()))


@cache
def check_operators() -> None:
    """Check once that mmcv's compiled operators run; called before models are built. Imports torch and mmcv.

    Raises:
        IncompatibleEnvironment: They do not. With FROSTNET_SKIP_VERSION_GUARD=1 it is a warning instead.
    """
    if missing_operators() is None:  # else it was said on import
        _report(_check_operators(installed_versions(), operators_error()))


def _report(problems: list[Problem]) -> None:
    fatal = [problem for problem in problems if problem.fatal]
    if fatal and os.environ.get(SKIP_VARIABLE, '0') != '1':
        listed = '\n'.join(f'{number}. {problem}' for number, problem in enumerate(problems, 1))
        raise IncompatibleEnvironment(
            f'frostnet_mm cannot work with the installed packages:\n{listed}\n'
            f'Or let `make setup` make an environment; {SKIP_VARIABLE}=1 turns this error into a warning.'
        )
    for problem in problems:
        warnings.warn(f'frostnet_mm: {problem}', stacklevel=4)
