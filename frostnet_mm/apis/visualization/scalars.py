"""What mmengine logged during a training."""

import json
import os
from pathlib import Path


def read_scalars(work_dir: str | os.PathLike) -> list[dict]:
    """All scalars that mmengine logged into a work dir, over all of its runs, oldest run first.

    Where a resumed run repeats steps of an earlier one, the later values count. The last line of a run that was killed
    may be cut off; it is left out.

    Args:
        work_dir (str | PathLike): Work dir of a training.

    Returns:
        list[dict]: One dict a log line, as in mmengine's ``scalars.json``, with ``at_iter``, the last training
        iteration logged so far.

    Raises:
        FileNotFoundError: Nothing was logged there.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'{work_dir} holds no */vis_data/scalars.json: give the work dir of a training.')
    records: list[dict] = []
    for file in files:
        run = _records(file)
        iteration = next((r['iter'] for r in run if 'iter' in r), 0)
        records = [r for r in records if r['at_iter'] < iteration] if iteration else records
        first = next((r for r in run if 'iter' in r or 'step' in r), {})
        if 'iter' not in first:  # it began with a validation that the run before may have finished too
            records = [r for r in records if 'iter' in r or r.get('step') != first.get('step')]
            iteration = records[-1]['at_iter'] if records else 0
        for record in run:  # a metric's own 'step' is an epoch or an iteration, as the loop counts
            iteration = record.get('iter', iteration)
            records.append(dict(record, at_iter=iteration))
    return records


def _records(file: Path) -> list[dict]:
    lines = file.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith('\n') or line is not lines[-1]]
    return [json.loads(line) for line in whole if line.strip()]
