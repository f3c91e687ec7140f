"""The process that measures one cell: reads requests as lines of JSON, answers each with a line of JSON.

Between its turns it is blocked in a read and uses no processor. Started as a file, it imports neither the package as a
whole nor torch, which would cost 15 seconds and 300 MiB beside an engine that needs none of it. Started by
``python -m frostnet_mm.benchmark.measure.worker`` it can run torch too.
"""

import json
import os
import sys
import traceback
import types
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

if not __package__:
    # A bare package of this name in the place of the real one, whose __init__ would import torch and mm.
    sys.path[0] = str(ROOT)
    bare = types.ModuleType('frostnet_mm')
    bare.__path__ = [str(ROOT / 'frostnet_mm')]
    sys.modules['frostnet_mm'] = bare

from frostnet_mm.benchmark.measure import loading, machine, timing  # noqa: E402

WARM_UP_SECONDS = 0.5
UNCOUNTED = 2  # calls at the beginning of a turn, which refill the caches


class Worker:
    """Answers the requests, each a dict with ``command``."""

    def __init__(self) -> None:
        self.loaded: loading.Loaded | None = None
        self.before = 0.0

    def load(self, spec: dict) -> dict:
        """Load what a spec names and warm it up; see :func:`loading.load`; ``cpus`` binds the process to cores.

        The answer has the peak of the memory in MiB: over what was held before the network was loaded, and in all.
        """
        loading.import_engine(spec)
        pinned = machine.pin(spec['cpus']) if spec.get('cpus') else False
        machine.reset_peak()
        memory = machine.memory_mib()
        self.before = memory[0] if memory else 0.0
        self.loaded = loading.load(spec)
        timing.time_calls(self.loaded.call, WARM_UP_SECONDS, 3)
        found = machine.memory_mib()
        network, process = (None, None) if found is None else (found[1] - self.before, found[1])
        about = self.loaded.figures | dict(no_end_to_end=self.loaded.no_stages)
        return dict(pinned=pinned, figures=about | dict(memory_mib=network, process_memory_mib=process))

    def measure(self, seconds: float, least: int) -> dict:
        """One turn."""
        for _ in range(UNCOUNTED):
            self.loaded.call()
        with timing.OtherWork() as others:
            times = timing.time_calls(self.loaded.call, seconds, least)
        return dict(times=times, others=others.cores, load=others.load)

    def stages(self, repetitions: int) -> dict:
        """The medians of image to result."""
        if self.loaded.stages is None:
            return dict(stages=None)
        self.loaded.stages()
        times = [self.loaded.stages() for _ in range(repetitions)]
        return dict(stages=[median(column) for column in zip(*times, strict=True)])

    def prepare(self, **options: Any) -> dict:
        """Make deployments; see :func:`prepare.prepare`."""
        from frostnet_mm.benchmark.measure import prepare

        return prepare.prepare(**options)

    def profile(self, **options: Any) -> dict:
        """Time the layers of a deployment; see :func:`prepare.profile`."""
        from frostnet_mm.benchmark.measure import prepare

        return dict(layers=prepare.profile(**options))

    def operators(self, **options: Any) -> dict:
        """Time one operator in float and INT8; see :func:`operators.measure`."""
        from frostnet_mm.benchmark.measure import operators

        return operators.measure(**options)


def main() -> None:
    """Answer requests of the standard input until it ends, into the file descriptor given, or the standard output."""
    # A channel of its own: libraries print to the standard output, some while they are imported.
    answers = os.fdopen(int(sys.argv[1]) if len(sys.argv) > 1 else os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop('command'))(**request)
        except Exception as error:  # whatever it is, it is the reason that the table gives for this cell
            traceback.print_exc()
            answer = dict(error=f'{type(error).__name__}: {error}')
        answers.write(json.dumps(answer) + '\n')


if __name__ == '__main__':
    main()
