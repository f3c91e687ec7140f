"""The command line of a deployment."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .check import check_deployment, describe_outputs
from .errors import DeploymentError, UserError, close_output
from .image_files import read_decoded
from .image_search import Found, find_images
from .network import may_saturate, open_network
from .pictures import refuse_replacing, result_names, write_image, write_whole
from .pipeline import Predictor
from .results import LabelMap
from .saturation import SATURATION

PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
CHECK_RUNS = 11  # of the network, to time it


class _Target(NamedTuple):
    """Where the picture of an image goes, and its mask, the latter also as a path below the folder of the JSON file."""

    picture: Path | None
    mask: Path | None
    mask_name: str


def _mask_folder(json_file: Path) -> Path:
    return json_file.with_name(f'{json_file.stem}_masks')


def _targets(found: Found, out: Path | None, json_file: Path | None) -> list[_Target]:
    """Where the picture and the mask of each image go."""
    pictures, masks = result_names(found.names, _mask_folder(json_file).name if json_file is not None else 'masks')
    one = out is not None and _is_picture(out)
    if one and len(found.images) > 1:
        raise DeploymentError(f'--out {out} is one picture for {len(found.images)} images: give a folder.')
    targets = [
        _Target(
            out if one or out is None else out / pictures[name],
            None if json_file is None else json_file.parent / masks[name],
            masks[name].as_posix(),
        )
        for name in found.names
    ]
    refuse_replacing((path for target in targets for path in target[:2] if path is not None), found.images)
    return targets


def _is_picture(out: Path) -> bool:
    return out.suffix.lower() in PICTURES and not out.is_dir()


def _check(folder: Path, threads: int | None) -> None:
    """Compare and print.

    Raises:
        DeploymentError: The engine computes something else here.
    """
    network, times = open_network(folder, threads=threads), []

    def timed(images: np.ndarray) -> list[np.ndarray]:
        for _ in range(CHECK_RUNS):
            start = time.perf_counter()
            outputs = network(images)
            times.append(1000 * (time.perf_counter() - start))
        return outputs

    outputs = check_deployment(folder, timed)
    print(describe_outputs(outputs))
    engine, wrong = network.description['engine'], [output.name for output in outputs if not output.passed]
    if wrong:
        cause = f' {SATURATION}' if may_saturate(network.description) else ''
        raise DeploymentError(
            f'{engine} does not compute on this machine what was deployed: {len(wrong)} of {len(outputs)} outputs '
            f'deviate, the first is {wrong[0]}.{cause}'
        )
    if 'not_run' in network.description:
        print(f'onnxruntime computes on this machine what was deployed. {network.description["not_run"]}')
        return
    print(
        f'{engine} computes on this machine what was deployed; the network takes '
        f'{sorted(times)[len(times) // 2]:.1f} ms.'
    )


def main(arguments: Sequence[str] | None = None, folder: str | os.PathLike = '.') -> int:
    """Predict image files, or compare the engine with what was deployed.

    Args:
        arguments (Sequence[str], optional): Default: those of the process.
        folder (str | PathLike): The deployment, where the arguments name none. Default: the working directory.

    Returns:
        int: The exit status: 0, or 1 if something is wrong, which is printed.
    """
    parser = argparse.ArgumentParser(description='Predict images with the deployment of this folder.')
    parser.add_argument('images', nargs='*', metavar='IMAGE', help='files, folders or patterns')
    parser.add_argument(
        '--check', action='store_true', help='compare with what was deployed: does the engine compute it here, too?'
    )
    parser.add_argument('--out', type=Path, help='picture, or folder of pictures, with what was found')
    parser.add_argument(
        '--json',
        type=Path,
        metavar='FILE',
        help="what was found, as data; a segmenter's masks of class indices go into a folder beside it",
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--threads', type=int, help="threads of one run (default: the engine's choice)")
    parser.add_argument('--folder', type=Path, default=Path(folder), help='another deployment')
    args = parser.parse_args(arguments)
    if not args.images and not args.check:
        parser.error('expected images, or --check')
    try:
        if args.check:
            _check(args.folder, args.threads)
        code = _predict(args) if args.images else 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except BrokenPipeError:
        close_output()
        return 1


def _predict(args: argparse.Namespace) -> int:
    """Predict the images one by one; one that fails is named, and the others go on."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # file names need not be text in the terminal's encoding
            stream.reconfigure(errors='backslashreplace')
    pictures = [args.out] if args.out is not None and not _is_picture(args.out) else []
    masks = [_mask_folder(args.json)] if args.json is not None else []
    found = find_images(args.images, *pictures, *masks)
    for note in found.notes:
        print(note)
    targets = _targets(found, args.out, args.json)
    predictor, entries, failed = Predictor(args.folder, args.threads, args.score_thr), [], 0
    try:
        for path, target in zip(found.images, targets, strict=True):
            entry = dict(image=str(path))
            entries.append(entry)
            try:
                print(_predict_one(predictor, path, entry, target))
            except UserError as error:
                entry['error'] = str(error)
                failed += 1
                print(f'error: {error}', file=sys.stderr)
    finally:  # whatever comes in between, what was found so far is kept
        if args.json is not None:
            _write_json(args.json, entries)
    if failed and len(entries) > 1:
        print(f'error: {failed} of {len(entries)} images failed', file=sys.stderr)
    return 1 if failed else 0


def _predict_one(predictor: Predictor, path: Path, entry: dict, target: _Target) -> str:
    """Fill the entry of an image, write its picture and the mask of a segmenter, and say what was found."""
    image, note = read_decoded(path, predictor.ignore_orientation)
    start = time.perf_counter()
    result = predictor.predict(image)
    seconds = time.perf_counter() - start
    entry |= dict(height=image.shape[0], width=image.shape[1]) | result.to_dict()
    if target.mask is not None and isinstance(result, LabelMap):
        write_image(target.mask, result.labels)
        entry['mask'] = target.mask_name
    if target.picture is not None:
        write_image(target.picture, predictor.draw(image, result))
    count = _summary(entry)
    return f'{path}: {count} ({1000 * seconds:.1f} ms)' + (f'; it {note}' if note else '')


def _summary(entry: dict) -> str:
    if 'classes' in entry:
        return ', '.join(f'{found["class"]} {found["score"]:.2f}' for found in entry['classes'])
    return f'{len(entry["detections"])} detections' if 'detections' in entry else f'{entry["pixels"]}'


def _write_json(path: Path, entries: list[dict]) -> None:
    """Write the results in one piece: a full disk or a crash leaves the earlier file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(entries, indent=1) + '\n').encode())
    except OSError as error:
        raise DeploymentError(f'The results cannot be written to {path}: {error.strerror or error}') from error
