"""Which model families of the installed mmdet and mmseg can be trained, converted and deployed: docs/models.md's table.

python tools/studies/zoo.py --out work_dirs/zoo

One small config a folder of their packaged configs, with random weights, at a small image size: captured as under
QATHook, trained for a step in simulated INT8 (every parameter that trains in float gets a gradient), converted
(as simulated, to one step on 0.1 % of each output), written and verified layer by layer on each engine. Outcomes:

- ``ok``; ``refused`` with one message;
- ``mm``: mm itself cannot build the model, or train it in float, here;
- the faults ``DEFECT`` (a raw exception), ``WRONG`` (other values or gradients), ``TIME`` and ``MEMORY``.

Blocks that a backbone repeats are cut to one or two a stage, which are of the same kinds (``--full`` leaves them).
What is done is not done again; the exit status is 1 if there is a fault.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import _tools  # noqa: F401
from tqdm import tqdm

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import write_text

PACKAGES = ('mmdet', 'mmseg')
STEPS = ('build', 'capture', 'step', 'convert', 'onnxruntime', 'openvino')
FAULTS = ('DEFECT', 'WRONG', 'TIME', 'MEMORY')
SIZE = (256, 256)  # height, width
IMAGES = 4  # to verify with: one alone says little of an output of few elements
MAX_SHARE = 1e-3  # of an output's elements may be one step off between simulated and converted
PAGE = os.sysconf('SC_PAGE_SIZE')

_DATA, _RECIPE, _TRACKER = 'data sets', 'a training recipe', 'a tracker'
#: Folders that hold models of other folders: with other data, training, or tracking on top.
NO_FAMILY = {
    f'{package}/{name}': why
    for package, why, names in (
        ('mmdet', _DATA, 'cityscapes deepfashion dsdl lvis objects365 openimages pascal_voc v3det wider_face'),
        ('mmdet', _RECIPE, 'albu_example common instaboost legacy_1.x misc resnet_strikes_back scratch seesaw_loss'),
        ('mmdet', _RECIPE, 'selfsup_pretrain simple_copy_paste soft_teacher strong_baselines timm_example'),
        ('mmdet', _TRACKER, 'bytetrack deepsort mask2former_vis masktrack_rcnn ocsort qdtrack reid sort strongsort'),
        ('mmseg', _DATA, 'dsdl'),
    )
    for name in names.split()
}
#: Families that are no images-to-maps network: queries or texts take part in what each image's network computes.
NOT_DENSE = {
    f'{package}/{name}'
    for package, names in (
        ('mmdet', 'conditional_detr dab_detr ddq deformable_detr detr dino glip grounding_dino mask2former maskformer'),
        ('mmdet', 'mm_grounding_dino queryinst sparse_rcnn'),
        ('mmseg', 'knet mask2former maskformer san vpd'),
    )
    for name in names.split()
}
#: What a family needs beyond the rule: 'config', 'options' of the config, 'size', 'stride' of its semantic labels.
SPECIAL: dict[str, dict] = {
    'mmdet/ssd': dict(config='ssd300_coco', size=(300, 300)),
    'mmdet/yolact': dict(size=(550, 550)),
    'mmdet/cornernet': dict(size=(511, 511)),
    'mmdet/centripetalnet': dict(size=(511, 511)),
    'mmdet/ld': dict(options={'model.teacher_ckpt': None}),
    'mmdet/lad': dict(options={'model.teacher_ckpt': None}),
    'mmdet/htc': dict(stride=8),
    'mmdet/scnet': dict(stride=8),
    'mmdet/detectors': dict(config='detectors_cascade-rcnn_r50_1x_coco'),
    'mmdet/hrnet': dict(config='faster-rcnn_hrnetv2p-w18-1x_coco'),
    'mmdet/rpn': dict(config='rpn_r50_fpn_1x_coco'),
    'mmdet/dcn': dict(config='faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco'),
    'mmdet/dcnv2': dict(config='faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco'),
    'mmdet/guided_anchoring': dict(config='ga-retinanet_r50_fpn_1x_coco'),
    'mmdet/nas_fpn': dict(config='retinanet_r50_nasfpn_crop640-50e_coco'),
    'mmdet/pisa': dict(config='retinanet-r50_fpn_pisa_1x_coco'),
    'mmdet/res2net': dict(config='faster-rcnn_res2net-101_fpn_2x_coco'),
    'mmdet/yolo': dict(config='yolov3_mobilenetv2_8xb24-320-300e_coco'),
    'mmdet/gcnet': dict(config='mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco'),
    'mmseg/unet': dict(config='unet-s5-d16_fcn_4xb4-40k_drive-64x64'),
    'mmseg/swin': dict(config='swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512'),
    'mmseg/ann': dict(config='ann_r50-d8_4xb2-40k_cityscapes-512x1024'),
}
#: What makes a config's model larger, by the words of its name; of equals the shorter name is taken.
COSTS = (
    (r'tta', 1000),
    (r'nano|b0|n', -3),
    (r't|tiny|r18b?|slim|s12|hr18s', -2),
    (r's|small|hr18|pcpvt', -1),
    (r'r34|mobilenetv2', 1),
    (r'r50b?|x50|m|b|base|effb3|[st]50', 4),
    (r'r101b?|x101|l|large|x|xlarge|[st]101|101|r2|h|huge|swinl|swinb', 9),
    (r'.*dcn.*|.*dconv|mask|cascade|syncbn|fast|hr48|w32|w40', 3),
    (r'amp|ms|lsj|769x769|ade20k|164k|.*crop.*|ohem|pre', 1),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Take a model of every family of mmdet and mmseg to the engines.')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/zoo'), help='logs and results')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='only these families, such as mmdet/fcos')
    parser.add_argument('--limit', type=int, default=120, help='seconds that a family may take; default 120')
    parser.add_argument('--memory', type=float, default=8, help='GiB that a family may take; default 8')
    parser.add_argument('--jobs', type=int, default=1, help='families at a time, of a thread each; default 1')
    parser.add_argument('--full', action='store_true', help='leave blocks that a backbone repeats')
    parser.add_argument('--again', action='store_true', help='also what is done already')
    return parser.parse_args()


# -- which config


def cost_of(name: str) -> tuple[int, int, str]:
    """How large the model of a config is, by its name, to be compared."""
    words = re.split(r'[_\-.]', name)
    cost = sum(cost for pattern, cost in COSTS for word in words if re.fullmatch(pattern, word))
    return cost, len(name), name


def find_families(names: list[str] | None) -> dict[str, str]:
    """The config of every family of the installed packages, by ``package/folder``."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        root = Path(spec.origin).parent / '.mim/configs' if spec else None
        for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root and root.is_dir() else ():
            name = f'{package}/{folder.name}'
            configs = sorted((path.stem for path in folder.glob('*.py')), key=cost_of)
            if configs and folder.name != '_base_' and name not in NO_FAMILY:
                found[name] = SPECIAL.get(name, {}).get('config', configs[0])
    lacking = sorted(set(names or ()) - set(found))
    if lacking:
        raise UserError(f'--names {" ".join(lacking)}: expected names of {", ".join(found) or "mmdet or mmseg"}.')
    return {name: config for name, config in found.items() if not names or name in names}


