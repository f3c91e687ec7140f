"""FrostNet, https://arxiv.org/abs/2006.09679."""

from collections.abc import Mapping, Sequence

from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ...registry import MODELS
from ..checkpoints import load_pretrained
from ..frostnet_arch import ARCHS, NUM_STAGES, STEM_CHANNELS, BlockSpec, FrostNetArch, divisible
from .frost_blocks import FrostBottleneck, build_block, check_kinds, placed_rows
from .staged import StagedBackbone, require_stages

__all__ = ['ARCHS', 'NUM_STAGES', 'STEM_CHANNELS', 'BlockSpec', 'FrostBottleneck', 'FrostNet', 'divisible']

ConfigDict = dict


@MODELS.register_module()
class FrostNet(StagedBackbone):
    """FrostNet feature extractor of `FrostNet <https://arxiv.org/abs/2006.09679>`_.

    A 3x3 stem of stride 2 (1 where the table says so) and stages of blocks: five stages of Frost bottlenecks in the
    released variants, whose outputs have strides 4, 8, 16, 32 and 32. Plain float code: quantization is applied to the
    exported network, not here.

    Args:
        arch (str | dict): 'small', 'base' or 'large' of the authors' release; 'engine-s', 'engine-m' or 'engine-l',
            which are fast in INT8 on CPUs (docs/search.md); or a table of any number of stages:
            ``dict(stem=32, stages=[[(kernel, channels, expansion, reduction, stride[, kind]), ...], ...])``, whose
            fields :class:`BlockSpec` describes. Default: 'small'.
        widen_factor (float): Width multiplier of all channels; the authors use 0.35, 0.5, 0.75, 1.0 and 1.25.
            Default: 1.0.
        out_indices (Sequence[int], optional): Stages whose outputs are returned, from 0. Later stages than the last one
            named are not built. Default: the last stage at each stride, which is (0, 1, 2, 4) for the released
            variants (strides 4, 8, 16 and 32).
        output_stride (int, optional): Stride of the last stage: that of the table (32 for the released variants), or a
            half or a quarter of it and so on down to 8, by dilation (16: stages 3 and 4 of the released variants; 8:
            stages 2 to 4). A block that loses its stride keeps the dilation of its input, so that the dilated network
            sampled at every second (fourth) position computes exactly what the strided network does, with the same
            weights. Default: that of the table.
        frozen_stages (int): Stages frozen (no gradients, BN in eval mode): -1 none, 0 the stem, n the stem and the
            first n stages. Default: -1.
        norm_eval (bool): Keep all normalization layers in eval mode while training. Default: False.
        norm_cfg (dict): Config of the normalization layers. Default: dict(type='BN'), whose eps of 1e-5 is that of the
            released weights.
        act_cfg (dict): Config of the activation layers. Default: dict(type='ReLU').
        with_cp (bool): Gradient checkpointing in every block. Default: False.
        init_cfg (dict | list[dict], optional): Initialization config. Default: Kaiming normal (fan out) for
            convolutions, 1 and 0 for normalization. ``dict(type='Pretrained', checkpoint=FILE)`` reads an mm
            checkpoint or a file of the authors' release alike.
        in_channels (int): Channels of the images; 1 for grey ones. Default: 3.

    Raises:
        ValueError: An argument is outside of what is listed above.

    Examples:
        >>> import torch
        >>> from frostnet_mm import FrostNet
        >>> [tuple(f.shape) for f in FrostNet('small')(torch.rand(1, 3, 224, 224))]
        [(1, 24, 56, 56), (1, 40, 28, 28), (1, 96, 14, 14), (1, 320, 7, 7)]
    """

    def __init__(
        self,
        arch: str | Mapping | FrostNetArch = 'small',
        widen_factor: float = 1.0,
        out_indices: Sequence[int] | None = None,
        output_stride: int | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: ConfigDict | None = None,
        act_cfg: ConfigDict | None = None,
        with_cp: bool = False,
        init_cfg: ConfigDict | list[ConfigDict] | None = None,
        in_channels: int = 3,
    ) -> None:
        spec = FrostNetArch.from_config(arch)
        out_indices = spec.default_out_indices if out_indices is None else out_indices
        output_stride = spec.strides[-1] if output_stride is None else output_stride
        check_kinds(spec)
        _check_arguments(spec, widen_factor, out_indices, output_stride, frozen_stages)
        super().__init__(init_cfg or initialization())
        self.arch = arch if isinstance(arch, str) else spec
        self.widen_factor = widen_factor
        self.out_indices = tuple(out_indices)
        self.output_stride = output_stride
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))

        wide = spec.widened(widen_factor)
        self.stem = ConvModule(in_channels, wide.stem, 3, stride=spec.stem_stride, padding=1, **cfg)
        self.stages = nn.ModuleList()
        self.out_channels: tuple[int, ...] = ()
        for rows in placed_rows(wide, output_stride)[: max(self.out_indices) + 1]:
            self.stages.append(nn.Sequential(*(build_block(*placed, with_cp=with_cp, **cfg) for placed in rows)))
            self.out_channels += (rows[-1][1].channels,)
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x (Tensor): Images, (N, 3, H, W).

        Returns:
            tuple[Tensor]: The outputs of the stages in ``out_indices``, (N, C, ceil(H / stride), ceil(W / stride)).
        """
        x = self.stem(x)
        outs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def read_pretrained(self, path: str, prefix: str | None = None) -> None:
        """Take all weights from the checkpoint that ``init_cfg`` names; one of the authors' release is read as it is.

        Args:
            path (str): The file.
            prefix (str, optional): Where in it the weights are. Default: found.
        """
        load_pretrained(self, path, prefix)


def initialization() -> list[ConfigDict]:
    """How weights begin: Kaiming normal (fan out) for convolutions, 1 and 0 for normalization."""
    return [
        dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
        dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1),
    ]


def _check_arguments(
    spec: FrostNetArch, widen_factor: float, out_indices: Sequence[int], output_stride: int, frozen_stages: int
) -> None:
    if isinstance(widen_factor, bool) or not isinstance(widen_factor, (int, float)) or not 0 < widen_factor <= 8:
        raise ValueError(
            f'widen_factor={widen_factor!r} is not a width: give a number above 0 (at most 8), '
            'for example 0.35, 0.5, 0.75, 1.0 or 1.25.'
        )
    indices = require_stages(out_indices, len(spec.stages), spec.default_out_indices[-2:], spec.strides)
    allowed = spec.output_strides
    if output_stride not in allowed:
        raise ValueError(f'output_stride={output_stride!r} must be {_alternatives(allowed)}.')
    if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= max(indices) + 1:
        raise ValueError(
            f'frozen_stages={frozen_stages!r} must lie between -1 (nothing frozen) and {max(indices) + 1} '
            f'(the stem and all stages up to the last of out_indices={indices}).'
        )


def _alternatives(values: Sequence[int]) -> str:
    return ' or '.join(filter(None, (', '.join(map(str, values[:-1])), str(values[-1]))))
