"""What a user asks of a config for data of one's own, and its text."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...data.own_folders import Undecided
from ...models.frostnet_arch import ARCHS
from ..swap.config_text import format_value

STRIDE = 32  # of the backbone: sides of the input are multiples
STEPS, EPOCHS = 3000, (24, 150)  # of training from scratch (docs/training.md), within these numbers of epochs
_WIDTH = 120
PLACES = ('--train-labels', '--val-labels', '--train-images', '--val-images')


class Wishes(NamedTuple):
    """What is asked for.

    Args:
        out (Path): The config to write.
        root (Path): Folder of the data.
        backbone (str): Variant of FrostNet.
        size (int, optional): Sides of the input in pixels; None leaves it to the data.
        qat (bool): Whether to train in simulated INT8.
        epochs (int, optional): None leaves it to the number of images.
        classes (tuple[str, ...], optional): Names; None leaves them to the data.
        labels (tuple): Annotation file or label folder of training and validation, where they are told.
        images (tuple): Image folder of each, where it is told.
        val_share (float, optional): Share of the images for validation, where the data have no such part.
        command (str): The command that was given, for the head of the config.
    """

    out: Path
    root: Path
    backbone: str = 'small'
    size: int | None = None
    qat: bool = False
    epochs: int | None = None
    classes: tuple[str, ...] | None = None
    labels: tuple[Path | None, Path | None] = (None, None)
    images: tuple[Path | None, Path | None] = (None, None)
    val_share: float | None = None
    command: str = 'frostnet new'

    def check(self, least: int = 3 * STRIDE) -> None:
        """Check what needs no look at the data.

        Args:
            least (int): The smallest size.

        Raises:
            Undecided: It cannot be; the message names the option that mends it.
        """
        if not self.root.is_dir():
            raise Undecided(f"Where are the data? '{self.root}' is no folder. Say it: --data FOLDER.")
        if self.backbone not in ARCHS:
            raise Undecided(f'Which backbone? There is no FrostNet {self.backbone!r}: --backbone {", ".join(ARCHS)}.')
        if self.size is not None and (self.size % STRIDE or self.size < least):
            near = max(least, round(self.size / STRIDE) * STRIDE)
            raise Undecided(
                f'Which size? --size {self.size} is no multiple of {STRIDE}, or below {least}: --size {near}.'
            )
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise Undecided(f'Which share for validation? --val-share {self.val_share} is not between 0 and 1: 0.2.')
        given = zip(PLACES, (*self.labels, *self.images), strict=True)
        for option, path in given:
            if path is not None and not path.exists():
                raise Undecided(f"Where is it? {option} '{path}' does not exist, seen from the working directory.")

    def start(self, data: str, base: str, qat_base: str) -> 'Text':
        """Begin the config.

        Args:
            data (str): What the data are.
            base, qat_base (str): Config to inherit, and the one that trains in simulated INT8.
        """
        head = f'Written by: {self.command}', f'Data: {data}. Change what you like: all else follows.'
        text = Text(head, qat_base if self.qat else base)
        text.say('', data_root=str(self.root.resolve()))
        return text


class Text:
    """A config that grows line by line, with a reason above each setting.

    Args:
        head (Sequence[str]): The first comments, a paragraph each.
        base (str): Name of the config to inherit.
    """

    def __init__(self, head: Sequence[str], base: str) -> None:
        self.lines = [line for text in head for line in _wrapped(text)]
        self.lines += [f"_base_ = 'frostnet_mm::{base}'"]

    def say(self, reason: str, **settings: Any) -> None:
        """Add settings, and above them why.

        Args:
            reason (str): The comment; '' for none.
            **settings: Variables and their values.
        """
        self.lines += ['', *_wrapped(reason)] if reason else []
        for name, value in settings.items():
            self.lines.append(f'{name} = {_packed(value) or format_value(value, start=len(name) + 3)}')

    def raw(self, line: str) -> None:
        """Add a line as it is."""
        self.lines.append(line)

    def __str__(self) -> str:
        return '\n'.join(self.lines) + '\n'


def say_schedule(text: Text, asked: int | None, images: int, batch: int, metric: str) -> None:
    """Add the batch size (the learning rate's too), the epochs, and after how many of them there is a validation.

    Args:
        text (Text): The config.
        asked (int, optional): Epochs that are asked for.
        images (int): Number of training images.
        batch (int): Images a step, if there are enough of them.
        metric (str): What rises while training goes on.
    """
    batch = max(1, min(batch, images // 4))
    steps = max(1, images // batch)
    epochs = asked or min(max(round(STEPS / steps), EPOCHS[0]), EPOCHS[1])
    interval = max(1, round(epochs / 10))
    epochs = asked or -(-epochs // interval) * interval
    interval = interval if epochs % interval == 0 else 1
    why = 'asked for' if asked else f'about {STEPS} steps, but {EPOCHS[0]} to {EPOCHS[1]} epochs'
    text.say(
        f'{steps} steps an epoch; {why}. If {metric} still rises at the end, train longer. ImageNet weights '
        '(docs/training.md) reach the same in fewer.',
        batch_size=batch,
        max_epochs=epochs,
        train_cfg=dict(val_interval=interval),
    )
    text.say(
        'The batch that the learning rate is for: what --auto-scale-lr counts from.',
        auto_scale_lr=dict(base_batch_size=batch),
    )


def _packed(value: Any) -> str | None:
    """A long tuple of plain values, as many a line as fit; None for anything else."""
    if not isinstance(value, tuple) or len(repr(value)) < 100 or any(isinstance(item, (tuple, dict)) for item in value):
        return None
    lines, line = [], '   '
    for item in value:
        if len(line) + len(repr(item)) + 2 > _WIDTH:
            lines, line = [*lines, line], '   '
        line += f' {item!r},'
    return '\n'.join(['(', *lines, line, ')'])


def _wrapped(text: str) -> list[str]:
    """Comment lines of at most 120 characters."""
    lines, line = [], '#'
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH and line != '#':
            lines, line = [*lines, line], '#'
        line += f' {word}'
    return [*lines, line]


def multiple(value: float, of: int = STRIDE) -> int:
    """The next multiple of a number that is not below a value."""
    return math.ceil(value / of) * of
