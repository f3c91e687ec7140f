"""What the generators of data sets share: folders of their own, files written whole or not at all, taken up again."""

import json
import os
import shutil
from pathlib import Path

PARTIAL = '.partial-'  # begins the name of the folder in which files are written before they are moved
STAMP = '.complete'  # written last: the parameters and the counts


def write_whole(path, data, scratch):
    """Write a file whole or not at all: under another name first, then renamed.

    Args:
        path (Path): The file.
        data (bytes | str): Its content.
        scratch (str | Path): An existing folder on the same file system.
    """
    partial = Path(scratch) / path.name
    partial.write_bytes(data if isinstance(data, bytes) else data.encode())
    os.replace(partial, path)


def load_json(path):
    """Contents of a small json file, or None where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def finished_counts(root, parameters, overwrite, marker_name, folders, is_whole):
    """Counts if the folder holds exactly this data set, else None with the folder ready to fill.

    Args:
        root (Path): Folder of the data set.
        parameters (dict): Parameters of the data set, as its marker and its stamp state them.
        overwrite (bool): Replace a generated data set with other parameters.
        marker_name (str): Name of the file that says that the folder is the generator's, and its parameters.
        folders (Sequence[str]): Folders that the data set fills; removed when it is replaced.
        is_whole (Callable): Takes the root and the stamp's counts; whether all files are there.

    Returns:
        dict | None: The counts of the stamp.

    Raises:
        NotADirectoryError: If ``root`` is a file.
        FileExistsError: If ``root`` holds something else, or another data set without overwrite.
    """
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f'{root} is a file: the data set needs a folder of its own')
    if not root.is_dir() or all(p.name.startswith(PARTIAL) for p in root.iterdir()):
        return None
    marker, stamp = load_json(root / marker_name), load_json(root / STAMP)
    if marker is None:
        raise FileExistsError(
            f'{root} is not empty and was not made by this generator '
            f'(it has no readable {marker_name}): choose another folder'
        )
    if marker == parameters and not overwrite:
        whole = stamp and stamp['parameters'] == parameters and is_whole(root, stamp['counts'])
        if not whole:  # interrupted, or files lost: what is there will be written again, alike
            (root / STAMP).unlink(missing_ok=True)
        return stamp['counts'] if whole else None
    if not overwrite:
        differ = ', '.join(
            f'{key} {marker.get(key)} instead of {value}'
            for key, value in parameters.items()
            if marker.get(key) != value
        )
        raise FileExistsError(
            f'{root} holds another data set ({differ}): choose another folder, '
            'or replace it with --overwrite (overwrite=True)'
        )
    (root / STAMP).unlink(missing_ok=True)
    for name in folders:
        shutil.rmtree(root / name, ignore_errors=True)
    return None


def partial_prefix():
    """What the name of this process's partial folder begins with."""
    return f'{PARTIAL}{os.getpid()}-'


def remove_partials(root):
    """Remove what runs that were killed left half written; what another process is writing now stays."""
    for folder in root.glob(f'{PARTIAL}*'):
        owner = folder.name.removeprefix(PARTIAL).partition('-')[0]
        if not (owner.isdecimal() and _is_running(int(owner))):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return process != os.getpid()


def progress_bar(total, shown, name):
    """A bar on stderr that counts images.

    Args:
        total (int): Number of images.
        shown (bool): Show it on a terminal; never anywhere else, so that logs stay readable.
        name (str): What it says before the bar.

    Returns:
        tqdm.tqdm: The bar.
    """
    from tqdm import tqdm  # here, so that rendering alone needs only numpy and OpenCV

    return tqdm(total=total, desc=name, unit='image', disable=None if shown else True)
