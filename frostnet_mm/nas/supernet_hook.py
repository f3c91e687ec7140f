"""The hook that trains all networks of a search space at once."""

import random
from collections import deque

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from ..engine.optimizers import GradBoostMixin
from ..models.dense import DenseNetwork, attach, detach, unwrap
from ..models.frostnet_arch import FrostNetArch
from ..quantization.schedule import TrainingPoint, steps_left
from ..quantization.scheme import Scheme
from ..registry import HOOKS, is_type
from .errors import SearchError
from .networks import elastic_of, extract_model
from .recalibrate import recalibrate
from .rounding import BatchRounding
from .space import SearchSpace

DATA_BATCH = dict | tuple | list | None
NETWORKS = 4  # of an update: two random ones, the smallest, the largest
KEPT_IMAGES = 32  # of training, which the batch norms of validated networks get their statistics from


def network_at(space: SearchSpace, seed: int, iteration: int) -> FrostNetArch:
    """The network that is trained in an iteration: random, random, smallest, largest and so on.

    Args:
        space (SearchSpace): The networks.
        seed (int): Of the random ones.
        iteration (int): From 0. Nothing else decides, so a resumed training goes on with the same networks.
    """
    place = iteration % NETWORKS
    if place < 2:
        return space.sample(random.Random(f'{seed}-{iteration}'))
    return space.smallest if place == 2 else space.largest


@HOOKS.register_module()
class SupernetHook(Hook):
    """Train an :class:`ElasticFrostNet` by the sandwich rule (Yu & Huang 2019, arXiv 1903.05134).

    Each iteration trains one network; each update of the weights takes the gradients of four: two random ones, the
    smallest and the largest, by ``optim_wrapper.accumulative_counts=4``. All processes of a distributed training train
    the same network at a time.

    Validation runs the largest network in float, as a plain copy whose batch norms have the statistics of the latest
    training images.

    Args:
        seed (int): Of the random networks. Default: 0.
        quantize (bool): Simulate INT8 in the backbone, with ranges of each batch, after a float warm-up (StatAssist);
            GradBoost optimizers begin to boost then. Neck and head stay in float. Default: False.
        warmup (str | int): Length of the float warm-up: '1 epoch', '500 iterations', '5 %', or 0. Default: '1 epoch'.
        numerics (str): The preset of the arithmetic: 'onnx' or 'executorch'. Default: 'onnx'.
        weight_bits (int): 8, or 7 for engines on x86 CPUs without VNNI. Default: 8.
        weight_granularity (str): 'channel' for a scale an output channel, 'tensor' for one scale a weight. Default:
            'channel'.

    Raises:
        SearchError: The training is set up in another way than this needs. QuantizationError: An option is out of its
        domain.
    """

    priority = 'LOW'  # validation copies the model after averages of its weights were put into it

    def __init__(
        self,
        seed: int = 0,
        quantize: bool = False,
        warmup: str | int = '1 epoch',
        numerics: str = 'onnx',
        weight_bits: int = 8,
        weight_granularity: str = 'channel',
    ) -> None:
        self.seed = seed
        self.quantize = quantize
        self.warmup = TrainingPoint.parse(warmup, 'warmup')
        self.rounding = BatchRounding(Scheme.preset(numerics).with_weights(weight_bits, weight_granularity))
        self._recent: deque = deque()

    def before_train(self, runner) -> None:
        """Check what the training is made of, and say what it does."""
        space = elastic_of(runner.model).space
        wrapper = runner.optim_wrapper
        counts = getattr(wrapper, '_accumulative_counts', None)
        if not isinstance(wrapper, OptimWrapper) or counts % NETWORKS:
            raise SearchError(
                f'SupernetHook with optim_wrapper.accumulative_counts={counts} was given: an update takes the '
                f'gradients of {NETWORKS} networks. Expected accumulative_counts={NETWORKS}, or a multiple.'
            )
        if any(is_type(hook, 'frostnet_mm.QATHook') for hook in runner.hooks):
            raise SearchError(
                'SupernetHook with QATHook was given, which captures one network. Leave QATHook out; '
                'SupernetHook(quantize=True) simulates INT8 in all networks.'
            )
        if self.quantize and isinstance(wrapper, AmpOptimWrapper):
            raise SearchError(
                'SupernetHook(quantize=True) with mixed precision (--amp, AmpOptimWrapper) was given: bfloat16 has as '
                'few digits as INT8. Expected OptimWrapper: leave --amp out.'
            )
        arithmetic = f'float, INT8 simulated from {self.warmup} on' if self.quantize else 'float'
        print_log(f'Training {float(space.size):.2g} networks at once, {arithmetic}.', logger='current')

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Choose the network of this iteration and its arithmetic."""
        backbone = elastic_of(runner.model)
        backbone.choose(network_at(backbone.space, self.seed, runner.iter))
        simulating = self.quantize and self.warmup.reached(runner.train_loop)
        if self.quantize and simulating != (backbone.rounding is not None):
            print_log(f'Iteration {runner.iter + 1}: {"simulated INT8" if simulating else "float"}.', logger='current')
        backbone.rounding = self.rounding if simulating else None
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if isinstance(optimizer, GradBoostMixin):
            optimizer.boost(simulating, steps_left(runner.train_loop, runner.optim_wrapper))
        self._recent.append(data_batch)
        while len(self._recent) > 1 and sum(map(_images_of, list(self._recent)[1:])) >= KEPT_IMAGES:
            self._recent.popleft()

    def after_train(self, runner) -> None:
        """Leave the largest network in float behind."""
        backbone = elastic_of(runner.model)
        backbone.choose(backbone.space.largest)
        backbone.rounding = None

    # -- validation

    def before_val(self, runner) -> None:
        """Put a plain copy of the largest network in the place of the supernet."""
        model = unwrap(runner.model)
        plain = extract_model(model, elastic_of(model).space.largest)
        dense = DenseNetwork(plain)
        batches = [
            plain.data_preprocessor(single, False)['inputs'] for batch in self._recent for single in _singles(batch)
        ]
        if batches:
            recalibrate(dense, batches)
        attach(model, dense.eval())
        note = f'statistics of {sum(map(len, batches))} images' if batches else 'the statistics of all networks'
        print_log(f'Validation of the largest network in float, batch norms with {note}.', logger='current')

    def after_val(self, runner) -> None:
        """Take it away again."""
        detach(runner.model)


def _singles(batch: dict) -> list[dict]:
    """A batch image by image: mmseg's preprocessor joins sizes in training only, where it may augment."""
    if not isinstance(batch['inputs'], (list, tuple)):
        return [batch]
    return [{name: values[index : index + 1] for name, values in batch.items()} for index in range(_images_of(batch))]


def _images_of(batch: DATA_BATCH) -> int:
    inputs = batch.get('inputs', ()) if isinstance(batch, dict) else ()
    return len(inputs)
