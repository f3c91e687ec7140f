"""From a config's backbone to the search's and back, and from a trained supernet to plain models."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..models.dense import unwrap
from ..registry import is_type, reads_checkpoint
from .architectures import Arch, canonical
from .elastic import ElasticFrostNet
from .errors import SearchError
from .space import SearchSpace

PLAIN, ELASTIC = 'frostnet_mm.FrostNet', 'frostnet_mm.ElasticFrostNet'
Backbone = Mapping[str, Any]


def space_of(backbone: Backbone, space: Mapping | None = None) -> SearchSpace:
    """The search space around the FrostNet of a config.

    Args:
        backbone (dict): The config's ``model.backbone``, a FrostNet or an ElasticFrostNet.
        space (dict, optional): Options of :class:`SearchSpace`. Default: the backbone's own, or the defaults.

    Raises:
        SearchError: The backbone is another one, or the space is wrong.
    """
    _require_frostnet(backbone)
    options = backbone.get('space') if space is None else space
    indices = backbone.get('out_indices')
    built = None if indices is None else max(indices) + 1
    return SearchSpace.of(backbone.get('arch', 'small'), options, backbone.get('widen_factor', 1.0), built)


def elastic_backbone(backbone: Backbone, space: Mapping | None = None) -> dict:
    """The supernet in the place of a config's FrostNet.

    Args:
        backbone (dict): The config's ``model.backbone``.
        space (dict, optional): Options of :class:`SearchSpace`. Default: its defaults.

    Returns:
        dict: A config to build, with all other options of the backbone; ``_delete_`` is not set.
    """
    _require_frostnet(backbone)
    return {**backbone, 'type': ELASTIC, 'space': dict(space or {})}


def plain_backbone(backbone: Backbone, arch: Arch) -> dict:
    """A network as the FrostNet of a config.

    Args:
        backbone (dict): The config's ``model.backbone``, a FrostNet or an ElasticFrostNet.
        arch (str | dict): The architecture; its channels are final.

    Returns:
        dict: A config to build, with all other options of the backbone but a ``Pretrained`` checkpoint of the base.
    """
    _require_frostnet(backbone)
    rest = {name: value for name, value in backbone.items() if name not in ('space', 'widen_factor')}
    if reads_checkpoint(rest.get('init_cfg')):
        del rest['init_cfg']  # weights of the base
    return rest | dict(type=PLAIN, arch=canonical(arch).to_config())


def _require_frostnet(backbone: Backbone) -> None:
    if not any(is_type(backbone, name) for name in (PLAIN, ELASTIC)):
        raise SearchError(
            f'The backbone is {backbone.get("type")!r}, but the search chooses among FrostNets: put one in its place '
            'with tools/swap_backbone.py CONFIG --out NEW_CONFIG.'
        )


def elastic_of(model: nn.Module) -> ElasticFrostNet:
    """The supernet of a model, wrapped for distributed training or not.

    Raises:
        SearchError: Its backbone is none.
    """
    backbone = getattr(unwrap(model), 'backbone', None)
    if not isinstance(backbone, ElasticFrostNet):
        raise SearchError(
            f'The backbone is a {type(backbone).__name__}; expected an ElasticFrostNet: '
            "model.backbone.type='frostnet_mm.ElasticFrostNet' in the config."
        )
    return backbone


def extract_model(model: nn.Module, arch: Arch | None = None) -> nn.Module:
    """A copy of a model with a network of its supernet as a plain FrostNet. Batch norms need :func:`recalibrate`.

    Args:
        model (nn.Module): A detector or segmenter whose backbone is an :class:`ElasticFrostNet`.
        arch (str | dict, optional): Of the space. Default: the chosen one.

    Returns:
        nn.Module: As a model of a plain config.

    Raises:
        SearchError: The backbone is no supernet, or the network is not in its space.
    """
    inner = unwrap(model)
    backbone = elastic_of(inner)
    return copy.deepcopy(inner, {id(backbone): backbone.plain(arch)})
