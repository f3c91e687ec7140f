"""Parameters that an optimizer gets when it and its schedulers are built already."""

import torch


def add_parameters(optimizer: torch.optim.Optimizer, parameters: list, schedulers: list | dict | None) -> None:
    """Give an optimizer parameters that did not exist when it and its schedulers were built.

    They get the optimizer's own learning rate, no weight decay, and the course of the schedulers, which multiply what
    they find and count on as many groups as there were.

    Args:
        optimizer (Optimizer): Changed in place.
        parameters (list[Parameter]): What to add.
        schedulers (list | dict | None): mmengine's parameter schedulers, which have taken their first step already.
    """
    added = dict(params=parameters, weight_decay=0.0)
    flat = schedulers or []
    flat = flat if isinstance(flat, list) else [item for items in flat.values() for item in items]
    for name in {scheduler.param_name for scheduler in flat}:
        if name in optimizer.defaults:
            initial = optimizer.defaults[name]
            added[f'initial_{name}'] = initial
            moved = (group for group in optimizer.param_groups if group[f'initial_{name}'])  # not those of lr_mult=0
            added[name] = next((initial * group[name] / group[f'initial_{name}'] for group in moved), initial)
    optimizer.add_param_group(added)
    for scheduler in flat:
        group = optimizer.param_groups[-1]
        scheduler.base_values.append(group.setdefault(f'initial_{scheduler.param_name}', group[scheduler.param_name]))
