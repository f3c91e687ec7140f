"""Serve a deployment at full load: processes with threads that predict, and whether anything changes while they do.

python tools/studies/serving.py DEPLOYMENT photo.jpg another.jpg --processes 4 --threads 8 --minutes 10

Each process opens the deployment once and predicts with all its threads, the network on one thread of the engine. All
results must equal those of a single call before. Halfway, a byte of the network's file is changed, in a copy that
replaces it: what is open goes on with equal results, and the next to open is refused. Printed, and kept in
serving.json, are calls, images a second, percentiles of the time of a call, and the resident memory as it goes.
"""

import argparse
import json
import multiprocessing
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _tools  # noqa: F401
import numpy as np
from memory import resident

from frostnet_mm.cli import run_tool
from frostnet_mm.device.predictor import Predictor
from frostnet_mm.errors import UserError
from frostnet_mm.files import write_bytes, write_text

POINTS = 20  # times that memory is looked at
WARM = 10  # calls of a process before that
OPENING = 120  # seconds, at most


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Predict in processes and threads at full load, and compare.')
    parser.add_argument('folder', type=Path, metavar='DEPLOYMENT')
    parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE')
    parser.add_argument('--processes', type=int, default=4, help='default 4')
    parser.add_argument('--threads', type=int, default=8, help='of each process; default 8')
    parser.add_argument('--minutes', type=float, default=10, help='default 10')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/serving'), help='default work_dirs/serving')
    args = parser.parse_args()
    for name in ('processes', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: expected a whole number from 1')
    if not args.minutes > 0:
        parser.error(f'--minutes {args.minutes}: expected a number above 0')
    return args


def arrays_of(result: Any) -> list[np.ndarray]:
    """The numbers of a prediction, of whatever kind."""
    return [value for value in vars(result).values() if isinstance(value, np.ndarray)]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether two predictions are the same to the last bit."""
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def serve(folder: Path, images: list[Path], threads: int, seconds: float, ready: Any, answers: Any) -> None:
    """Predict with all threads of this process for so long; answer with what was seen."""
    predictor = Predictor(folder, threads=1)
    expected = [arrays_of(predictor.predict(image)) for image in images]
    for call in range(WARM):
        predictor.predict(images[call % len(images)])
    times, different, failures, sizes = [], [], [], []
    ready.wait(OPENING)
    began = time.monotonic()

    def work(index: int) -> None:
        try:
            while time.monotonic() - began < seconds:
                start = time.perf_counter()
                result = predictor.predict(images[index % len(images)])
                times.append(time.perf_counter() - start)
                if not equal(arrays_of(result), expected[index % len(images)]):
                    different.append(index)
                index += 1
        except Exception as error:
            failures.append(f'{type(error).__name__}: {error}')

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for point in range(POINTS):
        time.sleep(max(0.0, began + (point + 1) * seconds / POINTS - time.monotonic()))
        sizes.append(resident())
    for worker in workers:
        worker.join()
    sums = [[float(np.sum(array, dtype=np.float64)) for array in result] for result in expected]
    answers.put(dict(times=times, different=len(different), failures=failures, sizes=sizes, sums=sums))


def damage(folder: Path) -> None:
    """Replace the largest file of a deployment, its network or weights, by one with another byte in the middle."""
    path = max((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    write_bytes(path, bytes(content))


def refusal(folder: Path) -> str:
    """What the next process is told that opens it."""
    try:
        Predictor(folder, threads=1)
    except UserError as error:
        return str(error)
    return ''


def lines(found: list[dict], minutes: float, refused: str) -> Iterator[str]:
    """What was seen, as Markdown."""
    times = 1000 * np.concatenate([each['times'] for each in found])
    half = [each['sizes'][POINTS // 2 :] for each in found]
    growth = max(sizes[-1] - sizes[0] for sizes in half)
    yield '| calls | images/s | p50 ms | p99 ms | largest ms | MiB a process | its growth in the second half |'
    yield '|---|---|---|---|---|---|---|'
    p50, p99 = np.percentile(times, (50, 99))
    yield (
        f'| {len(times)} | {len(times) / 60 / minutes:.1f} | {p50:.1f} | {p99:.1f} | {times.max():.0f} | '
        f'{max(sizes[-1] for sizes in half):.0f} | {growth:+.1f} |'
    )
    different = sum(each['different'] for each in found) + sum(each['sums'] != found[0]['sums'] for each in found)
    failures = [text for each in found for text in each['failures']]
    yield f'Results that differ: {different}. Failures: {len(failures)}{": " + failures[0] if failures else ""}.'
    yield f'The next to open the damaged file: {refused or "NOT REFUSED"}'


def main() -> int:
    args = parse_args()
    missing = [path for path in args.images if not path.is_file()]
    if missing:
        raise UserError(f'{missing[0]} does not exist: expected image files.')
    Predictor(args.folder, threads=1)  # whatever is wrong with it is said here
    folder = args.out / 'deployment'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(args.folder, folder)
    context = multiprocessing.get_context('spawn')
    answers, seconds = context.Queue(), 60 * args.minutes
    os.environ['OMP_NUM_THREADS'] = '1'
    ready = context.Barrier(args.processes + 1)
    options = (folder, args.images, args.threads, seconds, ready, answers)
    workers = [context.Process(target=serve, args=options, daemon=True) for _ in range(args.processes)]
    for worker in workers:
        worker.start()
    try:
        ready.wait(OPENING)
        print(f'{len(workers)} processes serve for {args.minutes:g} minutes', flush=True)
        time.sleep(seconds / 2)
        damage(folder)
        found = [answers.get(timeout=seconds + OPENING) for _ in workers]
    except (threading.BrokenBarrierError, queue.Empty) as error:
        codes = [worker.exitcode for worker in workers]
        raise UserError(f'A process did not open {folder}, or died: exit codes {codes}.') from error
    refused = refusal(folder)
    text = '\n'.join(lines(found, args.minutes, refused))
    write_text(args.out / 'serving.json', json.dumps(dict(processes=found, refused=refused)))
    write_text(args.out / 'serving.md', f'{text}\n')
    print(text)
    return 0 if refused and not any(each['different'] or each['failures'] for each in found) else 1


if __name__ == '__main__':
    run_tool(main)
