"""Networks of a trained supernet, compared by their metric on the images that are held back."""

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from mmengine.runner import Runner
from torch import nn

from ..apis.evaluation import load_runner_weights
from ..apis.images import preprocessed, spread_paths
from ..benchmark.report.tables import main_metric
from ..deploy.engines import engine_of
from ..engine.config import load_config
from ..engine.runner import build_runner
from ..files import write_text
from ..models.dense import DenseNetwork, family_of, unwrap
from ..quantization.calibration import calibrate
from ..quantization.checkpoint import Checkpoint
from ..quantization.errors import RangeError
from ..quantization.hook import execute
from ..quantization.prepare import prepare_model
from ..quantization.settings import QuantizationSettings
from .architectures import Arch, canonical, key
from .errors import SearchError
from .networks import extract_model
from .recalibrate import recalibrate
from .settings import SearchSettings
from .supernet import CONFIG, trained_weights

FOLDER, LOGS = 'candidates', 'logs'
IMAGES = 32  # training images that batch norms get their statistics from, and activations their ranges
METHOD = 'minmax'  # of calibration
NOTHING_FOUND = 'bbox_mAP'  # is 0 where a detector finds no object, of which mmdet's metric says nothing


@dataclass(frozen=True)
class Candidate:
    """A network with its metric.

    Args:
        key (str): Short name of the architecture.
        arch (dict): Its table.
        metric (str): Name of the metric, such as 'bbox_mAP'.
        value (float): Its value on the images that are held back.
        remark (str): Why the value is 0 where the network could not be quantized. Default: ''.
    """

    key: str
    arch: dict
    metric: str
    value: float
    remark: str = ''


class CandidateFolder:
    """The candidates of a search: a file each, so that any number of processes and machines may add some.

    Args:
        folder (Path): Of the search.
        arithmetic (str): What they are evaluated in.
    """

    def __init__(self, folder: Path, arithmetic: str) -> None:
        self.folder, self.arithmetic = folder / FOLDER, arithmetic

    def path(self, name: str) -> Path:
        """The file of a network."""
        return self.folder / f'{name}-{self.arithmetic}.json'

    def get(self, name: str) -> Candidate | None:
        """A network that has been evaluated, or None.

        Raises:
            SearchError: Its file is broken.
        """
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            return Candidate(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise SearchError(f'{path} cannot be read ({error}): remove it, and it is measured again.') from error

    def add(self, candidate: Candidate) -> None:
        """Keep a network."""
        write_text(self.path(candidate.key), json.dumps(asdict(candidate), indent=1))


class Evaluator:
    """Evaluates networks of a trained supernet; each is evaluated once, whoever asks for it.

    A network is cut out, its batch norms get the statistics of training images, its activations their ranges, and the
    metric of the config is computed in simulated INT8, or in float.

    Args:
        folder (Path): Of the search.
        settings (SearchSettings): Its options.
        say (Callable): Prints a line. Default: print.
    """

    def __init__(self, folder: Path, settings: SearchSettings, say: Callable[[str], None] = print) -> None:
        self.folder, self.say = folder, say
        self.bits, self.weights, self.preset = settings.weight_bits, settings.weights, engine_of(settings.engine).preset
        own = f'{self.preset}{self.bits}' + f'-{self.weights}' * (self.weights != 'channel')
        self.kept = CandidateFolder(folder, 'float' if self.bits is None else own)
        self.evaluated = 0  # here, by this object

    def __call__(self, arch: Arch) -> Candidate:
        """The metric of a network.

        Args:
            arch (str | dict): Of the supernet's space.

        Raises:
            SearchError: The supernet is not trained yet, or the metric is none that is known.
        """
        name = key(arch)
        found = self.kept.get(name)
        if found is None:
            found = self._evaluate(arch, name)
            self.kept.add(found)
            self.evaluated += 1
        return found

    def _evaluate(self, arch: Arch, name: str) -> Candidate:
        metric, value, remark = NOTHING_FOUND, 0.0, ''
        try:
            metric, value = self._measure(self._network(arch))
        except RangeError as error:  # layers of a network that was seldom trained may have died
            remark = str(error).splitlines()[0]
            self.say(f'{name} cannot be quantized and counts as 0: {remark}')
        return Candidate(name, json.loads(json.dumps(canonical(arch).to_config())), metric, value, remark)

    @cached_property
    def runner(self) -> Runner:
        """Holds the supernet with its weights, and the images that are held back."""
        weights = trained_weights(self.folder)
        if not weights.is_file():
            raise SearchError(f'{weights} does not exist: the supernet is not trained yet. Run --stage supernet first.')
        cfg = load_config(self.folder / CONFIG)
        cfg.work_dir, cfg.resume, cfg.log_level = str(self.folder / LOGS), False, 'ERROR'
        cfg.model.backbone.pop('init_cfg', None)
        for hook in ('visualization', 'checkpoint'):
            cfg.default_hooks.pop(hook, None)
        runner = build_runner(cfg)
        load_runner_weights(runner, Checkpoint.open(weights))
        runner.call_hook('before_run')
        runner.model.eval()
        return runner

    @cached_property
    def supernet(self) -> nn.Module:
        """The trained supernet, in evaluation mode."""
        return unwrap(self.runner.model)

    @cached_property
    def images(self) -> list[torch.Tensor]:
        """Training images as the network sees them."""
        cfg = self.runner.cfg
        return list(preprocessed(self.supernet, cfg, spread_paths(cfg, IMAGES)))

    def _network(self, arch: Arch) -> nn.Module:
        supernet = self.supernet
        model = extract_model(supernet, arch).eval()
        recalibrate(DenseNetwork(model), self.images)
        if self.bits is not None:
            settings = QuantizationSettings.of(self.preset, weight_bits=self.bits, weights=self.weights)
            network = prepare_model(model, settings)
            calibrate(network, self.images, METHOD)
            execute(model, network, 'simulated')
        return model

    def _measure(self, model: nn.Module) -> tuple[str, float]:
        runner, supernet = self.runner, self.supernet
        runner.model = model
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of each step
                metrics = runner.test_loop.run()
        finally:
            runner.model = supernet
        if not metrics and family_of(supernet).task == 'detection':
            return NOTHING_FOUND, 0.0
        try:
            found = main_metric(self.kept.arithmetic, metrics)
        except ValueError as error:
            raise SearchError(f'The evaluator of the config has no metric to compare networks by: {error}.') from error
        return found.name, found.value if math.isfinite(found.value) and found.value > 0 else 0.0
