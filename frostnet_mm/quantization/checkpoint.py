"""A checkpoint: one file, read once, and all that is asked about it; nothing else interprets what its meta says."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from ..engine.trained_config import other_config_message
from ..errors import UserError
from ..models.checkpoints import (
    QUANTIZATION,
    CheckpointError,
    StateDict,
    check_fit,
    config_text_of,
    dataset_meta_of,
    quantization_of,
    read_file,
    state_dict_of,
)
from .checkpoint_classes import check_count, check_given, check_names, meta_of_config
from .schedule import Phase
from .settings import EXECUTIONS, NAME, QuantizationSettings

if TYPE_CHECKING:
    from .network import QuantizedNetwork
    from .scheme import Scheme

CALIBRATED = 'calibrated'  # the phase of a checkpoint that was not trained with quantization
RANGES = f'{NAME}.'  # the beginning of the ranges' names in a state dict


class Checkpoint:
    """A checkpoint of mm, float or with the ranges of a quantized network.

    Args:
        content (dict): What the file holds.
        source (str): Its name, for messages.
        digest (str, optional): The file's sha256.
        classes (Sequence[str], optional): Names of its classes, in place of those that it notes itself.

    Raises:
        CheckpointError: Two of ``classes`` have one name, or they are those that it notes in another order.
    """

    def __init__(
        self, content: dict, source: str, digest: str | None = None, classes: Sequence[str] | None = None
    ) -> None:
        self.content = content
        self._classes = tuple(classes) if classes else None
        self.source = source
        if self._classes is not None:
            check_given(self._classes, (dataset_meta_of(content) or {}).get('classes'), source)
        self.digest = digest
        self._state_dict: StateDict | None = None
        self._compared = False

    @classmethod
    def open(cls, path: str | os.PathLike, classes: Sequence[str] | None = None) -> 'Checkpoint':
        """Read a file, once; code that it may hold does not run.

        Args:
            path (str | PathLike): A local file, or a URL or ``open-mmlab://`` name that mmengine resolves.
            classes (Sequence[str], optional): Names of its classes, in place of those that it notes itself.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: It is truncated, not a checkpoint, or holds Python objects other than plain data.
        """
        content, digest = read_file(path)
        return cls(content, str(path), digest, classes)

    # -- what it holds

    @property
    def meta(self) -> dict[str, Any]:
        """What was noted beside the weights."""
        return self.content.get('meta') or {}

    @property
    def state_dict(self) -> StateDict:
        """The weights, and the ranges of a quantized network.

        Raises:
            CheckpointError: There are none.
        """
        if self._state_dict is None:
            self._state_dict = dict(state_dict_of(self.content, self.source))
        return self._state_dict

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Classes and colours of the data that it was trained with; None if neither it nor anybody says them."""
        noted = dataset_meta_of(self.content)
        if self._classes is None or (noted and noted['classes'] == self._classes):
            return noted
        return dict(classes=self._classes)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names that it was trained with, or None."""
        return (self.dataset_meta or {}).get('classes') or None

    @property
    def quantized(self) -> bool:
        """Whether it has the ranges of a quantized network."""
        return quantization_of(self.content) is not None

    @property
    def _note(self) -> dict[str, Any]:
        """What was noted of its quantized network.

        Raises:
            CheckpointError: It is none.
        """
        note = quantization_of(self.content)
        with self._understood():
            if not isinstance(note, Mapping):
                raise TypeError(f'a {type(note).__name__}, expected a dict')
        return note

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Say of what is read inside that the file is to blame, whatever goes wrong.

        Raises:
            CheckpointError: The note is damaged, or of a later version.
        """
        try:
            yield
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = f'{type(error).__name__}: {str(error)[:500]}'
            raise CheckpointError(
                f'{self.source}: what it says about its quantization cannot be understood ({why}). The file is '
                'damaged, or of a later version: quantize its float weights again (tools/calibrate.py, or train with '
                'QATHook).'
            ) from error

    @property
    def settings(self) -> QuantizationSettings | None:
        """What its quantized network was made with; None for a float checkpoint."""
        with self._understood():
            return QuantizationSettings.from_dict(self._note['settings']) if self.quantized else None

    @property
    def scheme(self) -> 'Scheme | None':
        """The arithmetic of its quantized network; None for a float checkpoint."""
        return self.settings.scheme if self.quantized else None

    @property
    def reached(self) -> Phase | None:
        """The phase of quantization-aware training that it was written in, or None."""
        found = self._note.get('reached') if self.quantized else None
        with self._understood():
            return None if found is None else Phase(**found)

    @property
    def points(self) -> list[str | None] | None:
        """Where the phases of its training begin, or None."""
        return self._note.get('points') if self.quantized else None

    @property
    def begun(self) -> float:
        """From where the warm-up of its training counts, in the unit of its first point."""
        return float(self._note.get('begun') or 0.0) if self.quantized else 0.0

    @property
    def teacher(self) -> dict[str, str] | None:
        """Source and digest of the float teacher of its training, or None."""
        return self._note.get('teacher') if self.quantized else None

    def dataset_meta_for(self, cfg: Config) -> dict[str, Any]:
        """Classes and colours: those that it notes or that were given, else those of a config, which the log says.

        Args:
            cfg (Config): The config that it is used with.

        Raises:
            CheckpointError: Nothing says them, or more or fewer than the model has.
        """
        meta = self.dataset_meta
        if meta is None:
            meta = meta_of_config(cfg)
            if meta is None:
                raise CheckpointError(
                    f'{self.source} does not say which classes it was trained with (meta.dataset_meta or '
                    'meta.CLASSES), and the data sets of the config name none. Give them in their order: --classes cat '
                    'dog …'
                )
            check_count(cfg, meta['classes'], f'{self.source} notes no classes, and the data sets of the config name')
            names = ', '.join(meta['classes'][:5]) + (', …' if len(meta['classes']) > 5 else '')
            print_log(
                f'{self.source} notes no classes: it is taken for one of the {len(meta["classes"])} that the config '
                f'names ({names}).',
                logger='current',
            )
        elif self._classes is not None:
            check_count(cfg, self._classes, '--classes names')
        return meta

    def check_names(self, cfg: Config) -> None:
        """Refuse to evaluate it as what a config calls its classes, where those are others.

        Args:
            cfg (Config): The config whose data it is evaluated on.

        Raises:
            CheckpointError: The config names other classes, or the same in another order.
        """
        if self.classes:
            check_names(cfg, self.classes, self.source)

    def compare(self, cfg: Config) -> None:
        """Warn, once, of a config that says something else than that of its training on which predictions depend.

        Args:
            cfg (Config): The config that it is used with.
        """
        message = None if self._compared else other_config_message(self.source, config_text_of(self.content), cfg)
        self._compared = True
        if message:
            print_log(message, logger='current', level=logging.WARNING)

    # -- how it is to be run

    def execution(self, wanted: str | None = None) -> str:
        """How it is to be run: as wanted, else in simulated INT8 if it is a quantized one.

        Args:
            wanted (str, optional): 'float', 'simulated' or 'converted'.

        Raises:
            CheckpointError: INT8 is wanted of a checkpoint without activation ranges.
        """
        if wanted not in (None, *EXECUTIONS):
            raise ValueError(f'wanted={wanted!r} was given, expected None or one of {EXECUTIONS}.')
        if wanted in ('simulated', 'converted') and not self.quantized:
            raise CheckpointError(
                f'{self.source} is a float checkpoint: it has no activation ranges, without which it cannot run in '
                'INT8. Train it with QATHook, or calibrate it: python tools/calibrate.py CONFIG CHECKPOINT. As it is, '
                'it can be deployed, tested and tried with --float.'
            )
        return wanted or ('simulated' if self.quantized else 'float')

    def settings_with(self, weight_bits: int | None = None) -> QuantizationSettings | None:
        """The settings with which it is to be run; None for a float checkpoint.

        Args:
            weight_bits (int, optional): Of its weights; None for those that it was made with.

        Raises:
            CheckpointError: Others are wanted of a checkpoint whose scales were trained.
        """
        settings = self.settings
        if settings is None or weight_bits is None or settings.with_weights(weight_bits) == settings:
            return settings
        if settings.learned_scales:
            raise CheckpointError(
                f'{self.source} was trained with learned_scales=True and weights of {settings.scheme.weight_bits} '
                f'bits: its scales belong to them, and weights of {weight_bits} bits cannot be made of it. Calibrate '
                f'it: python tools/calibrate.py CONFIG CHECKPOINT --weight-bits {weight_bits}'
            )
        return settings.with_weights(weight_bits)

    def check(self, network: 'QuantizedNetwork', settings: QuantizationSettings) -> None:
        """Refuse ranges that were made with another graph.

        Args:
            network (QuantizedNetwork): The network that they are meant for.
            settings (QuantizationSettings): Its settings.

        Raises:
            CheckpointError: Settings, graph or torchao differ; the message says which.
        """
        _check_settings(self.settings, settings, self.source)
        with self._understood():
            made_with, graph, installed = str(self._note['torchao']), self._note['graph'], version('torchao')
        if _minor(made_with) != _minor(installed):
            raise CheckpointError(
                f'{self.source} was made with torchao {made_with}, installed is {installed}, which may quantize '
                f'another way. Install it: pip install --no-deps torchao=={made_with}'
            )
        if graph != network.program.fingerprint:
            raise CheckpointError(
                f'{self.source} was made with another graph ({graph}) than this model has '
                f'({network.program.fingerprint}): the model of the config, or a package that it comes from, has '
                'changed. Use the config and the versions that the checkpoint was trained with.'
            )

    def load_into(self, model: nn.Module) -> None:
        """Load its weights into the model it was trained as; everything must fit.

        Activation ranges are the exception: those of a quantized checkpoint are left out of a float model, and a
        quantized model keeps its own where a float checkpoint has none.

        Args:
            model (nn.Module): The model, without a wrapper of distributed training.

        Raises:
            CheckpointError: An entry is missing, unexpected or of another shape.
        """
        state_dict, target = self.state_dict, dict(model.state_dict())
        here, there = ({key for key in entries if key.startswith(RANGES)} for entries in (target, state_dict))
        if there and not here:
            count = sum(key.endswith('.min_val') for key in there)
            print_log(f'{self.source}: the ranges of {count} quantized activations are left out.', logger='current')
            state_dict = {key: value for key, value in state_dict.items() if key not in there}
        if here and not there:
            print_log(f'{self.source} is a float checkpoint: it has no activation ranges.', logger='current')
            target = {key: value for key, value in target.items() if key not in here}
        check_fit(target, state_dict, type(model).__name__, self.source)
        unexpected = [key for key in state_dict if key not in target]
        if unexpected:
            raise CheckpointError(
                f'{self.source} has {len(unexpected)} entries that {type(model).__name__} lacks: '
                f'{", ".join(unexpected[:4])}{", …" if len(unexpected) > 4 else ""}. Use the config that '
                'the checkpoint was trained with.'
            )
        model.load_state_dict(state_dict, strict=False)

    # -- writing one

    def quantize(
        self,
        network: 'QuantizedNetwork',
        settings: QuantizationSettings,
        phase: Phase | str,
        points: list[str | None] | None = None,
        **about: Any,
    ) -> None:
        """Note what its ranges belong to, in its content.

        Args:
            network (QuantizedNetwork): The network.
            settings (QuantizationSettings): What it was made with.
            phase (Phase | str): That training is in; ``CALIBRATED`` for a network that was not trained so.
            points (list[str | None], optional): Where the phases begin.
            about: Further plain data.
        """
        note = dict(
            settings=settings.to_dict(),
            phase=str(phase),
            graph=network.program.fingerprint,
            torchao=version('torchao'),
        )
        if isinstance(phase, Phase):
            note |= dict(reached=asdict(phase), points=points)
        self.content['meta'] = dict(self.meta, **{QUANTIZATION: note | about})


