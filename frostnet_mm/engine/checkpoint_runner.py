"""mmengine's Runner, which reads checkpoints as everything else here does: without running code, and each once."""

import os
from collections.abc import Callable, Sequence

from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch.utils.data import DataLoader

from ..data.errors import DatasetNotFoundError
from ..models.checkpoints import classes_of, read_checkpoint
from ..models.dense import unwrap
from .errors import ConfigError


class CheckpointRunner(Runner):
    """A Runner whose checkpoints are read by :func:`frostnet_mm.models.read_checkpoint`.

    Attributes:
        opened (dict[str, dict]): By path what has been read already; taken from there once.
    """

    def __init__(self, *args, **kwargs) -> None:
        self.opened: dict[str, dict] = {}
        super().__init__(*args, **kwargs)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """See mmengine's Runner.

        Raises:
            DatasetNotFoundError: The data set has no image, of which mmengine says "need at least one array".
        """
        try:
            return Runner.build_dataloader(dataloader, *args, **kwargs)
        except ValueError as error:
            if 'need at least one array to concatenate' not in str(error):
                raise
            raise DatasetNotFoundError(empty_message(dataloader['dataset'])) from error

    def resume(self, filename: str | os.PathLike, *args, **kwargs) -> None:
        """See mmengine's Runner.

        Raises:
            ConfigError: The checkpoint was trained on other classes than those of the training data.
        """
        content = self.opened.get(str(filename))
        if content is None:
            content = self.opened[str(filename)] = read_checkpoint(filename)
        saved = classes_of(content)
        own = (getattr(self.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
        if saved and own and tuple(saved) != tuple(own):
            raise ConfigError(
                f'{filename} was trained on {len(saved)} classes ({_sample(saved)}), the training data have {len(own)} '
                f'({_sample(own)}): it cannot be resumed. To start from its weights, leave out --resume: '
                f'--cfg-options load_from={filename}.'
            )
        super().resume(filename, *args, **kwargs)

    def load_checkpoint(
        self,
        filename: str | os.PathLike,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: list | None = None,
    ) -> dict:
        """See mmengine's Runner; the content stays on the CPU until it is copied into the model."""
        content = self.opened.pop(str(filename), None)
        checkpoint = read_checkpoint(filename) if content is None else content
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        keys = [(r'^module\.', '')] if revise_keys is None else revise_keys
        checkpoint = _load_checkpoint_to_model(unwrap(self.model), checkpoint, strict, revise_keys=keys)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint


def empty_message(dataset: dict) -> str:
    """Say which data set is empty; of one of mmseg, how its images are named.

    Args:
        dataset (dict): Its config.
    """
    if 'dataset' not in dataset and 'datasets' not in dataset:
        built = DATASETS.build(dict(dataset, lazy_init=True))
        if hasattr(built, 'img_suffix'):
            from ..data.segmentation_files import no_images_message

            return no_images_message(built.data_prefix.get('img_path') or '.', built.img_suffix)
    return f'The data set has no image: {dataset}. Check its data_root, ann_file, data_prefix and filter_cfg.'


def _sample(names: Sequence[str]) -> str:
    return ', '.join(map(str, names[:4])) + (', ...' if len(names) > 4 else '')
