"""Variables of child configs in their base files: what follows, what stays mm's own."""

import os
import re
import tempfile

import pytest
from conftest import ROOT
from mmengine.config import Config

from frostnet_mm.engine import config_variables
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.files import require_config

CONFIGS = ROOT / 'configs'
EXAMPLES = sorted((CONFIGS / 'examples').glob('*.py'))
CHILD = "_base_ = '{}'\n{}\n"


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(config_variables, 'print_log', lambda text, logger: lines.append(text))
    return lines


@pytest.fixture
def write(tmp_path):
    """Write config files, given as name=text; return the path of the last one."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f'{name}.py').write_text(text)
        return tmp_path / f'{name}.py'

    return write


def child_of(write, name, text):
    return write(child=CHILD.format(CONFIGS / f'{name}.py', text))


def resizes(cfg):
    return [
        step.scale
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
        for step in loader.dataset.pipeline
        if step.type == 'Resize'
    ]


# -- the project's configs


def test_input_size_changes_every_pipeline(write):
    cfg = load_config(child_of(write, 'ssdlite_frostnet_coco', 'input_size = (256, 192)'))
    assert resizes(cfg) == [(256, 192)] * 3 and cfg.input_size == (256, 192)
    plain = load_config(CONFIGS / 'ssdlite_frostnet_coco.py')
    assert resizes(plain) == [(320, 320)] * 3
    assert cfg.model == plain.model and cfg.train_cfg == plain.train_cfg


def test_data_root_moves_every_path(write):
    child = child_of(write, 'ssdlite_frostnet_coco', "data_root = 'my/data'")
    cfg = load_config(child)
    loaders = cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader
    assert [loader.dataset.data_root for loader in loaders] == ['my/data'] * 3
    expected = 'my/data/annotations/instances_val2017.json'
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == expected
    assert 'data/coco' not in str(cfg.to_dict())
    cfg = load_config(child, dict(data_root='/elsewhere/'))
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.test_evaluator.ann_file == '/elsewhere/annotations/instances_val2017.json'
    assert 'my/data' not in str(cfg.to_dict())


def test_max_epochs_changes_the_schedule(write):
    cfg = load_config(child_of(write, 'ssdlite_frostnet_coco', 'max_epochs = 60'))
    warmup, cosine = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, cosine.end, cosine.T_max, warmup.end) == (60, 60, 60, 500)
    cfg = load_config(child_of(write, 'retinanet_frostnet_coco', 'max_epochs = 24'))
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 24
    assert cfg.param_scheduler[1].milestones == [16, 22]  # those of mmdet's schedule_2x.py


def test_scale_and_crop_size_of_segmenters(write):
    cfg = load_config(
        child_of(write, 'espnetv2_frostnet_cityscapes', 'scale, crop_size = (512, 256), (192, 256)\nmax_iters = 5000')
    )
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert pipeline[2].scale == (512, 256) and pipeline[3].crop_size == (192, 256)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (512, 256)
    assert cfg.model.data_preprocessor.size == (192, 256)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 5000


def test_the_command_line_goes_before_the_child_and_the_child_before_the_base(write):
    child = child_of(write, 'ssdlite_frostnet_coco', 'input_size = (256, 256)\nmax_epochs = 60')
    grandchild = write(grandchild=CHILD.format(child, 'input_size = (128, 128)'))
    cfg = load_config(grandchild, dict(max_epochs=3))
    assert resizes(cfg) == [(128, 128)] * 3
    assert cfg.max_epochs == cfg.train_cfg.max_epochs == cfg.param_scheduler[1].T_max == 3
    cfg = load_config(grandchild, {'input_size': [192, 160], 'train_cfg.max_epochs': 7})  # a list: a=1,2 in the shell
    assert resizes(cfg) == [(192, 160)] * 3 and cfg.input_size == (192, 160)
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].T_max) == (7, 60)  # a dotted key is that key alone


def test_options_of_names_that_no_config_has(log):
    with pytest.raises(ConfigError, match="'novel' is new to the config"):
        load_config(CONFIGS / 'ssdlite_frostnet_coco.py', dict(novel=3))
    cfg = load_config(CONFIGS / 'ssdlite_frostnet_coco.py', dict(experiment_name='x', channels_last=False))
    assert cfg.experiment_name == 'x' and cfg.channels_last is False
    assert log == ['configs/_base_/default_runtime.py: channels_last is False from --cfg-options, not True.']


def test_data_root_of_the_command_line_in_a_config_outside_of_the_project(write):
    base = "data_root = 'data/x'\nloader = dict(root=data_root, file=f'{data_root}/a.json', other='data/xy')\n"
    path = write(base=base, child=CHILD.format('./base.py', "extra = 'data/x/b.json'"))
    cfg = load_config(path, dict(data_root='/new'))
    assert cfg.loader == dict(root='/new', file='/new/a.json', other='data/xy') and cfg.extra == '/new/b.json'


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda p: p.stem)
def test_mm_alone_reads_the_configs_alike(path):
    """mmdet's and mmseg's own tools read them with Config.fromfile."""
    ours, mm = load_config(path, classes=('a', 'b')), Config.fromfile(path)
    expected = mm.to_dict()
    if mm.get('classes') == 'from_annotations':  # here from the argument
        loaded = Config(expected)
        from frostnet_mm.engine.config import fill_classes

        fill_classes(loaded, ('a', 'b'))
        expected = loaded.to_dict()
    assert ours.to_dict() == expected
    assert ours.text == mm.text and ours.filename == mm.filename == str(path)


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda p: p.stem)
def test_mm_alone_refuses_the_examples(path):
    """Their bases would keep other sizes and schedules than the examples ask for."""
    with pytest.raises(AssertionError, match='read with frostnet_mm.engine.load_config, or take the copy in the work'):
        Config.fromfile(path)


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda p: p.stem)
def test_everything_follows_in_the_examples(path):
    cfg = load_config(path, classes=('a', 'b'))
    if 'input_size' in cfg:
        assert resizes(cfg) == [cfg.input_size] * 3
        assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == cfg.param_scheduler[1].T_max == cfg.max_epochs
        assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size
        assert cfg.model.neck.out_channels == cfg.model.bbox_head.in_channels == cfg.level_channels
        priors = cfg.model.bbox_head.anchor_generator
        assert len(priors.strides) == len(cfg.level_channels) and max(priors.max_sizes) <= cfg.input_size[0]
    else:
        assert resizes(cfg) == [cfg.scale] * 2
        random_resize, crop = cfg.train_dataloader.dataset.pipeline[2:4]
        assert random_resize.scale == cfg.scale and random_resize.ratio_range == cfg.ratio_range
        assert crop.crop_size == cfg.model.data_preprocessor.size == cfg.crop_size
        warmup, decay = cfg.param_scheduler
        assert warmup.end == decay.begin == cfg.warmup_iters and decay.end == cfg.train_cfg.max_iters == cfg.max_iters
    assert cfg.test_dataloader == cfg.val_dataloader


# -- mm's own semantics


UPSTREAM = [
    'mmdet::ssd/ssd512_coco.py',  # input_size in both
    'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py',
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py',  # crop_size in both
    'mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
]


@pytest.mark.parametrize('name', UPSTREAM)
def test_configs_of_installed_packages_stay_as_mm_reads_them(name, log):
    path = require_config(name)
    ours, mm = load_config(name), Config.fromfile(path)
    assert ours.to_dict() == mm.to_dict() and ours.filename == mm.filename and ours.text == mm.text
    assert log == []


def test_installed_configs_under_ones_own_are_not_changed(write, log):
    """SSD300's own input_size, and with it its pipelines, stay 300: another one is refused."""
    base = "_base_ = 'mmdet::ssd/ssd300_coco.py'\nmax_epochs = 24\ntrain_cfg = dict(max_epochs=max_epochs)\n"
    path = write(between=base, child=CHILD.format('./between.py', 'max_epochs = 3'))
    ours, mm = load_config(path).to_dict(), Config.fromfile(path).to_dict()
    assert ours['train_cfg'].pop('max_epochs') == 3 and mm['train_cfg'].pop('max_epochs') == 24
    assert ours == mm and ours['model']['bbox_head']['anchor_generator']['input_size'] == 300
    assert log == [f'{path.parent}/between.py: max_epochs is 3 from {path}, not 24.']
    path = write(between=base, child=CHILD.format('./between.py', 'input_size = 512'))
    with pytest.raises(ConfigError, match='input_size has no effect.*model.bbox_head.anchor_generator.input_size'):
        load_config(path)


