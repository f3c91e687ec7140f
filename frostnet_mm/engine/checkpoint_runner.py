"""mmengine's Runner: checkpoints are read without running code, each once, and written whole or not at all."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader

from ..data.errors import DatasetNotFoundError
from ..errors import CheckpointWriteError, UserError
from ..models.checkpoints import (
    CheckpointError,
    classes_of,
    config_text_of,
    quantization_of,
    read_checkpoint,
    require_training_state,
)
from ..models.dense import unwrap
from ..models.pretrained import require_some
from .build_errors import building
from .config_datasets import require_parts
from .console import quiet_console, summed_up
from .errors import ConfigError
from .late_removal import LAST, keep_until_saved, remove_kept, write_noted
from .step_errors import step_errors
from .trained_config import other_colors_messages, other_config_message

_BEGUN: set[str] = set()  # names, seconds, of the Runners of this process
_DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class CheckpointRunner(Runner):
    """A Runner whose checkpoints are read by :func:`frostnet_mm.models.read_checkpoint`, and written atomically.

    What goes wrong while it builds something of the config is a :class:`ConfigError` that names the key. The console
    gets what a user follows; the whole config, the environment and the order of the hooks are in the log file.

    Attributes:
        opened (dict[str, dict]): By path what has been read already; taken from there once.
    """

    def __init__(self, *args, **kwargs) -> None:
        self.opened: dict[str, dict] = {}
        super().__init__(*args, **kwargs)

    def setup_env(self, env_cfg: dict) -> None:
        """See mmengine's Runner; one of several that begin in the same second gets a name, logs and history of its own.

        mmengine knows loggers and message hubs by name and second: a second Runner would write into the log of another.
        """
        super().setup_env(env_cfg)
        name, number = self._timestamp, 1
        while self._timestamp in _BEGUN:
            number += 1
            self._timestamp = f'{name}_{number}'
        _BEGUN.add(self._timestamp)

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

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """See mmengine's Runner."""
        logger = super().build_logger(*args, **kwargs)
        quiet_console(logger)
        return logger

    def build_optim_wrapper(self, *args, **kwargs) -> Any:
        """See mmengine's Runner; the options of each parameter are one line in the log, not one for each."""
        with summed_up(self.logger):
            return super().build_optim_wrapper(*args, **kwargs)

    def train(self) -> nn.Module:
        """See mmengine's Runner.

        Raises:
            ConfigError: The config cannot be trained.
        """
        require_parts(self.cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
        with self._explained():
            return super().train()

    def _init_model_weights(self) -> None:
        """See mmengine's Runner; weights that were trained on images of other colours are warned of."""
        super()._init_model_weights()
        for message in other_colors_messages(self.cfg):
            self.logger.warning(message)

    def val(self) -> dict:
        """See mmengine's Runner."""
        with self._explained():
            return super().val()

    def test(self) -> dict:
        """See mmengine's Runner.

        Raises:
            ConfigError: The config has no test data.
        """
        require_parts(self.cfg, 'test_dataloader', 'test_evaluator')
        with self._explained():
            return super().test()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with building(self.cfg), step_errors(self):
                yield
        finally:
            for hook in self.hooks:  # after_train is not called where training fails
                if hasattr(hook, 'restore_signals'):
                    hook.restore_signals()

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """See mmengine's Runner; an error of ours stays what it is.

        Raises:
            UserError: A hook has raised it.
        """
        try:
            super().call_hook(fn_name, **kwargs)
        except TypeError as error:
            if isinstance(error.__context__, UserError):  # mmengine says it anew, with the hook's address
                raise error.__context__ from None
            raise
        if fn_name == 'before_train':
            keep_until_saved(self.hooks)
            for hook in self.hooks:
                if hasattr(hook, 'validate_if_missed'):
                    hook.validate_if_missed(self)

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """See mmengine's Runner; a local file is written under another name first, so that none is cut off.

        Raises:
            CheckpointWriteError: It cannot be written, such as on a full disk. Nothing of it is left, and the
                checkpoints before it are.
        """
        write_noted(self.hooks, self.message_hub)
        if '://' in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            remove_kept(self.hooks)
            return
        path = Path(out_dir) / filename
        unfinished = path.with_name(f'.{filename}.unfinished')
        try:
            super().save_checkpoint(str(out_dir), unfinished.name, *args, **kwargs)
            if is_main_process():
                os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise CheckpointWriteError(
                f'The checkpoint {path} cannot be written: {error.strerror or error}. Training stopped; nothing of '
                'this file is left, and the checkpoints before it are. Make room and go on with --resume.'
            ) from error
        remove_kept(self.hooks)

    def load_or_resume(self) -> None:
        """See mmengine's Runner; of a work dir that was copied or moved, the checkpoint in it is resumed from.

        Raises:
            CheckpointError: ``last_checkpoint`` names one that is not there.
        """
        beside = self._last_beside() if self._resume and self._load_from is None and not self._has_loaded else None
        if beside is None:
            super().load_or_resume()
            return
        self._load_from = beside
        try:
            super().load_or_resume()
        finally:
            self._load_from = None

    def _last_beside(self) -> str | None:
        """The checkpoint of the work dir that has the name in ``last_checkpoint``, which says another folder.

        None where it says this one, or checkpoints are written elsewhere (``out_dir``).
        """
        last = Path(self.work_dir, LAST)
        named = Path(last.read_text().strip()) if last.is_file() else None
        out_dir = ((self.cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
        if named is None or out_dir or '://' in str(named) or not named.name:
            return None
        beside = last.with_name(named.name)
        if beside.exists() and (not named.exists() or not named.samefile(beside)):
            self.logger.info(f'{last} names {named}, of another folder: {beside} is resumed from.')
            return str(beside)
        if not named.exists():
            there = ', '.join(sorted(path.name for path in last.parent.glob('*.pth'))) or 'none'
            raise CheckpointError(
                f'{last} names {named}, which is not there. Checkpoints in {last.parent}: {there}. Give one: --resume '
                'CHECKPOINT.'
            )
        return None

    def resume(self, filename: str | os.PathLike, *args, **kwargs) -> None:
        """See mmengine's Runner.

        Raises:
            ConfigError: The checkpoint was trained on other classes than those of the training data, or with another
                network or optimizer.
            CheckpointError: It cannot be read, or holds no state of a training.
        """
        content = self.opened.get(str(filename))
        if content is None:
            content = self.opened[str(filename)] = read_checkpoint(filename)
        require_training_state(content, str(filename))
        instead = f'To start from its weights, leave out --resume: --cfg-options load_from={filename}.'
        kinds = {kind.__name__ for hook in self.hooks for kind in type(hook).__mro__}
        if quantization_of(content) is not None and 'QATHook' not in kinds:
            raise ConfigError(
                f'{filename} is of a training in INT8 and this config has no QATHook: it would go on in float. Resume '
                f'with the config of that training. {instead}'
            )
        saved = classes_of(content)
        own = (getattr(self.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
        if saved and own and tuple(saved) != tuple(own):
            raise ConfigError(
                f'{filename} was trained on {len(saved)} classes ({_sample(saved)}), the training data have {len(own)} '
                f'({_sample(own)}): it cannot be resumed. {instead}'
            )
        other = _other_shapes(unwrap(self.model), content.get('state_dict', {}))
        if other:
            raise ConfigError(
                f'{filename} is of another network: {len(other)} weights have other shapes, such as {other[0]}: it '
                f'cannot be resumed. {instead}'
            )
        if message := other_config_message(str(filename), config_text_of(content), self.cfg):
            self.logger.warning(message)
        try:
            super().resume(filename, *args, **kwargs)
        except UserError:
            raise
        except _DAMAGED as error:  # what mmengine and torch raise on a state that is not theirs
            if 'parameter group' in str(error):
                raise ConfigError(
                    f'{filename} was trained with another optimizer or paramwise_cfg ({error}): it cannot be resumed. '
                    f'{instead}'
                ) from error
            raise CheckpointError(
                f'{filename} cannot be resumed: the state of its training is damaged or of another version '
                f'({type(error).__name__}: {str(error)[:500]}). {instead}'
            ) from error

    def load_checkpoint(
        self,
        filename: str | os.PathLike,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: list | None = None,
    ) -> dict:
        """See mmengine's Runner; the content stays on the CPU until it is copied into the model.

        Raises:
            CheckpointError: It cannot be read, or no weight of it fits the model.
        """
        content = self.opened.pop(str(filename), None)
        checkpoint = read_checkpoint(filename) if content is None else content
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        keys = [(r'^module\.', '')] if revise_keys is None else revise_keys
        try:
            entries = checkpoint.get('state_dict', checkpoint)
            for pattern, text in keys:
                entries = {re.sub(pattern, text, name): value for name, value in entries.items()}
            model = unwrap(self.model)
            number, total = require_some(model, entries, filename), len(model.state_dict())
            checkpoint = _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=keys)
        except UserError:
            raise
        except _DAMAGED as error:
            raise CheckpointError(
                f'{filename} cannot be loaded into the model ({type(error).__name__}: {str(error)[:500]}): expected '
                "tensors under 'state_dict'."
            ) from error
        self._has_loaded = True
        self.logger.info(f'{number} of {total} weights loaded from {filename}.')
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


def _other_shapes(model: nn.Module, state: dict) -> list[str]:
    return [
        f'{name} ({tuple(state[name].shape)}, here {tuple(value.shape)})'
        for name, value in model.named_parameters()
        if name in state and state[name].shape != value.shape
    ]


def _sample(names: Sequence[str]) -> str:
    return ', '.join(map(str, names[:4])) + (', ...' if len(names) > 4 else '')
