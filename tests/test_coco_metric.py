"""CocoMetric reads what the data set reads: perfect predictions are perfect in every dialect of the json."""

import codecs
import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, SHORT, run_tool

pytest.importorskip('mmdet')
from coco_files import CLASSES, NUM_IMAGES, annotation, assert_in, build, edit, log_to, write_dataset  # noqa: E402
from mmdet.evaluation import CocoMetric as MMDetCocoMetric  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from frostnet_mm.apis.coco_metric import CocoMetric  # noqa: E402
from frostnet_mm.data import DatasetError  # noqa: E402
from frostnet_mm.engine.config import load_config  # noqa: E402
from frostnet_mm.engine.evaluators import settle_evaluators  # noqa: E402
from frostnet_mm.engine.runner import build_runner  # noqa: E402
from frostnet_mm.registry import METRICS  # noqa: E402

MINI = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path)


def ann_file(root):
    return root / 'annotations' / 'train.json'


def perfect(root):
    """By image name (boxes as corners, labels) of the sound json, read without anything of the project."""
    data = json.loads(ann_file(root).read_text())
    labels = {entry['id']: CLASSES.index(entry['name']) for entry in data['categories']}
    found = {}
    for image in data['images']:
        entries = [entry for entry in data['annotations'] if entry['image_id'] == image['id']]
        boxes = np.array([entry['bbox'] for entry in entries], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[image['file_name']] = boxes, [labels[entry['category_id']] for entry in entries]
    return found


def score(metric, dataset, predictions):
    """Evaluate predictions, all of score 0.9, on every image of a data set."""
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        boxes, labels = predictions[info['img_path'].rpartition('/')[2]]
        instances = dict(
            bboxes=torch.from_numpy(boxes), labels=torch.tensor(labels), scores=torch.full((len(labels),), 0.9)
        )
        metric.process({}, [dict(img_id=info['img_id'], ori_shape=(30, 40), pred_instances=instances)])
    return metric.evaluate(len(dataset))


def each(section, change):
    return lambda data: [change(entry) for entry in data[section]]


def text_ids(data):
    for section in ('images', 'categories', 'annotations'):
        for entry in data[section]:
            entry.update({key: str(entry[key]) for key in ('id', 'image_id', 'category_id') if key in entry})


def float_ids(data):
    for section in ('images', 'categories', 'annotations'):
        for entry in data[section]:
            entry.update({key: float(entry[key]) for key in ('id', 'image_id', 'category_id') if key in entry})


def named_ids(data):
    names = {image['id']: image['file_name'][:-4] + 'a' for image in data['images']}
    for image in data['images']:
        image['id'] = names[image['id']]
    for entry in data['annotations']:
        entry.update(id=f'object {entry["id"]}', image_id=names[entry['image_id']])


def huge_ids(data):
    for entry in data['annotations']:
        entry.update(id=entry['id'] + 2**53, image_id=entry['image_id'] + 2**40)
    for image in data['images']:
        image['id'] += 2**40


def ids_from_0(data):
    for number, entry in enumerate(data['annotations']):
        entry['id'] = number


def boxes_twice(data):
    data['annotations'] += [dict(entry, id=entry['id'] + 100) for entry in data['annotations']]


def images_twice(data):
    data['images'] += [dict(image, id=image['id'] + 50) for image in data['images']]
    data['annotations'] += [
        dict(entry, id=entry['id'] + 100, image_id=entry['image_id'] + 50) for entry in data['annotations']
    ]


def one_image_an_object(data):
    images = {image['id']: image for image in data['images']}
    data['images'] = [dict(images[entry['image_id']], id=100 + entry['id']) for entry in data['annotations']]
    for entry in data['annotations']:
        entry['image_id'] = 100 + entry['id']


def same_name(data):
    data['categories'].append(dict(id=99, name='cat'))
    for entry in data['annotations'][::2]:
        if entry['category_id'] == 7:
            entry['category_id'] = 99


def add_placeholder(data):
    for category in data['categories']:
        category['supercategory'] = 'animals'
    data['categories'].insert(0, dict(id=0, name='animals', supercategory='none'))


def add_box_beyond(data):
    """Beyond the exchanged width, and ignored, so that the perfect predictions are those of the sound file."""
    data['annotations'].append(annotation(99, bbox=(20, 2, 18, 20), ignore=1))


def exchange_sizes(data):
    add_box_beyond(data)
    for image in data['images']:
        image.update(width=image['height'], height=image['width'])


def partly_ignored(flag):
    return lambda data: [entry.update({flag: 1}) for entry in data['annotations'][:5]]


DIALECTS = {
    'sound': lambda data: None,
    'annotation ids from 0': ids_from_0,
    'ids are text': text_ids,
    'ids are floats': float_ids,
    'ids are names': named_ids,
    'ids are huge': huge_ids,
    'categories from 0': lambda data: [
        *(entry.update(category_id={7: 0, 3: 1, 12: 2}[entry['category_id']]) for entry in data['annotations']),
        *(entry.update(id={7: 0, 3: 1, 12: 2}[entry['id']]) for entry in data['categories']),
    ],
    'sizes are floats': each('images', lambda entry: entry.update(width=40.0, height=30.0)),
    'a box without size': lambda data: data['annotations'].append(annotation(99, bbox=(1, 1, 0, 0))),
    'a box that is not finite': lambda data: data['annotations'].append(annotation(99, bbox=(1, float('nan'), 5, 5))),
    'a box outside': lambda data: data['annotations'].append(annotation(99, bbox=(90, 90, 5, 5))),
    'some iscrowd': partly_ignored('iscrowd'),
    'some ignore': partly_ignored('ignore'),
    'boxes twice': boxes_twice,
    'images under two ids': images_twice,
    'an image an object': one_image_an_object,
    'categories repeated': lambda data: data.update(categories=data['categories'] * 5),
    'a class under two ids': same_name,
    'a placeholder': add_placeholder,
    'background': lambda data: data['categories'].insert(0, dict(id=0, name='_background_', supercategory=None)),
    'categories in another order': lambda data: data['categories'].reverse(),
    'other capitals and blanks': each('categories', lambda entry: entry.update(name=f' {entry["name"].upper()} ')),
    'no sizes': each('images', lambda entry: (entry.pop('width'), entry.pop('height'))),
    'sizes are 0': each('images', lambda entry: entry.update(width=0, height=0)),
    'sizes exchanged': exchange_sizes,
    'no annotation ids': each('annotations', lambda entry: entry.pop('id')),
    'annotation ids repeated': each('annotations', lambda entry: entry.update(id=1)),
    'no areas and flags': each('annotations', lambda entry: (entry.pop('area'), entry.pop('iscrowd'))),
    'areas are 0': each('annotations', lambda entry: entry.update(area=0)),
    'areas are fractions': each('annotations', lambda entry: entry.update(area=0.1)),
    'a caption': lambda data: data['annotations'].append(dict(id=99, image_id=1, caption='cats')),
    'foreign paths': each('images', lambda entry: entry.update(file_name='D:\\my\\' + entry['file_name'])),
    'no extensions': each('images', lambda entry: entry.update(file_name=entry['file_name'][:-4])),
    **{
        f'{flag}={value!r}': each('annotations', lambda entry, flag=flag, value=value: entry.update({flag: value}))
        for flag in ('iscrowd', 'ignore')
        for value in ('0', 'False', None, False, 0.0)
    },
}
ENCODINGS = {
    'utf-8': lambda text: text.encode(),
    'byte order mark': lambda text: codecs.BOM_UTF8 + text.encode(),
    'utf-16': lambda text: text.encode('utf-16'),
    'utf-32': lambda text: text.encode('utf-32'),
    'gzip': lambda text: gzip.compress(text.encode()),
}


@pytest.mark.parametrize(
    'dialect, encoding', [*((name, 'utf-8') for name in DIALECTS), *(('annotation ids from 0', e) for e in ENCODINGS)]
)
def test_perfect_predictions_are_perfect_in_every_dialect(root, dialect, encoding):
    predictions = perfect(root)
    edit(root, DIALECTS[dialect])
    ann_file(root).write_bytes(ENCODINGS[encoding](ann_file(root).read_text()))
    dataset = build(root, test_mode=True)
    assert len(dataset) == NUM_IMAGES
    found = score(CocoMetric(ann_file=str(ann_file(root))), dataset, predictions)
    assert found['coco/bbox_mAP'] == found['coco/bbox_mAP_50'] == found['coco/bbox_mAP_75'] == 1.0


def test_a_file_without_some_classes_is_scored_on_the_others(root):
    """Also where the names of the classes stand in another order than the categories."""
    predictions = perfect(root)

    def drop(data):
        data['categories'] = [entry for entry in data['categories'] if entry['name'] != 'dog']
        data['annotations'] = [entry for entry in data['annotations'] if entry['category_id'] != 3]

    edit(root, drop)
    dataset = build(root, test_mode=True)
    kept = {name: [i for i, label in enumerate(labels) if label != 1] for name, (_, labels) in predictions.items()}
    rest = {name: (predictions[name][0][k], [predictions[name][1][i] for i in k]) for name, k in kept.items()}
    metric = CocoMetric(ann_file=str(ann_file(root)), classwise=True)
    found = score(metric, dataset, rest)
    assert found['coco/bbox_mAP'] == found['coco/cat_precision'] == found['coco/owl_precision'] == 1.0
    assert metric.cat_ids == [7, 12, 13]  # dog is added, without objects


def test_results_name_the_categories_of_the_file(root, tmp_path):
    predictions = perfect(root)
    edit(root, lambda data: data['categories'].reverse())
    metric = CocoMetric(ann_file=str(ann_file(root)), format_only=True, outfile_prefix=str(tmp_path / 'out'))
    score(metric, build(root, test_mode=True), predictions)
    written = {
        (entry['image_id'], entry['category_id']) for entry in json.loads((tmp_path / 'out.bbox.json').read_text())
    }
    truth = json.loads(ann_file(root).read_text())['annotations']
    assert written == {(entry['image_id'], entry['category_id']) for entry in truth}


def test_the_score_of_mmdet_on_sound_data_and_its_faults_elsewhere(root):
    predictions = perfect(root)
    noisy = {
        name: (boxes + np.float32([0, 0, 2 * (i % 3), i % 4]), labels)
        for i, (name, (boxes, labels)) in enumerate(predictions.items())
    }
    dataset, path = build(root, test_mode=True), str(ann_file(root))
    for options in ({}, dict(metric='proposal'), dict(metric='proposal_fast')):
        ours, theirs = (score(kind(ann_file=path, **options), dataset, noisy) for kind in (CocoMetric, MMDetCocoMetric))
        assert ours == theirs and len(ours) >= 3
    assert 0.3 < score(CocoMetric(ann_file=path), dataset, noisy)['coco/bbox_mAP'] < 0.99
    edit(root, ids_from_0)
    assert score(MMDetCocoMetric(ann_file=path), build(root, test_mode=True), predictions)['coco/bbox_mAP'] < 1


def test_classes_are_named_rightly(root):
    """mmdet names scores of single classes in the order of the file; pycocotools orders them by id (7, 3, 12)."""
    predictions, dataset = perfect(root), build(root, test_mode=True)
    no_owls = {
        name: (boxes[[label != 2 for label in labels]], [label for label in labels if label != 2])
        for name, (boxes, labels) in predictions.items()
    }
    found = score(CocoMetric(ann_file=str(ann_file(root)), classwise=True), dataset, no_owls)
    assert [found[f'coco/{name}_precision'] for name in CLASSES] == [1, 1, 0]
    no_dogs = {
        name: (boxes[[label != 1 for label in labels]], [label for label in labels if label != 1])
        for name, (boxes, labels) in predictions.items()
    }
    found = score(CocoMetric(ann_file=str(ann_file(root)), classwise=True), dataset, no_dogs)
    assert [found[f'coco/{name}_precision'] for name in CLASSES] == [1, 0, 1]


def test_ignored_objects_are_neither_demanded_nor_punished(root):
    predictions = perfect(root)
    edit(root, partly_ignored('ignore'))  # both boxes of images 1 and 2, one of image 3
    dataset = build(root, test_mode=True)
    none = {name: (boxes[:0], []) if name in ('0001.jpg', '0002.jpg') else (boxes, labels)
            for name, (boxes, labels) in predictions.items()}  # fmt: skip
    assert score(CocoMetric(ann_file=str(ann_file(root))), dataset, none)['coco/bbox_mAP'] == 1.0


def test_a_part_of_the_data_set_is_evaluated_on_itself(root):
    predictions = perfect(root)
    dataset = build(root, test_mode=True, indices=4)
    assert score(CocoMetric(ann_file=str(ann_file(root))), dataset, predictions)['coco/bbox_mAP'] == 1.0


def test_nothing_to_evaluate_against_is_an_error(root):
    predictions, path = perfect(root), str(ann_file(root))
    edit(root, partly_ignored('iscrowd'))
    with pytest.raises(DatasetError, match='has no object of the config.s classes in the 2 images'):
        score(CocoMetric(ann_file=path), build(root, test_mode=True, indices=2), predictions)
    edit(root, each('annotations', lambda entry: entry.update(iscrowd=1)))
    with pytest.raises(DatasetError, match='none of its 20 boxes can be used.*every metric would be -1'):
        CocoMetric(ann_file=path)


def test_a_file_that_lacks_predicted_images_is_an_error(root):
    predictions, dataset = perfect(root), build(root, test_mode=True)

    def drop(data):
        data['images'] = data['images'][:-1]
        data['annotations'] = data['annotations'][:-2]

    edit(root, drop)
    with pytest.raises(DatasetError, match='lacks 1 of the 10 images that were predicted, such as the id 10'):
        score(CocoMetric(ann_file=str(ann_file(root))), dataset, predictions)


def test_a_metric_without_file(root):
    with pytest.raises(DatasetError, match='has no ann_file.*set val_evaluator.ann_file'):
        CocoMetric()


def test_results_are_written_without_annotations(root, tmp_path):
    predictions, dataset = perfect(root), build(root, test_mode=True)
    edit(root, lambda data: data.pop('annotations'))
    metric = CocoMetric(ann_file=str(ann_file(root)), format_only=True, outfile_prefix=str(tmp_path / 'out'))
    assert score(metric, dataset, predictions) == {}
    assert len(json.loads((tmp_path / 'out.bbox.json').read_text())) == 20


# --- configs


def config_of(root, evaluator, **dataset):
    data = dict(
        dict(type='frostnet_mm.CheckedCocoDataset', data_root=str(root), ann_file='annotations/train.json'), **dataset
    )
    return Config(dict(data_root=str(root), val_dataloader=dict(dataset=data), val_evaluator=evaluator))


@pytest.mark.parametrize('kind', ['CocoMetric', 'mmdet.CocoMetric', 'frostnet_mm.CocoMetric', MMDetCocoMetric])
@pytest.mark.parametrize('given', ['{root}/annotations/train.json', '{root}/images/../annotations/train.json', None])
def test_every_coco_metric_of_our_data_set_becomes_ours(root, kind, given):
    given = given and given.format(root=root)
    for evaluator in (dict(type=kind), [dict(type=kind)], dict(type='Evaluator', metrics=[dict(type=kind)])):
        metric = evaluator[0] if isinstance(evaluator, list) else evaluator.get('metrics', [evaluator])[0]
        if given:
            metric['ann_file'] = given
        cfg = config_of(root, evaluator)
        settle_evaluators(cfg)
        settled = cfg.val_evaluator
        settled = settled[0] if isinstance(settled, list) else settled.get('metrics', [settled])[0]
        assert settled.type == 'frostnet_mm.CocoMetric'
        assert settled.ann_file == (given or str(ann_file(root)))
        with DefaultScope.overwrite_default_scope('mmdet'):
            assert type(METRICS.build(settled)) is CocoMetric


def test_metrics_of_others_stay(root):
    class OwnMetric(MMDetCocoMetric):
        pass

    for evaluator in (dict(type='VOCMetric'), dict(type=OwnMetric), dict(type='CocoMetric')):
        cfg = config_of(
            root, dict(evaluator), type='VOCDataset' if evaluator['type'] == 'CocoMetric' else 'CocoDataset'
        )
        settle_evaluators(cfg)
        assert cfg.val_evaluator == evaluator
    cfg = config_of(root, dict(type='CocoMetric'), type='CocoDataset')  # reads the instances of the samples
    settle_evaluators(cfg)
    assert cfg.val_evaluator == dict(type='CocoMetric')


@pytest.mark.parametrize('dataset', ['frostnet_mm.CheckedCocoDataset', 'mmdet.CocoDataset', 'CocoDataset'])
def test_an_evaluator_that_names_another_file(root, dataset):
    other = root / 'annotations' / 'other.json'
    cfg = config_of(root, dict(type='CocoMetric', ann_file=str(other)), type=dataset)
    with pytest.raises(DatasetError) as caught:
        settle_evaluators(cfg)
    assert str(caught.value).startswith(
        f"val_evaluator.ann_file='{other}', which does not exist, is not the annotation file of val_dataloader, "
        f"'{ann_file(root)}'"
    )
    other.write_bytes(ann_file(root).read_bytes())
    settle_evaluators(cfg)  # a copy is as good
    edit(root, ids_from_0)
    with pytest.raises(DatasetError, match='other data. Set val_evaluator.ann_file='):
        settle_evaluators(cfg)


def test_evaluators_follow_data_sets_in_wrappers(root):
    inner = dict(type='frostnet_mm.CheckedCocoDataset', data_root=str(root), ann_file='annotations/train.json')
    for wrapper in (dict(type='ConcatDataset', datasets=[inner]), dict(type='RepeatDataset', times=2, dataset=inner)):
        cfg = Config(dict(val_dataloader=dict(dataset=wrapper), val_evaluator=dict(type='CocoMetric')))
        settle_evaluators(cfg)
        assert cfg.val_evaluator == dict(type='frostnet_mm.CocoMetric', ann_file=str(ann_file(root)))
    wrapper = dict(type='ConcatDataset', datasets=[inner, dict(inner, ann_file='annotations/other.json')])
    evaluator = dict(type='CocoMetric', ann_file=str(ann_file(root)))
    with pytest.raises(DatasetError) as caught:
        settle_evaluators(Config(dict(test_dataloader=dict(dataset=wrapper), test_evaluator=evaluator)))
    assert str(caught.value).startswith(
        f"test_dataloader joins 2 annotation files ('{ann_file(root)}', '{root}/annotations/other.json'), and "
        'CocoMetric compares with one'
    )


@pytest.mark.parametrize('base', ['ssdlite_frostnet_coco', 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco'])
def test_a_forgotten_ann_file_follows_the_data_set(base, tmp_path):
    path = base if '::' in base else ROOT / f'configs/{base}'
    options = {'val_dataloader.dataset.ann_file': 'own/val.json', 'test_dataloader.dataset.data_root': '/mnt'}
    cfg = load_config(f'{path}.py', options)
    assert cfg.val_evaluator.ann_file == f'{cfg.data_root.rstrip("/")}/own/val.json'
    assert cfg.test_evaluator.ann_file == '/mnt/annotations/instances_val2017.json'
    plain = load_config(f'{path}.py')
    assert plain.val_evaluator.ann_file == f'{cfg.data_root.rstrip("/")}/annotations/instances_val2017.json'


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_tools_name_the_contradiction_before_they_run(mini_coco, trained, tmp_path, tool, capsys):
    other = mini_coco / 'annotations' / 'instances_train2017.json'
    name = 'val' if tool == 'train' else 'test'
    checkpoint = [] if tool == 'train' else [trained / 'epoch_2.pth']
    options = ('--work-dir', tmp_path, '--cfg-options', f'data_root={mini_coco}', *SHORT)
    assert run_tool(tool, MINI, *checkpoint, *options, f'{name}_evaluator.ann_file={other}') == 2
    assert_in(
        capsys.readouterr().err,
        f"error: {name}_evaluator.ann_file='{other}' is not the annotation file of {name}_dataloader, "
        f"'{mini_coco}/annotations/instances_val2017.json'",
    )
    assert not list(tmp_path.rglob('*.pth'))


def test_minus_1_is_never_the_best(mini_coco, tmp_path):
    """mAP_l has no value where no object is large: mmengine would keep the checkpoint as the best, with -1."""
    options = {'default_hooks.checkpoint.save_best': 'coco/bbox_mAP_l', 'val_dataloader.dataset.indices': 2}
    cfg = load_config(MINI, dict(options, data_root=str(mini_coco)))
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'AtomicCheckpointHook')
    hook.before_train(runner)
    for value in (-1.0, -1.0):
        hook._save_best_checkpoint(runner, {'coco/bbox_mAP_l': value})
    assert not list(tmp_path.rglob('best_*'))
    hook._save_best_checkpoint(runner, {'coco/bbox_mAP_l': 0.0})
    assert len(list(tmp_path.rglob('best_*.pth'))) == 1


def test_training_warns_of_validation_images_that_it_holds(mini_coco, tmp_path):
    root = shutil.copytree(mini_coco, tmp_path / 'coco')
    train = root / 'annotations/instances_train2017.json'
    names = sorted(path.name for path in (root / 'val2017').iterdir())
    data = json.loads(train.read_text())
    for image, name in zip(data['images'][:3], names, strict=False):  # the third of the same name is another picture
        source = root / 'train2017' / image['file_name'] if name == names[2] else root / 'val2017' / name
        shutil.copy(source, root / 'train2017' / name)
        image['file_name'] = name
    train.write_text(json.dumps(data))
    for place, count in ((mini_coco, 0), (root, 2)):
        cfg = load_config(MINI, dict(data_root=str(place)))
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        cfg.work_dir = str(tmp_path / 'work')
        runner = build_runner(cfg)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner._val_loop = runner.build_val_loop(runner._val_loop)
        hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'SharedImagesHook')
        with log_to(tmp_path / f'{count}.log') as lines:
            hook.before_train(runner)
            said = [line for line in lines() if 'training images as well' in line]
        assert len(said) == bool(count)
    assert_in(said[0], '2 of 8 validation images are training images as well', f"'{root}/val2017/{names[0]}'")
