"""Networks of a search space timed on an engine, end to end as they are deployed, and the file that keeps the times."""

import hashlib
import itertools
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..benchmark.cells import PRECISIONS
from ..benchmark.measure import Limits, measure_deployments
from ..benchmark.measure.machine import describe_machine
from ..benchmark.measure.scheduler import require_quiet
from ..benchmark.store import BUSY, Kind, Store, counts
from ..deploy.deploy import DeployOptions, deploy_model
from ..deploy.engines import engine_of
from ..deploy.loaded_model import load_for_deployment
from ..engine.config import load_config
from ..models.frostnet_arch import FrostNetArch
from .architectures import Arch, canonical, key
from .engine_time import TimedNetwork, comparable, values_against
from .errors import SearchError
from .features import FEATURES, features_of, mmacs
from .latency import REST, LatencyModel
from .networks import plain_backbone
from .progress import Progress
from .space import SearchSpace

GROUP = 10  # networks that are loaded and measured in turns
PASSES = 3  # over what was measured while the machine was busy
TRIES = 2  # of each pass, while the networks are still deployed
REFERENCE = 'reference'  # folder of the config's own network, which is measured with every group
CANDIDATES = 20  # random networks for each that is measured, of which those are taken that spread over their MACs
# Of the backbone: times do not compare without the rest of the model.
SEARCHED = ('arch', 'widen_factor', 'init_cfg', 'space', 'type')
CONDITIONS = ('cpu', 'flags', 'cores', 'engine', 'version', 'precision', 'threads', 'shape', 'model')


@dataclass
class Setting:
    """What is measured, and how.

    Args:
        config (str): Path of the config; its backbone is a FrostNet.
        engine (str): Name of a registered engine.
        shape (tuple[int, int]): Height and width of the images.
        precision (str): 'int8', 'int8w7' or 'float'. Default: 'int8'.
        threads (int): Of the engine. Default: 1.
        cfg_options (dict, optional): Values that replace those of the config.
    """

    config: str
    engine: str
    shape: tuple[int, int]
    precision: str = 'int8'
    threads: int = 1
    cfg_options: Mapping | None = None

    @cached_property
    def model(self) -> dict:
        """The config's model."""
        return load_config(self.config, dict(self.cfg_options or {}), classes=None).model.to_dict()

    @property
    def own_arch(self) -> FrostNetArch:
        """The network of the config's backbone."""
        own = self.model['backbone']
        return FrostNetArch.from_config(own.get('arch', 'small')).widened(own.get('widen_factor', 1.0))

    def features(self, arch: Arch) -> dict[str, float]:
        """The features of a network in the place of the config's backbone."""
        own = self.model['backbone']
        return features_of(
            arch, self.shape, own.get('output_stride'), own.get('out_indices'), own.get('in_channels', 3)
        )

    def conditions(self) -> dict:
        """What times depend on: machine, engine and its version, and all of the model but the backbone's table.

        Raises:
            DeploymentError: There is no such engine.
        """
        backbone = {name: value for name, value in self.model['backbone'].items() if name not in SEARCHED}
        model = self.model | dict(backbone=backbone)
        engine = engine_of(self.engine)
        return describe_machine() | dict(
            engine=self.engine,
            version=engine.describe()['version'],
            precision=self.precision,
            threads=self.threads,
            shape=list(self.shape),
            model=digest_of(model),
        )


def latency_store(folder: str | os.PathLike, setting: Setting, again: bool = False) -> Store[TimedNetwork]:
    """The times of networks in a folder, ``latency-ENGINE.json``.

    Args:
        folder (str | PathLike): The folder.
        setting (Setting): What is measured.
        again (bool): Begin with none where those there were measured under other conditions. Default: False.

    Raises:
        BenchmarkError: The times there are of another machine, engine, version or model, or cannot be read.
    """
    name = f'latency-{setting.engine}.json'
    kind = Kind(name, 'networks', lambda own: TimedNetwork(**own), conditions_of, CONDITIONS)
    return Store(kind, folder, setting.conditions(), drop=again)


