"""``deploy.json``, which says what a deployment is: reading and checking it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from . import engines
from .description_values import check_values, is_text, shown
from .errors import DeploymentError

FORMAT = 2  # 2: a crop, and resizing otherwise than bilinearly by OpenCV, which predictors of format 1 leave out
FORMATS = (1, FORMAT)
DESCRIPTION = 'deploy.json'
AGAIN = 'Deploy the model again (python tools/deploy.py), or copy the whole folder again.'
#: What is read of deploy.json, with its types; other keys inform people.
KEYS: dict[str, Any] = {
    'engine': str, 'network': str, 'files': dict, 'task': str, 'classes': list, 'palette': list,
    'input': ('name', 'shape', 'dtype'), 'outputs': list, 'decoding': (dict, type(None)),
    'preprocessing': ('resize', 'pad', 'size_divisor', 'bgr_to_rgb', 'mean', 'std', 'baked'),
}  # fmt: skip
_BOXES = (
    'levels', 'coder', 'scores', 'num_classes', 'outputs', 'score_threshold', 'nms_pre', 'iou_threshold',
    'max_per_image', 'min_size', 'class_agnostic', 'clip',
)  # fmt: skip
TASKS = ('detection', 'segmentation', 'classification')
DECODINGS = {
    'anchors': _BOXES,
    'points': _BOXES,
    'logits': ('output', 'align_corners', 'num_classes'),
    'boxes': ('outputs',),
    'classes': ('output', 'num_classes'),
}
_OPTIONAL = ('kind', 'threshold', 'score_threshold')


def read_deployment(folder: str | os.PathLike, verify: bool = True) -> dict:
    """Read and check the description of a deployment.

    Args:
        folder (str | PathLike): The deployment.
        verify (bool): Whether to compare the sha256 of its files. Default: True.

    Returns:
        dict: The content of deploy.json.

    Raises:
        DeploymentError: It is missing, damaged, of another format, or its files are not those that were deployed.
    """
    path = Path(folder) / DESCRIPTION
    try:
        if not _is_file(path):  # nothing, or a pipe, of which reading would have no end
            raise DeploymentError(f'{folder} is no deployment: expected a file {DESCRIPTION} in it. {AGAIN}')
        description = json.loads(path.read_text(encoding='utf-8'))
    except DeploymentError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DeploymentError(
            f'{path} cannot be read as JSON ({error}): it is truncated or foreign. {AGAIN}'
        ) from error
    if not isinstance(description, dict) or 'format' not in description:
        raise DeploymentError(f'{path} does not describe a deployment: expected an object with "format". {AGAIN}')
    if description['format'] not in FORMATS:
        raise DeploymentError(
            f'{path} has format {shown(description["format"])}, this predictor reads {FORMATS[0]} and {FORMAT}: use '
            'the predictor.py of the deployment itself, or deploy the model again.'
        )
    _check_keys(description, path)
    check_values(description, str(path), AGAIN)
    _check_files(description, Path(folder), verify)
    return description


def _check_keys(description: dict, path: Path) -> None:
    for key, kind in KEYS.items():
        if key not in description:
            raise DeploymentError(f'{path} has no "{key}": it is truncated or foreign. {AGAIN}')
        value, nested = description[key], isinstance(kind[0], str) if isinstance(kind, tuple) else False
        if not isinstance(value, dict if nested else kind):
            raise DeploymentError(f'{path}: "{key}" is {shown(value)}, not of the type expected. {AGAIN}')
        for name in kind if nested else ():
            if name not in value:
                raise DeploymentError(f'{path}: "{key}" has no "{name}". {AGAIN}')
    for key, known in (('engine', engines.names()), ('task', TASKS)):
        if description[key] not in known:
            raise DeploymentError(f'{path}: "{key}" is {shown(description[key])}, expected one of {", ".join(known)}.')
    _check_decoding(description, path)


def _check_decoding(description: dict, path: Path) -> None:
    names = [output.get('name') if isinstance(output, dict) else None for output in description['outputs']]
    if not names or not all(map(is_text, names)):
        raise DeploymentError(
            f'{path}: "outputs" is {shown(description["outputs"])}, expected names of outputs. {AGAIN}'
        )
    decoding = description['decoding']
    if decoding is None:
        return
    if not isinstance(decoding.get('kind'), str) or decoding['kind'] not in DECODINGS:
        kind = shown(decoding.get('kind'))
        raise DeploymentError(f'{path}: "decoding" is of kind {kind}, expected one of {", ".join(DECODINGS)}. {AGAIN}')
    lacking = [key for key in DECODINGS[decoding['kind']] if key not in decoding]
    if lacking:
        raise DeploymentError(f'{path}: "decoding" has no {", ".join(lacking)}. {AGAIN}')
    unknown = [key for key in decoding if key not in (*DECODINGS[decoding['kind']], *_OPTIONAL)]
    if unknown:
        raise DeploymentError(
            f'{path}: "decoding" has {", ".join(unknown)[:200]}, which this predictor does not know: use the '
            'predictor.py of the deployment itself.'
        )
    outputs = decoding.get('outputs', {})
    if not isinstance(outputs, dict) or not all(isinstance(names, list) for names in outputs.values()):
        raise DeploymentError(f'{path}: "decoding" has outputs that are no lists of names. {AGAIN}')
    read = [name for level in outputs.values() for name in level]
    missing = [name for name in [*read, decoding.get('output')] if name is not None and name not in names]
    if missing:
        raise DeploymentError(f'{path}: "decoding" reads {shown(missing)}, the network has {shown(names)}. {AGAIN}')


def _check_files(description: dict, folder: Path, verify: bool) -> None:
    files, network = description['files'], description['network']
    for name in (network, *engines.find(description['engine']).companions(network)):
        if name not in files:
            raise DeploymentError(f'{folder}: "files" lacks the network {name[:200]}. {AGAIN}')
    for name, expected in files.items():
        path = folder / name
        if '\0' in name or Path(name).is_absolute() or '..' in Path(name).parts:
            raise DeploymentError(f'{folder}: the file {name[:200]} lies outside of the deployment. {AGAIN}')
        if not _is_file(path):
            raise DeploymentError(f'{path} is missing, {DESCRIPTION} names it. {AGAIN}')
        if not verify:
            continue
        found = _digest(path)
        if found != expected:
            raise DeploymentError(
                f'{path} is not the file that was deployed: its sha256 is {found}, {DESCRIPTION} says {expected}. '
                f'{AGAIN}'
            )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:  # no right to read it, a damaged disk, a link to a file that is none
        raise DeploymentError(f'{path} cannot be read: {error.strerror or error}. {AGAIN}') from error
    return digest.hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long, or a link to itself
        return False


def deployed_weight_bits(description: dict) -> int | None:
    """Bits of a deployment's INT8 weights, the most that a module has; None for one in float."""
    if description.get('precision') != 'int8':
        return None
    numerics = description.get('numerics')
    if not isinstance(numerics, dict):
        return 8
    overrides = [value for _, value in numerics.get('overrides') or () if value != 'float']
    return max(numerics.get('weight_bits', 8), *overrides, 0)


def format_of(preprocessing: dict) -> int:
    """The format of a deployment: the first whose predictors do all that its ``preprocessing`` says.

    Args:
        preprocessing (dict): As in deploy.json.
    """
    known = {'width', 'height', 'keep_ratio'}
    return FORMAT if 'crop' in preprocessing or set(preprocessing['resize'] or ()) - known else FORMATS[0]
