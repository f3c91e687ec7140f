"""What a search found and what it is compared with, measured together on the engine, end to end as deployed."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..benchmark.measure import Limits, measure_deployments
from ..benchmark.measure.scheduler import require_quiet
from ..benchmark.store import Kind, Store, counts
from .engine_time import EngineTime, values_of
from .errors import SearchError
from .timing import CONDITIONS, PASSES, Setting, conditions_of, deploy_random, digest_of

ROUNDS, SECONDS = 11, 0.5


@dataclass(frozen=True)
class MeasuredModel(EngineTime):
    """A model and its time.

    Args:
        name (str): Name in the report.
        digest (str): Of the model's config.
    """

    name: str
    digest: str

    @property
    def key(self) -> str:
        """What it is a result of."""
        return self.name


def measure_models(
    models: Mapping[str, dict],
    setting: Setting,
    folder: Path,
    allow_busy: bool = False,
    again: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, MeasuredModel]:
    """Measure models in turns, all of them together, so that their times compare; weights are random.

    Times that are kept serve as long as they are of just these models: a further one has all measured again, and so
    has one that was disturbed, up to twice.

    Args:
        models (Mapping[str, dict]): ``model`` of a config by name.
        setting (Setting): What is measured.
        folder (Path): Keeps ``measured-ENGINE.json``.
        allow_busy (bool): Let times of a busy machine count. Default: False.
        again (bool): Measure in any case. Default: False.
        say (Callable): Prints a line. Default: print.

    Raises:
        BusyError, SearchError: The machine was busy. BenchmarkError: The times there are of another one.
    """
    name = f'measured-{setting.engine}.json'
    kind = Kind(name, 'models', lambda own: MeasuredModel(**own), conditions_of, CONDITIONS)
    store, limits = Store(kind, folder, setting.conditions(), drop=again), Limits()
    digests = {name: digest_of(model) for name, model in models.items()}
    known = {name: own.digest for name, own in store.results.items() if counts(own.status, allow_busy)}
    if again or any(known.get(name) != digest for name, digest in digests.items()):
        if not allow_busy:
            require_quiet(limits)
        say(f'Measuring {len(models)} models on {setting.engine}, about {_minutes(len(models))} min')
        with tempfile.TemporaryDirectory() as deployments:
            folders = []
            for index, (name, model) in enumerate(models.items()):
                folders.append(_deploy(model, setting, Path(deployments) / str(index)))
                say(f'{index + 1} of {len(models)} models deployed: {name}')
            for attempt in range(PASSES):
                timings = measure_deployments(folders, setting.threads, ROUNDS, SECONDS)
                store.results.clear()
                for (name, digest), timing in zip(digests.items(), timings, strict=True):
                    store.results[name] = MeasuredModel(name, digest, **values_of(timing, limits))
                store.write()
                busy = [own for own in store.results.values() if not counts(own.status, allow_busy)]
                if not busy:
                    break
                if attempt + 1 < PASSES:
                    say(f'{len(busy)} of {len(models)} were disturbed ({busy[0].reason}): all are measured again')
    found = {name: store.results[name] for name in models}
    busy = [own for own in found.values() if not counts(own.status, allow_busy)]
    if busy:
        raise SearchError(
            f'{len(busy)} of {len(found)} models were measured while the machine was {busy[0].reason}, which is no '
            'result: end the other work and run --stage report again.'
        )
    return found


def _minutes(count: int) -> int:
    return max(1, round(count * (ROUNDS * (SECONDS + 0.5) + 10) / 60))


def _deploy(model: dict, setting: Setting, folder: Path) -> Path:
    return deploy_random(setting, dict(model=dict(model, _delete_=True)), folder)
