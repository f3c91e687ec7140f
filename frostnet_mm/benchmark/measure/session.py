"""A network that is loaded and measured in this process, by turns."""

from statistics import median

from . import loading, machine, timing
from .turns import take_turn

WARM_UP_SECONDS = 0.5


class Session:
    """Loads and measures one network; what it returns is plain data, for a process sends it to another."""

    def __init__(self) -> None:
        self.loaded: loading.Loaded | None = None

    def load(self, spec: dict) -> dict:
        """Load what a spec names and warm it up.

        Args:
            spec (dict): See :func:`loading.load`; ``cpus`` binds this process to logical CPUs.

        Returns:
            dict: ``pinned``, whether it is bound; ``batch``, images of a call; ``results``, fields of
            :class:`cells.Result`, with the peak of the memory in MiB: over what was held before the network was loaded,
            and in all.
        """
        loading.import_engine(spec)
        pinned = machine.pin(spec['cpus']) if spec.get('cpus') else False
        if not spec.get('installed'):  # a caller's process, whose peak is its own
            machine.reset_peak()
        before = machine.memory_mib()
        self.loaded = loading.load(spec)
        timing.time_calls(self.loaded.call, WARM_UP_SECONDS, 3)
        found = machine.memory_mib()
        network, process = (None, None) if found is None else (found[1] - before[0], found[1])
        results = self.loaded.results | dict(no_end_to_end=self.loaded.no_stages)
        results |= dict(memory_mib=network, process_memory_mib=process)
        return dict(pinned=pinned, batch=self.loaded.batch, results=results)

    def measure(self, seconds: float, least: int) -> dict:
        """One turn; see :func:`turns.take_turn`."""
        return take_turn(self.loaded.call, seconds, least)

    def stages(self, repetitions: int) -> dict:
        """The medians of image to result."""
        if self.loaded.stages is None:
            return dict(stages=None)
        self.loaded.stages()
        times = [self.loaded.stages() for _ in range(repetitions)]
        return dict(stages=[median(column) for column in zip(*times, strict=True)])
