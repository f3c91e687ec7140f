"""Training stops at the first loss that is NaN or infinite, and says where it came from."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, nn

from ...errors import NonFiniteError
from ...models.dense import unwrap
from ...registry import HOOKS, is_type
from ..non_finite import find_non_finite, losses_of

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at the first iteration whose loss is NaN or infinite, before the optimizer takes it into the weights.

    The message names the iteration, the losses, the images of the batch, the phase, and the first layer whose output,
    weight or activation range is not finite, for which the batch is run through the network once more. In distributed
    training all processes stop. An infinite gradient behind a finite loss, which mixed precision meets with a smaller
    loss scale, is no reason to stop.

    Cost: the losses of a step are summed on the device, and the one flag that comes of it is copied without waiting
    right behind the forward pass. It is read when the optimizer is about to step: the host then waits for the forward
    pass, not for the backward pass queued behind it, and mmengine's logging waits for all of the step in any case, as
    it reads every loss of every iteration. Distributed training reduces the flag beside its gradients.

    Raises:
        NonFiniteError: In the training loop, at that iteration.
    """

    priority = 'HIGH'  # before averages of weights take the iteration in, and before mmdet's CheckInvalidLossHook

    def __init__(self) -> None:
        self._handles: list = []
        self._forget()

    def _forget(self) -> None:
        self._batch: DATA_BATCH = None
        self._call: tuple[tuple, dict] | None = None
        self._losses: dict[str, Tensor | float] = {}
        self._flags: list[tuple[Tensor, Any]] = []

    def before_train(self, runner) -> None:
        """Watch the model's losses and the optimizers' steps."""
        self.after_train(runner)
        model = unwrap(runner.model)
        self._handles = [model.register_forward_hook(self._after_forward, with_kwargs=True)]
        for optimizer in _optimizers(runner.optim_wrapper):
            # mixed precision skips this step where a gradient is infinite; then after_train_iter looks at the loss
            self._handles.append(optimizer.register_step_pre_hook(lambda *_: self._check(runner)))

    def after_train(self, runner) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Keep the batch, for the message."""
        self._forget()
        self._batch = data_batch

    def _after_forward(self, module: nn.Module, args: tuple, kwargs: dict, outputs: object) -> None:
        if kwargs.get('mode') == 'loss' and isinstance(outputs, dict):
            self._call = (args, kwargs)
            self._note(losses_of(outputs))

    def _note(self, losses: dict[str, Tensor | float]) -> None:
        if not losses:
            return
        self._losses = losses
        total = torch.as_tensor(sum(losses.values()))
        flag = (~torch.isfinite(total)).float()
        if get_world_size() > 1:
            all_reduce(flag, op='max')
        event = None
        if flag.is_cuda:
            flag = flag.to('cpu', non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._flags.append((flag, event))

    def _check(self, runner) -> None:
        flags, self._flags = self._flags, []
        for flag, event in flags:
            if event is not None:
                event.synchronize()
            if flag:
                self._stop(runner)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Look at the loss where no optimizer has stepped, or where a model has a training step of its own."""
        if self._call is None and isinstance(outputs, dict):
            self._note(losses_of(outputs))
        self._check(runner)

    def _stop(self, runner) -> None:
        first = None
        if self._call is not None:
            args, kwargs = self._call
            # in every process, as layers may exchange statistics
            with runner.optim_wrapper.optim_context(runner.model) if _is_single(runner) else torch.no_grad():
                first = find_non_finite(unwrap(runner.model), args, kwargs)
        message = self._message(runner, first)
        self.after_train(runner)
        barrier()  # a launcher ends the other processes as soon as one has failed
        raise NonFiniteError(message)

    def _message(self, runner, first: str | None) -> str:
        values = {name: float(value) for name, value in self._losses.items()}
        shown = ', '.join(f'{name} = {value:g}' for name, value in values.items())
        here = not torch.isfinite(torch.tensor(sum(values.values())))
        what = 'the loss is not finite' if here else 'the loss of another process is not finite; here'
        epoch = f' (epoch {runner.epoch + 1})' if isinstance(runner.train_loop, EpochBasedTrainLoop) else ''
        where = (
            f'First in the order of the network, {first} is not finite.'
            if first
            else 'Run again, every layer puts out finite values, so that the loss itself or its targets made it.'
        )
        return (
            f'Iteration {runner.iter + 1}{epoch}, {_phase(runner)}: {what}: {shown}. {where}\n'
            f'Images of the batch: {", ".join(_images(self._batch)) or "not known"}.\n'
            f'Training stopped before this step reached a checkpoint; those written so far are kept in '
            f'{runner.work_dir}. {_advice(runner, first)} Then go on from the last of them with --resume.'
        )


def _is_single(runner) -> bool:
    return hasattr(runner.optim_wrapper, 'optim_context') and not isinstance(runner.optim_wrapper, dict)


def _optimizers(wrapper: object) -> list[torch.optim.Optimizer]:
    wrappers = [each for _, each in wrapper.items()] if hasattr(wrapper, 'optim_wrappers') else [wrapper]
    found = [getattr(each, 'optimizer', None) for each in wrappers]
    return [optimizer for optimizer in found if isinstance(optimizer, torch.optim.Optimizer)]


def _phase(runner) -> str:
    for hook in runner.hooks:
        if is_type(hook, 'frostnet_mm.QATHook') and hook.phase is not None:
            return str(hook.phase)
    return 'float'


def _images(batch: DATA_BATCH) -> list[str]:
    samples = batch.get('data_samples', ()) if isinstance(batch, dict) else ()
    samples = samples if isinstance(samples, Sequence) else ()
    return [str(getattr(sample, 'img_path', getattr(sample, 'img_id', '?'))) for sample in samples]


def _advice(runner, first: str | None) -> str:
    if first is not None and first.startswith('the images'):
        return 'Look at these images, and at the mean and std of the data preprocessor.'
    rates = {f'{value:g}' for values in runner.optim_wrapper.get_lr().values() for value in values}
    return (
        f'If weights or outputs grew step by step, lower the learning rate (optim_wrapper.optimizer.lr, now '
        f'{", ".join(sorted(rates))}) or clip the gradients (optim_wrapper.clip_grad.max_norm=10); else look at these '
        'images and their annotations.'
    )
