"""Short trainings through every phase of QAT, on generated data and without random augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from frostnet_mm.data.generated.mini_cityscapes import generate_mini_cityscapes
from frostnet_mm.data.generated.mini_coco import generate_mini_coco
from frostnet_mm.files import write_text

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ARCH = dict(  # kernel, channels, expansion, reduction, stride of each block
    stem=8,
    stages=[[(3, 8, 1, None, 1), (3, 8, 2, None, 2)], [(3, 16, 2, 2, 2)], [(3, 24, 2, 2, 2)], [(3, 32, 2, 2, 2)],
            [(3, 32, 2, 2, 1)]],
)  # fmt: skip
LEVELS = (16, 24, 32, 32, 32, 32, 16)
NO_WORKERS = 'dict(num_workers=0, persistent_workers=False)'
HOOK = "dict(type='frostnet_mm.QATHook', warmup='4 iterations', freeze_bn_at='50 %', freeze_observers_at='75 %', {})"
OPTIMIZER = "dict(_delete_=True, type='frostnet_mm.GradBoostAdamW', lr=0.002, weight_decay=0.01, mode='paper')"
EMA = "custom_hooks = _base_.custom_hooks + [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3)]"

# 23 images with objects: 4 iterations an epoch, the last of 5 images; 12 in all
DETECTOR = """_base_ = {base!r}
data_root = {data!r}
input_size = (64, 64)
level_channels = {levels}
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{arch})),
    neck=dict(in_channels=level_channels[:3], out_channels=level_channels),
    bbox_head=dict(in_channels=level_channels))
load = [dict(type='frostnet_mm.LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=input_size, keep_ratio=False), dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=6, num_workers={workers}, persistent_workers={workers} > 0,
                        dataset=dict(pipeline=load))
val_dataloader = test_dataloader = {no_workers}
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(accumulative_counts={accumulate}, optimizer={optimizer})
default_hooks = dict(qat={hook}, logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
{ema}
"""
SEGMENTER = """_base_ = {base!r}
data_root = {data!r}
scale, crop_size = (128, 64), (64, 128)
max_iters, warmup_iters = 12, 2
model = dict(
    backbone=dict(widen_factor=1.0, arch=dict(_delete_=True, **{arch})),
    decode_head=dict(in_channels=(8, 16, 24, 32), channels=16, dropout_ratio=0.0))
load = [dict(type='frostnet_mm.LoadImage'), dict(type='frostnet_mm.LoadSegAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
                        dataset=dict(pipeline=load))
val_dataloader = test_dataloader = {no_workers}
train_cfg = dict(val_interval=4)
optim_wrapper = dict(accumulative_counts={accumulate}, optimizer={optimizer})
default_hooks = dict(qat={hook}, logger=dict(interval=1), checkpoint=dict(interval=3, max_keep_ckpts=2))
randomness = dict(seed=0)
{ema}
"""


@dataclass(frozen=True)
class Case:
    """A training.

    Args:
        name (str): Its name.
        template (str): Of its config.
        base (str): The config below it.
        data (Callable): Makes the data in a folder.
        workers (int): Data loading workers.
        accumulate (int): Iterations an update. Default: 1.
        hook (str): Further arguments of QATHook. Default: ''.
        ema (bool): Average the weights. Default: False.
    """

    name: str
    template: str
    base: str
    data: Callable[[Path], dict]
    workers: int = 0
    accumulate: int = 1
    hook: str = ''
    ema: bool = False

    def write(self, out: Path) -> Path:
        """Write the data, unless they are there, and the config; returns the config."""
        data = out / 'data' / self.base.rpartition('/')[2].partition('_')[0]
        self.data(data)
        text = self.template.format(
            base=str(CONFIGS / self.base),
            data=str(data.resolve()),
            levels=LEVELS,
            arch=ARCH,
            workers=self.workers,
            no_workers=NO_WORKERS,
            accumulate=self.accumulate,
            optimizer=OPTIMIZER,
            hook=HOOK.format(self.hook),
            ema=EMA if self.ema else '',
        )
        path = out / f'{self.name}.py'
        write_text(path, text)
        return path


def _scenes(root: Path) -> dict:
    return generate_mini_coco(root, num_train=24, num_val=6, progress=False)


def _streets(root: Path) -> dict:
    return generate_mini_cityscapes(root, num_train=7, num_val=3, size=(64, 128), progress=False)


_DETECTOR = (DETECTOR, 'ssdlite_frostnet_custom.py', _scenes)
_SEGMENTER = (SEGMENTER, 'examples/espnetv2_frostnet_minicityscapes.py', _streets)
CASES = {
    case.name: case
    for case in (
        Case('detector', *_DETECTOR, workers=1),
        Case('detector_ema', *_DETECTOR, accumulate=3, hook='learned_scales=True', ema=True),
        Case('segmenter', *_SEGMENTER, hook="teacher='self'"),
        Case('segmenter_ema', *_SEGMENTER, workers=1, accumulate=2, ema=True),
    )
}
