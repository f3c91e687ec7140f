"""What is confused: against counts by hand, and against pycocotools."""

import io
from contextlib import redirect_stdout

import cv2
import numpy as np
import pytest
import torch
from conftest import run_tool
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_golden import CHECKPOINT, CONFIG, DATA

from frostnet_mm.apis.mistakes import Mistakes, MistakesError, Report, count_pixels, detections
from frostnet_mm.apis.visualization.mistake_plots import confusion_plot, curves_plot, draw_mistakes
from frostnet_mm.data.image_folder import ImageFolder

CLASSES = ['a', 'b', 'c']


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def test_boxes_are_matched_as_a_person_would():
    truth = boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 90, 30))
    labels, crowd = np.array([0, 1, 2, 0]), np.array([False, False, False, True])
    found = boxes(
        (0, 0, 10, 10),  # an a as an a
        (0, 0, 10, 9),  # the same once more: nothing is there any more
        (20, 0, 30, 10),  # a b as an a
        (62, 2, 70, 10),  # in a crowd
        (100, 0, 110, 10),  # nothing
        (40, 0, 50, 10),  # the c, too uncertain
    )
    scores, classes = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.2]), np.array([0, 0, 0, 0, 1, 2])
    report = detections([(found, scores, classes)], [(truth, labels, crowd)], CLASSES)
    assert report.names == [*CLASSES, 'background']
    assert report.matrix.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0]]
    assert report.mistakes.tolist() == [4]  # b as a, c missed, two invented
    # class a: right, wrong, wrong (its b), the crowd's does not count; recall 1 at precision 1
    assert report.curves['a'].tolist() == [1] * 101 and report.curves['c'].tolist() == [1] * 101
    assert report.curves['b'].tolist() == [0] * 101


def test_an_object_goes_to_its_own_class_before_another():
    truth, labels = boxes((0, 0, 10, 10), (1, 0, 11, 10)), np.array([1, 0])
    report = detections(
        [(boxes((0, 0, 10, 10)), np.array([0.9]), np.array([0]))], [(truth, labels, np.zeros(2, bool))], CLASSES
    )
    assert report.matrix[0, 0] == 1 and report.matrix[1, 3] == 1 and report.matrix.sum() == 2


def random_case(rng):
    truths, found = [], []
    for _ in range(12):
        count = rng.integers(0, 7)
        corner = rng.uniform(0, 80, (count, 2))
        own = np.concatenate([corner, corner + rng.uniform(8, 30, (count, 2))], axis=1)
        labels = rng.integers(0, 3, count)
        truths.append((own, labels, rng.random(count) < 0.2))
        near = np.repeat(own, 3, axis=0) + rng.normal(0, 2.5, (3 * count, 4))
        other = rng.uniform(0, 60, (4, 2))
        all_boxes = np.concatenate([near, np.concatenate([other, other + 20], axis=1)])
        names = np.concatenate([np.repeat(labels, 3), rng.integers(0, 3, 4)])
        wrong = rng.random(len(names)) < 0.2
        names[wrong] = rng.integers(0, 3, wrong.sum())
        found.append((all_boxes, rng.permutation(len(names)) / len(names) + rng.uniform(0, 1e-3), names))
    return truths, found


@pytest.mark.parametrize('seed', range(5))
def test_the_curves_are_those_of_coco(seed):
    truths, found = random_case(np.random.default_rng(seed))
    api = COCO()
    api.dataset = dict(
        images=[dict(id=index, width=200, height=200) for index in range(len(truths))],
        categories=[dict(id=index, name=name) for index, name in enumerate(CLASSES)],
        annotations=[
            dict(
                image_id=image,
                category_id=int(label),
                bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]],
                area=float((box[2] - box[0]) * (box[3] - box[1])),
                iscrowd=int(flag),
            )
            for image, (own, labels, crowd) in enumerate(truths)
            for box, label, flag in zip(own, labels, crowd, strict=True)
        ],
    )
    for number, annotation in enumerate(api.dataset['annotations'], 1):
        annotation['id'] = number
    results = [
        dict(image_id=image, category_id=int(label), score=float(score),
             bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]])
        for image, (own, scores, labels) in enumerate(found)
        for box, score, label in zip(own, scores, labels, strict=True)
    ]  # fmt: skip
    with redirect_stdout(io.StringIO()):
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][0, :, :, 0, -1]  # IoU 0.5, all sizes, 100 detections
    report = detections(found, truths, CLASSES)
    assert list(report.curves) == CLASSES
    for index, name in enumerate(CLASSES):
        assert np.abs(report.curves[name] - precision[:, index]).max() < 1e-9


