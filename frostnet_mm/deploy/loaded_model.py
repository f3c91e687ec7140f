"""Models as they are deployed and benchmarked: from a checkpoint, or with random weights."""

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..apis.images import spread_paths
from ..apis.model import load_model
from ..data import DatasetError
from ..device.predictor import DeploymentError
from ..engine.config import (
    ConfigError,
    dataset_for_testing,
    inner_dataset,
    load_config,
    model_config,
    without_pretrained,
)
from ..engine.image_sizes import ImageSizes, image_sizes, set_image_size
from ..models.dense import DenseNetwork, detach, family_of
from ..models.input_channels import input_channels
from ..quantization.calibration import calibrate
from ..quantization.checkpoint import Checkpoint
from ..quantization.convert import convert
from ..quantization.network import QuantizedNetwork
from ..quantization.prepare import prepare_model, quantized_network
from ..quantization.report import float_operators, int8_share
from ..quantization.settings import QuantizationSettings
from .flat_network import FlatNetwork, converted_network, float_network

_RANDOM_PASSES = 4
_EPS = 1e-5  # of batch norms while their statistics are gathered
PRECISIONS = ('int8', 'float')


@dataclass
class LoadedModel:
    """A model to be deployed.

    Args:
        model (nn.Module): In evaluation mode, with its own dense network at work.
        cfg (Config): Its config.
        source (str): What it was loaded from, for messages.
        precision (str): 'int8' or 'float'.
        network (FlatNetwork): What is deployed.
        float_network (FlatNetwork): The same in float.
        quantized (QuantizedNetwork, optional): For INT8, the simulation.
        settings (QuantizationSettings, optional): For INT8.
        facts (dict): What ``deploy.json`` says about the model.
        has_data (bool): Whether images of the config's data were found.
        lacking (str): What was not found of them.
    """

    model: nn.Module
    cfg: Config
    source: str
    precision: str
    network: FlatNetwork
    float_network: FlatNetwork
    quantized: QuantizedNetwork | None
    settings: QuantizationSettings | None
    facts: dict = field(default_factory=dict)
    has_data: bool = False
    lacking: str = ''

    @property
    def preset(self) -> str | None:
        """The preset of its arithmetic; None in float."""
        return None if self.settings is None else self.settings.scheme.name

    @property
    def numerics(self) -> dict | None:
        """The settings of quantization as plain data, as ``deploy.json`` has them."""
        return None if self.settings is None else self.settings.to_dict()

    @property
    def weight_bits(self) -> int | None:
        """Bits of the INT8 weights, the most that a module has; None in float."""
        return None if self.settings is None else self.settings.scheme.most_weight_bits

    @property
    def int8_share(self) -> float:
        """The share of the MACs that the numerics compute in INT8."""
        return 0.0 if self.quantized is None else int8_share(self.quantized)

    @property
    def float_operators(self) -> dict[str, int]:
        """The operators that stay in float, by kind."""
        return {} if self.quantized is None else {g.kind: g.count for g in float_operators(self.quantized)}

    @property
    def has_fixed_size(self) -> bool:
        """Whether the test pipeline makes all images the same size."""
        return self.image_sizes.fixed is not None

    @property
    def image_sizes(self) -> ImageSizes:
        """The sizes of the images behind the test pipeline."""
        return image_sizes(dataset_for_testing(self.cfg).pipeline)

    def test_paths(self, count: int) -> list[str]:
        """Images of the test data, or none where the config's data are not on this machine."""
        try:
            paths = spread_paths(self.cfg, count, 'test') if count else []
        except (ConfigError, DatasetError, FileNotFoundError) as error:
            self.lacking = str(error)
            return []
        self.has_data = bool(paths)
        return paths


def load_for_deployment(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike | Checkpoint | None,
    precision: str,
    cfg_options: dict | None = None,
    size: tuple[int, int] | None = None,
    preset: str = 'onnx',
    weight_bits: int | None = None,
    example_shape: tuple[int, int] | None = None,
) -> LoadedModel:
    """Load a model to be deployed.

    Args:
        config (str | PathLike): The config.
        checkpoint (str | PathLike | Checkpoint, optional): The checkpoint, or its path; None for random weights.
        precision (str): 'int8' or 'float'.
        cfg_options (dict, optional): Values that replace those of the config.
        size (tuple[int, int], optional): Height and width that the test pipeline is set to; a CenterCrop takes it, and
            Resize is scaled with it.
        preset (str): The arithmetic of random weights in INT8; a checkpoint has its own. Default: 'onnx'.
        weight_bits (int, optional): 8 or 7, for INT8. Default: as the checkpoint was made; 8 for random weights.
        example_shape (tuple[int, int], optional): Height and width that random weights are captured with.

    Raises:
        DeploymentError: The precision is unknown.
        CheckpointError: INT8 of a checkpoint without ranges.
        ConfigError: The test pipeline has a CenterCrop that cannot be scaled to the size.
    """
    if precision not in PRECISIONS:
        raise DeploymentError(f"precision={precision!r} was given; expected 'int8' or 'float'.")
    if checkpoint is None:
        shape = None if example_shape is None else (2, 3, *example_shape)
        settings = QuantizationSettings.of(preset, example_shape=shape, weight_bits=weight_bits or 8)
        settings = settings if precision == 'int8' else None
        model, cfg = _random_model(config, cfg_options, settings, size)
        source = 'random weights'
    else:
        checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
        execution = checkpoint.execution('converted' if precision == 'int8' else 'float')
        settings = checkpoint.settings_with(weight_bits) if precision == 'int8' else None
        model, cfg = load_model(config, checkpoint, 'cpu', cfg_options, execution, weight_bits)
        model.to(memory_format=torch.contiguous_format)
        if size is not None:
            set_input_size(cfg, size)
        source = checkpoint.source
    quantized = quantized_network(model)
    detach(model)
    own = size or _own_size(model, cfg) or (None, None)
    float_ = float_network(model, own if quantized is None else quantized.program.fixed_size[2:])
    network = float_ if quantized is None else converted_network(model, convert(quantized))
    facts = _facts(model, config, checkpoint)
    return LoadedModel(model, cfg, source, precision, network, float_, quantized, settings, facts)


