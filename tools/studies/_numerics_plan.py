"""What numerics_study.py trains: models, numerics, ways to train, and the config of each run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from frostnet_mm.errors import UserError
from frostnet_mm.files import write_text

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / 'configs' / 'examples'
MODELS = dict(
    mobilenetv2=EXAMPLES / 'ssdlite_mobilenetv2_custom_10e.py',
    frostnet=EXAMPLES / 'ssdlite_frostnet_custom_10e.py',
    espnetv2=EXAMPLES / 'espnetv2_frostnet_cityscapes_288.py',
)
SEGMENTERS = ('espnetv2',)
NETWORKS = ('alexnet', 'vgg11', 'resnet18', 'shufflenetv2', 'mobilenetv2', 'mobilenetv3', 'frostnet')
CLASSIFIERS = tuple(f'{name}-classifier' for name in NETWORKS)
MODELS |= {name: ROOT / 'configs' / f'{own}_custom_cls.py' for name, own in zip(CLASSIFIERS, NETWORKS, strict=True)}
# Of classifiers: crops of detection data are small, and an evaluation takes as long as an epoch.
SMALL = 'input_size, batch_size, max_epochs = 64, 32, 20\ntrain_cfg = dict(val_interval=10)'
NUMERICS = {
    'a scale a tensor': dict(weights='tensor'),
    '4-bit weights': dict(weight_bits=4),
    'tensorrt': dict(numerics='tensorrt'),
    'executorch': dict(numerics='executorch'),
    'a scale a channel': {},
}
BOOSTED = {'gradboost': 'paper', 'gradboost-reference': 'reference', 'gradboost-relative': 'relative'}
REFERENCE, OURS = ('qat', 0), ('statassist', 1)  # from the first step; what further means are added to
TAUGHT = 'distilled-trained'  # by the float run of the same model and seed
BY_FLOAT = ('ptq', TAUGHT)  # what begins with a float run
UNFROZEN = 'statassist-unfrozen'  # batch norm statistics are gathered to the end, as in float training
SGD = '-sgd'  # behind a variant: trained by the paper's kind of optimizer instead of AdamW
SGD_OPTIONS = dict(_delete_=True, type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True)
class Run:
    """A training, or a calibration of a float one.

    Args:
        model (str): Of ``MODELS``.
        numerics (str): Of ``NUMERICS``; '' for float.
        variant (str): 'float', 'ptq', 'qat' (from the first step), 'statassist', one of ``BOOSTED``, 'distilled' (by
            itself), ``TAUGHT`` or ``UNFROZEN``; 'qat', 'statassist' and 'gradboost' with ``SGD`` behind for that
            optimizer.
        warmup (int): Float epochs (tenths of the iterations of a segmenter) before QAT.
        seed (int): Of the training.
    """

    model: str
    numerics: str
    variant: str
    warmup: int
    seed: int

    @property
    def data(self) -> str:
        """The kind of data that it is trained on."""
        kinds = dict.fromkeys(SEGMENTERS, 'segmentation') | dict.fromkeys(CLASSIFIERS, 'classification')
        return kinds.get(self.model, 'detection')

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What runs of several seeds have in common."""
        return self.model, self.numerics, self.variant, self.warmup

    @property
    def means(self) -> str:
        """The variant without its optimizer."""
        return self.variant.removesuffix(SGD)

    @property
    def name(self) -> str:
        """A folder's name."""
        parts = (self.model, self.numerics.replace(' ', '-'), f'{self.variant}{self.warmup or ""}', f'seed{self.seed}')
        return '_'.join(part for part in parts if part)


@dataclass
class Plan:
    """What is trained, in this order.

    Args:
        rows (dict[str, list[Run]]): Runs by the number of a row.
    """

    rows: dict[str, list[Run]] = field(default_factory=dict)

    def add(
        self, row: str, models: Sequence[str], numerics: Sequence[str], variants: Sequence[tuple[str, int]], seeds: int
    ) -> None:
        """Add the product of models, numerics and variants, seed by seed."""
        for seed in range(seeds):
            for model in models:
                for own in numerics:
                    self.rows.setdefault(row, []).extend(Run(model, own, name, warm, seed) for name, warm in variants)


