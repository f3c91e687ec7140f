"""A tiny network, its space, configs of it, and times made up, for the tests of the search."""

import json

from conftest import ROOT

from frostnet_mm.benchmark.measure import Timing
from frostnet_mm.nas import timing
from frostnet_mm.nas.features import FEATURES, features_of

BASE = dict(
    stem=8,
    stages=[
        [(3, 8, 1, None, 1), (3, 8, 2, None, 2)],
        [(3, 16, 2, 2, 2), (3, 16, 2, 2, 1)],
        [(3, 24, 2, 2, 2)],
        [(3, 32, 2, 2, 2)],
        [(3, 32, 2, 2, 1)],
    ],
)
SPACE = dict(kernels=(3, 5), expansions=(2, 3), reductions=(None, 2))
WEIGHTS = dict(zip(FEATURES, (0.0025, 0.004, 0.02, 0.02, 0.015, 0.03, 0.05, 0.1), strict=True))
NO_WORKERS = ''.join(f'{name}_dataloader = dict(num_workers=0, persistent_workers=False)\n' for name in ('val', 'test'))
LEVELS = (16, 24, 32, 64, 32, 32, 16)
DETECTION = f"""_base_ = {str(ROOT / 'configs/ssdlite_frostnet_custom.py')!r}
input_size = (64, 64)
level_channels = {LEVELS}
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{BASE})),
    neck=dict(in_channels={LEVELS[:3]}, out_channels={LEVELS}),
    bbox_head=dict(in_channels={LEVELS}),
)
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
{NO_WORKERS}
search = dict(engine='onnxruntime', trials=2, epochs=1, space={SPACE})
"""
SEGMENTATION = f"""_base_ = {str(ROOT / 'configs/espnetv2_frostnet_custom_seg.py')!r}
classes = ('sky', 'road', 'car')
scale, crop_size, batch_size = (96, 64), (64, 64), 2
max_iters, warmup_iters, val_interval = 400, 20, 4
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{BASE})),
    decode_head=dict(in_channels=(8, 16, 24, 32), channels=16),
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
{NO_WORKERS}
search = dict(engine='onnxruntime', trials=2, epochs=1, space={SPACE})
"""


def milliseconds(arch, shape=(64, 64)):
    """What a network takes by weights that are known."""
    found = features_of(arch, shape)
    return 0.1 + sum(WEIGHTS[name] * found[name] for name in FEATURES)


def make_up_times(monkeypatch, calls=None):
    """Have no network deployed or measured; each takes the time of :func:`milliseconds`."""
    archs = {}

    def deploy(setting, arch, folder):
        archs[folder.name] = milliseconds(arch, setting.shape)
        return folder

    def measure(folders, threads, rounds, seconds):
        if calls is not None:
            calls.append(len(folders) - 1)  # without the reference
        return [Timing(archs[folder.name] / 1000, 0.1, 0.0, 500.0, rounds, 10, 0.0) for folder in folders]

    monkeypatch.setattr(timing, '_deploy', deploy)
    monkeypatch.setattr(timing, 'measure_deployments', measure)
    monkeypatch.setattr(timing, 'require_quiet', lambda limits: None)


def plain(arch):
    return json.loads(json.dumps(arch.to_config()))
