"""The QATHook of a config: what it says, and a config that has other bits in it."""

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine.config import ConfigError, load_config
from ..files import write_text
from ..quantization.scheme import Scheme
from ..quantization.settings import QuantizationSettings
from ..registry import HOOKS, is_type
from .swap.config_text import format_value, heading

TYPE = 'frostnet_mm.QATHook'


def qat_hooks(cfg: Config) -> list[Any]:
    """The QATHooks that a config names, as dicts or, in a config of Python objects, as hooks."""
    hooks = [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
    return [hook for hook in hooks if hook and is_type(hook, TYPE)]


def settings_of(cfg: Config, **given: Any) -> QuantizationSettings:
    """What a config's QATHook quantizes with, or the defaults of a QATHook; without learned scales.

    Args:
        cfg (Config): With a QATHook or without.
        given (Any): Options of QATHook that replace the config's, such as those of a command line; None counts as not
            given.

    Raises:
        QuantizationError: An option is out of its domain.
        ConfigError: Options are given for a hook that has its scheme as a whole.
    """
    hook = next(iter(qat_hooks(cfg)), dict(type=TYPE))
    if isinstance(hook, Mapping):
        hook = HOOKS.build(_with_options(hook, given))
    elif found := _names(given):
        raise ConfigError(f'{found} was given, but the QATHook of the config is an object: change it there.')
    return replace(hook.settings, learned_scales=False)


def write_with_bits(
    base: str, cfg: Config, scheme: Scheme, given: Mapping[str, Any], out: Path, remarks: list[str], options: dict
) -> None:
    """Write a config that inherits another and quantizes the weights of each module to bits of its own.

    Args:
        base (str): Path or name of the config that it inherits.
        cfg (Config): The same, resolved.
        scheme (Scheme): Whose bits and overrides it shall have.
        given (Mapping): Further options of QATHook that it sets, as for :func:`settings_of`.
        out (Path): The file.
        remarks (list[str]): For its head.
        options (dict): Of the command line, with which the config is used.

    Raises:
        ConfigError: The QATHook of the config cannot be written as text.
    """
    hooks = qat_hooks(cfg)
    hook = hooks[0] if hooks else dict(type=TYPE)
    if not isinstance(hook, Mapping) or not isinstance(hook['type'], str):
        raise ConfigError(f"The QATHook of {base} is an object: write it as a dict, type='{TYPE}', in default_hooks.")
    if hook.get('scheme'):
        changed = dict(type=hook['type'], scheme=dict(_delete_=True) | scheme.to_dict())
    else:
        bits = {name: dict(bits=value) for name, value in scheme.bit_overrides.items()}
        own = {name: value for name, value in given.items() if value is not None}
        changed = dict(type=hook['type']) | own | dict(weight_bits=scheme.weight_bits, overrides=bits)
    imports = [*(cfg.get('custom_imports') or {}).get('imports', []), 'frostnet_mm']
    text = ''.join(f'# {line}\n' for line in remarks) + heading(base, out, imports) + _assignment(cfg, hook, changed)
    trial = out.with_name(f'{out.stem}_trial_{os.getpid()}.py')  # what stands in ``out`` is replaced by what is right
    write_text(trial, text)
    try:
        found = settings_of(load_config(trial, options)).scheme
        if dict(found.overrides) != dict(scheme.overrides) or found != replace(scheme, overrides=found.overrides):
            raise AssertionError(f'{out} would be read with another arithmetic: {found.to_dict()}')
        os.replace(trial, out)
    finally:
        trial.unlink(missing_ok=True)


def _with_options(hook: Mapping, given: Mapping[str, Any]) -> dict:
    found = _names(given)
    if found and hook.get('scheme'):
        raise ConfigError(f'{found} was given, but QATHook(scheme=…) of the config says it already: change it there.')
    return copy.deepcopy(dict(hook)) | {name: value for name, value in given.items() if value is not None}


def _names(given: Mapping[str, Any]) -> str:
    return ', '.join(f'{name}={value!r}' for name, value in given.items() if value is not None)


def _assignment(cfg: Config, hook: Mapping, changed: dict) -> str:
    """What sets the hook where the config has it; by default among the default hooks, which are merged by name."""
    for name, own in (cfg.get('default_hooks') or {}).items():
        if own is hook:
            return f'default_hooks = {format_value({name: changed}, start=16)}\n'
    listed = list(cfg.get('custom_hooks') or [])
    if any(own is hook for own in listed):
        changed.get('scheme', {}).pop('_delete_', None)  # a list is set as a whole
        merged = [_plain(hook) | changed if own is hook else _plain(own) for own in listed]
        return f'custom_hooks = {format_value(merged, start=15)}\n'
    return f'default_hooks = {format_value(dict(qat=changed), start=16)}\n'


def _plain(hook: Any) -> dict:
    if not isinstance(hook, Mapping) or not isinstance(hook['type'], str):
        raise ConfigError('custom_hooks holds an object beside QATHook: move QATHook to default_hooks = dict(qat=…).')
    return hook.to_dict() if hasattr(hook, 'to_dict') else dict(hook)
