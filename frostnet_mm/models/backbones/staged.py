"""What backbones of a stem and stages share: parts that do not train, and the stages that are returned."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class StagedBackbone(BaseModule):
    """A backbone of a stem and stages, of which the first may be frozen.

    Subclasses set all attributes before they call :meth:`_freeze_stages`.

    Attributes:
        stem (nn.Module): What comes before the stages.
        stages (nn.ModuleList): The stages.
        frozen_stages (int): -1 none, 0 the stem, n the stem and the first n stages.
        norm_eval (bool): Keep all normalization layers in eval mode while training.
    """

    stem: nn.Module
    stages: nn.ModuleList
    frozen_stages: int
    norm_eval: bool

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'StagedBackbone':
        """Set training mode; frozen stages, and with ``norm_eval`` all normalization layers, stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def require_stages(
    out_indices: Sequence[int], count: int, example: Sequence[int], strides: Sequence[int] = (), kind: str = 'stages'
) -> tuple[int, ...]:
    """The stages whose outputs a backbone returns.

    Args:
        out_indices (Sequence[int]): As it was given.
        count (int): How many stages there are.
        example (Sequence[int]): Some, for the message.
        strides (Sequence[int], optional): Of the stages, for the message.
        kind (str): What they are called. Default: 'stages'.

    Raises:
        ValueError: They are no stages, none at all, or not in ascending order, each once.
    """
    indices = tuple(out_indices) if isinstance(out_indices, Sequence) else ()
    whole = all(isinstance(index, int) and not isinstance(index, bool) and 0 <= index < count for index in indices)
    if not indices or not whole or list(indices) != sorted(set(indices)):
        of = f' (strides {", ".join(map(str, strides))})' if strides else ''
        raise ValueError(
            f'out_indices={out_indices!r} must name {kind} 0 to {count - 1}{of} in ascending order, each once, for '
            f'example {tuple(example)}.'
        )
    return indices
