"""A deployment against the network that it was made from, on images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from .layers import RUNNERS, LayerDifference, compare_layers, reference_runner
from .predictor import DeploymentError, sums_overflow

# The engine's INT8 may be as far from float as the reference's INT8 is, give or take the noise of rounding: measured
# 0.74 to 1.13 of it for twelve outputs in two engines.
FACTOR, ALLOWANCE = 1.25, 0.25  # and a quarter of a step
FLOAT_BOUND = 1e-3  # of an output's range; float32 in another order of summation: measured below 1e-5
LAYER_STEPS, LAYER_SHARE = 1, 1e-3  # a layer by itself: measured 1 step in at most 0.03 % of the elements
LAYER_COUNT = 2  # elements that may differ in a map too small for a share


@dataclass(frozen=True)
class OutputDifference:
    """How far an engine's output is from the reference. A step is 1/255 of the range of the output.

    Args:
        name (str): Name of the output.
        max_steps (float): Largest difference to the reference.
        differing (float): Share of the elements that are more than half a step away: another 8 bit value.
        rms_steps (float): Root mean square difference to the reference.
        engine_error (float): Root mean square difference of the engine to float, in steps.
        reference_error (float): Root mean square difference of the reference to float, in steps.
    """

    name: str
    max_steps: float
    differing: float
    rms_steps: float
    engine_error: float
    reference_error: float

    @property
    def passed(self) -> bool:
        """Whether the engine is as near to float as the reference is."""
        if not self.reference_error:  # the reference is float itself
            return self.max_steps <= 255 * FLOAT_BOUND
        return self.engine_error <= FACTOR * self.reference_error + ALLOWANCE


def compare_outputs(
    names: Sequence[str],
    engine: Sequence[Sequence[np.ndarray]],
    reference: Sequence[Sequence[np.ndarray]],
    exact: Sequence[Sequence[np.ndarray]],
) -> list[OutputDifference]:
    """Compare the outputs of an engine.

    Args:
        names (Sequence[str]): Names of the outputs.
        engine (Sequence[Sequence[ndarray]]): For each image the outputs.
        reference (Sequence[Sequence[ndarray]]): Those of the integer-exact reference, or of the float network for a
            float deployment.
        exact (Sequence[Sequence[ndarray]]): Those of the float network with the same weights.

    Returns:
        list[OutputDifference]: For each output, over all images.

    Raises:
        DeploymentError: An output has another shape, or is not finite.
    """
    results = []
    for index, name in enumerate(names):
        for found, expected in zip(engine, reference, strict=True):
            if found[index].shape != expected[index].shape:
                raise DeploymentError(
                    f'The engine puts out {name} of shape {found[index].shape}, expected {expected[index].shape}.'
                )
            if not np.isfinite(found[index]).all():
                raise DeploymentError(f"The engine's output {name} is not finite.")
        one, other, true = (
            np.concatenate([outputs[index].ravel() for outputs in outputs_by_image]).astype(np.float64)
            for outputs_by_image in (engine, reference, exact)
        )
        step = max((other.max() - other.min()) / 255, np.finfo(np.float32).tiny)
        difference = np.abs(one - other) / step
        results.append(
            OutputDifference(
                name,
                float(difference.max()),
                float((difference > 0.5).mean()),
                _rms(difference),
                _rms((one - true) / step),
                _rms((other - true) / step),
            )
        )
    return results


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def check_layers(
    engine: str, model: Any, module: Any, images: np.ndarray, weight_bits: int | None = 8
) -> list[LayerDifference]:
    """Compare layer by layer: first the network with the file that was written, then the engine with the file.

    Args:
        engine (str): Its name.
        model (onnx.ModelProto): The file.
        module (GraphModule): The network that was exported.
        images (ndarray): Its input.
        weight_bits (int, optional): Of its INT8 weights. Default: 8.

    Returns:
        list[LayerDifference]: The larger difference of the two for each layer; empty where the engine reads no ONNX, or
        nothing is quantized.
    """
    if engine not in RUNNERS or not any(node.op_type == 'QuantizeLinear' for node in model.graph.node):
        return []
    pairs = zip(
        compare_layers(model, images, reference_runner(module)),
        compare_layers(model, images, partial(RUNNERS[engine], weight_bits=weight_bits)),
        strict=True,
    )
    return [max(pair, key=lambda layer: (layer.steps, layer.count)) for pair in pairs]


def failed_layers(layers: Sequence[LayerDifference]) -> list[LayerDifference]:
    """The layers that an engine computes otherwise than exactly, in the order of the network.

    A small map may differ in two elements, whatever their share.
    """
    return [
        layer
        for layer in layers
        if layer.steps > LAYER_STEPS or (layer.share > LAYER_SHARE and layer.count > LAYER_COUNT)
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
    width = max(len(output.name) for output in outputs)
    lines = [f'{"output":{width}s}  max steps  differing  rms steps  (to float: engine, reference)']
    for output in outputs:
        lines.append(
            f'{output.name:{width}s}  {output.max_steps:9.2f}  {output.differing:9.3%}  {output.rms_steps:9.3f}  '
            f'({output.engine_error:.3f}, {output.reference_error:.3f}){"" if output.passed else "  FAILED"}'
        )
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
    engine: str,
    weight_bits: int | None = None,
) -> None:
    """Raise an error if an engine does not compute what was trained.

    Args:
        outputs (Sequence[OutputDifference]): Of :func:`compare_outputs`.
        layers (Sequence[LayerDifference]): Of :func:`check_layers`.
        engine (str): Its name.
        weight_bits (int, optional): Of its INT8 weights.

    Raises:
        DeploymentError: An output deviates beyond the bounds, or a layer; the message names the first.
    """
    bad_outputs, bad_layers = [o for o in outputs if not o.passed], failed_layers(layers)
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
            f'expected at most {LAYER_STEPS} step in {LAYER_SHARE:.1%}.'
        )
    elif layers:
        parts.append('Each layer by itself agrees: the engine fuses layers in another way when it runs them together.')
    if weight_bits == 8 and sums_overflow():
        parts.append(
            'This CPU has no VNNI: engines add INT8 products in 16 bits here, which overflow where weights have 8 '
            'bits. For such CPUs give them 7: --weight-bits 7.'
        )
    raise DeploymentError(f'{engine} does not compute what was trained. {" ".join(parts)}')
