"""What is mended in mm's own packages: upstream configs train, validate and predict; checkpoints run no code.

``import frostnet_mm`` calls :func:`mend_upstream`, so that a config for mmdet's own tools needs no more than
``custom_imports=dict(imports=['frostnet_mm'])``. Nothing of mm is imported for it: a module is mended when it is.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SSD_HEAD = 'mmdet.models.dense_heads.ssd_head'
CHECKPOINTS = 'mmengine.runner.checkpoint'
INITIALIZERS = 'mmengine.model.weight_init'
DATASETS = tuple(f'{name}.datasets{part}' for name in ('mmdet', 'mmseg') for part in ('', '.transforms'))
ONEDL = 'Could not import OneDL'  # a service's data sets, that nobody has asked for; the beginning of the message


class _LossModule:
    """``head.loss_cls``: the module of this name if the head has one, else None."""

    def __get__(self, head: Any, owner: type) -> Any:
        return None if head is None else head._modules.get('loss_cls')


def mend_ssd_head(module: ModuleType) -> None:
    """Give mmdet's ``SSDHead`` the ``loss_cls`` that its ``predict`` asks for.

    ``BaseDenseHead`` asks the classification loss whether it brings channels of its own; ``SSDHead``, whose softmax
    cross entropy with hard negative mining is written out in its loss function, never sets one, so that the first
    validation ends in ``AttributeError: 'SSDHead' object has no attribute 'loss_cls'`` (mmdetection issues 11063, 11305
    and 11780). A head that sets one, in a later mmdet or in a subclass, keeps it.

    Args:
        module (ModuleType): ``mmdet.models.dense_heads.ssd_head``.
    """
    head = module.SSDHead
    if not hasattr(head, 'loss_cls') and 'loss_cls' not in head.__init__.__code__.co_names:
        head.loss_cls = _LossModule()


def mend_checkpoints(module: ModuleType) -> None:
    """Have mmengine read checkpoints without running the code that they may hold, as this package does itself.

    The maintained fork reads a file once more where ``weights_only`` refuses it, without; and torch reads what it
    downloads without. So a checkpoint from a stranger ran code as ``init_cfg=dict(type='Pretrained', checkpoint=...)``.

    Args:
        module (ModuleType): ``mmengine.runner.checkpoint``.
    """
    import torch

    from .checkpoint_files import is_trusted, reading

    def load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        with reading(file if isinstance(file, (str, os.PathLike)) else 'of an object store'):
            return torch.load(file, map_location=map_location, weights_only=not is_trusted())

    def download(url: str, **options: Any) -> Any:
        with reading(url):
            return torch.hub.load_state_dict_from_url(url, **options, weights_only=not is_trusted())

    module._safe_torch_load, module.load_url = load, download


def mend_pretrained(module: ModuleType) -> None:
    """Have mmengine find a backbone's weights in the checkpoint of a whole model, and say when none fits.

    Args:
        module (ModuleType): ``mmengine.model.weight_init``.
    """

    def initialize(self: Any, network: Any) -> None:
        from .pretrained import initialize_from_checkpoint

        initialize_from_checkpoint(self, network)

    module.PretrainedInit.__call__ = initialize


def import_quietly(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Import mm's data sets without their lines about a package that they can do without.

    They are written at the level of debugging to a log that is none, whereby mmengine prints them in every command.

    Args:
        execute (Callable): Runs the module.
        module (ModuleType): One of :data:`DATASETS`.
    """
    from mmengine import logging

    write = logging.print_log

    def print_log(message: Any, logger: Any = None, level: int = 20) -> None:
        if logger is not None or not str(message).startswith(ONEDL):
            write(message, logger, level)

    logging.print_log = print_log
    try:
        execute(module)
    finally:
        logging.print_log = write


def _execute_and_mend(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    _MENDED[module.__name__](module)


_MENDED = {SSD_HEAD: mend_ssd_head, CHECKPOINTS: mend_checkpoints, INITIALIZERS: mend_pretrained}
_ON_IMPORT = {**dict.fromkeys(_MENDED, _execute_and_mend), **dict.fromkeys(DATASETS, import_quietly)}


class _MendOnImport(MetaPathFinder):
    """Finds a few modules as Python does, and has something done around their execution; it knows no others."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        around = _ON_IMPORT.get(name)
        if around is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: around(execute, module)
        return spec


def mend_upstream() -> None:
    """Mend what is imported already, and the rest when it is imported. Calling it again changes nothing."""
    for name, mend in _MENDED.items():
        if name in sys.modules:
            mend(sys.modules[name])
    if not any(isinstance(finder, _MendOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MendOnImport())
