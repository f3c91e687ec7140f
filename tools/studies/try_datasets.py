"""Take many data sets through the tools as a user would, and tell what became of each.

python tools/studies/try_datasets.py path/to/data_sets --out work_dirs/try_datasets

Every sub-folder (or its sub-folder ``data``) in COCO's layout (``annotations/instances_*.json``) or Cityscapes'
(``leftImg8bit``, ``gtFine``) is checked (``prepare_coco.py``, ``prepare_cityscapes.py``), trained on for a moment,
evaluated, and its validation images are drawn. Outcomes: ``ok``; ``refused`` with one message (exit status 2, or 1 of
a check); and the faults

- ``TRACEBACK``, ``HANG``, ``NO MESSAGE`` (another exit status);
- ``NOTHING LEARNT``: exit status 0 without a finite, positive loss and a defined metric;
- ``DISAGREE``: the check and training judge differently.

What is done is not done again; the exit status is 1 if there is a fault.
"""

import argparse
import contextlib
import json
import math
import os
import re
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

import _tools  # noqa: F401
from tqdm import tqdm

from frostnet_mm.cli import run_tool
from frostnet_mm.data.errors import DatasetNotFoundError
from frostnet_mm.files import write_text

TOOLS = Path(__file__).resolve().parent.parent
EXAMPLES = TOOLS.parent / 'configs' / 'examples'
LOADERS = [f'{part}_dataloader.{key}' for part in ('train', 'val', 'test') for key in ('num_workers=0',)] + [
    f'{part}_dataloader.persistent_workers=False' for part in ('train', 'val', 'test')
]
FAULTS = ('TRACEBACK', 'HANG', 'NO MESSAGE', 'NOTHING LEARNT', 'DISAGREE')
STEPS = ('check', 'train', 'test', 'infer')
ORDER = ('train', 'check', 'test', 'infer')  # whose message is shown
METRICS = ('coco/bbox_mAP', 'mIoU')
#: By layout: the check, the config, what shortens its training, and where validation images lie.
LAYOUTS = dict(
    coco=(
        'prepare_coco.py',
        EXAMPLES / 'ssdlite_frostnet_custom_192.py',
        ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=4'],
        'val2017',
    ),
    cityscapes=(
        'prepare_cityscapes.py',
        EXAMPLES / 'espnetv2_frostnet_cityscapes_288.py',
        [
            'train_cfg.max_iters=4',
            'train_cfg.val_interval=4',
            'train_dataloader.batch_size=2',
            'default_hooks.checkpoint.interval=4',
            'default_hooks.logger.interval=1',
        ],
        'leftImg8bit/val',
    ),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Take many data sets through check, training, evaluation, inference.')
    parser.add_argument('folder', type=Path, help='folder of data sets')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/try_datasets'), help='logs and results')
    parser.add_argument('--names', nargs='+', help='only these data sets')
    parser.add_argument('--limit', type=int, default=240, help='seconds a step may take; default 240')
    return parser.parse_args()


def find_datasets(folder: Path, names: list[str] | None) -> dict[str, tuple[str, Path]]:
    """Layout and root of every data set, by name."""
    found = {}
    for entry in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ():
        for root in (entry / 'data', entry):
            layout = 'coco' if (root / 'annotations').is_dir() else 'cityscapes'
            if layout == 'coco' or (root / 'leftImg8bit').is_dir():
                found[entry.name] = (layout, root.resolve())
                break
    if names:
        lacking = sorted(set(names) - set(found))
        if lacking:
            raise DatasetNotFoundError(f"'{folder}' holds no data set {lacking}; it holds {list(found)}")
        found = {name: found[name] for name in names}
    if not found:
        raise DatasetNotFoundError(f"'{folder}' holds no folder in COCO's or Cityscapes' layout")
    return found


def run_in_child(command: list[str], log: Path, limit: int) -> int | None:
    """Run a tool in a fork of this process, which has imported what takes seconds; None if it ran past the limit."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(command, log)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become(command: list[str], log: Path) -> None:
    """The tool, as if it had been started from the shell; does not return."""
    code = 1
    try:
        os.setsid()
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        sys.stdout = sys.stderr = os.fdopen(stream, 'w', buffering=1)
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name='__main__')
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def judge(code: int | None, log: Path) -> tuple[str, str]:
    """Outcome of a step, and the message that goes with it."""
    text = log.read_text(errors='replace')
    message = re.search(r'^error: (.*)', text, re.MULTILINE | re.DOTALL)
    problems = re.findall(r'^ *(?:PROBLEM: |failed: )(.*)', text, re.MULTILINE)
    said = ' '.join((message.group(1) if message else '; '.join(problems)).split())
    if code is None:
        return 'HANG', text[-200:]
    if 'Traceback (most recent call last)' in text:
        return 'TRACEBACK', ' '.join(text.strip().splitlines()[-1:])
    if code == 0:
        return 'ok', ''
    return ('refused', said) if code in (1, 2) and said else ('NO MESSAGE', f'exit status {code}')


def read_scalars(work_dir: Path) -> tuple[list[float], dict[str, float]]:
    """Losses of a training, and the metrics of its last evaluation."""
    losses, metrics = [], {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json'))[-1:]:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            losses += [row['loss']] if 'loss' in row else []
            metrics.update({key: row[key] for key in METRICS if key in row})
    return losses, metrics


def take_through(name: str, layout: str, root: Path, out: Path, limit: int) -> dict:
    """All steps of one data set."""
    check, config, options, images = LAYOUTS[layout]
    work_dir, folder = out / name / 'train', out / name
    options = ['--cfg-options', f'data_root={root}', *options, *LOADERS]
    row = dict(layout=layout)

    def step(which: str, *command: str) -> str:
        code = run_in_child([str(TOOLS / command[0]), *command[1:]], folder / f'{which}.log', limit)
        row[which], row[f'{which}_says'] = judge(code, folder / f'{which}.log')
        return row[which]

    checked = step('check', check, str(root))
    trained = step('train', 'train.py', str(config), '--work-dir', str(work_dir), *options)
    if trained == 'ok':
        losses, row['metrics'] = read_scalars(work_dir)
        row['loss'] = losses[-1] if losses else math.nan
        if not (math.isfinite(row['loss']) and row['loss'] > 0 and min(row['metrics'].values(), default=-1) >= 0):
            row['train'], row['train_says'] = 'NOTHING LEARNT', f'loss {row["loss"]}, {row["metrics"]}'
        last = (work_dir / 'last_checkpoint').read_text().strip()
        step('test', 'test.py', str(config), last, '--work-dir', str(folder / 'test'), *options)
        step('infer', 'infer.py', str(config), last, str(root / images), '--out', str(folder / 'infer'), *options)
    if (checked, trained) in (('ok', 'refused'), ('refused', 'ok')):
        row['train'] = f'DISAGREE: {trained}'
    return row


def table(rows: dict[str, dict]) -> str:
    """Outcomes as Markdown."""
    lines = ['| data set | check | train | test | infer | what was said |', '|---|---|---|---|---|---|']
    for name, row in rows.items():
        said = next((row[f'{step}_says'] for step in ORDER if row.get(f'{step}_says')), '')
        cells = [row.get(step, '–') for step in STEPS]
        lines.append(f'| {name} | {" | ".join(cells)} | {said[:300].replace("|", "/")} |')
    return '\n'.join(lines)


def faults(rows: dict[str, dict]) -> list[str]:
    """Names of data sets with a fault."""
    return [name for name, row in rows.items() if any(row.get(step, '').startswith(FAULTS) for step in STEPS)]


def main() -> int:
    args = parse_args()
    datasets = find_datasets(args.folder, args.names)
    out = args.out.resolve()
    results = out / 'results.json'
    rows = json.loads(results.read_text()) if results.is_file() else {}
    # what every step would import, so that its fork need not
    import frostnet_mm.apis.inference
    import frostnet_mm.data.cityscapes_checks
    import frostnet_mm.data.coco_download
    import frostnet_mm.engine.runner  # noqa: F401

    for name in tqdm([name for name in datasets if name not in rows], unit='data set', disable=None):
        rows[name] = take_through(name, *datasets[name], out, args.limit)
        write_text(results, json.dumps(rows, indent=1))
    write_text(out / 'results.md', table(rows) + '\n')
    print(table({name: rows[name] for name in datasets}))
    bad = faults({name: rows[name] for name in datasets})
    print(f'\n{len(datasets)} data sets, {len(bad)} with a fault{": " + ", ".join(bad) if bad else ""}: {results}')
    return 1 if bad else 0


if __name__ == '__main__':
    run_tool(main)
