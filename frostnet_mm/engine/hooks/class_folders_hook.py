"""Folders of classes of several data sets and lists, looked at together before training."""

import logging
import os
from collections import Counter
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ...data.image_folder import ImageFolder, check_training_classes
from ...data.image_lists import unlisted_images
from ...data.loading import inner_datasets
from ...registry import HOOKS, is_type
from ..config_datasets import all_datasets, class_folder_of


@HOOKS.register_module()
class ClassFoldersHook(Hook):
    """Check what no ``frostnet_mm.ImageFolder`` sees alone.

    Of several that are trained on together, each class has an image in one of them; images beside those that the lists
    of training, validation and test take are counted in the log, as they may be new.

    Raises:
        DatasetError: A class has no image in any of the training's folders.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Look at the data sets of the training, and at the lists of the config."""
        parts = inner_datasets(runner.train_dataloader.dataset)
        if len(parts) > 1 and all(isinstance(part, ImageFolder) for part in parts):
            counts = Counter({name: 0 for name in parts[0].metainfo['classes']})
            for part in parts:
                names = part.metainfo['classes']
                counts.update(names[part.get_data_info(index)['gt_label']] for index in range(len(part)))
            check_training_classes(' and '.join(dict.fromkeys(part.folder for part in parts)), counts)
        if is_main_process():
            places = list(_places(runner.cfg))
            whole = {os.path.realpath(folder) for file, folder in places if not file}
            used = runner.train_dataloader.dataset.metainfo.get('classes') or ()
            for folder, paths in unlisted_images(place for place in places if place[0]).items():
                if folder in whole:
                    continue  # another data set reads it without a list
                new = [path for path in paths if os.path.relpath(path, folder).split(os.sep)[0] in used]
                if new:
                    print_log(
                        f"'{folder}': {len(new)} images of the classes are in no list of this config and are not used, "
                        f"such as '{new[0]}'. New ones belong into a list.",
                        logger='current',
                        level=logging.WARNING,
                    )


def _places(cfg: Config) -> Iterator[tuple[str, str]]:
    """List, or '', and folder of each data set of classes in folders."""
    for dataset in all_datasets(cfg):
        if is_type(dataset, 'frostnet_mm.ImageFolder'):
            file = dataset.get('ann_file') or ''
            yield file and os.path.join(dataset.get('data_root') or '', file), class_folder_of(dataset)
