"""From a config and a checkpoint to a model that predicts."""

import os

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..compat import check_operators
from ..engine.config import load_config, model_config
from ..quantization.checkpoint import Checkpoint

check_operators()  # before models of mm are built, which would fail deep inside


def load_model(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike | Checkpoint,
    device: str | None = None,
    cfg_options: dict | None = None,
    execution: str | None = None,
    weight_bits: int | None = None,
) -> tuple[nn.Module, Config]:
    """Build a config's model with trained weights, ready to predict.

    Args:
        config (str | PathLike): The config.
        checkpoint (str | PathLike | Checkpoint): The checkpoint, or its path.
        device (str, optional): A torch device. Default: 'cuda' if there is one, else 'cpu'.
        cfg_options (dict, optional): Values that replace those of the config.
        execution (str, optional): 'float', 'simulated' (INT8) or 'converted' (integer-exact reference). Default:
            'simulated' for a quantized checkpoint, else 'float'.
        weight_bits (int, optional): 8 or 7, for INT8. Default: as the checkpoint was made.

    Returns:
        tuple[nn.Module, Config]: The model in eval mode with ``dataset_meta`` set, and its config.

    Raises:
        FileNotFoundError, CheckpointError, ConfigError: Something is missing, or does not belong together.
    """
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    execution = checkpoint.execution(execution)
    cfg = load_config(config, cfg_options, classes=checkpoint.classes)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    checkpoint.compare(cfg)
    if 'init_cfg' in cfg.model.get('backbone', {}):
        cfg.model.backbone.init_cfg = None  # the checkpoint brings the weights
    model = MODELS.build(model_config(cfg))
    network = None
    if execution != 'float':
        from ..quantization.prepare import prepare_model

        settings = checkpoint.settings_with(weight_bits)
        network = prepare_model(model, settings)
        checkpoint.check(network, settings)
    checkpoint.load_into(model)
    model.dataset_meta = checkpoint.dataset_meta_for(cfg)
    if cfg.get('channels_last'):
        model.to(memory_format=torch.channels_last)
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu')).eval()
    if network is not None:
        from ..quantization.hook import execute

        execute(model, network, execution)
    return model, cfg
