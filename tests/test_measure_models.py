"""The table of what models cost and what engines run of them in INT8."""

import json

import pytest
from conftest import ROOT, run_tool

from frostnet_mm.engine.config import load_config


@pytest.mark.slow  # of a study
def test_the_table_has_what_was_measured_and_what_failed(tmp_path, capsys):
    config = ROOT / 'configs/ssdlite_frostnet_coco.py'
    arguments = ['--engines', 'onnxruntime', '--shape', 64, 96, '--out', tmp_path]
    assert run_tool('studies/measure_models', config, *arguments) == 0
    row = json.loads((tmp_path / 'ssdlite_frostnet_coco_64x96.json').read_text())
    # parameters counted on mmdet's own model, convolutions that put out floats counted by hand: 2 a level
    from mmdet.utils import register_all_modules
    from mmengine.registry import MODELS

    register_all_modules(init_default_scope=True)
    cfg = load_config(config)
    model = MODELS.build(cfg.model)
    head = sum(p.numel() for p in model.parameters())
    assert row['model']['params'] == head
    assert row['engines']['onnxruntime']['operators']['MatMulIntegerToFloat int8'] == 12
    table = (tmp_path / 'models.md').read_text()
    assert f'| ssdlite_frostnet_coco | 64x96 | {head:,} |' in table
    assert '| ssdlite_frostnet_coco | nothing | nothing |' in table

    row['failed'], row['engines'] = {'onnxruntime': 'DeploymentError: it deviates\nmore'}, {}
    (tmp_path / 'ssdlite_frostnet_coco_64x96.json').write_text(json.dumps(row))
    capsys.readouterr()
    assert run_tool('studies/measure_models', config, *arguments) == 0  # what is there is not measured again
    printed = capsys.readouterr().out
    assert 'failed |' in printed and '| DeploymentError: it deviates |' in printed and 'more' not in printed
