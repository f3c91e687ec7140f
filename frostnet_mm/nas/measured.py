"""What a search found and what it is compared with, measured together on the engine, end to end as deployed."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..benchmark.cells import PRECISIONS
from ..benchmark.measure import Limits, measure_deployments
from ..benchmark.measure.scheduler import require_quiet
from ..benchmark.measure.timing import busy_reason
from ..benchmark.store import BUSY, DONE, Kind, Store, counts
from ..deploy.deploy import DeployOptions, deploy_model
from ..deploy.engines import engine_of
from ..deploy.loaded_model import load_for_deployment
from .errors import SearchError
from .timing import CONDITIONS, Setting

ROUNDS, SECONDS = 11, 0.5


@dataclass(frozen=True)
class MeasuredModel:
    """A model and its time.

    Args:
        name (str): Name in the report.
        digest (str): Of the model's config.
        status (str): 'done', or 'busy': measured, but no result.
        reason (str): Why it is none.
        milliseconds (float): Median over the rounds.
        spread (float): (p90 - p10) / median of all calls.
        rounds (int): How many rounds.
        others (float, optional): Cores that other processes used meanwhile.
    """

    name: str
    digest: str
    status: str
    reason: str
    milliseconds: float
    spread: float
    rounds: int
    others: float | None

    @property
    def key(self) -> str:
        """What it is a result of."""
        return self.name

    def to_dict(self) -> dict:
        """All as plain data."""
        return asdict(self)


def measure_models(
    models: Mapping[str, dict],
    setting: Setting,
    folder: Path,
    allow_busy: bool = False,
    again: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, MeasuredModel]:
    """Measure models in turns, all of them together, so that their times compare; weights are random.

    Times that are kept serve as long as they are of just these models: a further one has all measured again.

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
    kind = Kind(f'measured-{setting.engine}.json', 'models', lambda own: MeasuredModel(**own), _about, CONDITIONS)
    store, limits = Store(kind, folder, setting.conditions(), drop=again), Limits()
    digests = {name: _digest(model) for name, model in models.items()}
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
            timings = measure_deployments(folders, setting.threads, ROUNDS, SECONDS)
        store.results.clear()
        for (name, digest), timing in zip(digests.items(), timings, strict=True):
            reason = busy_reason(timing.others, timing.spread, limits)
            about = (timing.latency * 1000, timing.spread, timing.rounds, timing.others)
            store.results[name] = MeasuredModel(name, digest, BUSY if reason else DONE, reason or '', *about)
        store.write()
    found = {name: store.results[name] for name in models}
    busy = [own for own in found.values() if not counts(own.status, allow_busy)]
    if busy:
        raise SearchError(
            f'{len(busy)} of {len(found)} models were measured while the machine was {busy[0].reason}, which is no '
            'result: end the other work and run --stage report again.'
        )
    return found


def _about(machine: dict) -> dict:
    return {name: machine[name] for name in CONDITIONS}


def _minutes(count: int) -> int:
    return max(1, round(count * (ROUNDS * (SECONDS + 0.5) + 10) / 60))


def _digest(model: dict) -> str:
    return hashlib.sha256(json.dumps(model, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _deploy(model: dict, setting: Setting, folder: Path) -> Path:
    engine = engine_of(setting.engine)
    kind, bits = PRECISIONS[setting.precision]
    options = dict(setting.cfg_options or {}) | dict(model=dict(model, _delete_=True))
    source = load_for_deployment(
        setting.config, None, kind, options, size=setting.shape, preset=engine.preset, weight_bits=bits
    )
    deploy_model(source, engine, folder, DeployOptions(kind, setting.shape, 1, num_images=0, check=False))
    return folder
