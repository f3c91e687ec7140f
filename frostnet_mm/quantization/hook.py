"""The hook that trains a model of a float config in simulated INT8, from scratch."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from ..engine.optimizers import GradBoostMixin
from ..models.dense import attach, unwrap
from ..registry import HOOKS
from .checkpoint import Checkpoint
from .convert import convert
from .errors import QuantizationError
from .gradient_check import GradientCheck
from .lagging_ranges import warn_of_lagging_ranges
from .late_parameters import add_parameters
from .network import QuantizedNetwork
from .prepare import prepare_model, quantized_network
from .report import describe_report
from .schedule import Phase, TrainingPoint, steps_left
from .scheme import Scheme
from .settings import EXECUTIONS, QuantizationSettings
from .teacher import Distillation

DATA_BATCH = dict | tuple | list | None


@HOOKS.register_module()
class QATHook(Hook):
    """Quantization-aware training of any mm detector or segmenter, with StatAssist and GradBoost (arXiv 2006.09679).

    The model's dense network (backbone, neck, the head's convolutions) is replaced by a graph that shares its
    parameters and simulates INT8. Training passes through these phases, with one and the same optimizer:

    1. float warm-up (StatAssist): nothing is rounded; batch norm and activation statistics and the optimizer's moments
       are gathered;
    2. QAT: activations and weights are rounded; GradBoost optimizers begin to boost;
    3. batch norm statistics are frozen: batch norms compute what they will compute in evaluation;
    4. activation ranges are frozen too. (Frozen before, those of small feature maps stay too narrow: n values that are
       normalized by their own statistics cannot exceed sqrt(n - 1).)

    A phase is decided by absolute progress, so a resumed run is in the phase that it was in. Validation during training
    is in the phase's arithmetic: float in the warm-up, simulated INT8 afterwards.

    Args:
        numerics (str): 'onnx' for onnxruntime and OpenVINO; 'executorch' for XNNPACK; 'tensorrt'. Default: 'onnx'.
        warmup (str | int): Length of the float warm-up: '1 epoch', '500 iterations', '5 %', or 0. Default: '1 epoch'.
        freeze_bn_at (str, optional): When batch norm statistics are frozen. Default: '80 %'.
        freeze_observers_at (str, optional): When the activation ranges are frozen. Default: '90 %'.
        quantize_outputs (bool): Whether the network's outputs are rounded to 8 bits too. Default: False.
        float_modules (Sequence[str]): Names of modules, or beginnings of them, that stay in float.
        learned_scales (bool): Train the scales from the end of the warm-up on (LSQ, Esser et al. 2020), with the
            optimizer's learning rate and no weight decay. Default: False.
        averaging_constant (float): Weight of a new batch in the moving average of the ranges. Default: 0.01.
        example_shape (Sequence[int], optional): Shape (N, 3, H, W) of the images that the network is captured with, if
            its graph depends on the size.
        weight_bits (int): 8, or 7 for engines on x86 CPUs without VNNI, where products of 8 bit weights saturate in
            OpenVINO and torch's compiler (docs/deployment.md); down to 2. Default: 8.
        weights (str): 'channel' for a scale an output channel of a weight, 'tensor' for one scale a weight with its
            batch norm folded, which many phones and accelerators need. Default: 'channel'.
        overrides (Mapping, optional): Other bits for the weights of some modules, by the name of a module or of one
            above it: ``{'backbone.stages.0': dict(bits=8)}``; the longest name counts. tools/allocate_bits.py makes
            them.
        execution (str): How ``runner.test()`` runs the network: 'float', 'simulated' or 'converted' (integers).
            Default: 'simulated'.
        scheme (Mapping, optional): In place of ``numerics``, ``quantize_outputs``, ``float_modules``,
            ``weight_bits``, ``weights`` and ``overrides``: all of a scheme as :meth:`Scheme.to_dict` writes it.
        teacher (str | PathLike, optional): Who guides QAT: 'self', the float weights at the end of the warm-up, or a
            checkpoint of the same config.
        teacher_weight (float): Of the loss that the teacher adds. Default: 1.0.

    Raises:
        QuantizationError: An option is out of its domain, or the config combines QAT with what it cannot be combined
        with. UnsupportedModelError: The model cannot be captured.
    """

    priority = 'VERY_HIGH'  # the network is in its place before any other hook copies or inspects the model

    def __init__(
        self,
        numerics: str = 'onnx',
        warmup: str | int = '1 epoch',
        freeze_bn_at: str | None = '80 %',
        freeze_observers_at: str | None = '90 %',
        quantize_outputs: bool = False,
        float_modules: Sequence[str] = (),
        learned_scales: bool = False,
        averaging_constant: float = 0.01,
        example_shape: Sequence[int] | None = None,
        weight_bits: int = 8,
        execution: str = 'simulated',
        scheme: Mapping | None = None,
        weights: str = 'channel',
        overrides: Mapping | None = None,
        teacher: str | os.PathLike | None = None,
        teacher_weight: float = 1.0,
    ) -> None:
        self.settings = QuantizationSettings.of(
            numerics,
            quantize_outputs,
            float_modules,
            learned_scales,
            averaging_constant,
            example_shape,
            weight_bits,
            weights,
            overrides,
        )
        if scheme is not None:
            beside = dict(numerics=numerics != 'onnx', quantize_outputs=quantize_outputs, float_modules=float_modules)
            beside |= dict(weight_bits=weight_bits != 8, weights=weights != 'channel', overrides=overrides)
            given = [name for name, differs in beside.items() if differs]
            if given:
                raise QuantizationError(
                    f'scheme and {given[0]} were both given: expected the {given[0]} in the scheme, or no scheme.'
                )
            self.settings = replace(self.settings, scheme=Scheme.from_config(scheme))
        points = (('warmup', warmup), ('freeze_bn_at', freeze_bn_at), ('freeze_observers_at', freeze_observers_at))
        self.points = [None if text is None else TrainingPoint.parse(text, name) for name, text in points]
        if self.points[0] is None:
            raise QuantizationError("warmup=None was given; expected a length such as '1 epoch', or 0 for none.")
        if execution not in EXECUTIONS:
            raise QuantizationError(
                f'execution={execution!r} was given; expected one of {", ".join(map(repr, EXECUTIONS))}.'
            )
        self.execution = execution
        warm = self.points[0].amount > 0
        self.distillation = None if teacher is None else Distillation(teacher, teacher_weight, warm)
        self.network: QuantizedNetwork | None = None
        self.phase: Phase | None = None
        self._saved_phase = Phase(False)
        self._begun = 0.0  # from where the warm-up counts, in its unit: a float run was resumed there
        self._resumed = False
        self._aside = False
        self._gradient_check: GradientCheck | None = None

    # -- into the model

    def prepare(self, runner) -> QuantizedNetwork:
        """Put the quantized network into the Runner's model; a second call returns the one that is there."""
        if self.network is None:
            print_log(f'Capturing the dense network for INT8 ({self.settings.scheme.name}) …', logger='current')
            self.network = prepare_model(runner.model, self.settings)
            print_log(describe_report(self.network), logger='current')
        return self.network

    def before_run(self, runner) -> None:
        """Prepare the model before other hooks copy it, and before a checkpoint is loaded."""
        training = isinstance(runner.optim_wrapper, OptimWrapper)
        if training:
            self._refuse_what_would_be_wrong(runner)
        self.prepare(runner)
        if training and self.distillation:
            self.distillation.prepare(runner)
        if training and self.settings.learned_scales:
            scales = [p for name, p in self.network.named_parameters() if name.endswith('log_scale')]
            known = {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
            if scales and id(scales[0]) not in known:
                add_parameters(runner.optim_wrapper.optimizer, scales, runner.param_schedulers)

    def _refuse_what_would_be_wrong(self, runner) -> None:
        if isinstance(runner.optim_wrapper, AmpOptimWrapper):
            raise QuantizationError(
                'QATHook with mixed precision (--amp, AmpOptimWrapper) was given: bfloat16 has as few digits as INT8, '
                'so rounding would be simulated wrongly. Expected OptimWrapper: leave --amp out.'
            )
        wrapped = is_model_wrapper(runner.model)
        if wrapped and not isinstance(runner.model, torch.nn.parallel.DistributedDataParallel):
            raise QuantizationError(
                f'QATHook with {type(runner.model).__name__} was given: it hides or shards the parameters that the '
                'graph reads. Expected MMDistributedDataParallel or no wrapper.'
            )
        if wrapped and self.settings.learned_scales:
            raise QuantizationError(
                'QATHook(learned_scales=True) in distributed training was given: the wrapper was made before the '
                'scales existed and would not average their gradients. Train on one device, or with '
                'learned_scales=False.'
            )

    # -- phases

    def phase_at(self, loop) -> Phase:
        """The phase in which a loop's next iteration is."""
        norms, ranges = (point is not None and point.reached(loop) for point in self.points[1:])
        warm = self.points[0].progress(loop) >= self._begun + self.points[0].amount
        return Phase(warm, warm and norms, warm and ranges)

    def before_train(self, runner) -> None:
        """Say when which phase begins."""
        names = ('QAT', 'batch norm frozen', 'ranges frozen')
        steps = [f'{name} at {point}' for name, point in zip(names, self.points, strict=True) if point is not None]
        print_log(f'Float warm-up, then {", ".join(steps)}.', logger='current')

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Enter the phase of this iteration."""
        if self.phase is None and not self._saved_phase.simulating:
            self._begin_warmup(runner.train_loop)
        phase = self.phase_at(runner.train_loop) | self._saved_phase
        if phase != self.phase:
            self._enter(runner, phase)

    def _begin_warmup(self, loop) -> None:
        """Count the warm-up from here if a float run is resumed, and say so if nothing comes behind it."""
        warmup = self.points[0]
        if loop.iter and warmup.amount and not self._begun and not self.network.observed:
            self._begun = warmup.progress(loop)
            print_log(f'Nothing has been observed yet: the float warm-up of {warmup} begins here.', logger='current')
        if self._begun + warmup.amount >= warmup.end(loop):
            print_log(
                f'The float warm-up ({warmup}) lasts to the end of this training, which is thereby one in float: '
                'nothing is trained in INT8. Train longer, or set the warmup of QATHook to less, such as 0.',
                logger='current',
                level=logging.WARNING,
            )

    def _enter(self, runner, phase: Phase) -> None:
        network = self.network
        learned = self.settings.learned_scales and phase.simulating
        if phase.simulating and (phase.ranges_frozen or not self._first_step(network)):
            network.check_ranges()
        elif phase.simulating:
            warn_of_lagging_ranges(runner, network, self.settings)
        if phase.simulating and self.distillation:
            self.distillation.start(runner, self._saved_phase.simulating)
        if learned:
            self._start_learning(runner)
        network.observe(not phase.ranges_frozen, learned=not learned)
        network.simulate(phase.simulating)
        network.freeze_norms = phase.norms_frozen
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if isinstance(optimizer, GradBoostMixin):
            optimizer.boost(phase.simulating, steps_left(runner.train_loop, runner.optim_wrapper))
        if self.phase is None or self.phase.simulating != phase.simulating:
            self._watch_gradients(runner)
        self.phase = phase
        print_log(f'Iteration {runner.iter + 1}: {phase}.', logger='current')
        if not (self._resumed and phase == self._saved_phase):  # that was logged when it began
            runner.visualizer.add_scalars(dict(iter=runner.iter + 1, **phase.flags()), step=runner.iter + 1)

    def _watch_gradients(self, runner) -> None:
        """Have the gradients of the next step looked at: at the start, and when rounding begins."""
        self._stop_watching()
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if isinstance(optimizer, torch.optim.Optimizer):
            self._gradient_check = GradientCheck(unwrap(runner.model), optimizer)

    def after_train(self, runner) -> None:
        """Look at no more gradients, and ask no teacher."""
        if self.distillation:
            self.distillation.stop()
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._gradient_check is not None:
            self._gradient_check.close()
            self._gradient_check = None

    def _start_learning(self, runner) -> None:
        """Begin to train the scales, and the averages of them: until now the parameters have held no scale."""
        if self.network.start_learning():
            own = dict(self.network.named_parameters())
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    average = quantized_network(hook.ema_model.module)
                    for name, value in average.named_parameters():
                        value.data.copy_(own[name].data)

    def _first_step(self, network: QuantizedNetwork) -> bool:
        """Whether nothing was observed yet, as at the start of a run without warm-up."""
        return not network.observed and not self.settings.learned_scales

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Give all ranks the same ranges: the smallest minimum and the largest maximum."""
        if get_world_size() > 1 and not self.phase.ranges_frozen:
            reduce_ranges(self.network)

    # -- evaluation

    def before_val(self, runner) -> None:
        """Validate in the phase's arithmetic; before any training, in that of ``execution``."""
        if self._aside:
            return
        if self.phase is None and not self._resumed:
            self._execute(runner)
        else:
            phase = self.phase or self._saved_phase  # a resumed run may validate before it trains
            self.network.simulate(phase.simulating)
            arithmetic = 'simulated INT8' if phase.simulating else 'float (warm-up)'
            print_log(f'Validation in {arithmetic}.', logger='current')

    def before_test(self, runner) -> None:
        """Evaluate in the arithmetic of ``execution``."""
        if not self._aside:
            self._execute(runner)

    @contextmanager
    def standing_aside(self) -> Iterator[None]:
        """Have evaluations run what is attached to the model, such as an engine, while the context is open."""
        before, self._aside = self._aside, True
        try:
            yield
        finally:
            self._aside = before

    def _execute(self, runner) -> None:
        execute(runner.model, self.network, self.execution)
        print_log(f'Evaluation: {describe_execution(self.execution)}.', logger='current')

    # -- checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Write down what the ranges belong to, and the phase."""
        points = [None if point is None else str(point) for point in self.points]
        about = dict(teacher=self.distillation.note() if self.distillation else None, begun=self._begun)
        about = {name: value for name, value in about.items() if value}
        phase = self.phase or self._saved_phase
        Checkpoint(checkpoint, 'The checkpoint').quantize(self.network, self.settings, phase, points, **about)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse ranges of another graph; a resumed run never falls back into an earlier phase."""
        found = Checkpoint(checkpoint, 'The checkpoint')
        if not found.quantized:
            print_log(
                'The checkpoint is a float one: activation ranges come from the warm-up or from calibration.',
                logger='current',
            )
            return
        found.check(self.network, self.settings)
        bits, own = found.scheme.weight_bits, self.settings.scheme.weight_bits
        if bits != own:
            print_log(f'The checkpoint was made with weights of {bits} bits; here they have {own}.', logger='current')
        scales, own = found.scheme.weight_granularity, self.settings.scheme.weight_granularity
        if scales != own:
            print_log(f'The checkpoint was made with weights={scales!r}; here it is {own!r}.', logger='current')
        if found.scheme.bit_overrides != self.settings.scheme.bit_overrides:
            print_log('The checkpoint was made with other bits of some modules (overrides).', logger='current')
        if runner._resume and self.distillation:
            self.distillation.resume(found)
        if runner._resume and found.reached is not None:
            self._saved_phase, self._begun, self._resumed = found.reached, found.begun, True
            points = [None if point is None else str(point) for point in self.points]
            if found.points != points:
                print_log(f'Phases begin at {points}; in the checkpoint: {found.points}.', logger='current')


def hook_options(settings: QuantizationSettings) -> dict:
    """The arguments of a :class:`QATHook` with these settings."""
    return dict(
        scheme=settings.scheme.to_dict(),
        learned_scales=settings.learned_scales,
        averaging_constant=settings.averaging_constant,
        example_shape=list(settings.example_shape),
    )


def execute(model: torch.nn.Module, network: QuantizedNetwork, execution: str) -> None:
    """Have a prepared model run its dense network in one of three executions from now on.

    Args:
        model (nn.Module): The model.
        network (QuantizedNetwork): Its quantized network.
        execution (str): 'float', 'simulated' or 'converted'.

    Raises:
        RangeError: A layer has no usable range, and the execution is not 'float'.
    """
    if execution != 'float':
        network.check_ranges()
    network.simulate(execution != 'float')
    attach(unwrap(model), convert(network) if execution == 'converted' else network)


def describe_execution(execution: str) -> str:
    """Name an arithmetic as reports do."""
    return {
        'float': 'float',
        'simulated': 'simulated INT8 (fake quantization in float32)',
        'converted': 'converted (integer-exact reference: quantize and dequantize operators)',
    }[execution]


def reduce_ranges(network: QuantizedNetwork) -> None:
    """Replace the ranges of each rank by the smallest minimum and the largest maximum of all ranks."""
    modules = list(network.activations())
    ends = torch.cat([torch.cat([-module.min_val, module.max_val]) for module in modules])
    all_reduce(ends, op='max')
    for module, (low, high) in zip(modules, ends.view(-1, 2), strict=True):
        module.min_val.copy_(-low)
        module.max_val.copy_(high)
