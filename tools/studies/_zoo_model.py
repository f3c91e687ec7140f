"""One model on its way to the engines, as zoo.py takes it."""

import os
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from _zoo_families import SPECIAL, shorten

from frostnet_mm.errors import UserError

STEPS = ('build', 'capture', 'step', 'convert', 'onnxruntime', 'openvino')
SIZE = (128, 128)  # height, width
IMAGES = 4  # to verify with: one alone says little of an output of few elements
MAX_SHARE = 1e-3  # of an output's elements may be one step off between simulated and converted


class StudyError(Exception):
    """What was computed is not what it should be."""


def numbers_of_classes(node: object) -> Iterator[int]:
    """Each ``num_classes`` of a model config."""
    if isinstance(node, dict):
        if isinstance(node.get('num_classes'), int):
            yield node['num_classes']
        node = tuple(node.values())
    for value in node if isinstance(node, (list, tuple)) else ():
        yield from numbers_of_classes(value)


def asked_for(node: object) -> Iterator[str]:
    """The kinds of labels that a data set's pipeline loads."""
    if isinstance(node, dict):
        panoptic = 'Panoptic' in str(node.get('type'))  # of which both are the default
        yield from (key for key in ('with_mask', 'with_seg') if node.get(key, panoptic))
        node = tuple(node.values())
    for value in node if isinstance(node, (list, tuple)) else ():
        yield from asked_for(value)