def _check_settings(saved: QuantizationSettings, own: QuantizationSettings, source: str) -> None:
    bits = saved.scheme.weight_bits
    if own.learned_scales and bits != own.scheme.weight_bits:
        raise CheckpointError(
            f'{source} was made with QATHook(weight_bits={bits}) and trained scales, this config has '
            f'weight_bits={own.scheme.weight_bits}: the scales belong to that many bits. Set weight_bits={bits}.'
        )
    there, here = saved.to_dict(), own.to_dict()
    stateless = {'weight_bits', 'averaging_constant', 'example_shape'}
    if not own.learned_scales:
        # of weights; modules in float are compared by their own key, and by the graph
        stateless |= {'overrides', 'weight_granularity'}
    for settings, content in ((saved, there), (own, here)):
        content |= dict(weight_granularity=settings.scheme.weight_granularity)
        content['float_modules'] = sorted(content['float_modules'])
    for key in dict.fromkeys((*there, *here)):
        if key in stateless or there.get(key) == here.get(key):
            continue
        option = {'learned': 'learned_scales', 'weight_granularity': 'weights'}.get(key, key)
        raise CheckpointError(
            f'{source} was made with QATHook({option}={there.get(key)!r}), this config has {option}={here.get(key)!r}: '
            f'the ranges would belong to other tensors. Set {option}={there.get(key)!r}, or give the weights new '
            'ranges: python tools/calibrate.py CONFIG CHECKPOINT.'
        )


def _minor(text: str) -> tuple[str, ...]:
    return tuple(text.split('.')[:2])
