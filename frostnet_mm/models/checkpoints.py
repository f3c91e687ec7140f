"""What is in checkpoints: mm's own, and those of the authors' FrostNet release. checkpoint_files.py reads them."""

import functools
import os
import re
from collections.abc import Callable, Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .checkpoint_files import TRUST_VARIABLE, CheckpointError, StateDict, read_checkpoint, read_file
from .frostnet_arch import ARCHS
from .weight_names import other_depth, prefix_of

__all__ = ['TRUST_VARIABLE', 'CheckpointError', 'StateDict', 'load_pretrained', 'read_checkpoint', 'read_file']

QUANTIZATION = 'quantization'  # in a checkpoint's meta: what its ranges belong to
VALIDATED = 'validated_iter'  # in a checkpoint's meta: after how many iterations validation last ended
WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.25)  # of the release
#: Where a checkpoint may have its weights. Beside ``ema_state_dict`` mmengine has averages in ``state_dict`` too.
WEIGHTS = ('state_dict_ema', 'model_ema', 'state_dict', 'ema_state_dict', 'model')
_RELEASE_MODULES = {'squeeze_conv': 'squeeze', 'conv1': 'expand', 'conv2': 'depthwise', 'reduce_conv': 'project'}
_RELEASE_LAYERS = {'0': 'conv', '1': 'bn'}


def dataset_meta_of(checkpoint: Mapping) -> dict | None:
    """Classes and colours of the data that a checkpoint of mm was trained with, by lower-case keys, or None.

    mmdet 3 and mmseg 1 note them in ``meta.dataset_meta``, mmdet 2 and mmseg 0 in ``meta.CLASSES`` and ``PALETTE``.
    """
    meta = checkpoint.get('meta') or {}
    noted = meta.get('dataset_meta') or {}
    own = {str(key).lower(): value for key, value in noted.items()} if isinstance(noted, Mapping) else {}
    if own.get('classes') is None:
        own = {key.lower(): meta[key] for key in ('CLASSES', 'PALETTE') if meta.get(key) is not None}
    names = own.get('classes')
    if names is None:
        return None
    if not isinstance(names, (str, list, tuple)):
        raise CheckpointError(f'The checkpoint names the classes {str(names)[:100]!r}: expected a list of names.')
    return own | dict(classes=(names,) if isinstance(names, str) else tuple(map(str, names)))


def classes_of(checkpoint: Mapping) -> tuple[str, ...] | None:
    """The class names that a checkpoint of mm was trained with, or None."""
    return (dataset_meta_of(checkpoint) or {}).get('classes') or None


def quantization_of(checkpoint: Mapping) -> object | None:
    """What a checkpoint notes about its quantized network, or None for a float one."""
    return (checkpoint.get('meta') or {}).get(QUANTIZATION)


def config_text_of(checkpoint: Mapping) -> str | None:
    """The config of a checkpoint's training as mmengine notes it, a text that is not to be run, or None."""
    text = (checkpoint.get('meta') or {}).get('cfg')
    return text if isinstance(text, str) else None


def note_epoch_length(checkpoint: dict, iterations: int) -> None:
    """Note in a checkpoint of our training how many iterations an epoch has; its middle is found again by it."""
    checkpoint['meta']['iterations_per_epoch'] = iterations


def epoch_length_of(checkpoint: Mapping) -> int | None:
    """How many iterations an epoch had when a checkpoint of our training was written, or None."""
    return (checkpoint.get('meta') or {}).get('iterations_per_epoch')


def note_validation(checkpoint: dict, iteration: int | None) -> None:
    """Note in a checkpoint after how many iterations validation last ended."""
    checkpoint['meta'][VALIDATED] = iteration


def validation_of(checkpoint: Mapping) -> tuple[bool, int | None]:
    """Whether a checkpoint notes when validation last ended, and after how many iterations that was; None for never."""
    meta = checkpoint.get('meta') or {}
    return VALIDATED in meta, meta.get(VALIDATED)


