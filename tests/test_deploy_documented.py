"""Every kind of model that the docs say is decoded deploys with verification: as a user would, and in few layers."""

import pytest
from upstream_models import CONFIGS

from frostnet_mm.deploy.deploy import DeployOptions, deploy

FEW = {'model.test_cfg.nms_pre': 50, 'model.test_cfg.max_per_img': 20}
LESS = {
    'retinanet': FEW | {'model.test_cfg.score_thr': 0.0},
    'yolox': {'model.test_cfg.score_thr': 0.2},
    'rtmdet': FEW,
    'fcos': FEW | {'model.test_cfg.score_thr': 0.0},
}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] if name in ('rtmdet', 'retinanet') else []) for name in LESS]
)
def test_upstream_models_deploy_with_verification(name, tmp_path):
    config, options = CONFIGS[name]
    how = DeployOptions(shape=(128, 128), cfg_options=options | LESS[name])
    description = deploy(config, None, 'onnxruntime', tmp_path / 'out', how)
    assert description['int8_share'] == 1.0 and description['decoding'] is not None
    checked = description['verification']
    assert checked['layers']['count'] > 20 and checked['layers']['worst']['steps'] <= 1
    assert checked['predicted_share'] >= 0.95