def cut_repetitions() -> None:
    """Have residual networks repeat no block: one a stage is of every kind that there is."""
    from mmdet.registry import MODELS as DETECTORS
    from mmseg.registry import MODELS as SEGMENTERS

    for kind in {*DETECTORS.module_dict.values(), *SEGMENTERS.module_dict.values()}:
        table = vars(kind).get('arch_settings') if isinstance(kind, type) else None
        for depth, entry in table.items() if isinstance(table, dict) else ():
            if isinstance(entry, tuple) and isinstance(entry[0], type) and isinstance(entry[1], tuple):
                table[depth] = (entry[0], (1,) * len(entry[1]))


def shorten(node: object) -> None:
    """Have transformers repeat no more than two blocks a stage, of a model config in place."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ('depths', 'num_layers') and isinstance(value, (list, tuple)):
                node[key] = [min(int(count), 2) for count in value]
            else:
                shorten(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            shorten(value)


# -- one family, in a process of its own


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
        preprocessor = cfg.model.get('data_preprocessor') or {}
        for key in ('batch_augments', 'size', 'test_cfg'):  # they need a Runner, or make images large
            preprocessor.pop(key, None)
        if self.package == 'mmseg':
            preprocessor['size_divisor'] = 32
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
        make = _detection_batch if self.package == 'mmdet' else _segmentation_batch
        return self.model.data_preprocessor(make(self.size, self.classes, self.special.get('stride', 1)), True)

    def losses(self, batch: dict) -> object:
        """The sum of the model's losses."""
        losses = self.model(batch['inputs'], batch['data_samples'], mode='loss')
        return self.model.parse_losses(losses)[0]

    def capture(self) -> None:
        """The quantized network in the place of the dense one, with ranges of noise."""
        import torch

        from frostnet_mm.deploy.loaded_model import _enliven, _gather_statistics
        from frostnet_mm.models.dense import DenseNetwork
        from frostnet_mm.quantization import prepare_model
        from frostnet_mm.quantization.calibration import calibrate
        from frostnet_mm.quantization.report import int8_share

        dense = DenseNetwork(self.model)
        noise = [torch.randn(2, 3, *self.size) for _ in range(2)]
        self.model.train()
        _enliven(dense)
        _gather_statistics(self.model, dense, noise)
        self.network = prepare_model(self.model)
        calibrate(self.network, noise, 'minmax')
        self.facts['int8'] = int8_share(self.network)

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
        torch.optim.SGD(parameters, lr=1e-5).step()
        self.model.zero_grad()

    def convert(self) -> None:
        """The integer network, compared with the simulation."""
        import torch

        from frostnet_mm.deploy.flat_network import converted_network, float_network
        from frostnet_mm.models.dense import detach
        from frostnet_mm.quantization import convert

        self.network.observe(False)
        self.model.eval()
        torch.manual_seed(1)
        self.images = torch.randn(IMAGES, 1, 3, *self.size)
        with torch.no_grad():
            converted = convert(self.network)
            pairs = zip(self.network.flat(self.images[0]), converted.flat(self.images[0]), strict=True)
            for name, (simulated, integers) in zip(self.network.program.names, pairs, strict=True):
                compare(name, simulated, integers)
        detach(self.model)
        self.deployed = converted_network(self.model, converted)
        self.in_float = float_network(self.model)

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
            verify.require_agreement(outputs, layers, name)
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
    share = float((off > 0.01 * step).float().mean())
    if not float(off.max()) <= step or share > MAX_SHARE:
        raise StudyError(
            f'{name} of the converted network is up to {float(off.max()) / step:.2f} steps off the simulation, on '
            f'{share:.2%} of the elements.'
        )


