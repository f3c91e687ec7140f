"""What backbones of a stem and stages share: parts that do not train."""

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
