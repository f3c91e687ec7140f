"""`frostnet new`: data found as people lay them out, and configs that fit them."""

import json
import math
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, run_tool
from PIL import Image
from seg_files import save_palette

from frostnet_mm.apis.own_data.detection import anchors, detection_config, first_stride
from frostnet_mm.apis.own_data.segmentation import segmentation_config
from frostnet_mm.apis.own_data.wishes import Wishes
from frostnet_mm.data.cityscapes import CLASSES as CITYSCAPES
from frostnet_mm.data.own_folders import Undecided, role_of
from frostnet_mm.data.segmentation_own import listed_names
from frostnet_mm.engine.config import load_config

SIZE = (40, 30)  # width, height


def image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco(path, folder, count, boxes=((5, 6, 10, 12), (1, 2, 8, 20)), names=('cat', 'dog'), prefix=''):
    """A json, and its images in a folder; box i of an image is of class i."""
    images = [dict(id=i, file_name=f'{prefix}{i}.jpg', width=SIZE[0], height=SIZE[1]) for i in range(1, count + 1)]
    annotations = [
        dict(
            id=10 * entry['id'] + i,
            image_id=entry['id'],
            category_id=i % len(names),
            bbox=list(box),
            area=box[2] * box[3],
            iscrowd=0,
        )
        for entry in images
        for i, box in enumerate(boxes)
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    for entry in images:
        image(folder / entry['file_name'])


def words(text):
    """A text without the line breaks of its comments."""
    return ' '.join(text.replace('#', '').split())


def detection(root, tmp_path, **wishes):
    """The config for a folder, read, and its text."""
    wanted = Wishes(tmp_path / 'my.py', root, **wishes)
    wanted.check()
    text, notes = detection_config(wanted)
    wanted.out.write_text(text)
    return load_config(wanted.out), text, notes


def segmentation(root, tmp_path, **wishes):
    wanted = Wishes(tmp_path / 'my.py', root, **wishes)
    wanted.check()
    text, notes = segmentation_config(wanted)
    wanted.out.write_text(text)
    return load_config(wanted.out), text, notes


@pytest.mark.parametrize(
    ('path', 'role'),
    [
        ('annotations/instances_train2017.json', 'train'),
        ('train/_annotations.coco.json', 'train'),
        ('valid/_annotations.coco.json', 'val'),
        ('annotations/instances_Train.json', 'train'),
        ('trainannot', 'train'),
        ('valannot', 'val'),
        ('train_v2/val.json', 'val'),
        ('images/test', 'test'),
        ('annotations/instances_default.json', None),
        ('valves/strain.json', None),
        ('labels', None),
    ],
)
def test_the_part_is_read_from_words_of_the_path(tmp_path, path, role):
    assert role_of((tmp_path / path).relative_to(tmp_path)) == role


LAYOUTS = {  # annotation file and image folder of training, of validation
    'COCO': ('annotations/instances_train2017.json', 'train2017', 'annotations/instances_val2017.json', 'val2017'),
    'Roboflow': ('train/_annotations.coco.json', 'train', 'valid/_annotations.coco.json', 'valid'),
    'Roboflow, test alone': ('train/_annotations.coco.json', 'train', 'test/_annotations.coco.json', 'test'),
    'CVAT': ('annotations/instances_Train.json', 'images/Train', 'annotations/instances_Validation.json', 'images/Val'),
    'one image folder': ('labels/train.json', 'images', 'labels/val.json', 'images'),
    'files beside': ('my_training.json', 'photos', 'my_val.json', 'photos'),
    'deep': ('a/b/annotations/train.json', 'a/b/imgs/train', 'a/b/annotations/dev.json', 'a/b/imgs/dev'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_annotations_and_images_are_found(tmp_path, layout):
    train, train_images, val, val_images = LAYOUTS[layout]
    root = tmp_path / 'data'
    coco(root / train, root / train_images, 6, prefix='a')
    coco(root / val, root / val_images, 3, prefix='b')
    (root / 'captions_train.json').write_text('{"images": [], "annotations": [], "categories": []}')
    cfg, text, notes = detection(root, tmp_path, epochs=6)
    for loader, ann_file, folder in (
        (cfg.train_dataloader, train, train_images),
        (cfg.val_dataloader, val, val_images),
        (cfg.test_dataloader, val, val_images),
    ):
        assert loader.dataset.data_root == str(root)
        assert loader.dataset.ann_file == ann_file
        assert (root / loader.dataset.data_prefix.img).resolve() == root / folder
        assert loader.dataset.metainfo.classes == ('cat', 'dog')
    assert cfg.val_evaluator.ann_file == str(root / val)
    assert (cfg.model.bbox_head.num_classes, cfg.train_cfg.max_epochs, cfg.input_size) == (2, 6, (320, 320))
    assert '6 images for training' in words(text) and 'cat 6, dog 6' in words(text) and notes == []


def test_a_schedule_follows_from_the_number_of_images(tmp_path):
    root = tmp_path / 'data'
    coco(root / 'train.json', root / 'train', 40)
    coco(root / 'val.json', root / 'val', 2)
    cfg, *_ = detection(root, tmp_path)
    # 40 images are 5 batches of 8: 3000 steps would be 600 epochs, of which 150 are allowed
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (8, 150, 15)
    cosine = next(part for part in cfg.param_scheduler if part.type == 'CosineAnnealingLR')
    assert (cosine.end, cosine.T_max) == (150, 150)
    assert cfg.train_dataloader.dataset.filter_cfg.min_size == 1  # the images are 30 pixels high
    cfg, *_ = detection(root, tmp_path, epochs=7, qat=True, backbone='base')
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (7, 1)
    assert (cfg.default_hooks.qat.type, cfg.model.backbone.arch) == ('frostnet_mm.QATHook', 'base')


@pytest.mark.parametrize(
    ('box', 'stride'),
    # a box of w x h becomes one of w * 8 by h * 10.67 in 320x320: 1x1 a side of 9, 2x2 one of 18, 5x5 one of 46
    [((5, 6, 1, 1), 4), ((5, 6, 2, 2), 8), ((5, 6, 5, 5), 16)],
)
def test_feature_maps_follow_from_the_boxes(tmp_path, box, stride):
    root = tmp_path / 'data'
    coco(root / 'train.json', root / 'train', 8, [box])
    coco(root / 'val.json', root / 'val', 2, [box])
    cfg, text, _ = detection(root, tmp_path)
    levels = {4: 8, 8: 7, 16: 6}[stride]
    assert cfg.model.bbox_head.anchor_generator.strides[0] == stride
    assert {len(cfg.model.neck.out_channels), len(cfg.model.bbox_head.anchor_generator.min_sizes)} == {levels}
    assert ('a map of stride 4 is added' in words(text)) == (stride == 4)
    assert first_stride(np.array([math.sqrt(box[2] * 8 * box[3] * 320 / 30)]), 320) == stride


@pytest.mark.parametrize(
    ('size', 'first', 'maps'),
    [(320, 8, [40, 20, 10, 5, 3, 2, 1]), (192, 4, [48, 24, 12, 6, 3, 2, 1]), (640, 16, [40, 20, 10, 5, 3, 2, 1])],
)
def test_anchors_have_the_strides_of_the_maps(size, first, maps):
    strides, smallest, largest = anchors(size, first)
    assert strides == [round(size / side) for side in maps]
    assert smallest == sorted(smallest) and largest == [*smallest[1:], size]


def test_anchors_of_320_are_those_of_the_base():
    base = load_config('ssdlite_frostnet_custom.py', classes=('cat',)).model.bbox_head.anchor_generator
    strides, smallest, largest = anchors(320, 8)
    assert strides == base.strides
    assert np.abs(np.subtract(smallest, base.min_sizes)).max() <= 1
    assert np.abs(np.subtract(largest, base.max_sizes)).max() <= 1


def test_the_network_has_the_maps_that_its_anchors_are_for(tmp_path):
    import torch
    from mmengine.registry import MODELS, init_default_scope

    root = tmp_path / 'data'
    coco(root / 'train.json', root / 'train', 8, [(5, 6, 1, 1)])
    coco(root / 'val.json', root / 'val', 2, [(5, 6, 1, 1)])
    cfg, *_ = detection(root, tmp_path, size=160, backbone='engine-s')
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).eval()
    with torch.inference_mode():
        maps = model.extract_feat(torch.zeros(1, 3, 160, 160))
        scores, _ = model.bbox_head(maps)
    strides = cfg.model.bbox_head.anchor_generator.strides
    assert [round(160 / level.shape[-1]) for level in maps] == strides == [4, 8, 16, 32, 53, 80, 160]
    priors = model.bbox_head.prior_generator.grid_priors([level.shape[-2:] for level in maps], device='cpu')
    assert [len(own) for own in priors] == [level.shape[1] // 3 * level.shape[2] ** 2 for level in scores]


def test_one_file_is_split_on_demand(tmp_path):
    root = tmp_path / 'data'
    coco(root / 'instances_default.json', root / 'images', 10)
    with pytest.raises(Undecided) as raised:
        detection(root, tmp_path)
    assert str(raised.value) == (
        f"Which images are for validation? '{root}' holds one annotation file, '{root}/instances_default.json'. Give "
        'another: --val-labels FILE; or have some of its images set apart: --val-share 0.2.'
    )
    cfg, *_ = detection(root, tmp_path, val_share=0.2)
    parts = [json.loads((tmp_path / f'my_{part}.json').read_text()) for part in ('train', 'val')]
    names = [{entry['file_name'] for entry in part['images']} for part in parts]
    assert [len(own) for own in names] == [8, 2] and not names[0] & names[1]
    assert [len(part['annotations']) for part in parts] == [16, 4]
    assert cfg.val_dataloader.dataset.ann_file == str(tmp_path / 'my_val.json')


def test_a_share_is_taken_of_the_file_that_is_named(tmp_path):
    """Whatever its name says; where others are for validation, a share is refused."""
    root = tmp_path / 'data'
    coco(root / 'annotations/instances_val.json', root / 'images', 10)
    named = dict(labels=(root / 'annotations/instances_val.json', None))
    cfg, *_ = detection(root, tmp_path, val_share=0.3, **named)
    assert cfg.val_dataloader.dataset.ann_file == str(tmp_path / 'my_val.json')
    assert len(json.loads((tmp_path / 'my_train.json').read_text())['images']) == 7
    coco(root / 'annotations/instances_train.json', root / 'images', 4)
    with pytest.raises(Undecided, match='asks for some of the training images: leave it out'):
        detection(root, tmp_path, val_share=0.3)


def two_trainings(root):
    coco(root / 'a/train.json', root / 'images', 2)
    coco(root / 'b/train.json', root / 'images', 2)


def lost_images(root):
    coco(root / 'train.json', root / 'images', 4)
    coco(root / 'val.json', root / 'images', 4, prefix='x')
    for path in (root / 'images').glob('x*'):
        path.unlink()


def voc(root):
    for index in range(3):
        (root / 'Annotations').mkdir(parents=True, exist_ok=True)
        (root / f'Annotations/{index}.xml').write_text('<annotation/>')


QUESTIONS = [
    (two_trainings, {}, "Which is the annotation file of training? '{root}' holds 2: a/train.json, b/train.json. "),
    (lost_images, {}, "Where are the images of '{root}/val.json'? "),
    (voc, {}, "What tells the boxes? '{root}' holds no json with images, annotations and categories (COCO's format), "),
    (two_trainings, dict(size=300), 'Which size? --size 300 is no multiple of 32, or below 96: --size 288.'),
    (two_trainings, dict(backbone='tiny'), "Which backbone? There is no FrostNet 'tiny': --backbone small, base, "),
    (two_trainings, dict(val_share=2.0), 'Which share for validation? --val-share 2.0 is not between 0 and 1: 0.2.'),
]


@pytest.mark.parametrize(('make', 'wishes', 'asked'), QUESTIONS)
def test_what_is_open_is_one_question(tmp_path, make, wishes, asked):
    root = tmp_path / 'data'
    make(root)
    with pytest.raises(Undecided) as raised:
        detection(root, tmp_path, **wishes)
    assert str(raised.value).startswith(asked.format(root=root))
    assert '--' in str(raised.value)


# -- segmentation


def pairs(root, images, labels, count, ends=('.jpg', '.png'), values=(0, 1, 2, 255), save=None):
    """Images and labels: each value in a row of its own, row 0 in all that are left."""
    for index in range(count):
        name = f'scene_{index:03d}'
        image(root / images / f'{name}{ends[0]}')
        rows = np.full((SIZE[1], SIZE[0]), values[0], np.uint8)
        for row, value in enumerate(values):
            rows[row] = value
        path = root / labels / f'{name}{ends[1]}'
        path.parent.mkdir(parents=True, exist_ok=True)
        (save or (lambda labels, path: Image.fromarray(labels).save(path)))(rows, path)


SEG_LAYOUTS = {  # images and labels of training, of validation, how their names end
    'folders of kinds': ('images/train', 'labels/train', 'images/val', 'labels/val', ('.jpg', '.png')),
    'folders of parts': ('train/images', 'train/masks', 'valid/images', 'valid/masks', ('.jpg', '_mask.png')),
    'CamVid': ('train', 'trainannot', 'val', 'valannot', ('.png', '.png')),
    'ADE': ('images/training', 'annotations/training', 'images/validation', 'annotations/validation', ('.jpg', '.png')),
    'test alone': ('train/rgb', 'train/gt', 'test/rgb', 'test/gt', ('.jpg', '_gt.png')),
}


@pytest.mark.parametrize('layout', SEG_LAYOUTS)
def test_images_and_labels_are_found(tmp_path, layout):
    *folders, ends = SEG_LAYOUTS[layout]
    root = tmp_path / 'data'
    pairs(root, *folders[:2], 4, ends)
    pairs(root, *folders[2:], 2, ends)
    cfg, text, notes = segmentation(root, tmp_path, classes=('sky', 'road', 'car'))
    assert [cfg.train_images, cfg.train_labels, cfg.val_images, cfg.val_labels] == folders
    for loader, place in ((cfg.train_dataloader, folders[:2]), (cfg.val_dataloader, folders[2:])):
        dataset = loader.dataset
        assert list(dataset.data_prefix.values()) == place and dataset.data_root == str(root)
        suffixes = dataset.img_suffix, dataset.seg_map_suffix
        for name in sorted((root / place[0]).iterdir()):
            assert (root / place[1] / f'{name.name.removesuffix(suffixes[0])}{suffixes[1]}').is_file()
        assert dataset.metainfo.classes == ('sky', 'road', 'car')
    # 40x30 pixels, one row each of 1, 2 and 255: 27 of the 29 rows that count are class 0
    wanted = tuple(round(1 / math.log(1.1 + rows / 29), 2) for rows in (27 + 0, 1, 1))
    assert cfg.model.decode_head.loss_decode.class_weight == wanted
    assert (cfg.model.decode_head.num_classes, cfg.scale, cfg.crop_size) == (3, (64, 64), (96, 96))
    assert 'ignored (255) 3.3%' in words(text) and notes == []


@pytest.mark.parametrize('count', [1, 2, 6, 9])
def test_a_single_epoch_of_few_images_has_a_schedule(tmp_path, count):
    root = tmp_path / 'data'
    pairs(root, 'images/train', 'labels/train', count)
    pairs(root, 'images/val', 'labels/val', 1)
    cfg, *_ = segmentation(root, tmp_path, epochs=1)
    assert all(part.begin < part.end for part in cfg.param_scheduler)
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters >= cfg.train_cfg.val_interval


def test_cityscapes_layout_and_palette(tmp_path):
    root = tmp_path / 'data'
    for part in ('train', 'val'):
        folders = f'leftImg8bit/{part}/aachen', f'gtFine/{part}/aachen'
        pairs(root, *folders, 3, ('_leftImg8bit.png', '_gtFine_labelTrainIds.png'), (0, 13), save_palette)
        pairs(root, *folders, 3, ('_leftImg8bit.png', '_gtFine_labelIds.png'), (7, 26))
        pairs(root, *folders, 3, ('_leftImg8bit.png', '_gtFine_color.png'), (0, 9))
    cfg, *_ = segmentation(root, tmp_path)
    assert (cfg.img_suffix, cfg.seg_map_suffix) == ('_leftImg8bit.png', '_gtFine_labelTrainIds.png')
    assert (cfg.train_images, cfg.val_labels, cfg.classes) == ('leftImg8bit/train', 'gtFine/val', CITYSCAPES)
    with Image.open(root / 'gtFine/train/aachen/scene_000_gtFine_labelTrainIds.png') as label:
        first = tuple(label.getpalette()[:3])
    assert tuple(cfg.train_dataloader.dataset.metainfo.palette[0]) == first
    for path in root.rglob('*TrainIds.png'):
        path.unlink()
    with pytest.raises(Undecided, match=r'label ids of Cityscapes .*python tools/prepare_cityscapes.py'):
        segmentation(root, tmp_path)


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('sky\nroad\n', ('sky', 'road')),
        ('Pixel Value, Class\n0, sky\n2, car\n', ('sky', 'class_1', 'car')),
        ('name,r,g,b\nsky,1,2,3\nroad,4,5,6\n', ('sky', 'road')),
        ('# label:color_rgb:parts:actions\nsky:1,2,3::\nred car:4,5,6::\n', ('sky', 'red car')),
    ],
)
def test_names_are_read_as_exporters_list_them(text, names):
    assert listed_names(text) == names


def test_names_come_from_a_file_or_are_missed(tmp_path):
    root = tmp_path / 'data'
    for part in ('train', 'val'):
        pairs(root, f'images/{part}', f'labels/{part}', 3, values=(0, 1, 2, 0, 1, 2))
    cfg, _, notes = segmentation(root, tmp_path)
    assert cfg.classes == ('class_0', 'class_1', 'class_2') and notes[0].startswith('The classes have no names')
    (root / 'classes.txt').write_text('sky\nroad\n')
    with pytest.raises(
        Undecided, match='The labels hold the values 0, 1, 2; .*classes.txt names 2: sky, road. Name all'
    ):
        segmentation(root, tmp_path)
    (root / 'classes.txt').write_text('sky\nroad\ncar\n')
    assert segmentation(root, tmp_path)[0].classes == ('sky', 'road', 'car')


@pytest.mark.parametrize(
    ('values', 'ends', 'asked'),
    [
        ((0, 255), ('.jpg', '.png'), 'If 255 is the object'),
        ((0, 1), ('.jpg', '.jpg.labels.png'), None),
    ],
)
def test_labels_that_cannot_be_meant_are_asked_about(tmp_path, values, ends, asked):
    root = tmp_path / 'data'
    for part in ('train', 'val'):
        pairs(root, f'images/{part}', f'labels/{part}', 3, ends, values)
    if asked is None:
        assert segmentation(root, tmp_path)[0].seg_map_suffix == '.jpg.labels.png'
        return
    with pytest.raises(Undecided, match=asked):
        segmentation(root, tmp_path, classes=('ground', 'object'))


# -- the command


def test_the_command_writes_once_and_says_the_next_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coco(tmp_path / 'd/train.json', tmp_path / 'd/train', 8)
    coco(tmp_path / 'd/val.json', tmp_path / 'd/val', 2)
    given = 'new_config', 'my.py', '--data', 'd', '--task', 'detection', '--backbone', 'base'
    assert run_tool(*given) == 0
    printed = capsys.readouterr().out.splitlines()
    tools = ROOT / 'tools'
    assert printed[-1] == f'my.py is written. Train: python {tools}/train.py my.py'
    assert words(' '.join(printed[:3])).startswith(
        f'Written by: python {tools}/new_config.py my.py --data d --task detection --backbone base'
    )
    assert run_tool(*given) == 2
    assert 'my.py exists; --overwrite replaces it' in capsys.readouterr().err
    assert run_tool('new_config', 'other.py', '--data', 'none', '--task', 'detection') == 2
    assert capsys.readouterr().err == "\nerror: Where are the data? 'none' is no folder. Say it: --data FOLDER.\n"


def next_step(tool, monkeypatch, *given):
    """The last line of a tool, by its own function."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(sys, 'argv', [f'frostnet {tool}'])
    return runpy.run_path(str(ROOT / f'tools/{tool}.py'))['_next_step'](*given)


OPTIONS = ['data_root=a b', 'x=1']
BOTH = dict(best_ckpt='w/best.pth', last_ckpt='w/last.pth')


HOOK = dict(type='frostnet_mm.QATHook')


@pytest.mark.parametrize(
    ('written', 'hooks', 'wanted'),
    [
        (BOTH, {}, 'Make it INT8: frostnet calibrate my.py w/best.pth'),
        (BOTH, dict(default_hooks=dict(qat=HOOK)), 'Evaluate it: frostnet test my.py w/last.pth'),
        (BOTH, dict(custom_hooks=[HOOK]), 'Evaluate it: frostnet test my.py w/last.pth'),
        (dict(last_ckpt='w/last.pth'), {}, 'Make it INT8: frostnet calibrate my.py w/last.pth'),
    ],
)
def test_training_says_what_comes_next(monkeypatch, written, hooks, wanted):
    runner = SimpleNamespace(message_hub=SimpleNamespace(runtime_info=written), cfg=hooks)
    said = next_step('train', monkeypatch, runner, SimpleNamespace(config='my.py', given_options=OPTIONS))
    assert said == f"{wanted}{' --compare' if hooks else ''} --cfg-options 'data_root=a b' x=1"


def test_evaluation_says_what_comes_next(monkeypatch):
    args = SimpleNamespace(
        config='a/my.py', checkpoint='c.pth', engine=[], weight_bits=7, classes=['cat'], given_options=OPTIONS
    )
    cfg = load_config('ssdlite_frostnet_coco.py')
    end = "--weight-bits 7 --classes cat --cfg-options 'data_root=a b' x=1"
    said = next_step('test', monkeypatch, args, SimpleNamespace(quantized=True), cfg)
    assert said == f'Deploy it: frostnet deploy a/my.py c.pth --engine openvino --out deploy/my-openvino {end}'
    args.engine = ['onnxruntime', 'openvino']
    said = next_step('test', monkeypatch, args, SimpleNamespace(quantized=True), cfg)
    assert ' --engine onnxruntime --out deploy/my-onnxruntime ' in said
    said = next_step('test', monkeypatch, args, SimpleNamespace(quantized=False), cfg)
    assert said == f'Make it INT8: frostnet calibrate a/my.py c.pth {end}'
    cfg = load_config('espnetv2_frostnet_custom_seg.py', dict(scale=(96, 64)))  # (width, height), its ratio is kept
    said = next_step('test', monkeypatch, args, SimpleNamespace(quantized=True), cfg)
    assert ' --out deploy/my-onnxruntime --shape 64 96 --weight-bits ' in said
