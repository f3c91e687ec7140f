"""Which data a run uses, in its log."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class DataLogHook(Hook):
    """Log the files and the number of images of each data set, at the start of training and of testing."""

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Log what the loops that are built will read."""
        for name, loop in (('train', runner._train_loop), ('val', runner._val_loop), ('test', runner._test_loop)):
            loader = getattr(loop, 'dataloader', None)  # a loop that is not built yet is a dict
            if loader is not None:
                print_log(f'Data of {name}: {describe(loader.dataset)}.', logger='current')


def describe(dataset: Any) -> str:
    """Say in one line what a data set reads: its annotations, its images, how many there are.

    Args:
        dataset: One of mm's data sets, or a wrapper (``dataset`` or ``datasets``) around some.
    """
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is not None:
        return f'{type(dataset).__name__} of {len(dataset)} images: ' + '; '.join(map(describe, inner))
    prefix = getattr(dataset, 'data_prefix', None) or {}
    places = [getattr(dataset, 'ann_file', None), *(prefix.values() if isinstance(prefix, dict) else [prefix])]
    root = getattr(dataset, 'data_root', None)
    named = [str(place) for place in places if place] or [str(root)] * (root is not None)
    return ', '.join([*named, f'{len(dataset)} images'])