class Study:
    """A model on its way to the engines; each method named in ``STEPS`` takes it one step further.

    Args:
        name (str): The family.
        config (str): Its config's name.
        full (bool): Whether the network keeps the blocks that it repeats.
    """

    def __init__(self, name: str, config: str, full: bool = False) -> None:
        self.name = name
        self.package, self.folder = name.split('/')
        self.config = f'{self.package}::{self.folder}/{config}'
        self.special = SPECIAL.get(name, {})
        self.size = self.special.get('size', SIZE)
        self.full = full
        self.labels: set[str] = set()  # beyond boxes
        self.facts: dict = {}

    def build(self) -> None:
        """The model with random weights, and a batch with labels of every kind."""
        import torch
        from mmengine.registry import MODELS, init_default_scope

        from frostnet_mm.engine.config import load_config, without_pretrained

        os.chdir(Path(find_spec(self.package).origin).parent / '.mim')  # configs name those of teachers so
        cfg = load_config(self.config, self.special.get('options'))
        init_default_scope(cfg.get('default_scope', self.package))
        without_pretrained(cfg.model)
        if not self.full:
            shorten(cfg.model)
        if 'img_size' in cfg.model.get('backbone', {}):  # of which some transformers keep tables
            cfg.model.backbone.img_size = self.size
        preprocessor = cfg.model.get('data_preprocessor') or {}
        for key in ('batch_augments', 'size', 'test_cfg'):  # they need a Runner, or make images large
            preprocessor.pop(key, None)
        if self.package == 'mmseg':
            preprocessor['size_divisor'] = 32
        self.labels = set(asked_for(cfg.get('train_dataloader')))
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.classes = min(numbers_of_classes(cfg.model), default=2)

    def batch(self) -> dict:
        """Two images of noise with labels, preprocessed."""
        import numpy as np
        import torch

        torch.manual_seed(0)
        np.random.seed(0)
        if self.package == 'mmseg':
            batch = _segmentation_batch(self.size, self.classes)
        else:
            batch = _detection_batch(self.size, self.classes, self.labels, self.special.get('stride', 1))
        return self.model.data_preprocessor(batch, True)

    def losses(self, batch: dict) -> object:
        """The sum of the model's losses."""
        from mmengine.logging import MessageHub

        for name in ('epoch', 'iter'):  # which some losses read, and a Runner says
            MessageHub.get_current_instance().update_info(name, 0)
        losses = self.model(batch['inputs'], batch['data_samples'], mode='loss')
        return self.model.parse_losses(losses)[0]

    def capture(self) -> None:
        """The quantized network in the place of the dense one, with ranges of noise."""
        from frostnet_mm.models.dense import UnsupportedModelError
        from frostnet_mm.quantization import QuantizationSettings
        from frostnet_mm.quantization.calibration import calibrate
        from frostnet_mm.quantization.report import int8_share

        try:
            noise = self._prepare(QuantizationSettings())
            fixed = self.network.program.fixed_size[2:]
        except UnsupportedModelError as error:
            if 'example_shape' not in str(error):
                raise
            fixed = (0, 0)
        if any(size not in (None, own) for size, own in zip(fixed, self.size, strict=True)):  # as the message says
            self.build()
            noise = self._prepare(QuantizationSettings(example_shape=(2, 3, *self.size)))
        calibrate(self.network, noise, 'minmax')
        self.facts.update(int8=int8_share(self.network), fixed=self.network.program.fixed_size[2:] != (None, None))

    def _prepare(self, settings: object) -> list:
        import torch

        from frostnet_mm.deploy.loaded_model import enliven, gather_statistics
        from frostnet_mm.models.dense import DenseNetwork
        from frostnet_mm.quantization import prepare_model

        dense = DenseNetwork(self.model)
        noise = [torch.randn(2, 3, *self.size) for _ in range(2)]
        self.model.train()
        enliven(dense)
        gather_statistics(self.model, dense, noise)
        self.network = prepare_model(self.model, settings)
        return noise

    def step(self) -> None:
        """A training step in simulated INT8."""
        import torch

        from frostnet_mm.quantization.errors import QuantizationError
        from frostnet_mm.quantization.gradient_check import check_gradients

        self.network.simulate(True)
        self.network.observe(True)
        self.model.train()
        batch = self.batch()
        total = self.losses(batch)
        total.backward()
        if not torch.isfinite(total):
            raise StudyError(f'The loss in simulated INT8 is {float(total)}.')
        try:
            check_gradients(self.model, (batch['inputs'], batch['data_samples']), dict(mode='loss'))
        except QuantizationError as error:
            raise StudyError(str(error)) from error
        parameters = [value for value in self.model.parameters() if value.grad is not None]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # those of random weights may be of any size
        torch.optim.SGD(parameters, lr=1e-5).step()
        self.model.zero_grad()

    def convert(self) -> None:
        """The integer network, compared with the simulation."""
        import torch

        from frostnet_mm.deploy.flat_network import converted_network, float_network
        from frostnet_mm.models.dense import detach
        from frostnet_mm.quantization import convert
        from frostnet_mm.quantization.convert import fold

        self.network.observe(False)
        self.model.eval()
        torch.manual_seed(1)
        self.images = torch.randn(IMAGES, 1, 3, *self.size)
        with torch.no_grad():
            converted = convert(self.network)
            try:
                pairs = zip(self.network.flat(self.images[0]), converted.flat(self.images[0]), strict=True)
                for name, (simulated, integers) in zip(self.network.program.names, pairs, strict=True):
                    compare(name, simulated, integers)
            except StudyError:  # attention carries one value that is rounded to its other side to all the others
                compare_operators(fold(self.network), converted.module, self.images[0])
        detach(self.model)
        self.deployed = converted_network(self.model, converted)
        self.in_float = float_network(self.model, self.size)

    def onnxruntime(self) -> None:
        """Written for onnxruntime and verified there."""
        self._deploy('onnxruntime')

    def openvino(self) -> None:
        """Written for OpenVINO and verified there."""
        self._deploy('openvino')

    def _deploy(self, name: str) -> None:
        import onnx
        import torch

        from frostnet_mm.deploy.engines import engine_of
        from frostnet_mm.deploy.flat_network import traceable
        from frostnet_mm.deploy.verification import verify
        from frostnet_mm.device import DeploymentError, compare_outputs

        engine, images, names = engine_of(name), self.images.numpy(), self.deployed.names
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            engine.write(self.deployed, self.images[0], Path(folder))
            model = onnx.load(Path(folder) / 'network.onnx')
            layers = verify.check_layers(engine, model, traceable(self.deployed), images[0])
            found = [engine.run_onnx(model.SerializeToString(), image, names) for image in images]
            expected, plain = (
                [[value.numpy() for value in run(image)] for image in self.images]
                for run in (self.deployed, self.in_float)
            )
        outputs = compare_outputs(names, found, expected, plain)
        try:
            verify.require_agreement(outputs, layers, engine_of(name))
        except DeploymentError as error:
            raise StudyError(str(error)) from error

    def fails_in_float(self) -> str | None:
        """What mm itself raises where it trains the model in float; None if it does not."""
        from frostnet_mm.models.dense import detached

        self.model.train()
        try:
            with detached(self.model):
                self.losses(self.batch())
        except Exception as error:  # anything
            return describe(error)
        return None


