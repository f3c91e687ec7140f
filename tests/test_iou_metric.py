"""frostnet_mm.IoUMetric against confusion matrices counted by hand, and against mmseg's own where they agree."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import run_tool  # noqa: F401, puts the repository on the path
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from mmseg.structures import SegDataSample

from frostnet_mm.apis.class_scores import class_table
from frostnet_mm.apis.iou_metric import IoUMetric, scores_by_class
from frostnet_mm.registry import METRICS

CLASSES = ('road', 'car', 'train', 'sky')
# 8 evaluated pixels and 2 ignored ones; confusion matrix, truth in rows:
#         road car train sky
#   road    3   0    1    0      a road pixel is called train, of which the truth has none
#   car     1   2    0    0
#   sky     0   1    0    0      sky is never found
TRUTH = [0, 0, 0, 0, 1, 1, 1, 3, 255, 255]
FOUND = [0, 0, 0, 2, 1, 1, 0, 1, 2, 0]
ROAD, CAR, SKY = 3 / 5, 2 / 4, 0 / 1  # IoU: hits / (truth + found - hits)


def samples(truth, found):
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.tensor(truth)[None, None])
    sample.pred_sem_seg = PixelData(data=torch.tensor(found)[None, None])
    return [sample.to_dict()]


def evaluate(metric, *pairs):
    metric.dataset_meta = dict(classes=CLASSES)
    for truth, found in pairs:
        metric.process({}, samples(truth, found))
    return metric.evaluate(len(pairs))


def test_mean_over_the_classes_of_the_truth():
    metrics = evaluate(METRICS.build(dict(type='frostnet_mm.IoUMetric')), (TRUTH, FOUND))
    assert metrics == {
        'aAcc': 62.5,  # 5 of 8
        'mIoU': pytest.approx(100 * (ROAD + CAR + SKY) / 3, abs=0.005),
        'mAcc': pytest.approx(100 * (3 / 4 + 2 / 3 + 0) / 3, abs=0.005),
        'IoU.road': 60.0,  # 3 / 4 + 2 found - 1: the pixel called train is missing here
        'IoU.car': 50.0,
        'IoU.sky': 0.0,
    }
    json.dumps(metrics)  # as tools/test.py writes it, without numpy numbers
    assert not any(math.isnan(value) for value in metrics.values())


def test_mean_of_mmseg_is_an_option():
    ours = evaluate(IoUMetric(present_only=False), (TRUTH, FOUND))
    theirs = evaluate(MMSegIoUMetric(), (TRUTH, FOUND))
    assert theirs['mIoU'] == pytest.approx(100 * (ROAD + CAR + SKY + 0) / 4, abs=0.005)  # train counts as 0
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=0.006)


def test_equals_mmseg_where_every_class_occurs():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 4, 400).tolist(), rng.integers(0, 4, 400).tolist()) for _ in range(3)]
    names = ['mIoU', 'mDice', 'mFscore']
    ours, theirs = (evaluate(kind(iou_metrics=names), *pairs) for kind in (IoUMetric, MMSegIoUMetric))
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=0.006)


def test_areas_are_summed_over_images_before_dividing():
    # road: image 1 has 1 of 1 right, image 2 has 1 of 3: 2 / 4, not the mean of 1 and 1/3
    metrics = evaluate(IoUMetric(), ([0, 1], [0, 1]), ([0, 0, 0, 1], [0, 1, 1, 1]))
    assert metrics['IoU.road'] == 50.0 and metrics['IoU.car'] == 50.0


def test_f_score_of_a_class_that_is_never_found_is_zero():
    metrics = evaluate(IoUMetric(iou_metrics=['mFscore']), (TRUTH, FOUND))
    road, car = 2 * 3 / (4 + 4), 2 * 2 / (3 + 3)  # twice the hits over truth and found
    sky = evaluate(IoUMetric(iou_metrics=['mFscore']), ([0, 0, 3], [0, 0, 0]))
    assert metrics['mFscore'] == pytest.approx(100 * (road + car + 0) / 3, abs=0.005)
    assert sky['Fscore.sky'] == 0 and sky['mFscore'] == pytest.approx(100 * (2 * 2 / 5) / 2, abs=0.005)


def test_errors_name_what_is_missing():
    with pytest.raises(ValueError, match='no pixel of the truth has one of the 4 classes.*labelTrainIds'):
        evaluate(IoUMetric(), ([255, 255], [0, 1]))
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(ValueError, match='no image'):
        metric.compute_metrics([])


def test_table_marks_classes_that_the_truth_lacks(monkeypatch):
    logged = []
    monkeypatch.setattr('frostnet_mm.apis.iou_metric.print_log', lambda text, **_: logged.append(text))
    metrics = evaluate(IoUMetric(), (TRUTH, FOUND))
    scores = scores_by_class(metrics)
    assert scores == {'road': 60.0, 'car': 50.0, 'sky': 0.0}
    lines = class_table(dict(IoU=scores), CLASSES).splitlines()
    assert [line.split() for line in lines] == [
        ['IoU'],
        ['road', '60.00'],
        ['car', '50.00'],
        ['train', 'not', 'in', 'the', 'truth'],
        ['sky', '0.00'],
    ]
    assert 'train  not in the truth' in logged[0]
    assert '3 of 4 classes' in logged[1] and 'not: train' in logged[1]
