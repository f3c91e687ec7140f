"""Found networks as configs: three lines over the config that was searched with, in float and quantization-aware."""

import os
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from ..apis.swap.config_text import assignments, differences
from ..deploy.engines import engine_of
from ..engine.config import load_config
from ..files import SHIPPED_CONFIGS, write_text
from .networks import plain_backbone
from .settings import SearchSettings

FOLDER = 'found'
QAT = dict(detection='qat.py', segmentation='qat_segmentation.py')  # of configs/_base_, by how long the warm-up is


def write_found(
    config: str, cfg: Config, arch: Mapping, name: str, remarks: list[str], folder: Path, settings: SearchSettings
) -> tuple[Path, Path]:
    """Write the configs of a network: ``NAME.py`` in float, ``NAME_qat.py`` in simulated INT8.

    Args:
        config (str): The user's config, which they inherit.
        cfg (Config): The same, resolved.
        arch (Mapping): The network's table.
        name (str): Name of the configs.
        remarks (list[str]): Where the network comes from, for the head of the file.
        folder (Path): Of the search.
        settings (SearchSettings): Its options.

    Returns:
        tuple[Path, Path]: Both files.
    """
    out = folder / FOLDER / f'{name}.py'
    backbone = plain_backbone(cfg.model.backbone.to_dict(), arch)
    imports = [*(cfg.get('custom_imports') or {}).get('imports', []), 'frostnet_mm']
    text = assignments(config, out, imports, dict(backbone=dict(_delete_=True) | backbone))
    write_text(out, ''.join(f'# {line}\n' for line in remarks) + text)
    written = load_config(out, classes=cfg.get('classes')).model.backbone
    if wrong := [key for key, *_ in differences(backbone, written.to_dict()) if key != '_scope_']:
        raise AssertionError(f'{out} would be read with other values of {", ".join(wrong)}')
    return out, _write_qat(out, cfg, settings)


def _write_qat(float_config: Path, cfg: Config, settings: SearchSettings) -> Path:
    out = float_config.with_name(f'{float_config.stem}_qat.py')
    preset, bits = engine_of(settings.engine).preset, settings.weight_bits or 8
    own = {} if preset == 'onnx' else dict(numerics=preset)
    own |= {} if bits == 8 else dict(weight_bits=bits)
    own |= {} if settings.weights == 'channel' else dict(weights=settings.weights)
    task = 'segmentation' if cfg.model.get('decode_head') else 'detection'
    base = Path(os.path.relpath(SHIPPED_CONFIGS / '_base_' / QAT[task], out.parent)).as_posix()
    lines = [
        f'# {float_config.name} in simulated INT8.',
        f'_base_ = [{f"./{float_config.name}"!r}, {base!r}]',
        *([f'qat_hook = dict({", ".join(f"{key}={value!r}" for key, value in own.items())})'] if own else []),
        'default_hooks = dict(qat={{_base_.qat_hook}})',
    ]
    write_text(out, '\n'.join(lines) + '\n')
    return out
