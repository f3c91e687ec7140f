"""The choice of networks: a study of Optuna in a journal that any number of processes and machines write to."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.frostnet_arch import FrostNetArch
from .architectures import Arch, canonical, key
from .candidates import Candidate
from .errors import SearchError
from .progress import Progress
from .settings import SAMPLERS, SearchSettings, threads
from .space import SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

JOURNAL = 'study.log'
POPULATION = (10, 50)  # least and most networks of a generation: few are soon alike
GENERATIONS = 5  # at least so many
DRAWS = 30  # networks that may be drawn for each that is evaluated


def require_optuna() -> Any:
    """Optuna, quiet.

    Raises:
        SearchError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise SearchError(
            f'The search needs Optuna, which cannot be imported ({error}): pip install "optuna>=5,<6"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger('alembic').setLevel(logging.ERROR)
    return optuna


@dataclass(frozen=True)
class Found:
    """A network that a study has evaluated.

    Args:
        key (str): Short name.
        arch (dict): Its table.
        ms (float): Milliseconds that the latency model predicts.
        value (float): Its metric.
    """

    key: str
    arch: dict
    ms: float
    value: float

    @property
    def point(self) -> tuple[float, float]:
        """Milliseconds and metric."""
        return self.ms, self.value


class NetworkStudy:
    """A search among the networks of a space, for few milliseconds and a high metric.

    A network that is predicted to be slower than the target is not evaluated: the study knows by how much it misses it.
    What is drawn depends on the seed and on the trials that are complete, so that a search that was killed goes on as
    if it had not been; a process that joins draws by itself.

    Args:
        folder (Path): Of the search; ``study.log`` lies there.
        settings (SearchSettings): Its options. Engine, precision, threads, target, sampler and seed name the study.
        space (SearchSpace): The networks.
        predict (Callable): Milliseconds of a network.
        times (str): A name of what predicts them: another latency model makes another study. Default: ''.
        joined (bool): This process helps another one. Default: False.

    Raises:
        SearchError: Optuna is not installed, or the journal cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        space: SearchSpace,
        predict: Callable[[Arch], float],
        times: str = '',
        joined: bool = False,
    ) -> None:
        self.optuna = require_optuna()
        self.folder, self.settings, self.space, self.predict = folder, settings, space, predict
        self.times, self.joined = times, joined

    @property
    def name(self) -> str:
        """The name of the study in the journal."""
        own = self.settings
        target = 'no target' if own.target_ms is None else f'{own.target_ms:g} ms'
        times = f'times {self.times}, ' * bool(self.times)
        precision = own.precision + ' a tensor' * (own.weights == 'tensor')
        return f'{own.sampler}, {own.engine} {precision}, {threads(own.threads)}, {times}{target}, seed {own.seed}'

    @cached_property
    def study(self) -> 'Study':
        """Optuna's study, made if it is not there yet."""
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path = (self.folder / JOURNAL).resolve()  # Optuna's lock is a link to it, read from the folder itself
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self.optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=self.name,
                directions=['minimize', 'maximize'],
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SearchError(
                f'{path} is no journal that can be read ({type(error).__name__}: {error}): remove it. The networks '
                'that were evaluated are kept, and are not evaluated again.'
            ) from error

    # -- what is known

    def complete(self) -> list['FrozenTrial']:
        """The trials that are over; one that was killed is not."""
        return self.study.get_trials(deepcopy=False, states=[self.optuna.trial.TrialState.COMPLETE])

    def found(self) -> list[Found]:
        """The networks that were evaluated, each once, in the order in which they came."""
        networks = {}
        for trial in self.complete():
            own = trial.user_attrs
            if own.get('feasible'):
                networks.setdefault(own['key'], Found(own['key'], own['arch'], *trial.values))
        return list(networks.values())

    @property
    def drawn(self) -> int:
        """How many networks were drawn, those that are too slow and those that came again too."""
        return len(self.complete())

    def of_samplers(self) -> dict[tuple[str, int], list[Found]]:
        """What this study and its like have found, those that differ by sampler and seed alone, by these two."""
        parts = re.escape(self.name.partition(', ')[2].rpartition(' ')[0])
        found = {}
        for name in self.optuna.get_all_study_names(self.study._storage):
            match = re.fullmatch(f'({"|".join(SAMPLERS)}), {parts} ([0-9]+)', name)
            if match:
                settings = replace(self.settings, sampler=match[1], seed=int(match[2]))
                other = NetworkStudy(self.folder, settings, self.space, self.predict, self.times)
                found[match[1], int(match[2])] = other.found()
        return dict(sorted(found.items()))

    # -- the search

    def run(self, evaluate: Callable[[Arch], Candidate], say: Callable[[str], None] = print) -> list[Found]:
        """Draw and evaluate networks until there are as many as were asked for.

        Args:
            evaluate (Callable): The metric of a network.
            say (Callable): Prints a line of progress. Default: print.

        Returns:
            list[Found]: All, those of before and of other processes too.
        """
        networks = self.found()
        progress = Progress('networks evaluated', self.settings.trials, len(networks), say)
        while len(networks) < self.settings.trials and self.drawn < DRAWS * self.settings.trials:
            known = len(networks)
            self._draw(evaluate)
            networks = self.found()
            if len(networks) > known:
                best = max(own.value for own in networks)
                progress.reached(len(networks), f'best {best:.4f}')
        if len(networks) < self.settings.trials:
            say(
                f'{len(networks)} networks are left of {self.drawn} that were drawn: no more, as the others came '
                'again or are predicted to be slower than the target.'
            )
        return networks

    def _draw(self, evaluate: Callable[[Arch], Candidate]) -> None:
        study = self.study
        study.sampler = self._sampler()
        trial = study.ask()
        arch: FrostNetArch = self.space.suggest(trial)
        milliseconds, target = float(self.predict(arch)), self.settings.target_ms
        feasible = target is None or milliseconds <= target
        trial.set_user_attr('key', key(arch))
        trial.set_user_attr('arch', json.loads(json.dumps(canonical(arch).to_config())))
        trial.set_user_attr('feasible', feasible)
        if target is not None:
            trial.set_constraint('ms', milliseconds - target)
        study.tell(trial, [milliseconds, evaluate(arch).value if feasible else 0.0])

    def _sampler(self) -> 'BaseSampler':
        """A sampler for one draw."""
        place = os.urandom(8).hex() if self.joined else str(self.drawn)
        seed = int(hashlib.sha256(f'{self.settings.seed}-{place}'.encode()).hexdigest()[:8], 16)
        samplers = self.optuna.samplers
        if self.settings.sampler == SAMPLERS[1]:
            return samplers.RandomSampler(seed=seed)
        least, most = POPULATION
        return _genetic_sampler(max(least, min(most, self.settings.trials // GENERATIONS)), seed)


def _genetic_sampler(population: int, seed: int) -> 'BaseSampler':
    from optuna.samplers import NSGAIISampler

    class Sampler(NSGAIISampler):
        """NSGA-II whose parents have one order, whoever chose them: Optuna's have another one when they are read."""

        def get_parent_population(self, study: 'Study', generation: int) -> list['FrozenTrial']:
            return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)

    return Sampler(population_size=population, seed=seed)
