"""Registries of scope ``frostnet_mm``, children of mmengine's root registries.

A config of any OpenMMLab package names what is registered here with the scope as prefix, for example
``backbone=dict(type='frostnet_mm.FrostNet')`` in an mmdet, mmseg or mmpretrain config.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

SCOPE = 'frostnet_mm'

MODELS = Registry('model', parent=MMENGINE_MODELS, scope=SCOPE, locations=['frostnet_mm.models'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope=SCOPE, locations=['frostnet_mm.data'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope=SCOPE, locations=['frostnet_mm.data'])
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope=SCOPE, locations=['frostnet_mm.engine', 'frostnet_mm.quantization']
)
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope=SCOPE, locations=['frostnet_mm.engine'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope=SCOPE, locations=['frostnet_mm.apis'])
OPTIMIZERS = Registry('optimizer', parent=MMENGINE_OPTIMIZERS, scope=SCOPE, locations=['frostnet_mm.engine'])


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
        return kind in (name, wanted)
    bases = (kind if isinstance(kind, type) else type(kind)).__mro__
    return any(base.__name__ == wanted and base.__module__.split('.')[0] == scope for base in bases)
