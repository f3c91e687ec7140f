"""Where numbers stop being finite: in a forward pass, and in what is to be saved."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def is_finite(value: Any) -> bool:
    """Whether all floats of nested tensors are finite."""
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return all(bool(torch.isfinite(leaf.detach()).all()) for leaf in leaves)


class FirstNonFinite:
    """Finds the first thing that is not finite while a model runs, in the order in which its layers are called.

    Looked at are the weights of each layer, what quantizers (modules with ``quant_min``) are given, what layers put
    out, and the ranges ``min_val``, ``max_val`` of quantizers. To be entered as a context around the forward pass.

    Args:
        model (nn.Module): The model.

    Attributes:
        found (str | None): What it is, such as 'the output of backbone.conv1'; None if all was finite.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: str | None = None
        self._handles = ExitStack()

    def __enter__(self) -> 'FirstNonFinite':
        for path, module in self.model.named_modules():
            leaf = next(module.children(), None) is None
            if leaf or next(module.parameters(recurse=False), None) is not None:
                self._watch(getattr(module, 'name', None) if _is_quantizer(module) else path, path, module)
        return self

    def __exit__(self, *error: object) -> None:
        self._handles.close()

    def _watch(self, name: str | None, path: str, module: nn.Module) -> None:
        name = name or path or type(module).__name__
        quantizer = _is_quantizer(module)

        def before(module: nn.Module, inputs: tuple) -> None:
            if self.found is not None:
                return
            for key, value in module.named_parameters(recurse=False):
                if not is_finite(value):
                    self.found = f'the parameter {path}.{key}'
                    return
            if quantizer and not is_finite(inputs):  # before it: a quantizer may rectify its input in place
                self.found = f'the values of {name}'

        def after(module: nn.Module, inputs: tuple, outputs: object) -> None:
            if self.found is not None:
                return
            if hasattr(module, 'min_val') and _range_is_broken(module):
                self.found = f'the activation range of {name}'
            elif not is_finite(outputs):
                self.found = f'the output of {name}'

        for handle in (module.register_forward_pre_hook(before), module.register_forward_hook(after)):
            self._handles.callback(handle.remove)


def _is_quantizer(module: nn.Module) -> bool:
    return hasattr(module, 'quant_min')


def _range_is_broken(module: nn.Module) -> bool:
    low, high = module.min_val, module.max_val
    unset = bool((low > high).all())  # plus and minus infinity: nothing was observed
    return not unset and not is_finite((low, high))


@torch.no_grad()
def find_non_finite(model: nn.Module, args: tuple, kwargs: dict) -> str | None:
    """Run a model on a batch and name the first thing that is not finite.

    Args:
        model (nn.Module): The model, not wrapped.
        args, kwargs: Of its forward pass.

    Returns:
        str or None: The images, a parameter, the output of a layer or a range; None if all was finite.
    """
    with FirstNonFinite(model) as watch:
        if not is_finite((args[:1], kwargs.get('inputs'))):
            watch.found = 'the images that go into the network'  # run all the same: other processes may wait for it
        try:
            model(*args, **kwargs)
        except Exception as error:  # whatever a layer makes of NaN, the loss is what is reported
            return watch.found or f'unknown, as the batch run again ends in {type(error).__name__}: {error}'
    return watch.found


def infinite_entries(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the tensors of a state dict that hold infinities and no NaN, such as ranges before any image."""
    return {
        name: state[name].detach().cpu().clone() for name in non_finite_entries(state) if not state[name].isnan().any()
    }


def non_finite_entries(state: Mapping[str, Any], known: Mapping[str, Tensor] | None = None) -> list[str]:
    """Names of the tensors of a state dict that are not finite.

    Args:
        state (Mapping[str, Any]): The state dict.
        known (Mapping[str, Tensor], optional): Entries whose infinities are in order as long as they are those.

    Returns:
        list[str]: The names, in the order of the state dict.
    """
    floats = [(name, value) for name, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if not floats:
        return []
    flags = [torch.isfinite(value).all() for _, value in floats]
    names = [name for (name, _), finite in zip(floats, _to_host(flags), strict=True) if not finite]
    return [name for name in names if not _same_infinities(state[name], (known or {}).get(name))]


def _to_host(flags: list[Tensor]) -> Iterator[bool]:
    """Read flags with one transfer a device, in place of one a tensor."""
    by_device: dict[torch.device, list[int]] = {}
    for index, flag in enumerate(flags):
        by_device.setdefault(flag.device, []).append(index)
    values: dict[int, bool] = {}
    for indices in by_device.values():
        values.update(zip(indices, torch.stack([flags[index] for index in indices]).tolist(), strict=True))
    return (values[index] for index in range(len(flags)))


def _same_infinities(value: Tensor, known: Tensor | None) -> bool:
    if known is None or known.shape != value.shape:
        return False
    value = value.detach().cpu()
    odd = ~torch.isfinite(value)
    return bool((value[odd] == known[odd].to(value.dtype)).all())  # NaN equals nothing


def losses_of(outputs: Mapping[str, Any]) -> dict[str, Tensor | float]:
    """The losses by name, each a number, of what a model's forward pass or training step returns.

    Args:
        outputs (Mapping[str, Any]): Tensors, lists of tensors or numbers by name.

    Returns:
        dict: Those with 'loss' in their name, which mmengine adds up to what is differentiated.
    """
    return {name: _mean(value) for name, value in outputs.items() if 'loss' in name}


def _mean(value: Any) -> Tensor | float:
    if isinstance(value, Tensor):
        return value.detach().float().mean()
    if isinstance(value, Iterable):
        return sum(_mean(each) for each in value)
    return value
