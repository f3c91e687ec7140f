"""Maps that are too small for a layer, or of other channels than it reads: in training, tests and deployments."""

import re
from traceback import walk_tb
from types import FrameType

from torch import nn

from ..models.dense import unwrap

LAYER = 'a layer'  # whose name is not known
TOO_SMALL = re.compile(
    r"Output size is too small|Kernel size can't be greater than actual input size|"
    'Padding size should be less than the corresponding input|Input and output sizes should be greater than 0'
)
MISFIT = re.compile(
    r'expected input\[.*\] to have (?P<conv>\d+) channels, but got (?P<maps>\d+)|'
    r'mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<values>\d+) and (?P<linear>\d+)x'
)


def shape_message(error: Exception) -> str | None:
    """What to say of a map that is too small for a layer, or of other channels than it reads.

    Args:
        error (Exception): What torch has raised, with its traceback: it runs through the layer.

    Returns:
        str | None: None for another error.
    """
    if not isinstance(error, RuntimeError):
        return None
    layer, first = layer_at_work(error)
    if TOO_SMALL.search(str(error)):
        return (
            f'The images are too small for the network: {layer} cannot work on its map '
            f'({str(error).splitlines()[0].rstrip(".")}). Give it a larger input: input_size or the scale of Resize, '
            'where the config has it.'
        )
    misfit = MISFIT.search(str(error))
    return _other_channels(misfit, layer, first) if misfit else None


def _other_channels(found: re.Match, layer: str, first: bool) -> str:
    """What to say of a layer that gets other channels than it reads; the first reads the images."""
    reads, gets = (found['conv'], found['maps']) if found['conv'] else (found['linear'], found['values'])
    if first:
        return (
            f'{layer} reads images of {reads} channels and gets {gets}: give the backbone in_channels={gets}, or it '
            f"images of {reads} (of grey ones, 1: LoadImageFromFile with color_type='grayscale', and one mean and std)."
        )
    part = f'model.{layer.partition(".")[0]}' if layer != LAYER else 'that part of the model'
    mend = f"give {part} the in_channels of what lies before it (the backbone's out_indices choose maps)"
    if part == 'model.backbone':
        mend = 'its layers do not fit each other'
    return (
        f'{layer} reads {reads} channels and gets {gets}: {mend}; a dense layer for images of one size needs images of '
        'that size.'
    )


def layer_at_work(error: Exception) -> tuple[str, bool]:
    """The name of the innermost module that was at work, and whether it is the first convolution of its network.

    Args:
        error (Exception): What was raised within.

    Returns:
        tuple[str, bool]: 'a layer' if none is known, as in a captured graph.
    """
    modules = [frame.f_locals.get('self') for frame in frames_of(error)]
    modules = [unwrap(module) for module in modules if isinstance(module, nn.Module)]
    if not modules:
        return LAYER, False
    network = next((module for module in modules if hasattr(module, 'backbone')), modules[0])
    names = {id(module): name for name, module in network.named_modules()}
    inner = next((module for module in reversed(modules) if id(module) in names), network)
    if next(inner.children(), None) is not None:
        return LAYER, False
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return names[id(inner)] or LAYER, inner is first


def frames_of(error: Exception) -> list[FrameType]:
    """The frames that an error came through, the outermost first."""
    return [frame for frame, _ in walk_tb(error.__traceback__)]
