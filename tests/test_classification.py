"""Classifiers: data in folders, transforms, metric, networks of the configs, and from training to a deployment."""

import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.structures import BaseDataElement
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from frostnet_mm.apis.accuracy import Accuracy
from frostnet_mm.data import crops
from frostnet_mm.data.classification_transforms import PackClsInputs, RandomResizedCrop
from frostnet_mm.data.crops import CropOptions, cut, folder_names, write_crops
from frostnet_mm.data.errors import DatasetError, DatasetNotFoundError
from frostnet_mm.data.generated.mini_coco import generate_mini_coco
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.device import Predictor, preprocess
from frostnet_mm.engine.config import load_config
from frostnet_mm.models.backbones.shufflenet_v2 import channel_shuffle
from frostnet_mm.models.classifiers import ClsHead
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.registry import DATASETS, MODELS

CONFIG = ROOT / 'configs/frostnet_qat_custom_cls.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Three classes: a bright disc, a bright square, and noise alone."""
    root, generator = tmp_path_factory.mktemp('classes'), np.random.default_rng(0)
    for split, count in (('train', 16), ('val', 6)):
        for name in ('disc', 'noise', 'square'):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = generator.integers(0, 90, (40, 52, 3), dtype=np.uint8)
                x, y = (int(value) for value in generator.integers(14, 26, 2))
                if name == 'disc':
                    cv2.circle(image, (x, y), 12, (250, 250, 60), -1)
                elif name == 'square':
                    cv2.rectangle(image, (x - 11, y - 11), (x + 11, y + 11), (60, 60, 250), -1)
                cv2.imwrite(str(root / split / name / f'{index}.png'), image)
    return root


def folder(root, split='train', **options):
    steps = [dict(type='frostnet_mm.LoadImageFromFile'), dict(type='frostnet_mm.PackClsInputs')]
    return ImageFolder(data_root=str(root), data_prefix=dict(img_path=split), pipeline=steps, **options)


# -- data


def test_a_folder_is_a_class(data):
    train = folder(data)
    assert train.metainfo['classes'] == ('disc', 'noise', 'square') and len(train) == 48
    assert [train.get_data_info(index)['gt_label'] for index in (0, 16, 47)] == [0, 1, 2]
    item = train[20]
    assert item['inputs'].shape == (3, 40, 52) and item['data_samples'].gt_label.tolist() == [1]
    order = ('square', 'disc', 'noise')  # of a checkpoint, say
    val = folder(data, 'val', test_mode=True, metainfo=dict(classes=order))
    assert val.metainfo['classes'] == order and val.get_data_info(0)['gt_label'] == 1


