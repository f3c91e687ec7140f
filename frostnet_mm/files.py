"""Files: paths that a user gave are checked before anything heavy is imported; writing is atomic."""

import difflib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What mm's packages carry beside their code; links in a checkout, files in an installed package.
MIM = Path(__file__).resolve().parent / '.mim'
SHIPPED_CONFIGS = (MIM / 'configs').resolve()
SHIPPED_TOOLS = (MIM / 'tools').resolve()


def require_config(path: str | os.PathLike) -> Path:
    """The file of a config.

    Args:
        path (str | PathLike): The file, or the name of one of an installed package such as
            ``mmdet::ssd/ssd300_coco.py``. Where there is no such file, a config of this package with or without
            ``configs/`` before its name, such as ``ssdlite_frostnet_coco.py``.

    Raises:
        FileNotFoundError: There is no such config; the message names those with similar names.
    """
    path = _installed_config(str(path)) if '::' in str(path) else Path(path)
    if path.is_file():
        return path
    shipped = SHIPPED_CONFIGS.joinpath(*path.parts[path.parts[:1] == ('configs',) :])
    if not path.is_absolute() and '..' not in path.parts and shipped.is_file():
        return shipped
    folder = path if path.is_dir() else path.parent if path.parent.is_dir() else Path('configs')
    listed = {place: sorted(file.name for file in place.glob('*.py')) for place in (folder, SHIPPED_CONFIGS)}
    alike = {place: difflib.get_close_matches(path.name, names, n=3) for place, names in listed.items()}
    place = next((place for place in listed if alike[place]), folder)
    near = alike[place] or listed[folder][:8]
    raise FileNotFoundError(
        f'Config {path} {"is a folder" if path.is_dir() else "does not exist"}. '
        + (f'In {place} there are: {", ".join(near)}.' if near else 'Give the path of a .py config.')
    )


def _installed_config(name: str) -> Path:
    """The file behind ``package::name``.

    mmengine's own ``get_config`` looks the package up by its distribution's name, does not find the maintained forks
    under it, and then runs ``pip install`` of the official package over them.
    """
    package, _, relative = name.partition('::')
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f'Config {name}: no package {package!r} is installed; expected mmdet::NAME or mmseg::NAME.'
        )
    root = Path(list(spec.submodule_search_locations)[0])
    return root / '.mim' / 'configs' / (relative if relative.endswith('.py') else f'{relative}.py')


def require_checkpoint(path: str | os.PathLike, name: str = 'Checkpoint') -> Path | None:
    """The file of a checkpoint; None for a URL or an ``open-mmlab://`` name, which mmengine resolves.

    Args:
        path (str | PathLike): What was given.
        name (str): What the message calls it, such as an option. Default: 'Checkpoint'.

    Raises:
        FileNotFoundError: There is no such file; the message names the checkpoints beside it.
    """
    if '://' in str(path):
        return None
    file = Path(path).expanduser()
    if file.is_file():
        return file
    parent = file.parent
    found = [p.name for suffix in ('pth', 'tar') for p in sorted(parent.glob(f'*.{suffix}'))]
    if found:
        beside = f'Checkpoints beside it: {", ".join(found[:8])}.'
    elif parent.is_dir():
        beside = f'Folder {parent} holds none.'
    else:
        beside = f'Folder {parent} does not exist either.'
    what = 'is a folder' if file.is_dir() else 'does not exist'
    raise FileNotFoundError(f'{name} {file} {what}; expected a file written by torch.save. {beside}')


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file atomically, so that a crash leaves the old content or the new one.

    It is written into a temporary file of the same folder, which then takes its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _replace(path, content)
    except OSError as error:
        error.filename = str(path)  # writing names none, and a temporary file says nothing to a user
        raise


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def require_new_folder(path: str | os.PathLike, option: str = '--out') -> None:
    """Refuse a folder that holds something, a file, and a folder that cannot take the place of another.

    Raises:
        UserError: It is there.
    """
    place = Path(path)
    if os.path.ismount(place):
        raise UserError(f"{option} '{path}' is where a disk is mounted (a volume): give a new folder in it.")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{option} '{path}' is there and not empty: give a new folder.")


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Write a folder in one piece: it takes its name when it is complete, and is removed if the context fails.

    Args:
        path (str | PathLike): The folder; there is none, or an empty one.

    Yields:
        Path: Where to write meanwhile, a hidden folder beside it.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f'.{path.name}.'))
    try:
        yield folder
        os.chmod(folder, 0o777 & ~_umask())  # mkdtemp makes folders that only their owner may read
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_text(path: str | os.PathLike, content: str) -> None:
    """Write a text file (UTF-8) atomically.

    Raises:
        UserError: It holds a name of a file or folder that is not UTF-8.
    """
    try:
        encoded = content.encode()
    except UnicodeEncodeError as error:
        line = content[content.rfind('\n', 0, error.start) + 1 :].partition('\n')[0]
        raise UserError(
            f"'{path}' cannot be written as UTF-8: it would have the name of a file or folder that is not, in "
            f'{line.strip()[:200]!a}. Rename that, for example with convmv.'
        ) from error
    write_bytes(path, encoded)


def write_names(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a list of files atomically, a name a line; names that are not UTF-8 keep their bytes.

    Raises:
        UserError: A name has a line break in it.
    """
    names = list(names)
    if broken := [name for name in names if '\n' in name]:
        raise UserError(f"'{path}' is a list of a name a line; {broken[0]!r} has a line break in it: rename the file.")
    write_bytes(path, ''.join(f'{name}\n' for name in names).encode(errors='surrogateescape'))


def png_of(figure: 'Figure') -> bytes:
    """A drawn figure as the content of a PNG; it is closed."""
    from matplotlib import pyplot as plt

    stream = io.BytesIO()
    figure.savefig(stream, format='png')
    plt.close(figure)
    return stream.getvalue()