def require_training_state(checkpoint: dict, source: str) -> None:
    """Refuse a checkpoint that holds no state of a training, and take out what mmengine would run of it.

    mmengine's Runner reads a text ``meta.config``, which early versions wrote, as a config: Python code, which runs.

    Args:
        checkpoint (dict): Content of a file; changed in place.
        source (str): Name of the file, for messages.

    Raises:
        CheckpointError: It cannot be resumed from.
    """
    meta, hub = checkpoint.get('meta') or {}, checkpoint.get('message_hub')
    lacking = [f'meta.{key}' for key in ('epoch', 'iter') if not isinstance(meta.get(key), int)]
    hub = hub if isinstance(hub, Mapping) else {}
    parts = ('log_scalars', 'runtime_info', 'resumed_keys')
    lacking += [f'message_hub.{key}' for key in parts if not isinstance(hub.get(key), Mapping)]
    if not _are_weights(checkpoint.get('state_dict')):
        lacking.append('state_dict of tensors')
    if lacking:
        raise CheckpointError(
            f'{source} cannot be resumed: it has no {", ".join(lacking)}, which say where its training was. To start '
            f'from its weights, leave out --resume: --cfg-options load_from={source}.'
        )
    meta.pop('config', None)


def _are_weights(state_dict: object) -> bool:
    return isinstance(state_dict, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state_dict.items()
    )


def state_dict_of(checkpoint: Mapping, source: str = 'checkpoint') -> StateDict:
    """Take the weights out of a checkpoint: averaged ones first, without the prefixes of wrappers (``module.``).

    Args:
        checkpoint (Mapping): Content of a file: the first of ``WEIGHTS`` that it has, else the mapping itself if it
            holds tensors only.
        source (str): Name of the file, for messages.

    Raises:
        CheckpointError: There are no weights in it.
    """
    state_dict = weights_in(checkpoint, source)
    others = [key for key, value in state_dict.items() if not isinstance(value, Tensor) or not isinstance(key, str)]
    if others or not state_dict:
        raise CheckpointError(
            f"{source} has no weights: expected tensors under 'state_dict' (or 'state_dict_ema'), "
            f'found {", ".join(map(str, others[:8])) or "nothing"}.'
        )
    if len(state_dict) > 1 and all(key == 'steps' or key.startswith('module.') for key in state_dict):
        state_dict = {key: value for key, value in state_dict.items() if key != 'steps'}  # mmengine's own, of averages
    copies = {f'ema_{key.replace(".", "_")}' for key in state_dict}  # of mmcv 1: the weights beside their averages
    kept = {key: value for key, value in state_dict.items() if key not in copies}
    if len(kept) < len(state_dict):
        print_log(
            f'{source}: its {len(state_dict) - len(kept)} copies of weights (ema_*) are left out.', logger='current'
        )
    return {bare_name(key): value for key, value in kept.items()}


def weights_in(checkpoint: Mapping, source: object) -> Mapping:
    """The entry of a checkpoint that holds its weights, averaged ones first, or the checkpoint itself.

    Args:
        checkpoint (Mapping): Content of a file.
        source (object): Name of the file, for messages.
    """
    for key in WEIGHTS:
        if isinstance(checkpoint.get(key), Mapping) and checkpoint[key]:
            if key not in ('state_dict', 'model'):
                print_log(f'{source}: using its EMA weights ({key}).', logger='current')
            return checkpoint[key]
    return checkpoint


def bare_name(name: str) -> str:
    """The name of a weight without the prefixes of wrappers, ``module.`` and ``_orig_mod.``."""
    return re.sub(r'^((module|_orig_mod)\.)+', '', name)


def is_release_state_dict(state_dict: Mapping) -> bool:
    """Whether the keys are those of the authors' FrostNet release."""
    return 'conv1.conv.0.weight' in state_dict and 'layer1.0.conv2.conv.0.weight' in state_dict