def test_pure_python_configs_are_left_alone(tmp_path):
    (tmp_path / 'base.py').write_text('size = 320\nmodel = dict(size=size)\n')
    child = 'from mmengine.config import read_base\nwith read_base():\n    from .base import *\nsize = 192\n'
    (tmp_path / 'child.py').write_text(child)
    assert load_config(tmp_path / 'child.py').model.size == 320
    (tmp_path / 'mixed.py').write_text("_base_ = './child.py'\nsize = 96\n")
    with pytest.raises(ConfigError, match='must match the current configuration file type'):
        load_config(tmp_path / 'mixed.py')


# -- the language of configs

BASE = 'size = 320\nmodel = dict(size=size, half=size // 2)\n'


@pytest.mark.parametrize(
    'child, expected',
    [
        ('size = 192', 192),
        ('size: int = 192', 192),
        ('size, other = 192, dict(a=1)', 192),
        ('other = size = 192', 192),
        ('[a, (size, b)] = 1, (192, 3)', 192),
        ('n = 6\nsize = 32 * n', 192),
        ('sizes = (64, 192)\nsize = sizes[-1] if len(sizes) > 1 else int(3)', 192),
        ('size = 96\nsize = size * 2', 192),
        ('size = max(*(64, 192), 3)', 192),
        ("size = {{'$NO_SUCH_SIZE:192'}}", 192),
        ('size = {{_base_.size}}', 320),
        ('def size():\n    pass', 320),
    ],
)
def test_what_a_child_gives(write, child, expected):
    cfg = load_config(write(base=BASE, child=CHILD.format('./base.py', child)))
    assert cfg.model == dict(size=expected, half=expected // 2)


@pytest.mark.parametrize(
    'child',
    [
        'size = _base_.size // 2',
        'size = 192\nsize += 1',
        'if True:\n    size = 192',
        'import os\nsize = len(os.sep) * 192',
        'sizes = [192]\nsizes.append(64)\nsize = sizes[0]',
        'size = 192 // 0 if False else [i for i in (192,)][0]',
    ],
)
def test_what_is_not_known_without_the_base_or_not_by_the_text(write, child):
    path = write(base=BASE, child=CHILD.format('./base.py', child))
    message = f'{path}: size has no effect: the base files have used theirs already, in model.size. Set this too, '
    with pytest.raises(ConfigError, match=re.escape(message + 'such as model = dict(size=size).')):
        load_config(path)
    path.write_text(path.read_text() + '\nmodel = dict(size=size)\n')
    assert load_config(path).model.half == 160


@pytest.mark.parametrize(
    'base, child, expected',
    [
        (BASE, 'size = 192', 192),
        ('size, other = 320, 1\nmodel = dict(size=size)', 'size = 192', 192),
        ('other = size = 320\nmodel = dict(size=size)', 'size = 192', 192),
        ('size: int = 320\nmodel = dict(size=size)', 'size = 192', 192),
        ('import math\nsize = math.floor(320.5)\nmodel = dict(size=size)', 'size = 192', 192),
        ('if True:\n    size = 320\nmodel = dict(size=size)', 'size = 192', 192),
        ('size = 160\nsize *= 2\nmodel = dict(size=size)', 'size = 192', 192),
        ('size = (320, 320)\nmodel = dict(size=size)', 'size = [192, 192]', (192, 192)),
        ('size = None\nmodel = dict(size=size)', 'size = (1, (2.5, "a", True, None))', (1, (2.5, 'a', True, None))),
        (
            'def f():\n    size = 320\n    return size\nmodel = dict(length=f(), size=3)',
            'x = size = 192\ny = [x, size]',
            3,
        ),
        ('size = print\nmodel = dict(size=320)', 'size = 192', 320),
    ],
)
def test_what_a_base_takes(write, base, child, expected):
    cfg = load_config(write(base=base, child=CHILD.format('./base.py', child)))
    assert cfg.model.size == expected and type(cfg.model.size) is type(expected)


def test_other_kinds_of_the_same_name_are_left_alone(write, log):
    """A number where the base has a dict, and a dict where it has a number, which mm refuses unless told to delete."""
    cfg = load_config(
        write(base='norm = dict(eps=1)\nmodel = dict(n=norm)\n', child=CHILD.format('./base.py', 'norm = 3'))
    )
    assert cfg.model.n == dict(eps=1) and cfg.norm == 3
    child = CHILD.format('./base.py', 'norm = dict(_delete_=True, eps=2)')
    cfg = load_config(write(base='norm = 3\nmodel = dict(n=norm)\n', child=child))
    assert cfg.model.n == 3 and cfg.norm == dict(eps=2)
    middle = CHILD.format('./base.py', 'norm = {{_base_.model}}\nother = dict(n=norm)')
    path = write(base='model = dict(n=3)\n', middle=middle, child=CHILD.format('./middle.py', 'norm = 4'))
    cfg = load_config(path)  # a reference to a dict is a dict
    assert cfg.other.n == dict(n=3) and cfg.norm == 4
    assert log == []


def test_variables_that_follow_from_variables(write, log):
    path = write(
        base='input_size = (64, 64)\nmodel = dict(size=input_size)\n',
        middle=CHILD.format('./base.py', 'size = 320\ninput_size = (size, size)\nname = f"at {size}"'),
        child=CHILD.format('./middle.py', 'size = 192'),
    )
    cfg = load_config(path)
    assert cfg.model.size == cfg.input_size == (192, 192) and cfg.name == 'at 192'
    folder = path.parent
    assert log == [
        f'{folder}/base.py: input_size is (192, 192) from {folder}/middle.py, not (64, 64).',
        f'{folder}/middle.py: size is 192 from {path}, not 320.',
    ]


def test_references_environment_and_predefined_variables(write, monkeypatch):
    monkeypatch.setenv('MY_SIZE', '7')
    base = (
        "size = {{'$MY_SIZE:320'}}\nmodel = dict(size=size)\nplace = '{{ fileDirname }}/{{ fileBasenameNoExtension }}'"
    )
    middle = CHILD.format('./base.py', 'head = dict(size={{_base_.size}}, also=_base_.model.size)')
    path = write(base=base, middle=middle, child=CHILD.format('./middle.py', "root = '{{$MY_ROOT:here}}'\nsize = 5"))
    cfg = load_config(path)
    assert cfg.model.size == cfg.head.size == cfg.head.also == 5 and cfg.root == 'here'
    assert cfg.place == f'{path.parent}/base' and cfg.env_variables == dict(MY_SIZE='7')
    assert cfg.filename == str(path) and cfg.text == Config.fromfile(path).text


def test_several_bases_and_absolute_ones(write, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'data.py').write_text("root = 'a'\nloader = dict(root=root)\n")
    child = f"_base_ = ['./base.py', {str(other / 'data.py')!r}]\nsize, root = 192, 'b'\n"
    cfg = load_config(write(base=BASE, child=child))
    assert cfg.model.size == 192 and cfg.loader.root == 'b'
    with pytest.raises(ConfigError, match='Duplicate key is not allowed among bases'):
        load_config(write(base=BASE, twice=BASE, child="_base_ = ['./base.py', './twice.py']"))


def test_lists_are_not_shared(write):
    base = 'sizes = [1]\nsizes.append(2)\nmodel = dict(sizes=sizes)\n'
    cfg = load_config(write(base=base, child=CHILD.format('./base.py', 'sizes = [8, 9]')))
    assert cfg.sizes == [8, 9] and cfg.model.sizes == [8, 9, 2]


def test_deprecated_configs_are_named(write):
    path = write(base=f"_deprecation_ = dict(expected='new.py')\n{BASE}", child=CHILD.format('./base.py', 'size = 1'))
    with pytest.warns(DeprecationWarning, match=r'base.py will be deprecated in the future. expected: new.py'):
        assert '_deprecation_' not in load_config(path)


@pytest.mark.parametrize(
    'text, error, words',
    [
        ('size = 192', None, None),
        ('size = (', ConfigError, 'SyntaxError.*child.py'),
        ('size = 1 / 0', ConfigError, 'ZeroDivisionError: division by zero .*child.py, line 2'),
        ('size = {{_base_.none}}', ConfigError, 'KeyError'),
        ('size = nowhere', ConfigError, "NameError: name 'nowhere' is not defined"),
    ],
)
def test_no_files_are_left_behind(write, monkeypatch, tmp_path_factory, text, error, words):
    folder = tmp_path_factory.mktemp('temporary')
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    path = write(base=BASE, child=CHILD.format('./base.py', text))
    before = sorted(path.parent.iterdir())
    if error is None:
        load_config(path)
    else:
        with pytest.raises(error, match=words):
            load_config(path)
    assert os.listdir(folder) == [] and sorted(path.parent.iterdir()) == before
