"""Settings that would do something else than they say: options without effect, learning rates of another optimizer."""

import difflib
from collections.abc import Iterator, Mapping
from logging import WARNING
from typing import Any

from mmengine.logging import print_log

from ..registry import type_name
from .errors import ConfigError

# What mmengine's Runner (its arguments, and what it asks the config for) and this package read, set in a config or not.
RUNNER_KEYS = frozenset(
    'model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg auto_scale_lr '
    'optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks custom_hooks data_preprocessor load_from '
    'resume launcher env_cfg log_processor log_level visualizer default_scope randomness experiment_name '
    'model_wrapper_cfg sync_bn find_unused_parameters activation_checkpointing efficient_conv_bn_eval compile '
    'runner_type custom_imports channels_last classes data_root tta_model tta_pipeline search'.split()
)
# What people call things otherwise: top-level keys of mmdet 2 and mmseg 0 (until 2022), and words of other trainers.
_EPOCHS, _SIZE = 'max_epochs, or train_cfg.max_epochs', 'input_size, or the scale of Resize in the pipelines'
_CLASSES = 'classes, or metainfo=dict(classes=...) in a data set'
SYNONYMS = {
    **dict.fromkeys(('epochs', 'num_epochs', 'total_epochs', 'runner'), _EPOCHS),
    **dict.fromkeys(('img_scale', 'img_size', 'image_size', 'imgsz'), _SIZE),
    **dict.fromkeys(('metainfo', 'class_names', 'CLASSES', 'names'), _CLASSES),
    'checkpoint_config': 'default_hooks.checkpoint',
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'evaluation': 'val_evaluator and train_cfg.val_interval',
    'img_norm_cfg': 'model.data_preprocessor',
    'learning_rate': 'optim_wrapper.optimizer.lr',
    'log_config': 'default_hooks.logger',
    'lr_config': 'param_scheduler',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config': 'optim_wrapper',
    'pretrained': "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)",
    'resume_from': 'load_from with resume=True',
    'samples_per_gpu': 'train_dataloader.batch_size',
    'seed': 'randomness.seed',
    'total_iters': 'train_cfg.max_iters',
    'workers_per_gpu': 'train_dataloader.num_workers',
}
_SHOWN = 6
BESIDE = 'data_preprocessor'  # which may stand beside the model too
QAT_HOOK = 'qat_hook'  # what configs/_base_/qat.py offers for default_hooks.qat, which options reach


def check_keys(options: Mapping[str, Any], cfg: Mapping[str, Any], path: str) -> None:
    """Refuse options that nothing reads: their first name is new to a config, or a variable that it has used already.

    Further down, where an option may well be the first to say something, one that is nearly a name of the config is
    pointed out in the log.

    Args:
        options (Mapping): ``--cfg-options``.
        cfg (Mapping): The content of the config, in which options are settled that reach its base files.
        path (str): Where it is from, for the message.

    Raises:
        ConfigError: With the keys that may be meant.
    """
    for key, value in options.items():
        first = key.split('.')[0]
        if first not in cfg and first not in RUNNER_KEYS:
            meant = list(_meant(key, cfg))
            hint = f'Did you mean {", ".join(meant[:_SHOWN])}?' if meant else 'Keys are dotted paths into the config.'
            raise ConfigError(
                f'--cfg-options {key}=... : {first!r} is new to the config {path}, and nothing would read it. {hint}'
            )
        if key in cfg and key not in RUNNER_KEYS and not isinstance(cfg[key], Mapping):
            _check_variable(key, value, cfg, path)
        elif first not in RUNNER_KEYS or first == BESIDE:
            _check_part(key, value, cfg, path)
        if near := _near_sibling(key, cfg):
            print_log(f'--cfg-options {key} is new to the config, which has {near}. Is that meant?', 'current', WARNING)


def _check_variable(name: str, value: Any, cfg: Mapping[str, Any], path: str) -> None:
    """A variable of a config of an installed package keeps its value, and what was made of it too."""
    values = dict(dotted(cfg))
    same = [key for key in ending_in(name, cfg) if values[key] == cfg[name]]
    if same and list(_as_sequence(value)) != list(_as_sequence(cfg[name])):
        raise ConfigError(
            f'--cfg-options {name}=... : {path} has used its variable {name!r} already, and nothing would read it any '
            f'more. Did you mean {", ".join(same[:_SHOWN])}?'
        )


