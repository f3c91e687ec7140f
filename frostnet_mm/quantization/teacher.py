"""Distillation: a float teacher, frozen and no part of the model, guides the quantized network."""

import copy
import hashlib
import io
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional

from ..files import write_bytes
from ..models.dense import family_of, unwrap
from .checkpoint import RANGES, Checkpoint
from .errors import QuantizationError
from .network import QuantizedNetwork
from .schedule import TrainingPoint
from .settings import NAME

SELF = 'self'
FILE = 'teacher.pth'  # in the work dir: a float checkpoint of the model as it was at the end of the warm-up
LOSS = 'loss_distill'
TAUGHT = TrainingPoint.parse('50 %', 'TAUGHT')  # of a training from scratch: before, it knows too little to teach
CONSTANT = 1e-6  # an output whose variance is a smaller share of its mean square is the same number everywhere


class Distillation:
    """Adds to a model's losses how far the quantized network is from a float teacher on the very same images.

    The teacher is the same network in float with batch norms in evaluation mode. The loss is that of
    :func:`distillation_loss`, after Hinton et al. 2015 (arXiv 1503.02531), on the outputs that the rest of the model
    reads at inference. Evaluation is not touched.

    Args:
        teacher (str | PathLike): 'self' for the weights as they are at the end of the float warm-up, or a checkpoint of
            the same config.
        weight (float): Of the loss. Default: 1.0.
        warm (bool): Whether there is a float warm-up. Default: True.

    Raises:
        QuantizationError: An option is out of its domain.
    """

    def __init__(self, teacher: str | os.PathLike, weight: float = 1.0, warm: bool = True) -> None:
        if not isinstance(teacher, (str, os.PathLike)) or not str(teacher):
            raise QuantizationError(
                f"teacher={teacher!r} was given; expected 'self' or the path of a checkpoint of the same config."
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise QuantizationError(f'teacher_weight={weight!r} was given; expected a number above 0, such as 1.0.')
        if teacher == SELF and not warm:
            raise QuantizationError(
                "teacher='self' with warmup=0 was given: there is nothing trained to learn from. Expected a float "
                "warm-up (warmup='1 epoch'), or teacher=CHECKPOINT, a file of trained weights."
            )
        self.teacher, self.weight = str(teacher), weight
        self.network: QuantizedNetwork | None = None
        self._ready = False
        self._digest: str | None = None
        self._noted: Mapping[str, str] | None = None
        self._supervised: tuple[int, ...] = ()
        self._losses: list[Tensor] = []
        self._handles: list[Any] = []

    def __deepcopy__(self, memo: dict) -> 'Distillation':
        """Copies of a model, such as an average of its weights, have no teacher of their own."""
        return self

    # -- the teacher's weights

    def prepare(self, runner) -> None:
        """Make the frozen network, and read its weights if they are in a file.

        Args:
            runner (Runner): Its model has a quantized network.

        Raises:
            FileNotFoundError, CheckpointError: The file cannot be read, or is of another model.
            QuantizationError: It was trained on other classes.
        """
        model = unwrap(runner.model)
        copied = copy.deepcopy(model)
        self.network = getattr(copied, NAME).eval()
        self.network.simulate(False)
        self.network.observe(False)
        self.network.__dict__['root'].requires_grad_(False)
        layout, features_too = self.network.program.training_layout, family_of(model).features_at_inference
        self._supervised = tuple(
            index for index in range(len(layout.all_names)) if features_too or index not in layout.features
        )
        if self.teacher != SELF:
            source = Checkpoint.open(self.teacher)
            _check_classes(source, runner)
            delattr(copied, NAME)  # its ranges are of no use
            source.load_into(copied)
            self._settle(f'the weights of {self.teacher}')

    def resume(self, checkpoint: Checkpoint) -> None:
        """Remember what a checkpoint that is resumed notes about its teacher."""
        self._noted = checkpoint.teacher or {}

    def start(self, runner, resumed: bool) -> None:
        """Guide the network from now on; a second call changes nothing.

        Args:
            runner (Runner): In training.
            resumed (bool): Whether the run was resumed from a checkpoint behind the warm-up.

        Raises:
            QuantizationError: The teacher of a resumed run is not there.
        """
        if not self._ready and resumed:
            self._restore(runner)
        elif not self._ready:
            _warn_of_a_beginner(runner)
            self._take(runner)
        if not self._handles:
            model = unwrap(runner.model)
            self._handles = [
                getattr(model, NAME).register_forward_hook(self._compare),
                model.register_forward_hook(self._add),
            ]
            if self._noted and self._noted != self.note():
                print_log(f'The teacher is another one than before: {self._noted}.', logger='current')

    def stop(self) -> None:
        """Guide it no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._losses = [], []

    def note(self) -> dict[str, str] | None:
        """What a checkpoint says about the teacher; None before there is one."""
        return dict(source=self.teacher, digest=self._digest) if self._ready else None

    def _take(self, runner) -> None:
        """Keep the weights of this moment, the same in all processes, and write them down for a resumed run."""
        state = {
            name: value for name, value in unwrap(runner.model).state_dict().items() if not name.startswith(RANGES)
        }
        self._load(state)
        for value in self._state().values():  # batch norm statistics are each process's own
            broadcast(value, 0)
        self._settle('the weights at the end of the warm-up')
        if is_main_process():
            data = getattr(runner.train_dataloader.dataset, 'metainfo', None)
            content = io.BytesIO()
            torch.save(
                dict(meta=dict(dataset_meta=data, epoch=runner.epoch, iter=runner.iter), state_dict=state), content
            )
            write_bytes(Path(runner.work_dir) / FILE, content.getvalue())

    def _restore(self, runner) -> None:
        """Take the weights that a run wrote down before it was resumed."""
        if not self._noted or self._noted['source'] != SELF:
            raise QuantizationError(
                "teacher='self' was given, but the checkpoint that is resumed is one of QAT "
                f'{"with another teacher" if self._noted else "without a teacher"}: the float weights at the end of '
                'its warm-up are not known. Give a float checkpoint (teacher=CHECKPOINT), resume one of the warm-up, '
                'or leave teacher out.'
            )
        own = Path(runner.work_dir)
        folders = dict.fromkeys([own, *([Path(runner._load_from).parent] if runner._load_from else [])])
        for file in (folder / FILE for folder in folders):
            if file.is_file():
                self._load(Checkpoint.open(file).state_dict)
                if _digest(self._state()) == self._noted['digest']:
                    self._settle(f'the weights of {file}')
                    if file.parent != own and is_main_process():
                        write_bytes(own / FILE, file.read_bytes())
                    return
        raise QuantizationError(
            f'The teacher of the run that is resumed ({FILE}, digest {self._noted["digest"]}) is not in '
            f'{" or ".join(map(str, folders))}: put the file that the run wrote into its work dir beside the '
            'checkpoint, or resume a checkpoint of the warm-up.'
        )

    def _state(self) -> dict[str, Tensor]:
        """The teacher's weights and statistics, by their names in the model."""
        state = self.network.__dict__['root'].state_dict()
        return {name: value for name, value in state.items() if not name.startswith(RANGES)}

    def _load(self, state: Mapping[str, Tensor]) -> None:
        own = self._state()
        missing = [name for name in own if name not in state or state[name].shape != own[name].shape]
        if missing:
            raise QuantizationError(f'{FILE} is of another network: it does not hold {", ".join(missing[:4])} as here.')
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])

    def _settle(self, what: str) -> None:
        self._digest, self._ready = _digest(self._state()), True
        print_log(f'The float teacher has {what}.', logger='current')

    # -- the loss

    @torch.no_grad()
    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the teacher puts out for images (N, 3, H, W): the outputs of training, batch norms as in evaluation."""
        program, root = self.network.program, self.network.__dict__['root']
        values = program.forward(root, training=False, update_norms=False, folded=False, every=True)(root, images)
        return self._select(program.for_training(values))

    def _select(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(values[index] for index in self._supervised)

    def _compare(self, network: QuantizedNetwork, args: tuple, outputs: Any) -> None:
        """Behind the quantized network's forward pass, in training alone."""
        if network.training and torch.is_grad_enabled():
            students = self._select(network.program.training_layout.flatten(outputs))
            self._losses.append(self.weight * distillation_loss(students, self.outputs(args[0])))

    def _add(self, model: nn.Module, args: tuple, outputs: Any) -> dict | None:
        """Behind the model's: one more entry of its losses."""
        found, self._losses = self._losses, []
        if not found or not isinstance(outputs, dict):
            return None
        return dict(outputs, **{LOSS: torch.stack(found).mean()})


