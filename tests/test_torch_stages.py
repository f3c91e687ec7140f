"""The times of mm's own pipeline, network and decoding: measured at the seam, which is left as it was."""

from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from frostnet_mm.apis.model import load_model
from frostnet_mm.benchmark.measure import loading
from frostnet_mm.models.dense import DenseNetwork

GOLDEN = ROOT / 'tests/golden'
IMAGE = str(GOLDEN / 'coco/val2017/000000.png')


def test_stages_of_a_model_in_torch(monkeypatch):
    options = dict(data_root=f'{GOLDEN}/coco/')
    model, cfg = load_model(str(GOLDEN / 'detector.py'), str(GOLDEN / 'qat.pth'), 'cpu', options, 'float')
    seen, clock = [], iter(range(100))
    predict = type(model).predict

    def run(network, images):
        """The network takes 30 seconds of this clock."""
        assert isinstance(network, DenseNetwork) and network.backbone is model.backbone
        for _ in range(30):
            next(clock)
        seen.append(images)
        return network(images)

    def recorded(self, images, data_samples):
        seen.append(predict(self, images, data_samples))
        return seen[-1]

    monkeypatch.setattr(type(model), 'predict', recorded)
    stages = loading._torch_stages(model, cfg, run, IMAGE)
    monkeypatch.setattr(loading, 'time', SimpleNamespace(perf_counter=lambda: next(clock)))
    # read before and after the pipeline, before and after the network, and at the end
    assert stages() == (1, 31, 2)
    monkeypatch.undo()
    images, (sample,) = seen
    assert images.shape == (1, 3, 128, 128)
    assert 'extract_feat' not in model.__dict__ and 'forward' not in model.bbox_head.__dict__
    with torch.no_grad():
        (expected,) = model.predict(images, [sample.clone()])
    assert len(expected.pred_instances) > 0
    assert torch.equal(sample.pred_instances.bboxes, expected.pred_instances.bboxes)

    def fail(network, images):
        raise RuntimeError('no memory')

    with pytest.raises(RuntimeError, match='no memory'):
        loading._torch_stages(model, cfg, fail, IMAGE)()
    assert 'extract_feat' not in model.__dict__ and 'forward' not in model.bbox_head.__dict__