def _check_part(key: str, value: Any, cfg: Mapping[str, Any], path: str) -> None:
    """A dict or list at the top level was copied to where it is used: a part of it changes there, or nowhere."""
    first, _, rest = key.partition('.')
    whole = cfg.get(first, {})
    if first == QAT_HOOK or not isinstance(whole, (Mapping, list, tuple)) or dict(dotted(cfg)).get(key) == value:
        return
    used = [place for place, own in dotted(cfg) if '.' in place and whole and own == whole]
    if first == BESIDE and isinstance(cfg.get('model'), Mapping) and cfg['model'].get(BESIDE) is not None:
        used = [f'model.{BESIDE}']  # which goes before the one beside the model
    if used:
        meant = (f'{place}.{rest}' if rest else place for place in used[:_SHOWN])
        raise ConfigError(
            f'--cfg-options {key}=... : {path} has used {first!r} already, and nothing would read it any more. Did you '
            f'mean {", ".join(meant)}?'
        )


def _as_sequence(value: Any) -> list | tuple:
    return value if isinstance(value, (list, tuple)) else [value]


def ending_in(key: str, cfg: Mapping[str, Any]) -> list[str]:
    """Dotted keys of a config that end as ``key`` does, shallow ones first."""
    keys = (path for path, _ in dotted(cfg) if path.endswith(f'.{key}'))
    return sorted(keys, key=lambda path: (path.count('.'), path))


def _meant(key: str, cfg: Mapping[str, Any]) -> Iterator[str]:
    """Dotted keys of a config that end as ``key`` does; else those that are nearly named so."""
    same = ending_in(key, cfg)
    if same:
        return iter(same)
    first, _, rest = key.partition('.')
    if key in SYNONYMS:
        return iter([SYNONYMS[key]])
    names = difflib.get_close_matches(first, list(cfg), n=_SHOWN)
    return (f'{name}.{rest}' if rest else name for name in names)


def dotted(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """All dotted keys of a config with their values, through dicts and lists."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in items:
        if isinstance(node, Mapping):
            yield f'{prefix}{name}', value
        yield from dotted(value, f'{prefix}{name}.')


def _near_sibling(key: str, cfg: Mapping[str, Any]) -> str | None:
    *parents, name = key.split('.')
    node = cfg
    for part in parents:
        node = node.get(part) if isinstance(node, Mapping) else None
    if not parents or not isinstance(node, Mapping) or name in node:
        return None
    near = difflib.get_close_matches(name, list(node), n=1, cutoff=0.85)
    return '.'.join([*parents, near[0]]) if near else None


# -- optimizers

# Arguments that belong to some of torch's optimizers only; a type that is not listed is taken to know all.
_OWN = {
    'SGD': {'momentum', 'dampening', 'nesterov'},
    'RMSprop': {'momentum', 'alpha', 'centered', 'eps'},
    **dict.fromkeys(('Adam', 'AdamW'), {'betas', 'amsgrad', 'eps'}),
}
_ALL = set().union(*_OWN.values())


def check_optimizer(own: Mapping[str, Any], inherited: Any, source: str) -> None:
    """Refuse an optimizer of another kind that keeps the settings of the one whose place it takes.

    A dict that is laid over another one keeps what it does not name. GradBoost's optimizers are those of torch.

    Args:
        own (Mapping): What a config or the command line says of ``optim_wrapper.optimizer``.
        inherited (Any): What stands there before.
        source (str): Who says it, for the message.

    Raises:
        ConfigError: The learning rate of AdamW would be SGD's or the other way round, or an argument is inherited that
            the new type does not have. What may be meant (``weight_decay`` of another type) is a warning.
    """
    if not isinstance(own, Mapping) or not isinstance(inherited, Mapping) or own.get('_delete_'):
        return
    old, new = (type_name(cfg).removeprefix('GradBoost') for cfg in (inherited, own))
    if not old or not new or old == new:
        return
    kept = {key: value for key, value in inherited.items() if key not in own and key != 'type'}
    foreign = [key for key in kept if new in _OWN and key in _ALL - _OWN[new]]
    wrong_rate = 'lr' in kept and {old, new} <= set(_OWN) and 'SGD' in (old, new)
    named = ', '.join(f'{key}={value}' for key, value in kept.items())
    shown = type_name(own)
    said = f'{source}: optim_wrapper.optimizer becomes {shown} and inherits {named} from {type_name(inherited)}'
    mend = (
        f'Give its own in a config, without what is inherited: optim_wrapper=dict(optimizer=dict(_delete_=True, '
        f"type='{own['type'] if isinstance(own['type'], str) else shown}', lr=..., weight_decay=...))."
    )
    if shown.startswith('GradBoost') and f'{old}' in _OWN:
        mend += f" GradBoost for {old} is type='frostnet_mm.GradBoost{old}'."
    if foreign:
        raise ConfigError(f'{said}; {new} has no {", ".join(foreign)}. {mend}')
    if wrong_rate:
        raise ConfigError(f'{said}; learning rates of {old} and {new} are of different size. {mend}')
    if kept.keys() & {'lr', 'weight_decay', 'momentum'}:
        print_log(f'{said}. {mend}', 'current', WARNING)
