"""One network with the weights of all networks of a search space: each is a slice of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils.checkpoint as cp
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, initialize
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ..models.backbones.frost_blocks import Bottleneck, block_class, build_block, placed_rows
from ..models.backbones.frostnet import FrostNet, initialization
from ..models.backbones.staged import StagedBackbone
from ..models.frostnet_arch import BlockSpec
from ..registry import MODELS
from .architectures import Arch, canonical, count_weights
from .positions import Position
from .space import SearchSpace

ConfigDict = dict


class _TakePart(torch.autograd.Function):
    """Passes a tensor on, and gives parameters that take no part in a network gradients of zero.

    Distributed training waits for the gradient of every parameter, and averages those that it was given in the very
    step that it synchronizes: what other networks of the same update left in a parameter would else be averaged in none
    or in another one.
    """

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.like = parameters
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.like)


def sliced(source: Tensor, shape: Sequence[int], kept: int = 0) -> Tensor:
    """The part of a weight, of a norm's parameter or of a statistic that a smaller layer uses.

    Args:
        source (Tensor): That of the largest layer: (C_out, C_in / groups, K, K), (C,) or a single number.
        shape (Sequence[int]): Of the smaller layer.
        kept (int): How many of the last input channels stay, whatever comes before them. Default: 0.

    Returns:
        Tensor: The first output channels; the first input channels, or the first and the last; the centre of the
        kernel. A view where nothing is joined and the kernel is whole.
    """
    if tuple(source.shape) == tuple(shape):
        return source
    part = source[: shape[0]]
    if len(shape) == 1:
        return part
    if shape[1] < part.shape[1]:
        first = part[:, : shape[1] - kept]
        part = torch.cat((first, part[:, part.shape[1] - kept :]), 1) if kept else first
    top, left = ((large - small) // 2 for large, small in zip(part.shape[2:], shape[2:], strict=True))
    return part[:, :, top : top + shape[2], left : left + shape[3]].contiguous()


class ElasticBlock(BaseModule):
    """A place for a block, with weights for all that it may be.

    Args:
        position (Position): What it may be.
        stride (int): Stride of the block.
        dilation (int): Its dilation.
        with_cp (bool): Gradient checkpointing.
        cfg (dict): ``norm_cfg`` and ``act_cfg``.
    """

    def __init__(self, position: Position, stride: int, dilation: int, with_cp: bool, cfg: ConfigDict) -> None:
        super().__init__()
        self.position, self.stride, self.dilation, self.with_cp, self.cfg = position, stride, dilation, with_cp, cfg
        rows: dict[str, list[BlockSpec]] = {}
        for row in position.rows:
            rows.setdefault(self.family(row), []).append(row)
        self.largest = nn.ModuleDict({name: self._build(_union(position, own)) for name, own in rows.items()})
        self._forms: dict[tuple[BlockSpec, bool], Bottleneck] = {}  # not registered: they hold no numbers

    @staticmethod
    def family(row: BlockSpec) -> str:
        """The name of the weights that a row uses."""
        return block_class(row).family or row.kind

    def _build(self, row: BlockSpec) -> Bottleneck:
        return build_block(self.position.in_channels, row._replace(stride=self.stride), self.dilation, **self.cfg)

    def form(self, row: BlockSpec) -> Bottleneck:
        """The plain block of a row, without numbers: only shapes and what is computed."""
        largest = self.largest[self.family(row)]
        synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in largest.modules())
        place = row, synchronized  # norms are converted once the model is built
        if place not in self._forms:
            with torch.device('meta'):
                block = self._build(row)
                block = nn.SyncBatchNorm.convert_sync_batchnorm(block) if synchronized else block
            for layer in _layers(block).values():
                layer.register_forward_pre_hook(_round_input)
                layer.register_forward_hook(_round_output)
            self._forms[place] = block
        return self._forms[place]

    def tensors(self, row: BlockSpec) -> dict[str, Tensor]:
        """The parameters and buffers of the plain block of a row, as slices of those here."""
        largest = self.largest[self.family(row)]
        return self.slices(row, dict(largest.named_parameters()) | dict(largest.named_buffers()))

    def slices(self, row: BlockSpec, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts that the plain block of a row uses of tensors as large as those here, by name."""
        form, found = self.form(row), {}
        for name, value in (*form.named_parameters(), *form.named_buffers()):
            kept = form.input_columns(name.partition('.')[0], self.position.in_channels)
            found[name] = sliced(sources[name], value.shape, kept)
        return found

    def unused(self, row: BlockSpec | None) -> list[nn.Parameter]:
        """The parameters that take no part in the block of a row; None is no block."""
        if row is None:
            return list(self.parameters())
        names = {f'{self.family(row)}.{name}' for name, _ in self.form(row).named_parameters()}
        return [parameter for name, parameter in self.largest.named_parameters() if name not in names]

    def forward(self, x: Tensor, row: BlockSpec, rounding: Any = None) -> Tensor:
        """Run the block of a row.

        Args:
            x (Tensor): (N, C, H, W).
            row (BlockSpec): One of the position's.
            rounding (BatchRounding, optional): Simulates INT8. Default: float.
        """
        if self.with_cp and self.training and torch.is_grad_enabled():
            return cp.checkpoint(self._run, x, row, rounding, use_reentrant=False)
        return self._run(x, row, rounding)

    def _run(self, x: Tensor, row: BlockSpec, rounding: Any) -> Tensor:
        form, largest, tensors = self.form(row), self.largest[self.family(row)], self.tensors(row)
        for name, module in form.named_modules():
            module.training = largest.get_submodule(name).training  # as frozen stages and norm_eval set it
        out = run_layer(form, tensors, x, rounding)
        return out if rounding is None else rounding.activations(out)


