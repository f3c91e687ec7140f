"""The command line of a deployment."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .check import check_deployment, describe_outputs
from .drawing import write_image
from .errors import DeploymentError, UserError
from .images import read_image
from .network import may_saturate, open_network
from .pipeline import Predictor
from .saturation import SATURATION

PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
CHECK_RUNS = 11  # of the network, to time it


def _targets(images: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where the picture of each image goes."""
    if out is None:
        return [None] * len(images)
    if out.suffix.lower() in PICTURES and not out.is_dir():
        if len(images) > 1:
            raise DeploymentError(f'--out {out} is one picture for {len(images)} images: give a folder.')
        return [out]
    targets = [out / f'{image.name}.png' for image in images]
    twice = sorted({target.name for target in targets if targets.count(target) > 1})
    if twice:
        raise DeploymentError(f'Several images would be drawn to {", ".join(twice)} of {out}: give them one by one.')
    return targets


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
    parser.add_argument('images', nargs='*', type=Path, metavar='IMAGE')
    parser.add_argument(
        '--check', action='store_true', help='compare with what was deployed: does the engine compute it here, too?'
    )
    parser.add_argument('--out', type=Path, help='picture, or folder of pictures, with what was found')
    parser.add_argument('--json', type=Path, metavar='FILE', help='what was found, as data')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--threads', type=int, help="threads of one run (default: the engine's choice)")
    parser.add_argument('--folder', type=Path, default=Path(folder), help='another deployment')
    args = parser.parse_args(arguments)
    if not args.images and not args.check:
        parser.error('expected images, or --check')
    entries = []
    try:
        if args.check:
            _check(args.folder, args.threads)
        if not args.images:
            return 0
        targets = _targets(args.images, args.out)
        predictor = Predictor(args.folder, args.threads, args.score_thr)
        for path, target in zip(args.images, targets, strict=True):
            image = read_image(path, predictor.description['preprocessing'].get('ignore_orientation', False))
            start = time.perf_counter()
            result = predictor.predict(image)
            seconds = time.perf_counter() - start
            found = dict(image=str(path), height=image.shape[0], width=image.shape[1]) | result.to_dict()
            entries.append(found)
            count = f'{len(found["detections"])} detections' if 'detections' in found else f'{found["pixels"]}'
            print(f'{path}: {count} ({1000 * seconds:.1f} ms)')
            if target is not None:
                write_image(target, predictor.draw(image, result))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(entries, indent=1) + '\n', encoding='utf-8')
    return 0