def convert_release_state_dict(state_dict: Mapping, source: str = 'checkpoint') -> StateDict:
    """Rename the weights of the authors' release to those of :class:`FrostNetClassifier`.

    Args:
        state_dict (Mapping): Weights of the release, without ``module.`` prefixes.
        source (str): Name of the file, for messages.

    Returns:
        dict[str, Tensor]: Weights under ``backbone.``, ``conv_head.`` and ``classifier.``.

    Raises:
        CheckpointError: A key is not one of the release.
    """
    converted, unknown = {}, []
    for key, value in state_dict.items():
        name = _convert_release_key(key)
        if name is None:
            unknown.append(key)
            continue
        if name == 'classifier.weight' and value.ndim == 2:  # a linear layer is the same 1x1 convolution
            value = value[:, :, None, None]
        converted[name] = value
    if unknown:
        raise CheckpointError(
            f'{source}: {len(unknown)} of {len(state_dict)} keys are unknown to the FrostNet release '
            f'format: {", ".join(unknown[:6])}. A quantized or modified network cannot be converted; '
            'use the float checkpoint.'
        )
    return converted


def _convert_release_key(key: str) -> str | None:
    if match := re.fullmatch(r'classifier\.2\.(weight|bias)', key):
        return f'classifier.{match[1]}'
    if match := re.fullmatch(r'(conv1|last_layer)\.conv\.([01])\.(\w+)', key):
        module = 'backbone.stem' if match[1] == 'conv1' else 'conv_head'
        return f'{module}.{_RELEASE_LAYERS[match[2]]}.{match[3]}'
    if match := re.fullmatch(r'layer([1-5])\.(\d+)\.(squeeze_conv|conv1|conv2|reduce_conv)\.conv\.([01])\.(\w+)', key):
        stage, block, module, layer, name = match.groups()
        return f'backbone.stages.{int(stage) - 1}.{block}.{_RELEASE_MODULES[module]}.{_RELEASE_LAYERS[layer]}.{name}'
    return None


def load_pretrained(
    model: nn.Module,
    path: str | os.PathLike,
    prefix: str | None = None,
    convert: Callable[[Mapping], Mapping] | None = None,
) -> None:
    """Load a FrostNet or a FrostNetClassifier from an mm checkpoint or from a file of the authors' release.

    Every weight of the model must be found. Weights that the model has no place for are named in the log: the
    classifier of an ImageNet checkpoint, the head of a detector, stages that ``out_indices`` leaves out.

    Args:
        model (nn.Module): A :class:`FrostNet` or a :class:`FrostNetClassifier`.
        path (str | PathLike): The file.
        prefix (str, optional): Take only the weights under this prefix, as mm's ``init_cfg`` has it.
        convert (Callable, optional): Gives the file's entries the model's names.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be read, or does not fit the model.
    """
    state_dict = state_dict_of(read_checkpoint(path), str(path))
    state_dict = state_dict if convert is None else convert(state_dict)
    if is_release_state_dict(state_dict):
        state_dict = convert_release_state_dict(state_dict, str(path))
    target = model.state_dict()
    if prefix is None and 'stem.conv.weight' in target and 'backbone.stem.conv.weight' in state_dict:
        prefix = 'backbone.'  # a backbone out of a whole model, which may have a teacher too
    elif prefix is None:
        prefix = prefix_of(target, state_dict)
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        inside = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        outside = [key for key in state_dict if not key.startswith(prefix)]
    else:
        inside, outside = state_dict, []
    check_fit(target, inside, type(model).__name__, str(path))
    if depth := other_depth(list(target), inside, target):
        raise CheckpointError(
            f'{path} has another network than {type(model).__name__}: {depth}. Use the config that it was trained '
            'with, or another checkpoint.'
        )
    unused = outside + [key for key in inside if key not in target]
    model.load_state_dict({key: inside[key] for key in target if key in inside}, strict=False)
    message = f'{type(model).__name__}: loaded all {len(target)} weights and statistics from {path}.'
    if unused:
        groups = sorted({re.sub(r'^((?:backbone\.)?stages\.\d+|[^.]+).*', r'\1', key) for key in unused})
        message += f' {len(unused)} others of the file have no place in this model: {", ".join(groups)}.'
    print_log(message, logger='current')


