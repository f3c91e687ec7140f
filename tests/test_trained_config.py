"""A checkpoint and a config that is not that of its training: what differs is said, what does not matter is not."""

import re
from pathlib import Path

import pytest
import torch
from coco_files import log_to
from conftest import ROOT, run_tool
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from small_classifier import write_small_classifier
from test_image_folder import three_classes

from frostnet_mm.engine.config import load_config
from frostnet_mm.engine.trained_config import (
    UNKNOWN,
    differences,
    other_colors_messages,
    other_config_message,
    read_plain,
)
from frostnet_mm.models.checkpoints import CheckpointError
from frostnet_mm.quantization.checkpoint import Checkpoint

CONFIGS = ROOT / 'configs'
CLASSIFIER = CONFIGS / 'frostnet_custom_cls.py'
OWN = dict(classes=('disc', 'noise', 'square'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return three_classes(tmp_path_factory.mktemp('classes'))


# -- reading a text that is not to be run


def test_plain_values_are_read_and_nothing_is_run(tmp_path):
    mark = tmp_path / 'run'
    text = f"""
a = dict(b=[1, -2.5, (3, None)], c={{'d': True}}, type='X')
size = (320, 320)
bad = __import__('pathlib').Path({str(mark)!r}).touch()
e = dict(f=float('inf'), g=1)
import os
"""
    found = read_plain(text)
    assert found['a'] == dict(b=[1, -2.5, [3, None]], c=dict(d=True), type='X') and found['size'] == [320, 320]
    assert found['bad'] is UNKNOWN and found['e']['f'] is UNKNOWN and found['e']['g'] == 1
    assert not mark.exists()
    for damaged in ('x = (', 'a = ' + '(' * 5000 + ')' * 5000, '\0', 'model: int', 'x' * 3_000_000):
        assert read_plain(damaged) == {}


@pytest.mark.parametrize(
    'name', ['ssdlite_frostnet_coco', 'tdsod_coco', 'espnetv2_frostnet_cityscapes', 'mmdet', 'mmseg']
)
def test_a_config_is_its_own(name):
    """As mmengine writes it down; of mm's own too."""
    names = dict(mmdet='mmdet::ssd/ssd300_coco.py', mmseg='mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    cfg = load_config(names.get(name, CONFIGS / f'{name}.py'))
    init_default_scope(cfg.default_scope)
    assert 'model' in read_plain(cfg.pretty_text) and other_config_message('X', cfg.pretty_text, cfg) is None


@pytest.mark.parametrize(
    'name', ['ssdlite_frostnet', 'tdsod', 'espnetv2_frostnet_cityscapes', 'lraspp_frostnet_cityscapes']
)
def test_a_config_in_float_and_its_sibling_agree(name):
    """Checkpoints go from one to the other: tools/calibrate.py, load_from."""
    if 'cityscapes' in name:
        paths = [CONFIGS / f'{name}.py', CONFIGS / f'{name.replace("_cityscapes", "_qat_cityscapes")}.py']
    else:
        paths = [CONFIGS / f'{name}_coco.py', CONFIGS / f'{name}_qat_coco.py']
    one, other = map(load_config, paths)
    init_default_scope(one.default_scope)
    assert differences(read_plain(one.pretty_text), other) == [] == differences(read_plain(other.pretty_text), one)


# -- what differs


def detector(**changes):
    """A detector's config with changes by dotted keys; ``step.KEY`` is of its Resize."""
    cfg = load_config(CONFIGS / 'ssdlite_frostnet_coco.py')
    for key, value in changes.items():
        name = key.replace('__', '.')
        if name.startswith('step.'):
            for step in cfg.test_dataloader.dataset.pipeline:
                if step.type == 'Resize':
                    step[name[5:]] = value
        else:
            cfg.merge_from_dict({name: value})
    return cfg


@pytest.mark.parametrize(
    ('changes', 'keys'),
    [
        (dict(step__scale=(512, 512)), ['Resize.scale']),
        (dict(step__keep_ratio=True), ['Resize.keep_ratio']),
        (dict(model__data_preprocessor__bgr_to_rgb=False), ['data_preprocessor.bgr_to_rgb']),
        (dict(model__data_preprocessor__mean=[0, 0, 0]), ['data_preprocessor.mean']),
        (
            dict(model__bbox_head__bbox_coder__target_stds=[1.0, 1.0, 1.0, 1.0]),
            ['model.bbox_head.bbox_coder.target_stds'],
        ),
        (dict(model__backbone__type='mmdet.MobileNetV2'), ['model.backbone.type']),
        # what predictions do not depend on, or what is set for each evaluation
        (dict(model__backbone__init_cfg=dict(type='Pretrained', checkpoint='a.pth')), []),
        (dict(model__backbone__frozen_stages=2), []),
        (dict(model__data_preprocessor__pad_size_divisor=32), []),
        (dict(model__test_cfg__score_thr=0.3), []),
        (dict(model__train_cfg__neg_pos_ratio=2), []),
        (dict(train_dataloader__batch_size=1), []),
        (dict(model__backbone__bn_eval=True), []),
        # the default of an argument, given
        (dict(model__backbone__norm_eval=False), []),
        (dict(step__interpolation='bilinear'), []),
        (dict(step__interpolation='nearest'), ['Resize.interpolation']),
    ],
)
def test_what_predictions_depend_on(changes, keys):
    plain = detector()
    init_default_scope('mmdet')
    changed = detector(**changes)
    assert [each.key for each in differences(read_plain(plain.pretty_text), changed)] == keys
    assert [each.key for each in differences(read_plain(changed.pretty_text), plain)] == keys


def test_colors_by_the_names_of_other_packages():
    """mmpretrain says to_rgb where mmdet says bgr_to_rgb; a config of mmdet 2 has no preprocessor."""
    mean = 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]'
    cfg = detector()
    for text, keys in (
        (f'model = dict(data_preprocessor=dict({mean}, to_rgb=True))', []),
        (f'data_preprocessor = dict({mean}, to_rgb=True)\nmodel = dict()', []),
        (f'model = dict(data_preprocessor=dict({mean}))', ['data_preprocessor.bgr_to_rgb']),
        (f'img_norm_cfg = dict({mean}, to_rgb=True)\nmodel = dict()', []),
    ):
        found = [each.key for each in differences(read_plain(text), cfg)]
        assert [key for key in found if key.startswith('data_preprocessor')] == keys


def test_steps_that_only_one_has(data):
    """A crop that is gone: the names of the steps, each in its order."""
    cfg = load_config(CLASSIFIER, dict(data_root=str(data)))
    text = cfg.pretty_text
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline.insert(2, ConfigDict(type='CenterCrop', crop_size=200))
    (only,) = differences(read_plain(text), cfg)
    assert str(only) == "test pipeline was ('Resize',), is ('Resize', 'CenterCrop')"


def test_configs_without_parts_have_no_differences():
    for text in (None, '', 'a = 1', 'model = 5', "model = dict(type='A')\ntest_dataloader = dict(dataset=3)"):
        assert other_config_message('X', text, Config(dict(model=dict(type='A')))) is None


# -- through the tools


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A config of a small network of 32x32, and its checkpoint."""
    out = tmp_path_factory.mktemp('trained')
    config = tmp_path_factory.mktemp('config') / 'small_cls.py'
    write_small_classifier(config, data, more='train_cfg = dict(val_interval=2)')
    assert run_tool('train', config, '--work-dir', out) == 0
    return config, out / 'epoch_1.pth'


def warnings_of(path, capsys, *arguments):
    """Of a tool, by its own logger or, where it begins none, by the one that is there."""
    with log_to(path) as lines:
        assert run_tool(*arguments) == 0
        said = [*lines(), *capsys.readouterr().out.splitlines()]
    return [line for line in said if 'was trained with another config' in line]


@pytest.mark.parametrize('tool', ['test', 'calibrate', 'deploy', 'infer', 'resume'])
def test_every_tool_says_it_once(tool, trained, data, tmp_path, capsys):
    config, checkpoint = trained
    arguments = dict(
        test=('test', config, checkpoint, '--work-dir', tmp_path),
        calibrate=('calibrate', config, checkpoint, '--out', tmp_path / 'int8.pth', '--num-images', 8),
        deploy=('deploy', config, checkpoint, '--float', '--engine', 'onnxruntime', '--out', tmp_path / 'deployed'),
        infer=('infer', config, checkpoint, data / 'val/disc/0.png', '--out', tmp_path / 'seen'),
        resume=('train', config, '--work-dir', tmp_path, '--resume', checkpoint),
    )[tool]
    assert warnings_of(tmp_path / 'log', capsys, *arguments) == []
    other = [tmp_path / 'other' if str(each).startswith(str(tmp_path)) else each for each in arguments]
    if tool == 'calibrate':
        other[-3] = tmp_path / 'other.pth'
    (line,) = warnings_of(tmp_path / 'other log', capsys, *other, '--cfg-options', 'input_size=48')
    assert 'Resize.scale was (32, 32), is (48, 48). ' in line
    assert line.endswith('give what it was trained with: --cfg-options input_size=32.')


def test_pretrained_weights_of_other_colors(trained, data, tmp_path, capsys):
    """A backbone that begins with a classifier's, and images prepared in another way; the log is training's."""
    config, checkpoint = trained
    init = f'model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={checkpoint}'.split()
    options = ['--work-dir', tmp_path, '--cfg-options', *init]
    assert run_tool('train', config, *options) == 0
    assert 'are of other images' not in capsys.readouterr().out
    assert run_tool('train', config, *options, 'model.data_preprocessor.std=1,1,1') == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if 'are of other images' in line]
    assert (
        f'model.backbone.init_cfg: the weights of {checkpoint} are of other images: data_preprocessor.std was ' in line
    )
    released = load_config(CONFIGS / 'ssdlite_efficientnet_lite0_custom.py', classes=('a', 'b'))
    assert released.model.backbone.init_cfg.checkpoint == 'efficientnet-lite0'
    assert list(other_colors_messages(released)) == []
    released.model.data_preprocessor.bgr_to_rgb = False
    assert 'bgr_to_rgb was True, is False' in next(other_colors_messages(released))


def test_other_names_of_as_many_classes_are_refused(trained, data, tmp_path, capsys):
    """Evaluated, outputs would be counted as what the config calls them."""
    config, checkpoint = trained
    content = torch.load(checkpoint, weights_only=False)
    content['meta']['dataset_meta'] = dict(classes=('apple', 'noise', 'pear'))
    path = tmp_path / 'fruit.pth'
    torch.save(content, path)
    names = config.parent / 'named_cls.py'
    names.write_text(f"_base_ = {str(config)!r}\nclasses = ('disc', 'noise', 'square')\n")
    assert run_tool('test', names, path, '--work-dir', tmp_path) == 2
    said = capsys.readouterr()
    said = ' '.join((said.out + said.err).split())
    assert re.search(
        r"fruit.pth was trained on other classes .* class 0 is 'apple' there and 'disc' in the config", said
    )
    assert run_tool('test', names, path, '--work-dir', tmp_path, '--classes', 'disc', 'noise', 'square') == 0
    with pytest.raises(CheckpointError, match="class 0 is 'apple'"):
        Checkpoint.open(path).check_names(load_config(names))
    # another order of the same names is the checkpoint's, in data that say their classes
    content['meta']['dataset_meta'] = dict(classes=('noise', 'disc', 'square'))
    torch.save(content, path)
    opened = Checkpoint.open(Path(path))
    cfg = load_config(names, classes=opened.classes)
    opened.check_names(cfg)
    assert opened.dataset_meta_for(cfg)['classes'] == ('noise', 'disc', 'square')


def test_names_that_are_given_for_those_of_a_checkpoint(tmp_path):
    """``--classes`` may rename, not reorder: a metric would be of other classes without a word."""
    content = dict(meta=dict(dataset_meta=dict(classes=('cat', 'dog', 'bird'))))
    with pytest.raises(CheckpointError, match="in another order, such as 'dog' in the place of 'cat': leave it out"):
        Checkpoint(content, 'x.pth', classes=('dog', 'cat', 'bird'))
    for noted in (content, {}):
        with pytest.raises(CheckpointError, match="--classes names 'cat' twice"):
            Checkpoint(noted, 'x.pth', classes=('cat', 'cat', 'bird'))
    with log_to(tmp_path / 'log') as lines:
        assert Checkpoint(content, 'x.pth', classes=('cat', 'dog', 'bird')).classes == ('cat', 'dog', 'bird')
        assert Checkpoint({}, 'x.pth', classes=('dog', 'cat')).classes == ('dog', 'cat')
        assert lines() == []
        assert Checkpoint(content, 'x.pth', classes=('cat', 'Hund', 'bird')).classes == ('cat', 'Hund', 'bird')
        assert "x.pth: its classes are called as --classes says, such as 'Hund' where it notes 'dog'" in lines()[0]