def _detection_batch(size: tuple[int, int], classes: int, stride: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        2,
        [[3, *size]] * 2,
        num_items=[3, 3],
        num_classes=max(classes, 2),
        sem_seg_output_strides=stride,
        with_mask=True,
        with_semantic=True,
    )


def _segmentation_batch(size: tuple[int, int], classes: int, stride: int) -> dict:
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
            row[step], row['says'] = judge(step, error, study), describe(error)
            if row[step] == 'DEFECT':
                row['place'] = place_of(error)
        row.setdefault('seconds', {})[step] = round(time.monotonic() - start, 1)
        row |= study.facts
        if row[step] != 'ok' and step not in STEPS[-2:]:
            break
    return row


def judge(step: str, error: Exception, study: Study) -> str:
    """The outcome that an error stands for."""
    if isinstance(error, StudyError):
        return 'WRONG'
    if isinstance(error, UserError) and step != 'build':
        return 'refused'
    if step == 'build' or (step in ('capture', 'step') and study.fails_in_float()):
        return 'mm'
    return 'DEFECT'


# -- many of them


class Child:
    """A fork of this process, which has imported what takes long, with one family."""

    def __init__(self, study: Study, folder: Path, limit: int, memory: float) -> None:
        self.name, self.memory = study.name, memory
        self.file = folder / f'{study.name.replace("/", "_")}.json'
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps(dict(config=study.config, running='build')))
        self.end = time.monotonic() + limit
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            self._become(study)

    def _become(self, study: Study) -> None:
        code = 1
        try:
            os.setsid()
            stream = os.open(self.file.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(stream, number)
            sys.stdout = sys.stderr = os.fdopen(stream, 'w', buffering=1)
            import torch

            torch.set_num_threads(1)
            save = lambda row: write_text(self.file, json.dumps(row))  # noqa: E731
            save(take_through(study, save))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(code)

    def result(self) -> dict | None:
        """The family's row; None while it runs."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        outcome, says = '', ''
        if done:
            code = os.waitstatus_to_exitcode(status)
            outcome, says = ('', '') if code == 0 else ('DEFECT', f'The process ended with status {code}.')
        elif time.monotonic() > self.end:
            outcome, says = 'TIME', 'It took longer than the limit.'
        elif self._gib() > self.memory:
            outcome, says = 'MEMORY', f'It took more than {self.memory:g} GiB.'
        else:
            return None
        if not done:
            self.kill()
        row = json.loads(self.file.read_text())
        step = row.pop('running', None)
        return row if not outcome else row | {step or STEPS[0]: outcome, 'says': says}

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def _gib(self) -> float:
        try:
            resident, shared = Path(f'/proc/{self.process}/statm').read_text().split()[1:3]
        except OSError:  # it has just ended
            return 0.0
        return (int(resident) - int(shared)) * PAGE / 2**30


def run_all(studies: list[Study], args: argparse.Namespace, keep: Callable[[str, dict], None]) -> None:
    """Run families, so many at a time."""
    waiting, running = list(reversed(studies)), []
    progress = tqdm(total=len(studies), unit='family', disable=None)
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                running.append(Child(waiting.pop(), args.out, args.limit, args.memory))
            time.sleep(0.1)
            for child in list(running):
                row = child.result()
                if row is not None:
                    running.remove(child)
                    keep(child.name, row)
                    progress.update()
    finally:
        for child in running:
            child.kill()


def import_all() -> None:
    """What every family would import, so that its fork need not."""
    import mmdet.models
    import mmdet.testing
    import mmseg.models
    import onnx
    import onnxruntime
    import onnxscript
    import openvino  # noqa: F401
    from mmdet.utils import register_all_modules
    from mmseg.utils import register_all_modules as register_segmenters

    import frostnet_mm.deploy.deploy
    import frostnet_mm.quantization  # noqa: F401

    register_all_modules(False)
    register_segmenters(False)


def table(rows: dict[str, dict]) -> str:
    """Outcomes as Markdown."""
    heads = ['family', 'config', *STEPS[1:4], 'onnxruntime', 'OpenVINO', 'INT8', 'what was said']
    lines = [heads, ['---'] * len(heads)]
    for name, row in sorted(rows.items()):
        cells = [row.get(step, '–') for step in STEPS[1:]]
        if row.get('build') != 'ok':
            cells[0] = row.get('build', '–')
        share = f'{row["int8"]:.0%}' if 'int8' in row else '–'
        said = row.get('says', '').replace('|', '/')
        said = said if len(said) <= 240 else f'{said[:240]} …'
        lines.append([name, f'`{row["config"].split("/")[-1]}`', *cells, share, said])
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def works(row: dict) -> bool:
    """Whether a family went all the way."""
    return all(row.get(step) == 'ok' for step in STEPS)


def fails_in_mm(row: dict) -> bool:
    """Whether mm itself cannot train a family here."""
    return 'mm' in [row.get(step) for step in STEPS]


def summary(rows: dict[str, dict]) -> str:
    """The counts."""
    dense = [row for name, row in rows.items() if name not in NOT_DENSE and not fails_in_mm(row)]
    good = sum(map(works, dense))
    parts = [
        f'{len(rows)} families; {good} of {len(dense)} with a dense network that mm itself trains here work ({good / max(len(dense), 1):.0%})'
    ]
    for outcome in ('refused', 'mm', *FAULTS):
        count = sum(outcome in [row.get(step) for step in STEPS] for row in rows.values())
        parts += [f'{count} {outcome}'] if count else []
    return ', '.join(parts)


def main() -> int:
    args = parse_args()
    families = find_families(args.names)
    args.out = args.out.resolve()
    results = args.out / 'results.json'
    rows = json.loads(results.read_text()) if results.is_file() else {}
    todo = [Study(*item, args.full) for item in families.items() if args.again or item[0] not in rows]

    def keep(name: str, row: dict) -> None:
        rows[name] = row
        write_text(results, json.dumps(rows, indent=1))
        print(f'{name}: {" ".join(row.get(step, "–") for step in STEPS)} {row.get("says", "")[:150]}', flush=True)

    if todo:
        import_all()
        if not args.full:
            cut_repetitions()
        run_all(todo, args, keep)
    shown = {name: rows[name] for name in families}
    write_text(args.out / 'results.md', f'{table(rows)}\n\n{summary(rows)}.\n')
    print(f'{table(shown)}\n\n{summary(shown)}: {results}')
    return int(any(row.get(step) in FAULTS for row in shown.values() for step in STEPS))


if __name__ == '__main__':
    run_tool(main)
