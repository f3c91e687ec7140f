"""What mmengine logged during a training."""

import json
import os
from pathlib import Path


def read_scalars(work_dir: str | os.PathLike) -> list[dict]:
    """All scalars that mmengine logged into a work dir, over all of its runs, oldest run first.

    Where a resumed run repeats steps of an earlier one, the later values count.

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
        run = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        iteration = next((r['iter'] for r in run if 'iter' in r), 0)
        records = [r for r in records if r['at_iter'] < iteration] if iteration else records
        for record in run:  # a metric's own 'step' is an epoch or an iteration, as the loop counts
            iteration = record.get('iter', iteration)
            records.append(dict(record, at_iter=iteration))
    return records
