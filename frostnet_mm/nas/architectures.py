"""Architectures as a search knows them: one table a network, a short name for it, and what its blocks weigh."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch

from ..models.backbones.frost_blocks import block_class, build_block, check_kinds
from ..models.frostnet_arch import BlockSpec, FrostNetArch

Arch = str | Mapping | FrostNetArch


def canonical(arch: Arch) -> FrostNetArch:
    """The one table by which a network is known that several tables make.

    Args:
        arch (str | dict): An architecture. An inverted block is a Frost block without squeeze; a reduction that leaves
            out the squeeze is None; channels are those that are built.

    Raises:
        ValueError: It is no architecture.
    """
    arch = FrostNetArch.from_config(arch).widened(1.0)
    check_kinds(arch)
    channels, stages = arch.stem, []
    for rows in arch.stages:
        stage = []
        for row in rows:
            stage.append(block_class(row).canonical(channels, row))
            channels = row.channels
        stages.append(tuple(stage))
    return replace(arch, stages=tuple(stages))


def key(arch: Arch) -> str:
    """A short name of a network: the same for all tables that make it, in every process and version.

    Args:
        arch (str | dict): An architecture.
    """
    return hashlib.sha256(json.dumps(canonical(arch).to_config()).encode()).hexdigest()[:16]


@cache
def count_weights(in_channels: int, row: BlockSpec) -> int:
    """Parameters of a block."""
    with torch.device('meta'):
        return sum(parameter.numel() for parameter in build_block(in_channels, row).parameters())
