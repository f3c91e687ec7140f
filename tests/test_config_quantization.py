"""Every config in INT8: it trains in simulation, converts, and agrees with its own simulation."""

from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from test_upstream_quantization import assert_converted_equals_simulated, set_ranges
from upstream_models import build_config, losses_of, random_batch, settle_norms

from frostnet_mm.engine.config import load_config
from frostnet_mm.quantization import QuantizationSettings, float_operators, int8_share, prepare_model

CONFIGS = ROOT / 'configs'
DATA = ('coco', 'voc', 'cityscapes')
QUANTIZED = sorted(path.stem for path in CONFIGS.glob('*_qat_*.py') if path.stem.split('_')[-1] in DATA)
FLOAT = sorted({name.replace('_qat_', '_') for name in QUANTIZED} - {'tdsod_voc'})  # tdsod_coco with other classes
SIZES = (96, 128), (128, 64)
STEPS = 2
#: Built of the same parts as another one: tested by `make test-all` alone.
ALIKE = (
    'espnet_cityscapes',
    'espnet_frostnet_cityscapes',
    'espnetv2_cityscapes',
    'espnetv2_frostnet_engine_m_cityscapes',
    'lraspp_frostnet_cityscapes',
    'lraspp_mobilenetv2_cityscapes',
    'lraspp_mobilenetv3_relu_cityscapes',
    'ssdlite_frostnet_engine_l_coco',
    'ssdlite_frostnet_engine_m_coco',
    'tdsod_coco',
)
# What has no INT8 form; all else computes in integers.
IN_FLOAT = {
    'espnet_original_cityscapes': {'prelu': 20, 'cat': 1, 'batch_norm': 1},
    'espnetv2_original_cityscapes': {'prelu': 50, 'avg_pool2d': 3},
    'lraspp_frostnet_cityscapes': {'sigmoid': 1},
    'lraspp_mobilenetv2_cityscapes': {'sigmoid': 1},
    'lraspp_mobilenetv3_cityscapes': {'hardswish': 20, 'add': 8, 'clamp': 8, 'div': 8, 'sigmoid': 1},
    'lraspp_mobilenetv3_relu_cityscapes': {'sigmoid': 1},
}


@pytest.mark.parametrize('name', QUANTIZED)
def test_a_qat_config_is_its_float_config_and_the_hook(name):
    quantized = load_config(CONFIGS / f'{name}.py').to_dict()
    plain = load_config(CONFIGS / f'{name.replace("_qat_", "_")}.py').to_dict()
    assert quantized['default_hooks'].pop('qat')['type'] == 'frostnet_mm.QATHook'
    quantized.pop('qat_hook')
    assert quantized == plain


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in FLOAT]
)
def test_a_config_trains_in_simulated_int8_and_converts(name):
    cfg = load_config(CONFIGS / f'{name}.py')
    model = build_config(cfg.model, cfg.default_scope)
    settle_norms(model)
    network = prepare_model(model, QuantizationSettings())
    images = {size: random_batch(model, size, False)['inputs'] for size in SIZES}
    case = set_ranges(SimpleNamespace(network=network, images=images))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    totals = []
    for _ in range(STEPS):
        _, total = losses_of(model, SIZES[0])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0]
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    assert_converted_equals_simulated(set_ranges(case))
    assert {group.kind: group.count for group in float_operators(network)} == IN_FLOAT.get(name, {})
    assert int8_share(network) == 1.0