def check_fit(target: Mapping, state_dict: Mapping, model_name: str, source: str) -> None:
    """Check that a state dict has every entry of a model's state dict, in the same shape.

    Args:
        target (Mapping): ``state_dict()`` of the model.
        state_dict (Mapping): What is to be loaded.
        model_name (str): Name of the model, for messages.
        source (str): Name of the file, for messages.

    Raises:
        CheckpointError: Something is missing or of another shape.
    """
    # num_batches_tracked came with PyTorch 0.4.1 and plays no part in inference
    missing = [key for key in target if key not in state_dict and not key.endswith('num_batches_tracked')]
    shapes = [
        f'{key} {tuple(state_dict[key].shape)} in the file, {tuple(value.shape)} in the model'
        for key, value in target.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    if not missing and not shapes:
        _check_finite(target, state_dict, source)
        return
    found = describe_frostnet(state_dict)
    problems = []
    if shapes:
        problems.append(f'{len(shapes)} of another shape ({"; ".join(shapes[:3])}{"; …" if len(shapes) > 3 else ""})')
    if missing:
        problems.append(f'{len(missing)} missing ({", ".join(missing[:3])}{", …" if len(missing) > 3 else ""})')
    raise CheckpointError(
        f'{source} does not fit {model_name}: of {len(target)} entries, {" and ".join(problems)}. '
        + (f'The file holds {found}. ' if found else '')
        + 'Use the config the checkpoint was trained with (arch, widen_factor, in_channels, num_classes), or another '
        'checkpoint.'
    )


def _check_finite(target: Mapping, state_dict: Mapping, source: str) -> None:
    """Refuse weights that are no numbers; ranges that nothing has been seen of yet are infinite."""
    bad = [
        key
        for key in target
        if key in state_dict and not key.startswith('quantization.') and not torch.isfinite(state_dict[key]).all()
    ]
    if bad:
        raise CheckpointError(
            f'{source} has NaN or infinite weights in {len(bad)} of {len(target)} entries ({", ".join(bad[:3])}'
            f'{", …" if len(bad) > 3 else ""}): the training that wrote it had diverged, or the file is damaged. Use '
            'an earlier checkpoint.'
        )


def describe_frostnet(state_dict: Mapping) -> str | None:
    """Name the FrostNet that a state dict holds, such as ``FrostNet(arch='base', widen_factor=0.5)``, or None."""
    prefix = next((key[: -len('stem.conv.weight')] for key in state_dict if key.endswith('stem.conv.weight')), None)
    if prefix is None:
        return None
    stages = re.compile(re.escape(prefix) + r'stages\.(\d+)\.(\d+)\.(.*conv\.weight)')
    matches = ((stages.fullmatch(key), value) for key, value in state_dict.items())
    shapes = {match.groups(): tuple(value.shape) for match, value in matches if match}
    projections = {key[:2]: shape[0] for key, shape in shapes.items() if key[2] == 'project.conv.weight'}
    if not projections:
        return None
    held = {stage for stage, _ in projections}
    for arch in ARCHS:
        for width in WIDTHS:
            own = {key: shape for key, shape in _shapes_of(arch, width).items() if key[0] in held}
            if shapes == own:
                return f'FrostNet(arch={arch!r}, widen_factor={width})'
    if not any('.squeeze.' in f'.{name}' for *_, name in shapes):
        return None  # such as EfficientNet-Lite, whose other convolutions have the same names
    return f'a FrostNet with {len(projections)} blocks and {max(projections.values())} channels'


@functools.cache
def _shapes_of(arch: str, width: float) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """Of the convolutions' weights by stage, block and name."""
    from .backbones.frost_blocks import build_block, placed_rows  # only for a message: torch modules are made

    with torch.device('meta'):
        placed = placed_rows(ARCHS[arch].widened(width), ARCHS[arch].strides[-1])
        stages = nn.ModuleList(nn.Sequential(*(build_block(*row) for row in rows)) for rows in placed)
    state = {key: value for key, value in stages.state_dict().items() if key.endswith('conv.weight')}
    return {tuple(key.split('.', 2)): tuple(value.shape) for key, value in state.items()}