@pytest.fixture
def said(monkeypatch):
    """What data sets log."""
    lines = []
    monkeypatch.setattr('frostnet_mm.data.counters.print_log', lambda text, logger, level: lines.append(text))
    return lines


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    'files, options, error, message',
    [
        ((), {}, DatasetNotFoundError, "The image folder '.*train' does not exist; .* data_root=/path"),
        (
            ('train/a.png',),
            {},
            DatasetNotFoundError,
            "has no folder in it; .*Expected a folder a class, such as '.*cat'",
        ),
        (('train/a/1.png', 'train/b/2.png', 'train/3.png'), {}, DatasetError, "1 images lie beside .*'3.png'"),
        (('train/train/a/1.png', 'train/val/a/1.png'), {}, DatasetError, "'train' is a split, no class"),
        (('train/a/1.png', 'train/b/2.txt'), {}, DatasetError, 'has no image of 1 of 2 classes: .b'),
        (('train/a/1.png',), {}, DatasetError, 'has one class, a: expected at least two'),
        (('train/a/1.txt', 'train/b/2.txt'), {}, DatasetNotFoundError, "the folders 'a', 'b' hold no image"),
        (
            ('train/a/1.png', 'train/c/2.png'),
            dict(metainfo=dict(classes=('a', 'b'))),
            DatasetError,
            r"has the folders 'c', which are none of the 2 classes \('a', 'b'\)",
        ),
        (('train/a/1.png',), dict(metainfo=dict(classes='a')), DatasetError, "classes='a'.*: expected a tuple"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, options, error, message):
    for name in files:
        write(tmp_path / name) if name.endswith('png') else (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(error, match=message):
        folder(tmp_path, **options)


def test_names_of_classes_and_litter(tmp_path, said):
    """COCO has classes such as ``_unknown``; a folder is dropped in silence only where it holds nothing."""
    names = ('train/_other/1.png', 'train/cat/1.png', 'train/__pycache__/1.png')
    litter = ('train/.thumbnails/1.png', 'train/.thumbnails/2.png', 'train/@eaDir/a/1.png', 'train/__MACOSX/cat/1.png')
    for name in (*names, *litter):
        write(tmp_path / name)
    (tmp_path / 'train/.empty').mkdir()
    train = folder(tmp_path)
    assert train.metainfo['classes'] == ('__pycache__', '_other', 'cat') and len(train) == 3
    assert '.thumbnails (2 images), @eaDir (1 images), __MACOSX (1 images) left out' in said[0]
    assert '.empty' not in said[0]


def test_what_is_no_image_is_summed_up(tmp_path, said):
    for name in ('train/cat/1.png', 'train/cat/.ipynb_checkpoints/1.png', 'train/dog/a/1.png', 'train/dog/.2.png'):
        write(tmp_path / name)
    for name in ('cat/notes.txt', 'dog/a/notes.txt', 'dog/8', 'dog/Thumbs.db', 'dog/b.jxl', 'dog/.DS_Store'):
        (tmp_path / 'train' / name).touch()
    train = folder(tmp_path)
    found = [Path(train.get_data_info(index)['img_path']) for index in range(len(train))]
    assert found == [tmp_path / 'train/cat/1.png', tmp_path / 'train/dog/a/1.png']
    assert [line for line in said if line.startswith('Left out')] == [
        'Left out: 1 .jxl; these formats are not read: convert the files to JPEG or PNG.',
        'Left out: 1 .db, 2 .txt, 1 without a suffix: no images, by their names.',
        f'Left out: hidden images and folders: {tmp_path}/train/cat/.ipynb_checkpoints, {tmp_path}/train/dog/.2.png.',
    ]


def test_a_class_may_be_called_train(tmp_path):
    """As in COCO and CIFAR-100."""
    for name in ('train/train/1.png', 'train/test/1.png', 'train/val/1.png'):
        write(tmp_path / name)
    assert folder(tmp_path).metainfo['classes'] == ('test', 'train', 'val')


def test_single_bad_images(tmp_path):
    for index in range(4):
        write(tmp_path / f'train/a/{index}.png')
        write(tmp_path / f'train/b/{index}.png')
    (tmp_path / 'train/b/0.png').write_bytes(b'no image')
    train = folder(tmp_path, max_bad_fraction=0.13)
    assert train[4]['data_samples'].img_path != str(tmp_path / 'train/b/0.png') and train.num_bad_images == 1
    (tmp_path / 'train/a/0.png').write_bytes(b'')
    with pytest.raises(DatasetError, match='2 of 8 images of .* cannot be used, more than max_bad_fraction=0.13'):
        train[0]
    val = folder(tmp_path, test_mode=True)
    assert val[4]['inputs'].shape == (3, 224, 224) and val[4]['data_samples'].gt_label.tolist() == [1]


def test_classes_of_a_config_are_the_folders(data):
    cfg = load_config(CONFIG, dict(data_root=str(data)))
    assert cfg.classes == ('disc', 'noise', 'square') and cfg.model.head.num_classes == 3
    assert cfg.test_dataloader.dataset.metainfo.classes == cfg.classes


@pytest.mark.parametrize('how', ['metainfo', 'top level', 'command line'])
def test_some_of_the_classes(data, tmp_path, said, how):
    """As with COCO's data: a config that names some leaves out the others, in training and validation."""
    own = dict(
        metainfo="train_dataloader = dict(dataset=dict(metainfo=dict(classes=('square', 'disc'))))",
    )
    own['top level'] = "classes = ('square', 'disc')"
    path = tmp_path / 'some.py'
    path.write_text(f'_base_ = {str(CONFIG)!r}\ndata_root = {str(data)!r}\n{own.get(how, "")}\n')
    cfg = load_config(path, dict(classes=('square', 'disc')) if how == 'command line' else {})
    assert cfg.model.head.num_classes == 2
    for loader, count in ((cfg.train_dataloader, 16), (cfg.val_dataloader, 6), (cfg.test_dataloader, 6)):
        part = DATASETS.build(loader.dataset)
        assert part.metainfo['classes'] == ('square', 'disc')
        found = [
            (Path(own['img_path']).parent.name, own['gt_label']) for own in map(part.get_data_info, range(len(part)))
        ]
        assert sorted(found) == [('disc', 1)] * count + [('square', 0)] * count
        assert f"leave out 1 folders: 'noise'; {count} images are not used" in said.pop(-2)


def test_a_misspelt_class_is_no_class_that_is_left_out(data, tmp_path):
    config = tmp_path / 'some.py'
    config.write_text(f"_base_ = {str(CONFIG)!r}\ndata_root = {str(data)!r}\nclasses = ('square', 'disk')\n")
    cfg = load_config(config)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        with pytest.raises(
            DatasetError, match="has the folders 'disc', 'noise', .*no folder of 'disk', which may be mis"
        ):
            DATASETS.build(loader.dataset)
    # a folder that only validation has is not left out where nobody named the classes
    for name in ('train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/b/1.png', 'val/c/1.png'):
        write(tmp_path / name)
    cfg = load_config(CONFIG, dict(data_root=str(tmp_path)))
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 2
    with pytest.raises(DatasetError, match="'c', which are none of the 2 classes .* leaves them out"):
        DATASETS.build(cfg.val_dataloader.dataset)


def test_a_list_may_name_images_of_classes_that_are_left_out(tmp_path):
    for name in 'abc':
        write(tmp_path / f'train/{name}/1.png')
    (tmp_path / 'list.txt').write_text('a/1.png\nb/1.png\nc/1.png\n')
    some = folder(tmp_path, ann_file='list.txt', metainfo=dict(classes=('c', 'a')), leave_out_others=True)
    found = [some.get_data_info(index) for index in range(len(some))]
    assert [(own['img_path'], own['gt_label']) for own in found] == [
        (f'{tmp_path}/train/a/1.png', 1),
        (f'{tmp_path}/train/c/1.png', 0),
    ]


def test_objects_become_crops(tmp_path):
    generate_mini_coco(tmp_path / 'coco', 30, 4, progress=False)
    out = tmp_path / 'crops'
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', out, '--margin', 0, '--min-size', 6) == 0
    content = json.loads((tmp_path / 'coco/annotations/instances_train2017.json').read_text())
    names = {entry['id']: entry['name'] for entry in content['categories']}
    wanted = [own for own in content['annotations'] if min(own['bbox'][2:]) >= 6 and not own['iscrowd']]
    counts = {name: sum(names[own['category_id']] == name for own in wanted) for name in names.values()}
    assert {path.name: len(list(path.iterdir())) for path in (out / 'train').iterdir()} == counts
    train = folder(out)
    assert train.metainfo['classes'] == tuple(sorted(counts)) and len(train) == len(wanted)
    first = content['images'][0]
    image = cv2.imread(str(tmp_path / 'coco/train2017' / first['file_name']))
    own = [entry for entry in content['annotations'] if entry['image_id'] == first['id']]
    x, y, w, h = own[0]['bbox']
    crop = cv2.imread(str(out / 'train' / names[own[0]['category_id']] / f'{Path(first["file_name"]).stem}_0.png'))
    assert np.array_equal(crop, image[round(y) : round(y + h), round(x) : round(x + w)])
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', out) == 2  # there already


def test_crops_of_images_with_one_name(tmp_path, capsys):
    """Images of one stem in several folders, as frames of videos have, keep all crops; the counts are of files."""
    generate_mini_coco(tmp_path / 'coco', 12, 2, progress=False)
    path = tmp_path / 'coco/annotations/instances_train2017.json'
    content, images = json.loads(path.read_text()), tmp_path / 'coco/train2017'
    for index, entry in enumerate(content['images']):
        name = f'{"abc"[index % 3]}/{index // 3}.jpg'
        (images / name).parent.mkdir(exist_ok=True)
        (images / entry['file_name']).rename(images / name)
        entry['file_name'] = name
    path.write_text(json.dumps(content))
    out = tmp_path / 'crops'
    assert run_tool('prepare_crops', tmp_path / 'coco', '--out', out, '--min-size', 1) == 0
    made = len(list(out.glob('train/*/*.png')))
    assert made == sum(not own['iscrowd'] for own in content['annotations'])
    assert f'/train: {made} crops' in capsys.readouterr().out


def test_crops_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    """Ctrl-C at the sixth crop; the next start begins anew."""
    generate_mini_coco(tmp_path / 'coco', 6, 2, progress=False)
    written, write = [], crops.write_bytes

    def stop(path, data):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    with monkeypatch.context() as some, pytest.raises(KeyboardInterrupt):
        some.setattr(crops, 'write_bytes', stop)
        write_crops(tmp_path / 'coco', tmp_path / 'out', CropOptions(min_size=1))
    assert len(written) == 5 and [path.name for path in tmp_path.iterdir()] == ['coco']
    write_crops(tmp_path / 'coco', tmp_path / 'out', CropOptions(min_size=1))
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / 'out').stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize('margin, shape', [(0.0, (10, 20)), (0.5, (20, 40)), (9.0, (60, 80))])
def test_a_crop_reaches_as_far_as_its_image(margin, shape):
    assert cut(np.zeros((60, 80, 3), np.uint8), (30, 20, 50, 30), margin).shape[:2] == shape


def test_every_class_of_the_boxes_is_a_class_of_the_crops(tmp_path):
    """Whatever the categories are called: ``?`` becomes a folder ``_``."""
    generate_mini_coco(tmp_path / 'coco', 20, 4, progress=False)
    for split in ('train', 'val'):
        path = tmp_path / f'coco/annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        for entry, name in zip(content['categories'], ('?', '_unknown', '.hidden'), strict=False):
            entry['name'] = name
        path.write_text(json.dumps(content))
    written = write_crops(tmp_path / 'coco', tmp_path / 'crops', CropOptions(min_size=1))['train']
    assert {'?', '_unknown', '.hidden'} <= set(written)
    assert len(folder(tmp_path / 'crops').metainfo['classes']) == len(written)
    assert len(folder(tmp_path / 'crops')) == written.total()


def test_classes_need_folders_of_their_own():
    assert folder_names(('a/b', 'c')) == {'a/b': 'a_b', 'c': 'c'}
    with pytest.raises(DatasetError, match="The classes a/b, A_b would share the folder 'a_b'"):
        folder_names(('a/b', 'A_b'))


# -- transforms


def test_random_resized_crop_draws_what_it_says():
    np.random.seed(0)
    crop = RandomResizedCrop(8, area=(0.2, 0.5), ratio=(0.5, 2.0))
    parts = [crop.draw(120, 120) for _ in range(4000)]
    areas = np.array([w * h for _, _, w, h in parts]) / 14400
    logs = np.log([w / h for _, _, w, h in parts])
    assert areas.min() > 0.195 and areas.max() < 0.505 and abs(areas.mean() - 0.35) < 0.01
    assert abs(logs).max() < math.log(2.05) and abs(logs.mean()) < 0.03
    assert all(0 <= x and x + w <= 120 and 0 <= y and y + h <= 120 for x, y, w, h in parts)
    # a strip, of which no allowed part has enough area: the largest of the nearest ratio, in the middle
    assert RandomResizedCrop(8, area=(0.9, 1.0)).draw(10, 400) == (193, 0, 13, 10)


def test_random_resized_crop_takes_what_it_draws(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    crop = RandomResizedCrop((6, 5))
    monkeypatch.setattr(crop, 'draw', lambda height, width: (3, 2, 6, 5))
    result = crop(dict(img=image))
    assert np.array_equal(result['img'], image[2:7, 3:9]) and result['img_shape'] == (5, 6)
    with pytest.raises(ValueError, match=r'area=\(0, 1\), expected two parts'):
        RandomResizedCrop(8, area=(0, 1))


def test_packing_keeps_the_pixels():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    packed = PackClsInputs()(dict(img=image, gt_label=5, img_path='a', ori_shape=(2, 4)))
    assert packed['inputs'].tolist() == image.transpose(2, 0, 1).tolist()
    assert packed['data_samples'].metainfo == dict(img_path='a', ori_shape=(2, 4))
    assert packed['data_samples'].gt_label.tolist() == [5]


# -- head and metric


def accuracy_of(scores, labels, topk=(1, 5)):
    metric = Accuracy(topk)
    metric.dataset_meta = dict(classes=[f'c{index}' for index in range(scores.shape[1])])
    metric.process({}, [dict(pred_score=s, gt_label=torch.tensor([t])) for s, t in zip(scores, labels, strict=True)])
    return metric.evaluate(len(labels))


def test_accuracy_is_that_of_topk():
    scores, labels = torch.rand(60, 9, generator=torch.Generator().manual_seed(0)), [index % 9 for index in range(60)]
    right = scores.topk(5).indices == torch.tensor(labels)[:, None]  # torch's own order
    expected = {f'accuracy/top{k}': round(float(right[:, :k].any(1).double().mean()) * 100, 2) for k in (1, 5)}
    assert accuracy_of(scores, labels) == expected
    perfect = functional.one_hot(torch.tensor(labels), 9).float()
    assert accuracy_of(perfect, labels) == {'accuracy/top1': 100.0, 'accuracy/top5': 100.0}
    constant = accuracy_of(torch.full((60, 9), 0.1), labels)  # says nothing: right for the first class alone
    assert constant['accuracy/top1'] == round(100 * labels.count(0) / 60, 2)
    assert accuracy_of(torch.full((60, 9), math.nan), labels)['accuracy/top5'] == 0.0
    assert list(accuracy_of(scores[:, :3], [0] * 60)) == ['accuracy/top1']


def test_the_head_by_hand():
    torch.manual_seed(0)
    head, x = ClsHead(4, num_classes=3, label_smoothing=0.1), torch.randn(5, 4, 2, 3)
    logits = x.mean((2, 3)) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head((x,)), logits)
    samples = [BaseDataElement(gt_label=torch.tensor([index % 3])) for index in range(5)]
    target = torch.full((5, 3), 0.1 / 3)
    target[range(5), [index % 3 for index in range(5)]] += 0.9
    loss = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(head.loss((x,), samples)['loss'], loss)
    found = head.predict((x,), samples)
    assert [int(sample.pred_label) for sample in found] == logits.argmax(1).tolist()
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in found]), logits.softmax(1))


