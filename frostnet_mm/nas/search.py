"""A search from a config to networks: times, common weights, the choice, the report; stages go on where they were."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger

from ..apis.swap.swap import input_shape
from ..engine.config import load_config
from ..engine.config_datasets import require_parts
from ..files import write_text
from ..models.frostnet_arch import ARCHS
from .architectures import Arch
from .baselines import baselines
from .candidates import Evaluator
from .errors import SearchError
from .found import write_found
from .front import front_of, require_reachable, spread
from .latency import LatencyModel
from .measured import MeasuredModel, measure_models
from .networks import plain_backbone, space_of
from .report import Outcome, write_report
from .settings import SearchSettings
from .space import SearchSpace
from .study import Found, NetworkStudy, require_optuna
from .supernet import CONFIG as SUPERNET
from .supernet import train_supernet, write_supernet
from .timing import Setting, choose_networks, digest_of, fit_latency, latency_store, read_latency, time_networks

STAGES = ('latency', 'supernet', 'search', 'report')
# Settings that the common weights depend on.
FIXED = ('val_fraction', 'seed', 'epochs', 'space', 'quantize', 'batch_size')
IDENTITY, RESOLVED = 'search.json', 'config.py'
MOST_FOUND = 8  # networks of the front that are measured and written


@dataclass
class SearchOptions:
    """How a search is run.

    Args:
        join (bool): Help a search that runs elsewhere: choose and evaluate networks only. Default: False.
        allow_busy (bool): Let times of a busy machine count. Default: False.
        again (bool): Measure times anew. Default: False.
        seed (int, optional): Of the sampler alone. Default: that of the settings.
        say (Callable): Prints a line. Default: print.
    """

    join: bool = False
    allow_busy: bool = False
    again: bool = False
    seed: int | None = None
    say: Callable[[str], None] = print


class Search:
    """A search in a folder.

    Args:
        config (str): The config; its backbone is a FrostNet.
        folder (str | PathLike): What the search keeps and what it writes.
        given (dict, optional): Options that replace those of ``search`` in the config.
        cfg_options (dict, optional): Values that replace those of the config.
        options (SearchOptions, optional): How it is run.

    Raises:
        SearchError: An option is wrong, or the folder is of another search.
    """

    def __init__(
        self,
        config: str,
        folder: str | os.PathLike,
        given: Mapping[str, Any] | None = None,
        cfg_options: dict | None = None,
        options: SearchOptions | None = None,
    ) -> None:
        require_optuna()
        self.config, self.folder, self.options = config, Path(folder), options or SearchOptions()
        self.say = self.options.say
        cfg = load_config(config, cfg_options)
        require_parts(cfg, 'model', 'train_dataloader')
        settings = SearchSettings.of(cfg.get('search'), given)
        self.space: SearchSpace = space_of(cfg.model.backbone, settings.space)
        self.settings = settings if settings.shape else settings.with_shape(_shape_of(cfg))
        self._claim(cfg)

    @property
    def resolved(self) -> Path:
        """The config with the options of the command line and the classes of the data in it."""
        return self.folder / RESOLVED

    @cached_property
    def cfg(self) -> Config:
        """What :attr:`resolved` says."""
        return load_config(self.resolved)

    def _claim(self, cfg: Config) -> None:
        """Note the config and what the weights of the folder depend on, or refuse to mix them with others.

        Nothing depends on it yet where no weights and no times are: a first start that failed is forgotten.
        """
        settings = self.settings.to_dict()
        fixed = (*FIXED, *(['weights'] if self.settings.quantize else []))
        own = {name: settings[name] for name in fixed} | dict(
            model=digest_of(cfg.model.to_dict()),
            data=digest_of(_without_pipeline(cfg.train_dataloader.dataset.to_dict())),
        )
        own = json.loads(json.dumps(own))
        path = self.folder / IDENTITY
        if not path.is_file() or not self._begun:
            write_text(path, json.dumps(own | dict(config=str(self.config)), indent=1))
            write_text(self.resolved, cfg.pretty_text)
            return
        try:
            before = json.loads(path.read_text())
            changed = [name for name in own if before.get(name) != own[name]]
        except (ValueError, AttributeError) as error:
            raise SearchError(f'{path} cannot be read ({error}): give another --out.') from error
        if changed:
            values = {name: f' ({own[name]!r}, before {before.get(name)!r})' for name in fixed}
            said = ', '.join(f'{name}{values.get(name, "")}' for name in changed)
            raise SearchError(
                f'{self.folder} holds a search with another {said}, and its weights and results belong to that: give '
                'another --out, or the options of before.'
            )
        if not self.resolved.is_file():
            write_text(self.resolved, cfg.pretty_text)
        now, noted = (_parts(own) for own in (cfg, self.cfg))
        other = [name for name in sorted({*now, *noted}) if now.get(name) != noted.get(name)]
        if other:
            self.say(
                f'{self.folder} was begun with other values of {", ".join(other)}; they stay, as {self.resolved} has '
                'them: give another --out for those of now.'
            )

    @property
    def _begun(self) -> bool:
        """Whether there are times, or a training of all networks."""
        return (self.folder / SUPERNET).is_file() or any(self.folder.glob('latency-*.json'))

    @property
    def setting(self) -> Setting:
        """What is measured."""
        own = self.settings
        return Setting(str(self.resolved), own.engine, own.shape, own.precision, own.threads)

    # -- the stages

    def run(self, stages: tuple[str, ...] = STAGES) -> None:
        """Run stages, each from where it was.

        Args:
            stages (tuple[str, ...]): Of ``STAGES``; with ``options.join`` there is one, 'search'.
        """
        stages = ('search',) if self.options.join else stages
        if 'supernet' in stages:  # what is wrong with config and data is said before networks are timed
            write_supernet(load_config(self.resolved), self.settings, self.folder)
        for index, stage in enumerate(stages):
            self.say(f'\n== {stage} ({index + 1} of {len(stages)})')
            with nullcontext() if stage == 'supernet' else _quiet():
                getattr(self, stage)()

    def latency(self) -> None:
        """Time networks on the engine, and fit the latency model to them."""
        setting, own = self.setting, self.settings
        store = latency_store(self.folder, setting, self.options.again)
        if self.options.again:
            store.results.clear()
        archs = choose_networks(self.space, setting.features, own.networks, own.seed)
        networks = time_networks(archs, setting, store, allow_busy=self.options.allow_busy, say=self.say)
        model = fit_latency(networks, store)
        check = model.check
        self.say(
            f'Latency model of {check.networks} networks: Spearman {check.spearman:.3f} (leave-one-out), median error '
            f'{check.median_error:.1%}'
        )
        require_reachable(self.space, self._predictor(model), own.target_ms)

    def supernet(self) -> None:
        """Train all networks at once."""
        if (self.folder / f'latency-{self.settings.engine}.json').is_file():
            require_reachable(self.space, self._predictor(self.latency_model()), self.settings.target_ms)
        self.say(f'Weights of all networks: {train_supernet(self.folder)}')

    def search(self) -> None:
        """Choose networks and evaluate them."""
        model = self.latency_model()
        require_reachable(self.space, self._predictor(model), self.settings.target_ms)
        study, evaluate = self._study(model), Evaluator(self.folder, self.settings, self.say)
        networks = study.run(evaluate, self.say)
        self.say(f'{len(networks)} networks of {study.drawn} drawn are evaluated, {evaluate.evaluated} of them here')
        values = {own.value for own in networks}
        if len(networks) > 1 and len(values) == 1:
            self.say(
                f'All of them have the same metric, {values.pop():.4f}: the weights that they share do not tell them '
                'apart, and what is found is found by time alone. Train these longer (--epochs, in another folder).'
            )

    def report(self) -> None:
        """Measure the front on the engine, and write what was found."""
        model, notes = self.latency_model(), []
        predict = self._predictor(model)
        study, evaluate = self._study(model), Evaluator(self.folder, self.settings, self.say)
        found = study.found()
        if not found:
            raise SearchError(f'{self.folder} holds no network of the study "{study.name}": run --stage search first.')
        front = {f'net_{own.key[:8]}': own for own in spread(front_of(found, lambda own: own.point), MOST_FOUND)}
        known = {f'FrostNet {name}': evaluate(arch) for name, arch in ARCHS.items() if self.space.contains(arch)}
        models = {name: self._with_arch(own.arch) for name, own in front.items()}
        models |= baselines(self.cfg, lambda line: (notes.append(line), self.say(line)))
        known = {name: own for name, own in known.items() if name in models}
        measured = self._measure(models)
        features = {name: self.setting.features(own.arch) for name, own in {**front, **known}.items()}
        outcome = Outcome(
            config=str(self.config),
            settings=self._sampled,
            check=model.check,
            metric=self._metric(evaluate, found),
            studies=study.of_samplers(),
            front=front,
            known=known,
            features=features,
            predicted={name: predict(own.arch) for name, own in known.items()},
            measured=measured,
            drawn=study.drawn,
            files={name: self._write(name, own, measured[name], study.name) for name, own in front.items()},
            notes=notes,
        )
        self.say(f'\n{write_report(outcome, self.folder)}\n\n{self.folder / "report.html"}')

    # -- what they share

    @property
    def _sampled(self) -> SearchSettings:
        """The settings with the seed of the sampler."""
        seed = self.options.seed
        return self.settings if seed is None else replace(self.settings, seed=seed)

    def latency_model(self) -> LatencyModel:
        """The latency model of the folder.

        Raises:
            SearchError: There is none, or it is of other times than those that are asked for.
        """
        path = self.folder / f'latency-{self.settings.engine}.json'
        model, conditions = read_latency(path)
        for name in ('precision', 'threads', 'shape'):
            value = json.loads(json.dumps(getattr(self.settings, name)))
            if conditions.get(name) != value:
                raise SearchError(
                    f'{path} is of {name}={conditions.get(name)!r}, and {value!r} is asked for: run --stage latency '
                    '--again, or give another --out.'
                )
        return model

    def _predictor(self, model: LatencyModel) -> Callable[[Arch], float]:
        features = self.setting.features
        return lambda arch: model.predict(features(arch))

    def _study(self, model: LatencyModel) -> NetworkStudy:
        times = digest_of([f'{value:.6g}' for value in model.weights.values()])[:6]
        return NetworkStudy(self.folder, self._sampled, self.space, self._predictor(model), times, self.options.join)

    def _metric(self, evaluate: Evaluator, found: list[Found]) -> str:
        return evaluate(max(found, key=lambda own: own.value).arch).metric

    def _with_arch(self, arch: Arch) -> ConfigDict:
        model = self.cfg.model.to_dict()
        return ConfigDict(model | dict(backbone=plain_backbone(model['backbone'], arch)))

    def _measure(self, models: Mapping[str, ConfigDict]) -> dict[str, MeasuredModel]:
        options = (self.setting, self.folder, self.options.allow_busy, self.options.again, self.say)
        return measure_models({name: model.to_dict() for name, model in models.items()}, *options)

    def _write(self, name: str, own: Found, time: MeasuredModel, study: str) -> list[str]:
        busy = ' while the machine was busy' if time.reason else ''
        remarks = [
            f'Found by tools/search.py {self.config}: {study}.',
            f'{own.ms:.2f} ms predicted, {time.milliseconds:.2f} measured{busy}; {own.value:.4f} with the weights of',
            'the supernet, on training images that were held back.',
        ]
        files = write_found(str(self.config), self.cfg, own.arch, name, remarks, self.folder, self.settings)
        return [str(path) for path in files]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the screen what mmengine says of each model that is built: how every weight was initialized."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _shape_of(cfg: Config) -> tuple[int, int]:
    try:
        return input_shape(cfg)
    except ValueError as error:
        raise SearchError(f'{error} In a config: search=dict(shape=(HEIGHT, WIDTH)).') from error


def _parts(cfg: Config) -> dict[str, str]:
    """A digest of each entry that trainings depend on."""
    entries = json.loads(json.dumps(cfg.to_dict(), default=str))
    return {name: digest_of(value) for name, value in entries.items() if name not in ('search', 'work_dir')}


def _without_pipeline(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_pipeline(value) for name, value in node.items() if name != 'pipeline'}
    return [_without_pipeline(each) for each in node] if isinstance(node, (list, tuple)) else node