def make_plan() -> Plan:
    """The study's rows."""
    plan, detectors = Plan(), ('mobilenetv2', 'frostnet')
    tensor, four, others = 'a scale a tensor', '4-bit weights', ('tensorrt', 'executorch', 'a scale a channel')
    both = (REFERENCE, OURS)
    plan.add('1', detectors, [tensor], both, 4)
    plan.add('2', detectors, [four], both, 4)
    plan.add('3', detectors, others, both, 2)
    plan.add('4', detectors, [tensor], [(name, 1) for name in BOOSTED], 2)
    plan.add('5', detectors, [''], [('float', 0)], 4)
    plan.add('5', detectors, NUMERICS, [('ptq', 0)], 4)
    plan.add('6', SEGMENTERS, [tensor], both, 2)
    plan.add('6', SEGMENTERS, [''], [('float', 0)], 2)
    plan.add('6', SEGMENTERS, [tensor], [('ptq', 0)], 2)
    plan.add('7', ['mobilenetv2'], [tensor], [('statassist', 2), ('statassist', 4)], 2)
    plan.add('8', ['mobilenetv2'], [tensor, four], [('distilled', 1), (TAUGHT, 1)], 2)
    plan.add('8', ['mobilenetv2'], [tensor], [('distilled', 5)], 2)
    plan.add('9', ['mobilenetv2'], [tensor], [(f'{name}{SGD}', warm) for name, warm in (*both, ('gradboost', 1))], 2)
    plan.add('11', ['mobilenetv2'], [tensor], [(UNFROZEN, 1)], 2)
    plan.add('10', CLASSIFIERS, [''], [('float', 0)], 2)
    plan.add('10', CLASSIFIERS, ['a scale a channel', tensor], both, 2)
    return plan


def bases(variant: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """QAT from the first step and StatAssist, by the optimizer of a variant."""
    suffix = SGD if variant.endswith(SGD) else ''
    return tuple((f'{name}{suffix}', warmup) for name, warmup in (REFERENCE, OURS))


def hook_of(own: Run, float_checkpoint: Path | None) -> dict:
    """The options of QATHook of a run."""
    unit = '%' if own.model in SEGMENTERS else 'epochs'
    length = 10 * own.warmup if own.model in SEGMENTERS else own.warmup
    hook = dict(type='frostnet_mm.QATHook', warmup=f'{length} {unit}', **NUMERICS[own.numerics])
    further = {
        'distilled': dict(teacher='self'),
        TAUGHT: dict(teacher=str(float_checkpoint)),
        UNFROZEN: dict(freeze_bn_at=None),
    }
    return hook | further.get(own.variant, {})


def optimizer_of(own: Run) -> dict:
    """What differs from the config's optimizer."""
    options = dict(SGD_OPTIONS) if own.variant.endswith(SGD) else {}
    if own.means in BOOSTED:
        kind = options.get('type', 'AdamW')
        options |= dict(type=f'frostnet_mm.GradBoost{kind}', mode=BOOSTED[own.means])
    return options


def write_config(own: Run, folder: Path, float_checkpoint: Path | None = None) -> Path:
    """The config of a run, beside its folder: a training writes what it resolves to into the folder, by the same name.

    Args:
        own (Run): The run.
        folder (Path): Where it is trained.
        float_checkpoint (Path, optional): Of the float run of its model and seed; for ``TAUGHT``.

    Returns:
        Path: The config.

    Raises:
        UserError: There is another of this name.
    """
    lines = [f'_base_ = {str(MODELS[own.model])!r}', f'randomness = dict(seed={own.seed}, deterministic=False)']
    if own.model in CLASSIFIERS:
        lines.append(SMALL)
    if own.variant != 'float':
        lines.append(f'default_hooks = dict(qat={hook_of(own, float_checkpoint)!r})')
    if optimizer_of(own):
        lines.append(f'optim_wrapper = dict(optimizer={optimizer_of(own)!r})')
    path, text = folder.with_name(f'{folder.name}.py'), '\n'.join(lines) + '\n'
    if path.is_file() and path.read_text() != text:
        raise UserError(
            f'{path} was written by another version of this study: give another --out, or remove it and {folder}.'
        )
    write_text(path, text)
    return path