def test_pixels_are_counted_without_those_of_no_class():
    truth = np.array([[0, 0, 1], [255, 2, 2]], np.uint8)
    found = np.array([[0, 1, 1], [0, 2, 0]], np.uint8)
    assert count_pixels(truth, found, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def segmented(truth, found):
    return dict(gt_sem_seg=dict(data=torch.tensor([[truth]])), pred_sem_seg=dict(data=torch.tensor([[found]])))


def test_an_image_without_a_pixel_of_a_class_has_no_mistake():
    metric = Mistakes(dataset=None)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [segmented([255, 255], [0, 1]), segmented([0, 1], [0, 2]), segmented([2, 2], [2, 2])])
    metric.evaluate(3)
    assert metric.report.mistakes.tolist() == [0, 0.5, 0] and metric.report.worst(12) == [1]


def images(scores, label):
    return dict(pred_score=torch.tensor(scores), gt_label=torch.tensor([label]))


def test_the_worst_image_is_the_surest_of_the_wrong_ones():
    metric = Mistakes(dataset=None)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [images([0.1, 0.2, 0.7], 2), images([0.5, 0.3, 0.2], 1), images([0.1, 0.9, 0.0], 0)])
    assert metric.evaluate(3) == {}
    assert metric.report.matrix.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert metric.report.worst(12) == [2, 1]


def test_what_cannot_be_compared_is_said():
    metric = Mistakes(dataset=None)
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(MistakesError, match='lacks LoadAnnotations'):
        metric.process({}, [dict(pred_sem_seg=dict(data=torch.zeros(1, 2, 2)))])


@pytest.mark.parametrize('count', [3, 80])
def test_pictures_of_few_and_of_many_classes(count):
    names = [f'class {index}' for index in range(count)]
    matrix = np.random.default_rng(0).integers(1, 9, (count, count))
    curves = {name: np.linspace(1, 0, 101) for name in names}
    report = Report('detection', names, matrix, np.zeros(4), curves)
    for content in (confusion_plot(report), curves_plot(report)):
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert min(picture.shape[:2]) > 300 and picture.std() > 5


def test_a_worst_image_that_cannot_be_read_is_grey(tmp_path):
    """As the evaluation has it; the others are drawn."""
    for name in 'ab':
        (tmp_path / 'data' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'data' / name / '1.png'), np.full((40, 60, 3), (0, 0, 250), np.uint8))
    (tmp_path / 'data/b/1.png').write_bytes(b'no image')
    steps = [dict(type='frostnet_mm.LoadImageFromFile'), dict(type='frostnet_mm.PackClsInputs')]
    dataset = ImageFolder(data_root=str(tmp_path / 'data'), pipeline=steps, test_mode=True)

    class Model:
        dataset_meta = dict(classes=('a', 'b'))

        def test_step(self, batch):
            (sample,) = batch['data_samples']
            sample.pred_score = torch.tensor([0.9, 0.1])
            return [sample]

    report = Report('classification', ['a', 'b'], np.eye(2, dtype=int), np.array([0.5, 0.9]))
    draw_mistakes(report, tmp_path / 'plots', Model(), dataset, None)
    sheet = cv2.imread(str(tmp_path / 'plots/worst.png'))
    for color in ((104, 116, 124), (0, 0, 250)):  # ImageNet's mean, and the image that can be read
        assert (np.abs(sheet.astype(int) - color).max(axis=2) <= 1).sum() > 5000


def test_a_detector_is_drawn_by_the_tool(tmp_path, capsys):
    plots = tmp_path / 'plots'
    options = ('--work-dir', tmp_path / 'work', '--plots', plots, '--out', tmp_path / 'metrics.json')
    assert run_tool('test', CONFIG, CHECKPOINT, *options, '--cfg-options', DATA) == 0
    assert sorted(file.name for file in plots.iterdir()) == ['confusion.png', 'precision_recall.png', 'worst.png']
    printed = capsys.readouterr().out
    for file in plots.iterdir():
        assert f'drawn: {file}' in printed and cv2.imread(str(file)).std() > 5
    assert run_tool('test', CONFIG, CHECKPOINT, '--compare', *options, '--cfg-options', DATA) == 2
    assert '--show-dir, --plots' in capsys.readouterr().err
