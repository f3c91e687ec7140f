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
#: Engines that deployments run on, see :class:`frostnet_mm.deploy.engines.Engine`; mmengine has no such registry.
ENGINES = Registry('engine', scope=SCOPE, locations=['frostnet_mm.deploy.engines'])
OPTIMIZERS = Registry('optimizer', parent=MMENGINE_OPTIMIZERS, scope=SCOPE, locations=['frostnet_mm.engine'])
