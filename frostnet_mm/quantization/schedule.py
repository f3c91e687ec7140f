"""Points of a training run, in epochs, iterations or percent, compared with absolute progress."""

import re
from dataclasses import asdict, astuple, dataclass

from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop

from .errors import QuantizationError

_UNITS = {'epoch': 'epochs', 'epochs': 'epochs', 'iteration': 'iterations', 'iterations': 'iterations', '%': 'percent'}


@dataclass(frozen=True)
class Phase:
    """What is on during a training iteration.

    Args:
        simulating (bool): INT8 is simulated: the float warm-up is over.
        norms_frozen (bool): Batch norms normalize by their running statistics, which no longer change.
        ranges_frozen (bool): Activation ranges no longer change.
    """

    simulating: bool
    norms_frozen: bool = False
    ranges_frozen: bool = False

    def __or__(self, other: 'Phase') -> 'Phase':
        """All that is on in either."""
        return Phase(*(one or two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def flags(self) -> dict[str, int]:
        """What is on, as 0 and 1 by name: scalars of a training's log, from which curves show its phases."""
        return {name: int(on) for name, on in asdict(self).items()}

    def __str__(self) -> str:
        if not self.simulating:
            return 'float warm-up'
        frozen = [name for name, on in (('batch norm', self.norms_frozen), ('ranges', self.ranges_frozen)) if on]
        return f'QAT, {" and ".join(frozen)} frozen' if frozen else 'QAT'


@dataclass(frozen=True)
class TrainingPoint:
    """A point of a training run, such as '2 epochs', '500 iterations' or '80 %'.

    Args:
        amount (float): How many.
        unit (str): 'epochs', 'iterations' or 'percent' (of the whole run).
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str | int | float, name: str) -> 'TrainingPoint':
        """Read a point.

        Args:
            text (str | int | float): As '1 epoch', '2 epochs', '500 iterations' or '80 %'; 0 for the start.
            name (str): Name of the option, for messages.

        Returns:
            TrainingPoint: The point.

        Raises:
            QuantizationError: The text is none of these.
        """
        if text == 0 and not isinstance(text, str):
            return cls(0, 'iterations')
        match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*(epochs?|iterations?|%)\s*', str(text))
        if not match:
            raise QuantizationError(
                f"{name}={text!r} was given; expected a number with its unit: '1 epoch', '2 epochs', "
                "'500 iterations', '80 %' of the training, or 0."
            )
        return cls(float(match[1]), _UNITS[match[2]])

    def reached(self, loop: BaseLoop) -> bool:
        """Whether a training loop is at or beyond this point, before its next iteration.

        Args:
            loop (BaseLoop): mmengine's epoch-based or iteration-based training loop.
        """
        return self.progress(loop) >= self.amount

    def progress(self, loop: BaseLoop) -> float:
        """How far a loop is, in the unit of this point."""
        if self.unit == 'iterations':
            return loop.iter
        length = len(loop.dataloader)
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if by_epoch:
            # Whole epochs count as such: they may have had another length before a resume.
            within = (loop.iter - loop.epoch * length) / length
            epochs = loop.epoch + (within if 0 <= within < 1 else 0)
        else:
            epochs = loop.iter / length
        if self.unit == 'epochs':
            return epochs
        return 100 * (epochs / loop.max_epochs if by_epoch else loop.iter / loop.max_iters)

    def end(self, loop: BaseLoop) -> float:
        """How far the loop is when it is over, in the unit of this point."""
        if self.unit == 'percent':
            return 100
        if self.unit == 'iterations':
            return loop.max_iters
        return loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters / len(loop.dataloader)

    def __str__(self) -> str:
        return f'{self.amount:g} %' if self.unit == 'percent' else f'{self.amount:g} {self.unit}'


def steps_left(loop: BaseLoop, wrapper: OptimWrapper) -> int:
    """How many steps the optimizer makes from a training loop's next iteration to the end."""
    return -(-(loop.max_iters - loop.iter) // getattr(wrapper, '_accumulative_counts', 1))
