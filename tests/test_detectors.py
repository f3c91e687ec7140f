"""The detectors of the configs: priors, losses, gradients, predictions, and what differs between the configs."""

from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from frostnet_mm.engine.config import load_config

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
# tests/test_tdsod.py has the other ones
COCO_CONFIGS = sorted(p.stem for p in CONFIGS.glob('*_coco.py') if not {'qat', 'tdsod'} & {*p.stem.split('_')})


def build(name, **options):
    cfg = load_config(CONFIGS / f'{name}.py', options)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model, cfg


def test_priors_of_ssdlite_by_hand():
    model, _ = build('ssdlite_frostnet_coco')
    sizes = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    priors = model.bbox_head.prior_generator.grid_priors(sizes, device='cpu')
    assert [len(p) for p in priors] == [6 * h * w for h, w in sizes]
    assert sum(map(len, priors)) == 3234
    # stride 16: the first cell's centre is (8, 8); a square of 48, one of sqrt(48 * 100), ratios 2, 1/2, 3 and 1/3
    expected = [(48, 48), (4800**0.5, 4800**0.5)]
    widths_heights = [(p[2] - p[0], p[3] - p[1]) for p in priors[0][:6].tolist()]
    assert widths_heights[:2] == [pytest.approx(e, rel=1e-5) for e in expected]
    assert sorted(round(w * h) for w, h in widths_heights[2:]) == [2304] * 4
    assert sorted(h / w for w, h in widths_heights[2:]) == pytest.approx([1 / 3, 1 / 2, 2, 3], rel=1e-5)
    assert [((p[0] + p[2]) / 2, (p[1] + p[3]) / 2) for p in priors[0][:6].tolist()] == [pytest.approx((8, 8))] * 6


@pytest.mark.parametrize('name', [n for n in COCO_CONFIGS if n.startswith('ssdlite')])
def test_feature_maps_of_ssdlite_fit_the_priors(name):
    model, cfg = build(name)
    model.eval()
    with torch.no_grad():
        scores, boxes = model(torch.zeros(1, 3, *cfg.input_size), mode='tensor')
    assert [tuple(s.shape) for s in scores] == [(1, 6 * 81, n, n) for n in (20, 10, 5, 3, 2, 1)]
    assert [tuple(b.shape) for b in boxes] == [(1, 24, n, n) for n in (20, 10, 5, 3, 2, 1)]


@pytest.mark.parametrize('name', COCO_CONFIGS)
def test_forward_loss_backward_predict(name):
    size = 320 if name.startswith('ssdlite') else 192
    model, _ = build(name)
    data = model.data_preprocessor(demo_mm_inputs(2, [[3, size, size]] * 2, num_classes=80), True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total) and total > 0
    total.backward()
    missing = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        results = model(
            **model.data_preprocessor(demo_mm_inputs(2, [[3, size, size]] * 2, num_classes=80)), mode='predict'
        )
    assert all(isinstance(r, DetDataSample) and r.pred_instances.bboxes.shape[1] == 4 for r in results)


def test_loss_of_images_without_objects_is_finite():
    model, _ = build('ssdlite_frostnet_coco')
    data = model.data_preprocessor(demo_mm_inputs(2, [[3, 320, 320]] * 2, num_items=[0, 0], num_classes=80), True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    assert total == 0  # hard negative mining takes three negatives a positive, and there is none
    data = model.data_preprocessor(demo_mm_inputs(2, [[3, 320, 320]] * 2, num_items=[0, 2], num_classes=80), True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(total) and total > 0


def test_predict_finds_what_the_head_is_told():
    """A prior made to fire must come out as its box: decoding, softmax and NMS in one hand-made case."""
    model, _ = build('ssdlite_frostnet_coco')
    head = model.bbox_head.eval()
    scores = [torch.zeros(1, 6 * 81, n, n) for n in (20, 10, 5, 3, 2, 1)]
    for s in scores:
        s.view(1, 6, 81, *s.shape[2:])[:, :, 80] = 10.0  # background everywhere
    boxes = [torch.zeros(1, 24, n, n) for n in (20, 10, 5, 3, 2, 1)]
    scores[1].view(1, 6, 81, 10, 10)[0, 0, 7, 4, 2] = (
        20.0  # class 7, first prior (100x100) of cell (x=2, y=4), stride 32
    )
    meta = dict(img_shape=(320, 320), ori_shape=(160, 640), scale_factor=(0.5, 2.0))
    result = head.predict_by_feat(scores, boxes, batch_img_metas=[meta], rescale=True)[0]
    assert result.labels.tolist() == [7]
    expected = torch.tensor([[80 - 50, 144 - 50, 80 + 50, 144 + 50]]) / torch.tensor([0.5, 2.0, 0.5, 2.0])
    torch.testing.assert_close(result.bboxes, expected)
    assert result.scores.item() == pytest.approx(1.0, abs=1e-3)


def test_head_refuses_levels_without_priors():
    cfg = Config.fromfile(CONFIGS / 'ssdlite_frostnet_coco.py')
    cfg.model.bbox_head.in_channels = (96, 320)
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match='2 levels.*6 levels'):
        MODELS.build(cfg.model)


def flatten(node, prefix=''):
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in flatten(value, f'{prefix}{key}.').items()}
    return {prefix.rstrip('.'): node}


def test_only_backbone_and_channels_differ_between_the_baseline_and_frostnet():
    ours = flatten(load_config(CONFIGS / 'ssdlite_frostnet_coco.py').to_dict())
    theirs = flatten(load_config(CONFIGS / 'ssdlite_mobilenetv2_coco.py').to_dict())
    differing = {k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)}
    assert {k for k in differing if not k.startswith('model.backbone.')} == {
        'model.neck.in_channels',
        'model.neck.out_channels',
        'model.bbox_head.in_channels',
    }


@pytest.mark.parametrize('arch', ['base', 'large'])
def test_only_the_arch_differs_between_variants(arch):
    ours = flatten(load_config(CONFIGS / 'ssdlite_frostnet_coco.py').to_dict())
    theirs = flatten(load_config(CONFIGS / f'ssdlite_frostnet_{arch}_coco.py').to_dict())
    assert {k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)} == {'model.backbone.arch'}