def compare(name: str, simulated: object, integers: object) -> None:
    """Refuse an output of the converted network that is not what was simulated."""
    step = float(simulated.abs().max()) / 255 or 1.0
    off = (simulated - integers).abs()
    share = int((off > 0.01 * step).sum()) / off.numel()
    if not float(off.max()) <= step or share > MAX_SHARE:
        raise StudyError(
            f'{name} of the converted network is up to {float(off.max()) / step:.2f} steps off the simulation, on '
            f'{share:.2%} of the elements.'
        )


def compare_operators(simulated: object, converted: object, images: object) -> None:
    """Refuse an operator of the converted network that computes something else, given what it reads when simulated.

    Args:
        simulated (GraphModule): The folded network with its fake quantizers.
        converted (GraphModule): The same with integers; its operators have the same names.
        images (Tensor): Of shape (N, 3, H, W).
    """
    import torch
    from torch.fx import Interpreter, Node

    values: dict[str, object] = {}

    class Simulated(Interpreter):
        def run_node(self, n: Node) -> object:
            values[n.name] = super().run_node(n)
            return values[n.name]

    class Converted(Interpreter):
        compared = 0

        def run_node(self, n: Node) -> object:
            value = super().run_node(n)
            if n.op != 'call_function' or not isinstance(values.get(n.name), torch.Tensor):
                return value
            if value.is_floating_point():
                self.compared += 1
                compare(f'{n.name} ({n.target})', values[n.name], value)
            return values[n.name]

    Simulated(simulated).run(images)
    operators = Converted(converted)
    operators.run(images)
    if not operators.compared:
        raise StudyError('The converted network has no operator of the simulated one.')


def _detection_batch(size: tuple[int, int], classes: int, labels: set[str], stride: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        2,
        [[3, *size]] * 2,
        num_items=[3, 3],
        num_classes=max(classes, 2),
        sem_seg_output_strides=stride,
        with_mask='with_mask' in labels,
        with_semantic='with_seg' in labels,
    )


def _segmentation_batch(size: tuple[int, int], classes: int) -> dict:
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    data = dict(inputs=[], data_samples=[])
    for _ in range(2):
        data['inputs'].append(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
        labels = torch.randint(0, classes, (1, size[0] // 8, size[1] // 8)).repeat_interleave(8, 1)
        labels = PixelData(data=labels.repeat_interleave(8, 2))
        edges = PixelData(data=torch.randint(0, 2, (1, *size), dtype=torch.uint8))
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4)
        data['data_samples'].append(SegDataSample(gt_sem_seg=labels, gt_edge_map=edges, metainfo=meta))
    return data


def describe(error: Exception) -> str:
    """An error in a line, of a raw one its kind as well."""
    text = ' '.join(str(error).split())
    return text if isinstance(error, (UserError, StudyError)) else f'{type(error).__name__}: {text}'


def place_of(error: Exception) -> str:
    """The innermost lines of this package and of all that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if '/frostnet_mm/' in frame.filename]
    lines = [f'{_short(frame.filename)}:{frame.lineno} in {frame.name}' for frame in (*own[-1:], *frames[-1:])]
    return ' < '.join(dict.fromkeys(lines))


def _short(path: str) -> str:
    """A path from its package on."""
    return re.sub(r'.*/(?=site-packages/|frostnet_mm/|tools/)(site-packages/)?', '', path)


def take_through(study: Study, save: Callable[[dict], None]) -> dict:
    """All steps of a family, up to the first that fails; an engine that fails leaves the other."""
    row = dict(config=study.config)
    for step in STEPS:
        save(row | dict(running=step))
        start = time.monotonic()
        try:
            getattr(study, step)()
            row[step] = 'ok'
        except Exception as error:  # whatever mm, torch or an engine raises is what this is about
            traceback.print_exc()
            row[step], said = judge(step, error, study)
            row.setdefault('says', said)
            if row[step] == 'DEFECT':
                row['place'] = place_of(error)
        row.setdefault('seconds', {})[step] = round(time.monotonic() - start, 1)
        row |= dict(study.facts, size=study.size)
        if row[step] != 'ok' and step not in STEPS[-2:]:
            break
    return row


def judge(step: str, error: Exception, study: Study) -> tuple[str, str]:
    """The outcome that an error stands for, and what was said."""
    said = describe(error)
    if isinstance(error, StudyError):
        return 'WRONG', said
    if isinstance(error, UserError) and step != 'build':
        return 'refused', said
    if step == 'build':
        return 'mm', said
    in_float = study.fails_in_float() if step in ('capture', 'step') else None
    return ('DEFECT', said) if in_float is None else ('mm', in_float)