def _union(position: Position, rows: Sequence[BlockSpec]) -> BlockSpec:
    """The row of the block that has the largest of everything."""
    ratios = [row.reduction for row in rows if row.reduction is not None]
    return max(rows, key=lambda row: count_weights(position.in_channels, row))._replace(
        kernel=max(row.kernel for row in rows),
        expansion=max(row.expansion for row in rows),
        reduction=min(ratios) if ratios else None,
    )


def _layers(module: nn.Module) -> dict[str, ConvModule]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, ConvModule)}


def run_layer(module: nn.Module, tensors: dict[str, Tensor], x: Tensor, rounding: Any) -> Tensor:
    """Run a block or a layer with other tensors than its own.

    Args:
        module (nn.Module): What to compute.
        tensors (dict[str, Tensor]): Its parameters and buffers.
        x (Tensor): Its input.
        rounding (BatchRounding, optional): Simulates INT8; None is float.
    """
    for name, layer in _layers(module).items():
        layer.__dict__['rounding'] = rounding
        if rounding is not None:
            prefix = f'{name}.' if name else ''
            norm = {key: tensors.get(f'{prefix}{layer.norm_name}.{key}') for key in ('weight', 'running_var')}
            weight = f'{prefix}conv.weight'
            tensors[weight] = rounding.weights(tensors[weight], norm['weight'], norm['running_var'], layer.norm.eps)
    return functional_call(module, tensors, (x,))


def _round_input(layer: ConvModule, args: tuple) -> tuple | None:
    rounding = layer.__dict__.get('rounding')
    return None if rounding is None else (rounding.activations(args[0]),)  # such as that of a concatenation


def _round_output(layer: ConvModule, args: tuple, output: Tensor) -> Tensor | None:
    rounding = layer.__dict__.get('rounding')
    return None if rounding is None else rounding.activations(output)


