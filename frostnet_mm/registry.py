"""Registries of scope ``frostnet_mm``, children of mmengine's root registries.

A registry imports the modules that register its classes when it is first asked for one.
A config of any OpenMMLab package names what is registered here with the scope as prefix, for example
``backbone=dict(type='frostnet_mm.FrostNet')`` in an mmdet, mmseg or mmpretrain config.
"""

import difflib
import re
from importlib.util import find_spec

from mmengine import registry as mmengine_registries
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

SCOPE = 'frostnet_mm'
MODULE2PACKAGE.setdefault(SCOPE, SCOPE)  # mmengine's table of packages whose configs are named as package::folder/name


def _registry(name: str, parent: Registry, *modules: str, mmdet: tuple[str, ...] = (), mmseg: tuple[str, ...] = ()):
    """A registry of our scope.

    Args:
        name (str): What mmengine calls its like.
        parent (Registry): mmengine's.
        modules (str): What registers its classes, without ``frostnet_mm.``.
        mmdet, mmseg (tuple[str, ...]): Further ones, where the package is installed.
    """
    modules += mmdet if find_spec('mmdet') else ()
    modules += mmseg if find_spec('mmseg') else ()
    return Registry(name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{module}' for module in modules])


MODELS = _registry(
    'model',
    MMENGINE_MODELS,
    'models.backbones',
    'models.necks',
    'models.classifiers',
    'nas.elastic',
    mmdet=('models.dense_heads',),
    mmseg=('models.backbones.mobilenet_v3', 'models.decode_heads'),
)
DATASETS = _registry(
    'dataset', MMENGINE_DATASETS, 'data.image_folder', mmdet=('data.coco',), mmseg=('data.segmentation',)
)
TRANSFORMS = _registry(
    'transform',
    MMENGINE_TRANSFORMS,
    'data.loading',
    'data.classification_transforms',
    mmdet=('data.cropping',),
    mmseg=('data.segmentation_loading',),
)
HOOKS = _registry('hook', MMENGINE_HOOKS, 'engine.hooks', 'quantization.hook', 'nas.supernet_hook')
LOOPS = _registry('loop', MMENGINE_LOOPS, 'engine.loops')
METRICS = _registry(
    'metric', MMENGINE_METRICS, 'apis.accuracy', mmdet=('apis.coco_metric',), mmseg=('apis.iou_metric',)
)
#: Engines that deployments run on, see :class:`frostnet_mm.deploy.engines.Engine`; mmengine has no such registry.
ENGINES = Registry('engine', scope=SCOPE, locations=['frostnet_mm.deploy.engines'])
#: Kinds of blocks of FrostNets, see :class:`frostnet_mm.models.backbones.frost_blocks.Bottleneck`.
BLOCKS = Registry('block', scope=SCOPE, locations=['frostnet_mm.models.backbones.frost_blocks'])
OPTIMIZERS = _registry('optimizer', MMENGINE_OPTIMIZERS, 'engine.optimizers.gradboost', 'engine.optimizers.rmsprop_tf')


def type_name(cfg: object) -> str:
    """The class that a config names, without its scope.

    A config's ``type`` is a name ('QATHook', 'frostnet_mm.QATHook'), or the class itself (mm's pure-Python configs);
    where a config lists objects, such as ``custom_hooks``, it may be an object already.

    Args:
        cfg (dict | str | type | object): A config with ``type``, what stands in ``type``, or an object.

    Returns:
        str: Such as 'QATHook'; empty for a config without ``type``.
    """
    kind = cfg.get('type', '') if isinstance(cfg, dict) else cfg
    if isinstance(kind, str):
        return kind.rpartition('.')[2]
    return '' if kind is None else getattr(kind, '__name__', type(kind).__name__)


def reads_checkpoint(init: object) -> bool:
    """Whether an ``init_cfg`` of a module takes weights from a checkpoint."""
    if isinstance(init, (list, tuple)):
        return any(map(reads_checkpoint, init))
    return isinstance(init, dict) and (type_name(init) in ('Pretrained', 'PretrainedInit') or 'checkpoint' in init)


def is_type(cfg: object, name: str) -> bool:
    """Whether a config builds a class, or one derived from it.

    Args:
        cfg (dict | str | type | object): As for :func:`type_name`.
        name (str): The class with its scope, such as 'frostnet_mm.QATHook'. A config that names it without scope
            counts; one that names another scope does not.
    """
    scope, _, wanted = name.rpartition('.')
    kind = cfg.get('type', '') if isinstance(cfg, dict) else cfg
    if isinstance(kind, str):
        return kind in (name, wanted) or (kind.startswith(f'{scope}.') and kind.rpartition('.')[2] == wanted)
    bases = (kind if isinstance(kind, type) else type(kind)).__mro__
    return any(base.__name__ == wanted and base.__module__.split('.')[0] == scope for base in bases)


def unknown_type_message(error: Exception) -> str | None:
    """Say which type a config misspells, and what is named nearly so.

    Args:
        error (Exception): What mmengine's registries raise for a type that they do not have, or another error.

    Returns:
        str | None: One message; None for another error.
    """
    text = str(error.args[0]) if error.args else ''
    found = re.match(r'(\S+) is not in the (\S+)::(.+?) registry', text) or re.fullmatch(r'Failed to get (\S+)', text)
    if not found:
        return None
    return type_message(found[1], found[3] if found.re.groups == 3 else None)


def type_message(name: str, kind: str | None) -> str:
    """Say that a type is unknown, and what is named nearly so.

    Args:
        name (str): What stands in ``type``.
        kind (str, optional): The registry: 'model', 'optimizer'. Default: any.
    """
    names = sorted({known for root in _roots(kind) for known in _all_names(root)})
    near = difflib.get_close_matches(name.rpartition('.')[2], names, n=4)
    return (
        f'type={name!r} of the config is no {kind or "class"} that is known. '
        + (f'Did you mean {", ".join(near)}? ' if near else '')
        + "A class of one's own needs custom_imports=dict(imports=['its.module']) in the config."
    )


def _roots(kind: str | None) -> list[Registry]:
    roots = [value for value in vars(mmengine_registries).values() if isinstance(value, Registry)]
    return [root for root in roots if kind in (None, root.name)]


def _all_names(registry: Registry) -> set[str]:
    return set(registry.module_dict).union(*map(_all_names, registry.children.values()))