# -- networks

HEAD = dict(type='frostnet_mm.ClsHead')
#: Parameters and millions of MACs at 224x224, of torchvision's models and of the papers.
NETWORKS = {
    'alexnet': (dict(type='frostnet_mm.AlexNet', num_classes=1000), dict(type='frostnet_mm.LogitsHead'), 61100840, 714),
    'resnet18': (dict(type='frostnet_mm.ResNet', depth=18), HEAD | dict(in_channels=512), 11689512, 1814),
    'shufflenetv2_x0.5': (
        dict(type='frostnet_mm.ShuffleNetV2', widen_factor=0.5),
        HEAD | dict(in_channels=192, hidden_channels=1024),
        1366792,
        41,
    ),
    'shufflenetv2': (
        dict(type='frostnet_mm.ShuffleNetV2'), HEAD | dict(in_channels=464, hidden_channels=1024), 2278604, 146
    ),
    'mobilenetv2': (dict(type='mmdet.MobileNetV2', out_indices=(7,)), HEAD | dict(in_channels=1280), 3504872, 300),
    'mobilenetv3': (
        dict(type='frostnet_mm.MobileNetV3', output_stride=32, out_indices=(16,), norm_cfg=dict(type='BN')),
        HEAD | dict(in_channels=960, hidden_channels=1280, hidden_after_pool=True, act_cfg=dict(type='HSwish')),
        5483032,
        219,
    ),
    'frostnet': (
        dict(type='frostnet_mm.FrostNet', out_indices=(4,)),
        HEAD | dict(in_channels=320, hidden_channels=1280),
        4858776,
        315,
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', NETWORKS)
def test_counts_are_the_published_ones(name):
    backbone, head, params, mmacs = NETWORKS[name]
    model = MODELS.build(dict(type='frostnet_mm.ImageClassifier', backbone=backbone, head=head)).eval()
    assert sum(p.numel() for p in model.parameters()) == params
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert counter.get_total_flops() / 2e6 == pytest.approx(mmacs, rel=0.015)  # the papers round


def test_vgg16_has_the_published_count():
    with torch.device('meta'):
        model = MODELS.build(dict(type='frostnet_mm.VGG', depth=16, with_bn=False, num_classes=1000))
    assert sum(p.numel() for p in model.parameters()) == 138357544


def test_channels_alternate():
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert channel_shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*_custom_cls.py')), ids=lambda path: path.stem)
def test_configs_build_and_train_a_step(path, data):
    cfg = load_config(path, dict(data_root=str(data)))
    model = MODELS.build(cfg.model)
    samples = [BaseDataElement(gt_label=torch.tensor([index])) for index in (0, 2)]
    loss = model(torch.randn(2, 3, 64, 64), samples, mode='loss')['loss']
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()) and 0 < float(loss) < 10
    assert DenseNetwork(model).head_name == 'head'


# -- from training to a deployment


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A config of a small network, and its checkpoint."""
    out = tmp_path_factory.mktemp('trained')
    config = out / 'small_cls.py'
    config.write_text(
        f"""
_base_ = {str(CONFIG)!r}
data_root, input_size, max_epochs, batch_size = {str(data)!r}, 32, 8, 8
arch = dict(_delete_=True, stem=16, stages=[[(3, 16, 2, None, 2)], [(3, 32, 3, 2, 2)], [(3, 48, 2, None, 1, 'fused')]])
model = dict(
    backbone=dict(arch=arch, out_indices=(2,)), head=dict(in_channels=48, hidden_channels=None, dropout=0.0)
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(val_interval=8)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)]
optim_wrapper = dict(optimizer=dict(lr=0.005))
randomness = dict(seed=0)
"""
    )
    assert run_tool('train', config, '--work-dir', out) == 0
    return config, out / 'epoch_8.pth'


def test_all_arithmetics_and_an_engine_tell_the_classes_apart(trained, tmp_path):
    config, checkpoint = trained
    arguments = ('--compare', '--engine', 'onnxruntime', '--out', tmp_path / 'm.json', '--work-dir', tmp_path)
    assert run_tool('test', config, checkpoint, *arguments) == 0
    metrics = json.loads((tmp_path / 'm.json').read_text())['metrics']
    found = {name: values['accuracy/top1'] for name, values in metrics.items()}
    assert set(found) == {'float', 'simulated', 'converted', 'onnxruntime'}
    assert min(found.values()) > 60, found  # chance is 33


def test_a_classifier_is_not_drawn_image_by_image(trained, tmp_path, capsys):
    config, checkpoint = trained
    assert run_tool('test', config, checkpoint, '--show-dir', tmp_path / 'a', '--work-dir', tmp_path) == 2
    shown = capsys.readouterr().err
    assert 'of a classifier, --plots DIR draws what it gets wrong' in shown and 'Hook' not in shown


def test_a_deployment_says_what_infer_says(trained, data, tmp_path):
    config, checkpoint = trained
    out, image = tmp_path / 'deployed', str(data / 'val/disc/0.png')
    how = ('--engine', 'onnxruntime', '--out', out)
    assert run_tool('deploy', config, checkpoint, *how) == 0
    description = json.loads((out / 'deploy.json').read_text())
    assert description['task'] == 'classification' and description['decoding']['kind'] == 'classes'
    predictor = Predictor(out)
    result = predictor.predict(image)
    assert run_tool('infer', config, checkpoint, image, '--converted', '--out', tmp_path / 'seen') == 0
    (seen,) = json.loads((tmp_path / 'seen/results.json').read_text())['images'].values()
    assert [row['class'] for row in seen['classes']] == [row['class'] for row in result.to_dict()['classes']]
    assert [row['score'] for row in seen['classes']] == pytest.approx(
        [row['score'] for row in result.to_dict()['classes']], abs=0.02
    )
    assert float(result.scores.sum()) == pytest.approx(1.0)
    drawn = predictor.draw(image, result)
    assert drawn.shape == (40, 52, 3) and (drawn != cv2.imread(image)).any()


def test_the_middle_is_cut_out_as_mmcv_does():
    from mmcv.transforms import CenterCrop

    settings = dict(resize=None, pad=None, size_divisor=1, bgr_to_rgb=False, mean=[0] * 3, std=[1] * 3, baked=False)
    for size in ((40, 51), (33, 20), (16, 60)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        description = dict(
            preprocessing=settings | dict(crop=dict(width=24, height=32)), input=dict(shape=[1, 3, None, None])
        )
        found, geometry = preprocess(image, description)
        expected = CenterCrop((24, 32))(dict(img=image))['img']
        assert np.array_equal(found[0].transpose(1, 2, 0), expected) and geometry.image == expected.shape[:2]