def set_input_size(cfg: Config, size: tuple[int, int]) -> None:
    """Have the test pipeline make images of another size, (height, width), as :func:`set_image_size` does."""
    for name in ('test_dataloader', 'val_dataloader'):
        if cfg.get(name):
            set_image_size(inner_dataset(cfg[name].dataset).pipeline, size)


def _facts(model: nn.Module, config: str | os.PathLike, checkpoint: Checkpoint | None) -> dict:
    return dict(
        name=Path(str(config)).stem,
        detector=type(model).__name__,
        backbone=type(model.backbone).__name__,
        params=sum(p.numel() for p in DenseNetwork(model).parameters()),
        checkpoint=None if checkpoint is None else Path(checkpoint.source).name,
        checkpoint_sha256=None if checkpoint is None else checkpoint.digest,
        random_weights=checkpoint is None,
    )


def _random_model(
    config: str | os.PathLike,
    cfg_options: dict | None,
    settings: QuantizationSettings | None,
    size: tuple[int, int] | None,
) -> tuple[nn.Module, Config]:
    """A model with random weights whose batch norms and ranges fit noise, so that no layer is dead."""
    cfg = copy.deepcopy(load_config(config, cfg_options, classes=None))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    without_pretrained(cfg.model)
    if size is not None:
        set_input_size(cfg, size)
    torch.manual_seed(0)
    model = MODELS.build(model_config(cfg))
    model.init_weights()
    model.dataset_meta = dict(classes=_class_names(model))
    dense = DenseNetwork(model)
    enliven(dense)
    height, width = size or _own_size(model, cfg) or (320, 320)
    batches = [torch.randn(2, input_channels(model), height, width) for _ in range(_RANDOM_PASSES)]
    gather_statistics(model, dense, batches)
    if settings is not None:
        calibrate(prepare_model(model, settings), batches, 'minmax')
    return model, cfg


def _own_size(model: nn.Module, cfg: Config) -> tuple[int, int] | None:
    """The size of a classifier's images, whose dense layers may fit no other."""
    if family_of(model).task != 'classification' or not cfg.get('test_dataloader'):
        return None
    return image_sizes(dataset_for_testing(cfg).pipeline).fixed


@torch.no_grad()
def gather_statistics(model: nn.Module, dense: nn.Module, batches: list[torch.Tensor]) -> None:
    """Give batch norms the statistics of some batches, whatever their momentum, so that no layer fades or swells.

    Those too that a model keeps frozen in training, whose statistics are of weights that are not there.
    """
    norms = [module for module in dense.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.eps) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.eps = norm.eps or _EPS  # torch takes no 0 in training, as frozen norms of caffe's weights have
    model.train()
    for norm in norms:
        norm.train()
    for images in batches:
        dense(images)
    model.eval()
    for norm, (momentum, eps) in zip(norms, before, strict=True):
        norm.momentum, norm.eps = momentum, eps


def enliven(dense: nn.Module) -> None:
    """Give layers that begin near zero, as those of heads do, weights that put out values of every size."""
    for module in dense.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            if module.weight.std() < 0.25 / fan_in**0.5:
                nn.init.normal_(module.weight, 0, 0.25 / fan_in**0.5)


def _class_names(model: nn.Module) -> tuple[str, ...]:
    rest = getattr(model, 'roi_head', None)  # of a two-stage detector, whose RPN knows one class only
    head = getattr(model, family_of(model).head) if rest is None else rest.bbox_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head  # the last stage of a cascade
    count = getattr(head, 'num_classes', None) or getattr(model.backbone, 'num_classes', None)
    if not count:
        raise ConfigError(
            f'{type(head).__name__} does not say how many classes it has (num_classes), which random weights need: '
            'give a checkpoint.'
        )
    return tuple(f'class {index}' for index in range(count))
