"""GradBoost: optimizers that push quantized weights along their gradient with decaying Laplace noise.

One mixin over ``torch.optim``'s own classes: it hands them boosted copies of the gradients and leaves the update rule,
weight decay included, to them. Source: StatAssist and GradBoost, arXiv 2006.09679.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...registry import OPTIMIZERS
from .boosts import (
    CLIP_BY,
    STATISTICS,
    boosts_of,
    check_options,
    first_statistics,
    last_boosted_step,
    observe,
    shaped_like,
)

OPTIONS = ('mode', 'clip_by', 'noise_decay', 'beta', 'toss_coin', 'fade')
CPU_CHUNK = 2**16  # elements worked on at a time: a handful of float32 buffers of this size stay in a core's cache
Swap = tuple[Tensor, Tensor, Tensor]  # parameter, its gradient, the boosted copy


class GradBoostMixin:
    r"""Adds GradBoost to a ``torch.optim`` class; subclass as ``class X(GradBoostMixin, torch.optim.Y)``.

    In the float phase, the first, only gradient statistics are gathered, and the optimizer is bitwise the base class.
    :meth:`boost` starts the quantized phase, in which step n = 1, 2, ... gives the base class, for each element g, ::

        g + min(|Laplace(0, 1)| * b * (1 - noise_decay)^n * coin, clip_by) * sign(g),   b = EMmax - EMmin

    in place of g; the coin is 0 or 1, fairly. ``p.grad`` itself keeps its object and its values.

    ``mode='paper'``: EMmax and EMmin start at the element's first gradient and follow ::

        EMmax <- beta * EMmax + (1 - beta) * max(EMmax, g)
        EMmin <- beta * EMmin + (1 - beta) * min(EMmin, g)

    a moving average of the running maximum, as the authors' code has it too. Started at a gradient instead of 0, it
    has no bias to correct. It never shrinks: b nears the range of all gradients seen; ``noise_decay`` ends the boost.

    ``mode='reference'``: what the authors' published optimizer does. EMmin stays 0 (the minimum of 0 and magnitudes),
    and EMmax follows, from 0, in this order of operations, with t the gradients that the parameter has seen::

        EMmax <- (beta * EMmax + (1 - beta) * max(EMmax, |g|)) / (1 - beta^t)

    As the correction is applied to the stored value at every step, it compounds: times 7.8e4 in all at beta = 0.9. The
    clamp then erases the draw for about 1000 steps, and half of the elements get ``clip_by * sign(g)``.

    ``mode='relative'``, this project's: b is the moving average of \|g\| from the first gradient on, ``clip_by`` counts
    in units of b, and the boost fades with the length of the run: where :meth:`boost` was told the steps of the
    quantized phase, the factor is 1 - (n - 1) / (fade * steps) in place of the power of ``noise_decay``. Adam and AdamW
    take the boost into their first moment alone: with g + boost in the second one, the elements that are boosted have
    shorter steps long after the boost is over.

    The boost is over when it has become too small to change the last place of an element's largest gradient in
    float32: by default after 2038 steps ('paper') or 3523 ('reference'), or when it has faded out. From then on nothing
    is gathered or drawn.

    The noise comes from one generator for each device, seeded from ``boost_seed`` and never from the rank, so that
    data-parallel replicas, which hold equal gradients, stay equal. torch's global generators are not touched.

    ``state_dict()`` holds statistics (in ``state``), options (in ``param_groups``), phase, n and generators (in
    ``gradboost``); a run resumes bitwise. The loaded options replace the config's, as torch does for all. A state of
    the plain base class loads too: phase, n and generators stay as they are, and statistics start with the next
    gradient (in mode 'paper' b is then 0: no boost at that step). A state saved on a CPU loads on CUDA with all but the
    generator, which differs in kind and starts at ``boost_seed``; and the other way round.

    With ``GradScaler`` gradients arrive unscaled, also under ``fused=True``, and a step that it skips does not count.
    Statistics and boost are of the gradient's own type.

    Args:
        params (iterable): Parameters or parameter groups. A group may have options of its own.
        mode (str): 'paper', 'reference' or 'relative'. Default: 'paper'.
        clip_by (float, optional): Largest magnitude of the boost, above 0; in mode 'relative' in units of the element's
            mean magnitude. Default: 1e-3, and 1 in mode 'relative'.
        noise_decay (float): Share of the boost lost at each step, in [0, 1). Default: 0.01.
        beta (float): Decay of EMmax and EMmin, in [0, 1). Default: 0.9.
        toss_coin (bool): Whether only a random half of the elements is boosted at a step. Default: True.
        fade (float): In mode 'relative', share of the quantized phase in which the boost fades out, in (0, 1].
            Default: 0.5.
        boost_seed (int): Seed of the noise; the same on every rank. Default: 0.
        **kwargs: Those of the base class. ``differentiable=True`` is refused.

    Raises:
        ValueError: For an option out of its range; for mode 'relative' in an optimizer whose first moment forgets at
            once (``betas[0] = 0``).
        TypeError: For complex parameters.
    """

    has_second_moment = False  # which a boosted gradient would change for long; 'exp_avg' is the first one's name

    def __init__(
        self,
        params,
        *args,
        mode: str = 'paper',
        clip_by: float | None = None,
        noise_decay: float = 0.01,
        beta: float = 0.9,
        toss_coin: bool = True,
        fade: float = 0.5,
        boost_seed: int = 0,
        **kwargs,
    ) -> None:
        name = type(self).__name__
        # Set before the base class's __init__, which adds the groups.
        self._options = dict(
            mode=mode, clip_by=clip_by, noise_decay=noise_decay, beta=beta, toss_coin=toss_coin, fade=fade
        )
        check_options(name, self._options)
        if isinstance(boost_seed, bool) or not isinstance(boost_seed, int) or boost_seed < 0:
            raise ValueError(f'{name} got boost_seed={boost_seed!r}; expected an integer of at least 0, on every rank.')
        if kwargs.get('differentiable'):
            raise ValueError(f'{name} got differentiable=True; expected False. Use the plain torch.optim class.')
        self._unpack_boost(dict(boosting=False, steps=0, seed=boost_seed, generators={}))
        super().__init__(params, *args, **kwargs)
        self.defaults.update(self._options)
        # With True, GradScaler would leave both unscaling and skipping to the fused kernel, after our statistics.
        self._step_supports_amp_scaling = False

    @property
    def boosting(self) -> bool:
        """Whether the quantized phase is on."""
        return self._boosting

    @property
    def boost_steps(self) -> int:
        """Steps made in the quantized phase since the switch: n of the last step."""
        return self._steps

    def boost(self, enabled: bool = True, steps: int | None = None) -> None:
        """Switch to the quantized phase, or back to the float phase; n starts anew, statistics and generators go on.

        Asking for the phase that is on changes nothing, so that a hook may ask at every iteration and after a resume.

        Args:
            enabled (bool): Whether the quantized phase is to be on. Default: True.
            steps (int, optional): Steps of that phase, over which mode 'relative' fades. Default: not known; it decays
                by ``noise_decay``.
        """
        if bool(enabled) != self._boosting:
            self._boosting = bool(enabled)
            self._steps = 0
            self._length = steps if enabled else None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in the base class; it may have GradBoost options of its own."""
        if isinstance(param_group, dict):
            for key, value in self._options.items():
                param_group.setdefault(key, value)
            check_options(type(self).__name__, param_group)
            if param_group['clip_by'] is None:
                param_group['clip_by'] = CLIP_BY[param_group['mode']]
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if self.has_second_moment and group['mode'] == 'relative' and not group['betas'][0]:
            self.param_groups.pop()
            raise ValueError(
                f"{type(self).__name__} got mode='relative' with betas[0]=0; expected betas[0] above 0: the boost goes "
                'into the first moment. Mend optimizer.betas or optimizer.mode in the config.'
            )
        for param in self.param_groups[-1]['params']:
            if param.is_complex():
                self.param_groups.pop()
                raise TypeError(
                    f'{type(self).__name__} got a parameter of shape {tuple(param.shape)} and type {param.dtype}; '
                    'expected real ones: a complex gradient has no sign. Give it to a plain torch.optim class.'
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure (Callable, optional): Computes the loss and the gradients, which are boosted after it.

        Raises:
            RuntimeError: For a sparse gradient, and when a CUDA graph is being captured.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        swaps, fresh = self._boost_gradients(self._steps + 1)
        try:
            for param, _, boosted in swaps:
                param.grad = boosted
            self._base_step()
        finally:
            for param, grad, _ in swaps:
                param.grad = grad
        for param, statistics in fresh:  # only now: the base classes set up a parameter whose state is empty
            self.state[param].update(statistics)
        self._steps += self._boosting
        return loss

    def _base_step(self) -> None:
        """Call the base class's rule, without the hooks that torch wraps around it: ours has run them."""
        step = super().step.__func__
        (step.__wrapped__ if getattr(step, 'hooked', False) else step)(self)

    def _boost_gradients(self, n: int) -> tuple[list[Swap], list[tuple[Tensor, dict[str, Any]]]]:
        """Update the statistics and, as step n of the quantized phase, boost.

        Returns:
            tuple: What to put into ``p.grad`` for the step, and new statistics to store after it.
        """
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f'{type(self).__name__}.step() was called in a CUDA graph capture, which would repeat one value of the '
                'decay; expected a call outside. Capture forward and backward only.'
            )
        swaps: list[Swap] = []
        fresh: list[tuple[Tensor, dict[str, Any]]] = []
        for (mode, clip_by, noise_decay, beta, toss_coin, fade), first_moment, params in list(self._chunks()):
            faded = mode == 'relative' and self._length is not None
            last = fade * self._length if faded else last_boosted_step(mode, beta, noise_decay)
            if self._boosting and n > last:
                continue
            grads = [p.grad for p in params]
            states = []
            for param, grad in zip(params, grads, strict=True):
                state = self.state.get(param, {})
                if STATISTICS[mode] not in state:
                    state = first_statistics(mode, grad)
                    fresh.append((param, state))
                states.append(state)
            observe(mode, states, grads, beta)
            if self._boosting:
                magnitudes = self._draw(grads, 1 - (n - 1) / last if faded else (1 - noise_decay) ** n, toss_coin)
                boosts = boosts_of(mode, states, magnitudes, clip_by)
                if first_moment:
                    self._add_to_first_moment(params, boosts, first_moment)
                else:
                    boosted = torch._foreach_addcmul(grads, boosts, torch._foreach_sign(grads))
                    swaps.extend(zip(params, grads, boosted, strict=True))
        return swaps, fresh

    def _first_moment(self, group: dict[str, Any]) -> float:
        """By what a boost is multiplied before the step, so that it comes out in the first moment as if in g; or 0.

        m <- beta1 * (m + (1 - beta1) / beta1 * boost) + (1 - beta1) * g has boost and g with the same weight.
        """
        if not self.has_second_moment or group['mode'] != 'relative':
            return 0.0
        beta1 = float(group['betas'][0])
        factor = (1 - beta1) / beta1
        return -factor if group['maximize'] else factor

    def _add_to_first_moment(self, params: list[Tensor], boosts: list[Tensor], factor: float) -> None:
        """Lengthen what the base class is about to do, where it has a first moment: not at a parameter's first step."""
        started = [(p, boost) for p, boost in zip(params, boosts, strict=True) if 'exp_avg' in self.state.get(p, {})]
        if started:
            params, boosts = zip(*started, strict=True)
            moments = [self.state[p]['exp_avg'] for p in params]
            torch._foreach_addcmul_(moments, boosts, torch._foreach_sign([p.grad for p in params]), value=factor)

    def _chunks(self) -> Iterator[tuple[tuple[Any, ...], float, list[Tensor]]]:
        """Options, factor of the first moment, and parameters of these that have gradients, in lists for the device."""
        kinds: dict[tuple, list[Tensor]] = defaultdict(list)
        for group in self.param_groups:  # mmengine makes a group of every parameter if there is a paramwise_cfg
            options = tuple(group[key] for key in OPTIONS), self._first_moment(group)
            for param in group['params']:
                if param.grad is None:
                    continue
                if param.grad.layout != torch.strided:
                    raise RuntimeError(
                        f'{type(self).__name__} got a gradient of layout {param.grad.layout} for a parameter of shape '
                        f'{tuple(param.shape)}; expected dense ones. Set sparse=False in the layer (nn.Embedding), or '
                        'give its parameters to a plain torch.optim class.'
                    )
                kinds[options, param.grad.device, param.grad.dtype].append(param)
        for (options, device, _), params in kinds.items():
            if device.type != 'cpu':
                yield *options, params  # one kernel launch for all
                continue
            chunk, size = [], 0
            for param in params:
                if chunk and size + param.numel() > CPU_CHUNK:
                    yield *options, chunk
                    chunk, size = [], 0
                chunk.append(param)
                size += param.numel()
            yield *options, chunk

    def _draw(self, grads: list[Tensor], scale: float, toss_coin: bool) -> list[Tensor]:
        """Draw coin * |Laplace(0, 1)| * scale for each element of the gradients, in their layout.

        |Laplace(0, 1)| is Exp(1), and E = -ln v draws from it, for v uniform in (0, 1). max(E - ln 2, 0) is the coin as
        well: 0 with probability 1/2 and otherwise Exp(1), as that distribution has no memory. v has 16 random bits, at
        the midpoints of 65536 steps; a CPU's generator is most of the cost, and makes four of them at once.
        """
        sizes = [grad.numel() for grad in grads]
        words = torch.empty(-(-sum(sizes) // 4), dtype=torch.int64, device=grads[0].device)
        words.random_(-(2**63), None, generator=self._generator(words.device))
        flat = words.view(torch.int16)[: sum(sizes)].float().add_(2**15 + 0.5)
        flat.mul_(2.0**-15 if toss_coin else 2.0**-16).log_()
        if toss_coin:
            flat.clamp_max_(0)
        pieces = flat.mul_(-scale).to(grads[0].dtype).split(sizes)
        return [shaped_like(piece, grad) for piece, grad in zip(pieces, grads, strict=True)]

    def _generator(self, device: torch.device) -> torch.Generator:
        """The generator of a device, made at the first call."""
        if device not in self._generators:
            # Known by kind and ordinal in this process: rank 1's cuda:1 is the same as rank 0's cuda:0.
            peers = [p.device for group in self.param_groups for p in group['params'] if p.device.type == device.type]
            ordinal = list(dict.fromkeys(peers)).index(device)
            name = f'{device.type}:{ordinal}'
            generator = torch.Generator(device).manual_seed(self._seed + ordinal)
            if name in self._loaded_generators:
                generator.set_state(self._loaded_generators.pop(name).cpu())
            self._generators[device] = name, generator
        return self._generators[device][1]

    def _pack_boost(self) -> dict[str, Any]:
        """What the state dict holds beside the base class's, of plain types that ``weights_only`` loading takes."""
        generators = self._loaded_generators | {name: g.get_state() for name, g in self._generators.values()}
        return dict(
            boosting=self._boosting, steps=self._steps, length=self._length, seed=self._seed, generators=generators
        )

    def _unpack_boost(self, packed: dict[str, Any]) -> None:
        self._boosting: bool = packed['boosting']
        self._steps: int = packed['steps']
        self._length: int | None = packed.get('length')  # steps of the quantized phase, if they are known
        self._seed: int = packed['seed']
        self._generators: dict[torch.device, tuple[str, torch.Generator]] = {}
        self._loaded_generators: dict[str, Tensor] = dict(packed['generators'])  # until their device draws

    def state_dict(self) -> dict[str, Any]:
        """The base class's state dict, with phase, n and generators under ``gradboost``."""
        return {**super().state_dict(), 'gradboost': self._pack_boost()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of the plain base class (see the class for what it leaves)."""
        saved = state_dict['param_groups']
        if len(saved) == len(self.param_groups):  # if not, the base class says so
            own = [{key: group[key] for key in self._options} for group in self.param_groups]
            saved = [{**mine, **theirs} for mine, theirs in zip(own, saved, strict=True)]
        super().load_state_dict({**state_dict, 'param_groups': saved})
        if 'gradboost' in state_dict:
            self._unpack_boost(state_dict['gradboost'])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), 'gradboost': self._pack_boost()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.pop('gradboost', None)
        super().__setstate__(state)
        if packed is not None:  # unpickled or deep-copied; load_state_dict comes here too, without it
            self._options = {key: self.defaults[key] for key in OPTIONS}
            self._unpack_boost(packed)


@OPTIMIZERS.register_module()
class GradBoostSGD(GradBoostMixin, torch.optim.SGD):
    """``torch.optim.SGD`` with GradBoost; arguments, phases and state: :class:`GradBoostMixin`."""


@OPTIMIZERS.register_module()
class GradBoostRMSprop(GradBoostMixin, torch.optim.RMSprop):
    """``torch.optim.RMSprop`` with GradBoost; arguments, phases and state: :class:`GradBoostMixin`."""


@OPTIMIZERS.register_module()
class GradBoostAdam(GradBoostMixin, torch.optim.Adam):
    """``torch.optim.Adam`` with GradBoost; arguments, phases and state: :class:`GradBoostMixin`."""

    has_second_moment = True


@OPTIMIZERS.register_module()
class GradBoostAdamW(GradBoostMixin, torch.optim.AdamW):
    """``torch.optim.AdamW`` with GradBoost; arguments, phases and state: :class:`GradBoostMixin`."""

    has_second_moment = True
