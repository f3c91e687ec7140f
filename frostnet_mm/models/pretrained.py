"""``init_cfg=dict(type='Pretrained', checkpoint=FILE)``: the weights are found under any prefix, or it is said."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import nn

from .checkpoint_files import CheckpointError
from .checkpoints import bare_name, weights_in
from .weight_names import COUNTER, other_depth, prefix_of


def initialize_from_checkpoint(initializer: Any, module: nn.Module) -> None:
    """What mmengine's ``PretrainedInit`` does, for a module that may be a part of what the file holds.

    mmengine loads what has the same name and warns of the rest in a long list, all of it if need be: the checkpoint of
    a classifier as the ``init_cfg`` of a detector's backbone, without ``prefix='backbone.'``, left the backbone as it
    was. Here the prefix is found where none is given and no name fits, and it is an error when no weight fits. A class
    that reads a checkpoint in a way of its own has a method ``read_pretrained(path, prefix)``.

    Args:
        initializer (PretrainedInit): It has ``checkpoint``, ``prefix`` and ``map_location``.
        module (nn.Module): What is initialized.

    Raises:
        CheckpointError: No weight of the file fits the module.
    """
    from mmengine.model.weight_init import update_init_info
    from mmengine.runner import checkpoint as files

    if hasattr(module, 'read_pretrained'):
        module.read_pretrained(initializer.checkpoint, initializer.prefix)
    else:
        content = files._load_checkpoint(initializer.checkpoint, initializer.map_location, 'current')
        entries = weights_in(content, initializer.checkpoint) if isinstance(content, Mapping) else {}
        metadata = getattr(entries, '_metadata', OrderedDict())
        entries = OrderedDict((bare_name(str(name)), value) for name, value in entries.items())
        own = module.state_dict()
        prefix = prefix_of(own, entries) if initializer.prefix is None else initializer.prefix.rstrip('.') + '.'
        inside = OrderedDict((name[len(prefix) :], x) for name, x in entries.items() if name.startswith(prefix))
        number = require_some(module, inside, initializer.checkpoint, list(entries), prefix)
        inside._metadata = metadata
        under = f' under {prefix!r}' if prefix else ''
        print_log(
            f'{type(module).__name__}: {number} of {len(own)} weights from {initializer.checkpoint}{under}.', 'current'
        )
        files.load_state_dict(module, inside, strict=False, logger='current')
    if hasattr(module, '_params_init_info'):
        update_init_info(module, init_info=initializer._get_init_info())


def require_some(
    module: nn.Module, entries: Mapping, source: object, names: Sequence[str] | None = None, prefix: str = ''
) -> int:
    """How many weights of a file fit a network, by name and shape.

    Args:
        module (nn.Module): The network.
        entries (Mapping): The file's weights by the names that they would have in the network.
        source (object): Name of the file, for messages.
        names (Sequence[str], optional): Names in the file. Default: those of ``entries``.
        prefix (str): What was taken off the names. Default: nothing.

    Counters of batches fit any network, and count as no weight when it is judged.

    Raises:
        CheckpointError: None fits, of those that the network has; or most that have its names have other shapes; or
            the backbone, which is the network itself where it has none, is deeper or shallower than the file's, or has
            images of other channels.
    """
    own = module.state_dict()
    named = [name for name in own if name in entries]
    fitting = [name for name in named if own[name].shape == getattr(entries[name], 'shape', 0)]
    other = [name for name in named if name not in set(fitting)]
    weights = sum(not name.endswith(COUNTER) for name in fitting)
    if not own or weights > len(other):
        _require_backbone(module, entries, set(fitting), source)
        return len(fitting)
    if other:
        both = other[0]
        shapes = (tuple(getattr(weights[both], 'shape', ())) for weights in (entries, own))
        found = '{} is {} in the file and {} in the network'.format(both, *shapes)
        if len(other) > 1:
            found += f', and {len(other) - 1} others differ likewise'
        mend = 'Give the network the width and depth of the file, or name another file.'
    else:
        examples = ', '.join(map(str, list(names or entries)[:3])) or 'nothing'
        found = f'the file has {examples}, …; expected {", ".join(f"{prefix}{name}" for name in list(own)[:3])}, …'
        mend = (
            "Name a file of this network; of a backbone alone it is model.backbone.init_cfg=dict(type='Pretrained', "
            "checkpoint=FILE), with prefix='...' where the file has the backbone under several."
        )
    share = f'{weights} of {weights + len(other)} weights fit' if weights else 'no weight fits'
    raise CheckpointError(f'{source}: {share} {type(module).__name__}: {found}. {mend}')


def _require_backbone(module: nn.Module, entries: Mapping, fitting: set[str], source: object) -> None:
    """Refuse what fits a backbone in part because it is of a similar one; heads and necks may well be others."""
    inside = 'backbone.' if hasattr(module, 'backbone') else ''
    own = {name: value for name, value in module.state_dict().items() if name.startswith(inside)}
    depth = other_depth(list(own), [name for name in entries if name.startswith(inside)], fitting)
    if depth:
        raise CheckpointError(
            f'{source} has another network than {type(module).__name__}: {depth}. Give the network the depth of the '
            'file, or name another file.'
        )
    first = next((name for name, value in own.items() if value.ndim == 4), None)
    if first is None or first in fitting:
        return
    shapes = [tuple(getattr(weights.get(first), 'shape', ())) for weights in (entries, own)]
    if shapes[0][:1] + shapes[0][2:] == shapes[1][:1] + shapes[1][2:]:
        raise CheckpointError(
            f'{source}: {first}, the first convolution, is {shapes[0]} in the file and {shapes[1]} in '
            f'{type(module).__name__}, so the images have {shapes[0][1]} channels there and {shapes[1][1]} here. Give '
            'the network such images, or the file such a convolution (for grey images its sum over the channels).'
        )
