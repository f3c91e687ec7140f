"""Makes the deployments that a benchmark measures, and asks engines for the time by layer. Needs torch and mm."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...deploy.cost import LayerCost, layer_costs
from ...deploy.deploy import DeployOptions, deploy_model
from ...deploy.engines import engine_of
from ...deploy.engines.base import LayerTime
from ...deploy.loaded_model import load_for_deployment
from ...device import DESCRIPTION, DeploymentError
from ...engine.config import load_config
from ...engine.shape_errors import shape_message
from ..cells import PRECISIONS
from .loading import deployment_input

PROFILE_RUNS = 10


def prepare(
    config: str,
    checkpoint: str | None,
    shape: tuple[int, int],
    batch: int,
    deployments: Sequence[tuple[str, str, str]],
    again: bool = False,
) -> dict[str, str]:
    """Deploy a model to engines; what is there already is kept.

    The deployments are not verified: ``tools/deploy.py`` does that, and a benchmark is about times.

    Args:
        config (str): The config; it may register engines.
        checkpoint (str, optional): None for random weights, with ranges of noise in INT8.
        shape (tuple[int, int]): Height and width.
        batch (int): Images of a call.
        deployments (Sequence[tuple[str, str, str]]): Engine, precision ('float', 'int8' or 'int8w7') and folder.
        again (bool): Replace what is there. Default: False.

    Returns:
        dict[str, str]: By folder why it could not be made, '' where it could.
    """
    reasons: dict[str, str] = {}
    sources: dict[tuple[str, str], object] = {}
    load_config(config)  # which registers what the names stand for
    for name, precision, folder in deployments:
        if (Path(folder) / DESCRIPTION).is_file() and not again:
            reasons[folder] = ''
            continue
        try:
            engine = engine_of(name)
            engine.require()
            kind, bits = PRECISIONS[precision]
            key = precision, engine.preset if kind == 'int8' else ''
            if key not in sources:
                sources[key] = load_for_deployment(
                    config, checkpoint, kind, size=tuple(shape), preset=engine.preset, weight_bits=bits
                )
            options = DeployOptions(kind, tuple(shape), batch, num_images=0, check=False)
            deploy_model(sources[key], engine, Path(folder), options)
            reasons[folder] = ''
        except Exception as error:  # one deployment less: the table gives the reason
            reasons[folder] = shape_message(error) or f'{type(error).__name__}: {_one_line(error)}'
    return reasons


def profile(config: str, folder: str, threads: int, batch: int, shape: tuple[int, int], precision: str) -> list[dict]:
    """The time of each layer of a deployment.

    Args:
        config (str): The config that it was made of, which may have registered its engine.
        folder (str): The deployment.
        threads (int): Of the engine.
        batch (int): For dimensions that are open.
        shape (tuple[int, int]): Likewise.
        precision (str): 'bf16' for an engine that can compute in it.

    Returns:
        list[dict]: Name, kind, precision and milliseconds of each, the slowest first; of convolutions and matrix
        products also form and macs, where the engine was given ONNX of a fixed size.

    Raises:
        DeploymentError: The engine cannot tell.
    """
    load_config(config)
    description = json.loads((Path(folder) / DESCRIPTION).read_text())
    engine = engine_of(description['engine'])
    images = deployment_input(description, batch, tuple(shape))
    options = engine.precision_options(PRECISIONS[precision][0])
    layers = engine.profile(Path(folder), [images] * PROFILE_RUNS, threads, **options)
    if not layers:
        raise DeploymentError(f'{engine.name} does not tell the time by layer')
    costs = _layer_costs(Path(folder) / 'network.onnx', layers)
    return [
        asdict(layer) | (asdict(costs[layer.name]) if layer.name in costs else {})
        for layer in sorted(layers, key=lambda layer: -layer.milliseconds)
    ]


def _layer_costs(path: Path, layers: Sequence[LayerTime]) -> dict[str, LayerCost]:
    if not path.is_file():
        return {}
    import onnx

    return layer_costs(onnx.load(path), layers)


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return text if len(text) <= 300 else f'{text[:300]} …'