@MODELS.register_module()
class ElasticFrostNet(StagedBackbone):
    """All FrostNets of a search space in one network, a backbone as any other (a supernet with shared weights).

    It runs one network at a time, the one that :meth:`choose` names; at first the largest. A network uses the first
    output channels of each layer and the centre of each kernel. Input channels are the first ones too, but for the
    expansion of a Frost block, which reads the squeezed channels and then the block's input: without squeeze, or with a
    narrower one, the columns that read the input remain. Batch norms are cut channel by channel. Blocks are left out
    from the end of their run.

    Frost and inverted blocks share all weights. Fused blocks have weights of their own: a dense kernel has nothing in
    common with an expansion or a depthwise kernel, nor the projection with one that reads other channels. Neither are
    the blocks of two places shared.

    Statistics of batch norms are mixtures of those of all networks, so that a network that was extracted needs its own
    (:func:`frostnet_mm.nas.recalibrate.recalibrate`).

    In training, parameters that take no part in the chosen network have gradients of zero in place of none, so that
    distributed training works as it is, without ``find_unused_parameters``.

    Args:
        arch (str | dict): The base of the space: a name or a table, as for :class:`FrostNet`. Default: 'small'.
        space (dict, optional): Options of :class:`SearchSpace`. Default: its defaults.
        widen_factor (float): Width multiplier of the base. Default: 1.
        out_indices, output_stride, frozen_stages, norm_eval, norm_cfg, act_cfg, with_cp, init_cfg, in_channels:
            As for :class:`~frostnet_mm.FrostNet`; the weights of a ``Pretrained`` checkpoint are those of the base.

    Attributes:
        space (SearchSpace): The networks.
        chosen (FrostNetArch): The one that runs.
        rounding (BatchRounding, optional): Simulates INT8; None is float.

    Raises:
        SearchError: The space is wrong.
        ValueError: Another argument is.
    """

    def __init__(
        self,
        arch: Arch = 'small',
        space: Mapping | None = None,
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
        options = dict(
            out_indices=out_indices,
            output_stride=output_stride,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            with_cp=with_cp,
            in_channels=in_channels,
        )
        with torch.device('meta'):  # which checks the arguments
            base = FrostNet(arch, widen_factor, init_cfg=init_cfg, **options)
        super().__init__(base.init_cfg)
        self.space = SearchSpace.of(arch, space, widen_factor, len(base.stages))
        self.options = options
        self.out_indices, self.out_channels = base.out_indices, base.out_channels
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.rounding: Any = None
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        self.stem = ConvModule(
            in_channels, self.space.base.stem, 3, stride=self.space.base.stem_stride, padding=1, **cfg
        )
        places = placed_rows(self.space.largest, base.output_stride)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ElasticBlock(position, row.stride, dilation, with_cp, cfg)
                for position, (_, row, dilation) in zip(_positions(runs), placed, strict=True)
            )
            for runs, placed in zip(self.space.stages[: len(base.stages)], places, strict=False)
        )
        self.choose(self.space.largest)
        self._freeze_stages()

    def choose(self, arch: Arch) -> None:
        """Run another network from now on.

        Args:
            arch (str | dict): Of the space.

        Raises:
            SearchError: It is not in the space.
        """
        self._places = self._locate(arch)
        self.chosen = canonical(arch)
        self._unused = []
        for stage, places in zip(self.stages, self._places, strict=True):
            rows = dict(places)
            for index, block in enumerate(stage):
                self._unused += block.unused(rows.get(index))

    def _locate(self, arch: Arch) -> list[list[tuple[int, BlockSpec]]]:
        return self.space.locate(arch)[: len(self.stages)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features with the chosen network; see :meth:`FrostNet.forward`."""
        x = self._run_stem(x)
        if self.training and torch.is_grad_enabled():
            idle = [parameter for parameter in self._unused if parameter.requires_grad]
            rounded = getattr(x, 'is_rounded', False)
            x = _TakePart.apply(x, *idle) if idle else x
            x.is_rounded = rounded
        outs = []
        for index, (stage, places) in enumerate(zip(self.stages, self._places, strict=True)):
            for place, row in places:
                x = stage[place](x, row, self.rounding)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _run_stem(self, x: Tensor) -> Tensor:
        if self.rounding is None:
            return self.stem(x)
        tensors = dict(self.stem.named_parameters()) | dict(self.stem.named_buffers())
        x = run_layer(self.stem, tensors, self.rounding.activations(x), self.rounding)
        return self.rounding.activations(x)

    def extract(self, arch: Arch | None = None) -> dict[str, Tensor]:
        """The weights of a network as the plain FrostNet has them, which computes the same numbers to the last bit.

        Args:
            arch (str | dict, optional): Of the space. Default: the chosen one.

        Returns:
            dict[str, Tensor]: Its state dict, copied.

        Raises:
            SearchError: The network is not in the space.
        """
        found = {f'stem.{name}': value for name, value in self.stem.state_dict().items()}
        for index, places in enumerate(self._locate(self.chosen if arch is None else arch)):
            for number, (place, row) in enumerate(places):
                for name, value in self.stages[index][place].tensors(row).items():
                    found[f'stages.{index}.{number}.{name}'] = value
        return {name: value.detach().clone() for name, value in found.items()}

    def plain(self, arch: Arch | None = None) -> FrostNet:
        """A network as a plain FrostNet with its own copy of the weights, in the mode and on the device of this one.

        Args:
            arch (str | dict, optional): Of the space. Default: the chosen one.
        """
        network = FrostNet(canonical(self.chosen if arch is None else arch), **self.options)
        network.load_state_dict(self.extract(arch))
        return network.to(next(self.parameters()).device).train(self.training)

    @torch.no_grad()
    def insert(self, weights: Mapping[str, Tensor], arch: Arch) -> None:
        """Take over the weights of a plain network: the opposite of :meth:`extract`. All other weights stay.

        Args:
            weights (dict[str, Tensor]): Its state dict.
            arch (str | dict): Its architecture, of the space.

        Raises:
            SearchError: The network is not in the space.
            KeyError: A weight is missing.
        """
        for name, value in self.stem.state_dict().items():
            value.copy_(weights[f'stem.{name}'])
        for index, places in enumerate(self._locate(arch)):
            for number, (place, row) in enumerate(places):
                block = self.stages[index][place]
                own = block.largest[block.family(row)].state_dict()
                numbered = {name: torch.arange(value.numel()).view(value.shape) for name, value in own.items()}
                for name, cells in block.slices(row, numbered).items():
                    value = weights[f'stages.{index}.{number}.{name}'].to(own[name])
                    own[name].view(-1)[cells.flatten().to(value.device)] = value.flatten()

    def read_pretrained(self, path: str, prefix: str | None = None) -> None:
        """Take the weights of the base from a checkpoint; the others begin as without one.

        Args:
            path (str): The file.
            prefix (str, optional): Where in it the weights are. Default: found.

        Raises:
            SearchError: The base is not in the space.
        """
        initialize(self, initialization())
        base = FrostNet(self.space.base, **self.options)
        base.read_pretrained(path, prefix)
        self.insert(base.state_dict(), self.space.base)


def _positions(runs: Sequence) -> list[Position]:
    return [position for run in runs for position in run.positions]
