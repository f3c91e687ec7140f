"""A deployment against the network that it was made from, on images."""

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ...device import (
    ALLOWANCE,
    CHECK,
    FACTOR,
    SATURATION,
    DeploymentError,
    OutputDifference,
    check_values,
    cpu_saturates,
    describe_outputs,
    normalize_pixels,
)
from ...files import write_bytes
from ..engines import Engine
from .images import VerificationImage
from .layers import LayerDifference, compare_layers, reference_runner

LAYER_STEPS = 1  # a layer by itself
LAYER_COUNT = 2  # elements that may differ in a map too small for a share
_CHECKED_VALUES = 2048  # of each output, for the machines that it is deployed on


def check_layers(engine: Engine, model: Any, module: Any, images: np.ndarray) -> list[LayerDifference]:
    """Compare layer by layer: first the network with the file that was written, then the engine with the file.

    Args:
        engine (Engine): The engine.
        model (onnx.ModelProto): The file.
        module (GraphModule): The network that was exported.
        images (ndarray): Its input.

    Returns:
        list[LayerDifference]: The larger difference of the two for each layer; empty where the engine reads no ONNX, or
        nothing is quantized.

    Raises:
        DeploymentError: The engine cannot put out its layers, or the file has others than the network.
    """
    if not engine.reads_onnx or not any(node.op_type == 'QuantizeLinear' for node in model.graph.node):
        return []
    try:
        written = compare_layers(model, images, reference_runner(module))
        found = compare_layers(model, images, engine.run_onnx)
    except DeploymentError:
        raise
    except Exception as error:  # of an engine, or of a file that is another network
        raise DeploymentError(
            f'The layers cannot be compared, so that this deployment to {engine.name} cannot be verified: {error}'
        ) from error
    pairs = zip(written, found, strict=True)
    return [max(pair, key=lambda layer: (layer.steps, layer.count)) for pair in pairs]


def failed_layers(layers: Sequence[LayerDifference], share: float = Engine.layer_share) -> list[LayerDifference]:
    """The layers that an engine computes otherwise than the reference, in the order of the network.

    A small map may differ in two elements, whatever their share.

    Args:
        layers (Sequence[LayerDifference]): Of :func:`check_layers`.
        share (float): Of the elements that may be one step off. Default: 0.001.
    """
    return [
        layer for layer in layers if layer.steps > LAYER_STEPS or (layer.share > share and layer.count > LAYER_COUNT)
    ]


def _worst(layers: Sequence[LayerDifference]) -> LayerDifference:
    return max(layers, key=lambda layer: (layer.steps, layer.share))


def summarize(outputs: Sequence[OutputDifference], layers: Sequence[LayerDifference], images: int, source: str) -> dict:
    """What ``deploy.json`` says about the verification."""
    summary = dict(images=images, source=source, outputs=[asdict(output) for output in outputs])
    if layers:
        worst = _worst(layers)
        summary['layers'] = dict(count=len(layers), worst=asdict(worst))
    return summary


def describe(outputs: Sequence[OutputDifference], layers: Sequence[LayerDifference]) -> str:
    """The comparison as a table."""
    lines = [describe_outputs(outputs)]
    if layers:
        worst = _worst(layers)
        lines.append(
            f'{len(layers)} quantized layers, each by itself: at most {worst.steps} step in {worst.share:.4%} of the '
            f'elements ({worst.name}).'
        )
    return '\n'.join(lines)


def require_agreement(
    outputs: Sequence[OutputDifference],
    layers: Sequence[LayerDifference],
    engine: Engine,
    weight_bits: int | None = None,
    preset: str | None = None,
) -> None:
    """Raise an error if an engine does not compute what was trained.

    Args:
        outputs (Sequence[OutputDifference]): Of :func:`compare_outputs`.
        layers (Sequence[LayerDifference]): Of :func:`check_layers`.
        engine (Engine): The engine.
        weight_bits (int, optional): Of its INT8 weights.
        preset (str, optional): Which it was quantized with.

    Raises:
        DeploymentError: An output deviates beyond the bounds, or a layer; the message names the first.
    """
    bad_outputs = [o for o in outputs if not o.passed]
    bad_layers = failed_layers(layers, engine.layer_share)
    if not bad_outputs and not bad_layers:
        return
    parts = []
    if bad_outputs:
        o = bad_outputs[0]
        parts.append(
            f'{len(bad_outputs)} of {len(outputs)} outputs deviate, the first is {o.name}: {o.max_steps:.1f} steps at '
            f'most; {o.engine_error:.2f} steps from float, expected at most '
            f'{FACTOR} x {o.reference_error:.2f} + {ALLOWANCE}.'
        )
    if bad_layers:
        first = bad_layers[0]
        parts.append(
            f'The first layer that differs is {first.name}: {first.steps} steps, {first.share:.3%} of its elements, '
            f'expected at most {LAYER_STEPS} step in {engine.layer_share:.1%}.'
        )
    elif layers:
        parts.append('Each layer by itself agrees: the engine fuses layers in another way when it runs them together.')
    if weight_bits == 8 and cpu_saturates():
        parts.append(SATURATION)
    elif preset not in (None, engine.preset):
        parts.append(
            f'It was quantized with numerics={preset!r}; {engine.name} is best with numerics={engine.preset!r}, which '
            'tools/calibrate.py --numerics and default_hooks.qat.numerics take.'
        )
    raise DeploymentError(f'{engine.name} does not compute what was trained. {" ".join(parts)}')


def write_check(
    folder: Path, description: dict, image: VerificationImage, outputs: dict[str, Sequence[np.ndarray]]
) -> dict[str, str]:
    """Write what other machines compare their engine with: an image, and some of the values that it should give.

    Args:
        folder (Path): The deployment.
        description (dict): Of the deployment.
        image (VerificationImage): The image.
        outputs (dict[str, Sequence[ndarray]]): For it, of the 'reference', of float ('exact') and of the engine here
            ('deployed', which float deployments, whose reference is float itself, need not have).

    Returns:
        dict[str, str]: The file and its sha256.
    """
    settings, pixels = description['preprocessing'], image.pixels[None]
    plain = not settings['baked'] and pixels.shape[1:3] == image.normalized.shape[2:] and len(image.normalized) == 1
    plain = plain and np.array_equal(normalize_pixels(pixels[0], pixels.shape[1:3], settings), image.normalized)
    positions = [_sample(value) for value in outputs['reference']]
    arrays = dict(images=pixels if plain else image.raw)  # bytes are shorter than floats
    compared = {kind: check_values(values, positions) for kind, values in outputs.items()}
    for kind, values in (dict(positions=positions) | compared).items():
        arrays |= {f'{kind}_{index}': value for index, value in enumerate(values)}
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(folder / CHECK, content.getvalue())
    return {CHECK: sha256(content.getvalue()).hexdigest()}


def _sample(values: np.ndarray) -> np.ndarray:
    """Positions in a flattened output, evenly spread, with those of its ends, which say what a step is."""
    spread = np.linspace(0, values.size - 1, min(values.size, _CHECKED_VALUES)).astype(np.int64)
    return np.unique(np.concatenate([spread, [values.argmin(), values.argmax()]]))