def conditions_of(machine: dict) -> dict:
    """Of what :meth:`Setting.conditions` returned, that by which times compare."""
    return {name: machine[name] for name in CONDITIONS}


def digest_of(content: Any) -> str:
    """A short name of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def choose_networks(
    space: SearchSpace, features: Callable[[Arch], dict], count: int = 40, seed: int = 0
) -> list[FrostNetArch]:
    """Random networks of a space that spread evenly over its multiply-accumulates.

    Args:
        space (SearchSpace): The networks.
        features (Callable): Of a network, such as :meth:`Setting.features`.
        count (int): How many. Default: 40.
        seed (int): Of the random ones. Default: 0.

    Raises:
        SearchError: The space has fewer networks.
    """
    rng = random.Random(seed)
    found = {key(arch): arch for arch in (space.sample(rng) for _ in range(CANDIDATES * count))}
    if len(found) < count:
        raise SearchError(
            f'{count} networks were asked for to fit the latency model to, but {len(found)} were found in a space of '
            f'{space.size}: give it more options, or ask for fewer networks.'
        )
    ordered = sorted(found.values(), key=lambda arch: mmacs(features(arch)))
    return [ordered[round(index * (len(ordered) - 1) / (count - 1))] for index in range(count)]


def time_networks(
    archs: Iterable[Arch],
    setting: Setting,
    store: Store[TimedNetwork],
    *,
    rounds: int = 11,
    seconds: float = 0.15,
    limits: Limits | None = None,
    allow_busy: bool = False,
    say: Callable[[str], None] = print,
) -> list[TimedNetwork]:
    """Deploy networks with random weights and measure them in turns, ten at a time; those with a result are kept.

    The config's own network is measured with every ten, see :func:`comparable`.

    Where the machine was busy meanwhile, they are measured again: once at once, and at the end up to twice.

    Args:
        archs (Iterable): The architectures.
        setting (Setting): What is measured.
        store (Store): Of :func:`latency_store`; it holds each group as soon as it is measured.
        rounds (int): Turns of each: many short ones, so that all meet each pace of the machine. Default: 11.
        seconds (float): Length of a turn. Default: 0.15.
        limits (Limits, optional): From when on a time is no result.
        allow_busy (bool): Let times of a busy machine count. Default: False.
        say (Callable): Prints a line.

    Returns:
        list[TimedNetwork]: In the order of the architectures.

    Raises:
        BusyError: The machine is busy, before anything was measured.
        SearchError: It was so meanwhile, each time; what was measured before is kept.
        DeploymentError: The engine is not installed, or cannot run a network.
    """
    limits = limits or Limits()
    wanted = {key(arch): canonical(arch) for arch in archs}
    engine_of(setting.engine).require()
    known = store.results
    progress = Progress('networks timed', len(wanted), sum(name in known for name in wanted), say)

    def lacking(names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in known or not counts(known[name].status, allow_busy)]

    def measure(folders: Sequence[Path], reference: Path) -> None:
        *timings, pace = measure_deployments([*folders, reference], setting.threads, rounds, seconds)
        for own, timing in zip(folders, timings, strict=True):
            arch = wanted[own.name]
            config = json.loads(json.dumps(arch.to_config()))
            values = values_against(timing, pace, limits)
            store.add(TimedNetwork(arch=config, features=setting.features(arch), **values))

    def measure_group(names: Sequence[str], reference: Path, deployed: Iterator[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                _deploy(setting, wanted[name], Path(folder) / name)
                say(f'  {next(deployed)} deployed')
            for _ in range(TRIES):
                measure([Path(folder) / name for name in names], reference)
                names = lacking(names)
                if not names:
                    return

    with tempfile.TemporaryDirectory() as shared:
        reference = Path(shared) / REFERENCE
        for attempt in range(PASSES):
            missing = lacking(wanted)
            if missing and not attempt and not allow_busy:
                require_quiet(limits)
            if missing and not reference.is_dir():
                _deploy(setting, setting.own_arch, reference)
            groups = math.ceil(len(missing) / GROUP)
            deployed = (f'{number} of {len(missing)}' for number in itertools.count(1))
            for group in range(groups):
                # each has small and large networks: they are in the order of their size
                measure_group(missing[group::groups], reference, deployed)
                progress.reached(sum(name in known for name in wanted))
    found = [known[name] for name in wanted]
    busy = [entry for entry in found if entry.status == BUSY]
    if busy and not allow_busy:
        raise SearchError(
            f'{len(busy)} of {len(found)} networks were measured while the machine was {busy[0].reason}, which is no '
            f'result. The others are kept in {store.path}: end the other work and run again, and only these are '
            'measured again.'
        )
    return found


def _deploy(setting: Setting, arch: FrostNetArch, folder: Path) -> Path:
    backbone = plain_backbone(setting.model['backbone'], arch) | dict(_delete_=True)
    return deploy_random(setting, {'model.backbone': backbone}, folder)


def deploy_random(setting: Setting, options: Mapping, folder: Path) -> Path:
    """Deploy the config of a setting with random weights, to be measured.

    Args:
        setting (Setting): What is measured.
        options (dict): Values that replace those of the config.
        folder (Path): The deployment, which is returned.
    """
    engine = engine_of(setting.engine)
    kind, bits = PRECISIONS[setting.precision]
    options = dict(setting.cfg_options or {}) | dict(options)
    source = load_for_deployment(
        setting.config, None, kind, options, size=setting.shape, preset=engine.preset, weight_bits=bits
    )
    deploy_model(source, engine, folder, DeployOptions(kind, setting.shape, 1, num_images=0, check=False))
    return folder


def fit_latency(networks: Sequence[TimedNetwork], store: Store[TimedNetwork] | None = None) -> LatencyModel:
    """Fit a latency model to measured networks, and check it.

    Args:
        networks (Sequence[TimedNetwork]): Of :func:`time_networks`.
        store (Store, optional): Keeps the weights and the check in its file too.

    Raises:
        SearchError: It ranks networks too badly to be searched with; the check is in the file all the same.
    """
    model = LatencyModel.fit([own.features for own in networks], comparable(networks))
    if store is not None:
        store.remarks['regression'] = model.to_dict()
        store.write()
    model.check.require('The latency model' + ('' if store is None else f' of {store.path}'))
    return model


def read_latency(path: str | os.PathLike) -> tuple[LatencyModel, dict]:
    """The latency model of a file of times, for a process that predicts and does not measure, on any machine.

    Args:
        path (str | PathLike): The file, ``latency-ENGINE.json``.

    Returns:
        tuple[LatencyModel, dict]: The model, and the conditions that it was measured under (``CONDITIONS``).

    Raises:
        SearchError: There is no such file, no model in it, or one that ranks too badly to be searched with.
    """
    file = Path(path)
    if not file.is_file():
        raise SearchError(
            f'{file} does not exist; expected the times of networks on an engine, which are measured first.'
        )
    try:
        content = json.loads(file.read_text())
        model, conditions = content.get('regression'), content['machine']
        model = None if model is None else LatencyModel.from_dict(model)
        lacking = [] if model is None else [name for name in (*FEATURES, REST) if name not in model.weights]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchError(
            f'{file} is no file of times ({type(error).__name__}: {error}): remove it and measure again.'
        ) from error
    if model is None or lacking:
        what = f'lacks {", ".join(lacking)}' if lacking else 'holds no regression yet'
        raise SearchError(f'{file} {what}: finish measuring on the machine that it is of.')
    model.check.require(f'The latency model of {file}')
    return model, conditions
