"""Images of a config's data sets as the network sees them, for calibration and analysis."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor, nn
from tqdm import tqdm

from ..data import BadImageError
from ..data.loading import resize_errors
from ..data.segmentation_checks import spread
from ..engine.config import ConfigError
from ..engine.config_datasets import leaf_datasets
from .inference import build_pipeline


def spread_paths(cfg: Config, count: int, split: str = 'train') -> list[str]:
    """Paths of images spread evenly over a data set, or over all those that are wrapped together.

    Args:
        cfg (Config): With ``<split>_dataloader``.
        count (int): How many; all, if there are fewer.
        split (str): 'train', 'val' or 'test'. Default: 'train'.

    Returns:
        list[str]: The paths, in the order of the data.

    Raises:
        ConfigError: The config has no such data set.
    """
    name = f'{split}_dataloader'
    if not (cfg.get(name) or {}).get('dataset'):
        raise ConfigError(f'The config has no {name}, from which the images are to be taken.')
    leaves: list[ConfigDict] = []
    for leaf in leaf_datasets(cfg[name].dataset):
        if leaf not in leaves:  # each once: a rare one may be repeated
            leaves.append(leaf)
    datasets = [DATASETS.build(leaf) for leaf in leaves]
    ends, paths = list(accumulate(map(len, datasets))), []
    for chosen in spread(ends[-1], count):
        place = bisect_right(ends, chosen)
        dataset = datasets[place]
        record = dataset.get_data_info(chosen - ends[place] + len(dataset))
        if 'img_path' not in record:
            raise ConfigError(
                f'{name}.dataset ({type(dataset).__name__}) holds arrays, not files: expected records with img_path, '
                'such as those of frostnet_mm.ImageFolder (CIFAR: tools/prepare_cifar.py writes the files).'
            )
        paths.append(record['img_path'])
    return paths


def preprocessed(
    model: nn.Module, cfg: Config, paths: Sequence[str], task: str = '', read: list[str] | None = None
) -> Iterator[Tensor]:
    """Preprocess images one by one as for testing; one that cannot be read is reported and left out.

    Args:
        model (nn.Module): A model of :func:`load_model`.
        cfg (Config): Its config.
        paths (Sequence[str]): Image files.
        task (str): What the progress bar calls it.
        read (list[str], optional): The files that could be read are added to it, each before its image comes.

    Yields:
        Tensor: An image of shape (1, 3, H, W), normalized, on the model's device.
    """
    pipeline = build_pipeline(cfg)
    for path in tqdm(paths, unit='image', desc=task, disable=None):
        try:
            with resize_errors(str(path)):
                data = pseudo_collate([pipeline(dict(img_path=path, img_id=0))])
        except BadImageError as error:
            print(f'left out: {error}')
            continue
        inputs = model.data_preprocessor(data, False)['inputs']
        if read is not None:
            read.append(str(path))
        yield inputs.contiguous(memory_format=torch.channels_last) if cfg.get('channels_last') else inputs