def distillation_loss(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """The mean squared error of each output as a share of the teacher's variance, averaged over the outputs.

    So one weight fits heads of all kinds: 0 is equality, 1 is as wrong as the teacher's mean would be. An output that
    is the same number everywhere has nothing to teach and counts as 0.

    Args:
        students (Sequence[Tensor]): Outputs of the network that is trained.
        teachers (Sequence[Tensor]): The same outputs of the teacher, without gradients.

    Returns:
        Tensor: A scalar.
    """
    shares = []
    for student, teacher in zip(students, teachers, strict=True):
        variance, mean = torch.var_mean(teacher, correction=0)
        varies = variance > CONSTANT * (variance + mean * mean)
        shares.append(functional.mse_loss(student, teacher) / torch.where(varies, variance, math.inf))
    return torch.stack(shares).mean()


def _digest(state: Mapping[str, Tensor]) -> str:
    """A digest of names and numbers."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _warn_of_a_beginner(runner) -> None:
    """Say that weights early in a training from scratch are no teacher; loaded ones may be."""
    loop = runner.train_loop
    if runner._load_from is None and not TAUGHT.reached(loop):
        print_log(
            f"teacher='self' takes the weights at {TAUGHT.progress(loop):.0f}% of a training from scratch: the network "
            'would be held to what it knows now (docs/distillation.md has what that cost). Expected '
            'teacher=CHECKPOINT, a file of trained weights, or a start from trained weights (load_from).',
            logger='current',
            level=logging.WARNING,
        )


def _check_classes(source: Checkpoint, runner) -> None:
    own = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    if source.classes and own and tuple(source.classes) != tuple(own):
        raise QuantizationError(
            f'teacher={source.source} was trained on {len(source.classes)} classes ({", ".join(source.classes[:4])}), '
            f'the training data have {len(own)} ({", ".join(own[:4])}): expected a checkpoint of the same config.'
        )
