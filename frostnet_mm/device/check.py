"""The engine of this machine against what was deployed."""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .description import AGAIN, read_deployment
from .errors import DeploymentError
from .images import normalize_pixels
from .network import open_network

CHECK = 'check.npz'  # an image, and for each output positions in it with the values of the reference and of float
CHECKED = ('positions', 'reference', 'exact')  # names in the file; 'exact' are the float network's
DEPLOYED = 'deployed'  # and, in INT8, what the engine gave where it was verified; earlier versions did not store it
# The engine's INT8 may be as far from float as the reference's INT8 is, give or take the noise of rounding: measured
# 0.74 to 1.13 of it for twelve outputs in two engines.
FACTOR, ALLOWANCE = 1.25, 0.25  # and a quarter of a step
_MOST = 1 << 30  # bytes of what is compared on
FLOAT_BOUND = 1e-3  # of an output's range; float32 in another order of summation: measured below 1e-5


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
    in_float: Sequence[Sequence[np.ndarray]],
) -> list[OutputDifference]:
    """Compare the outputs of an engine.

    Args:
        names (Sequence[str]): Names of the outputs.
        engine (Sequence[Sequence[ndarray]]): For each image the outputs.
        reference (Sequence[Sequence[ndarray]]): Those of the converted reference, or of the float network for a float
            deployment.
        in_float (Sequence[Sequence[ndarray]]): Those of the float network with the same weights.

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
            for outputs_by_image in (engine, reference, in_float)
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


def describe_outputs(outputs: Sequence[OutputDifference]) -> str:
    """The comparison as a table."""
    width = max(len(output.name) for output in outputs)
    lines = [f'{"output":{width}s}  max steps  differing  rms steps  (to float: engine, reference)']
    for output in outputs:
        lines.append(
            f'{output.name:{width}s}  {output.max_steps:9.2f}  {output.differing:9.3%}  {output.rms_steps:9.3f}  '
            f'({output.engine_error:.3f}, {output.reference_error:.3f}){"" if output.passed else "  FAILED"}'
        )
    return '\n'.join(lines)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def check_values(outputs: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The values of outputs, flattened, at the positions that are compared on other machines."""
    return [value.ravel()[where] for value, where in zip(outputs, positions, strict=True)]


def _read_check(path: Path, count: int) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """The images to compare on, and for each of so many outputs what is stored: ``CHECKED``, and maybe ``DEPLOYED``."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MOST:
            raise ValueError(f'it would unpack to {unpacked:,} bytes')
        with np.load(path, allow_pickle=False) as stored:
            images = stored['images']
            names = [*CHECKED, *([DEPLOYED] if f'{DEPLOYED}_0' in stored.files else [])]
            kinds = {kind: [stored[f'{kind}_{index}'] for index in range(count)] for kind in names}
    except Exception as error:  # there is hardly one that zipfile and NumPy do not raise on damaged files
        raise DeploymentError(f'{path} cannot be read ({str(error)[:300]}). {AGAIN}') from error
    if images.ndim != 4 or not images.size or images.dtype not in (np.uint8, np.float32):
        raise DeploymentError(f'{path} holds images of {images.dtype} and shape {images.shape}. {AGAIN}')
    for where, *values in zip(*kinds.values(), strict=True):
        sound = where.ndim == 1 and where.size and np.issubdtype(where.dtype, np.integer) and where.min() >= 0
        # NaN would be no difference, and what is infinitely far from float may be so in the engine as well
        sound = sound and all(value.shape == where.shape and value.dtype == np.float32 for value in values)
        if not sound or not all(np.isfinite(value).all() for value in values):
            raise DeploymentError(f'{path} holds values that nothing can be compared with. {AGAIN}')
    return images, kinds


def check_deployment(
    folder: str | os.PathLike, network: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
) -> list[OutputDifference]:
    """Compare the engine of this machine with what was deployed, on an image that it was verified with.

    Differences are to what the engine gave where it was deployed and verified, for deployments in INT8. On one image
    an output of few values may be nearer to float, or farther from it, in one than in the other of two engines that are
    both right: it may be as far as the engine was there, or as the reference is.

    Args:
        folder (str | PathLike): The deployment.
        network (Callable, optional): What to run in place of :func:`open_network`'s.

    Returns:
        list[OutputDifference]: For each output, by some thousand of its values.

    Raises:
        DeploymentError: The deployment cannot be used, holds nothing to compare with, or its engine cannot run it.
    """
    description = read_deployment(folder)
    if CHECK not in description['files']:
        raise DeploymentError(
            f'{folder} has no {CHECK} to compare with: it was deployed without verification (--no-verify), with its '
            'decoding in the network (--with-decode), or by an older version. Deploy it again without these.'
        )
    names, path = [output['name'] for output in description['outputs']], Path(folder) / CHECK
    images, kinds = _read_check(path, len(names))
    positions, reference, in_float = (kinds[kind] for kind in CHECKED)
    settings = description['preprocessing']
    if images.dtype != description['input']['dtype']:  # pixels of a network that reads normalized ones
        if images.dtype != np.uint8 or images.shape[3] != len(settings['mean']):
            raise DeploymentError(f'{path} holds images of {images.dtype} and shape {images.shape}. {AGAIN}')
        images = np.concatenate([normalize_pixels(image, image.shape[:2], settings) for image in images])
    outputs = (network or open_network(folder, description))(images)
    for name, value, where in zip(names, outputs, positions, strict=True):
        if where.max() >= value.size:
            raise DeploymentError(
                f'The engine puts out {name} of shape {value.shape}, {CHECK} has more values. {AGAIN}'
            )
    found = [check_values(outputs, positions)]
    by_reference = compare_outputs(names, found, [reference], [in_float])
    if DEPLOYED not in kinds:
        return by_reference
    by_deployed = compare_outputs(names, found, [kinds[DEPLOYED]], [in_float])
    return [
        replace(own, reference_error=max(own.reference_error, other.reference_error))
        for own, other in zip(by_deployed, by_reference, strict=True)
    ]
