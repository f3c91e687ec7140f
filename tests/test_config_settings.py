"""Settings of one's own config and of the command line: each has the effect that it says, or is refused."""

import argparse
import json

import pytest
from conftest import ROOT, run_tool
from mmengine.runner import Runner

from frostnet_mm.cli import add_config_options
from frostnet_mm.engine import config_checks
from frostnet_mm.engine.config import ConfigError, load_config

CONFIGS = ROOT / 'configs'
COCO, SEG = CONFIGS / 'ssdlite_frostnet_coco.py', CONFIGS / 'espnetv2_frostnet_cityscapes.py'
QAT, QAT_BASE = CONFIGS / 'ssdlite_frostnet_qat_coco.py', CONFIGS / '_base_/qat.py'
CUSTOM = CONFIGS / 'ssdlite_frostnet_custom.py'
UPSTREAM = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(config_checks, 'print_log', lambda text, logger, level: lines.append(text))
    return lines


@pytest.fixture
def child(tmp_path):
    def child(bases, text, name='child'):
        path = tmp_path / f'{name}.py'
        path.write_text(f'_base_ = {[str(base) for base in bases]!r}\n{text}\n')
        return path

    return child


# -- qat_hook


@pytest.mark.parametrize(
    'use', ['default_hooks = dict(qat={{_base_.qat_hook}})', 'default_hooks = dict(qat=_base_.qat_hook)']
)
def test_qat_hook_of_ones_own_config_reaches_the_hook(child, use):
    plain = load_config(QAT).default_hooks.qat
    path = child([COCO, QAT_BASE], f"qat_hook = dict(warmup='1 epoch', freeze_bn_at='50 %')\n{use}")
    cfg = load_config(path)
    assert plain.warmup == '2 epochs'
    assert cfg.default_hooks.qat == dict(plain, warmup='1 epoch', freeze_bn_at='50 %') == cfg.qat_hook


def test_qat_hook_over_a_config_that_used_it_already(child):
    path = child([QAT], "qat_hook = dict(warmup='1 epoch')")
    plain, cfg = load_config(QAT).default_hooks.qat, load_config(path)
    assert cfg.default_hooks.qat == dict(plain, warmup='1 epoch')
    own = child([path], "qat_hook = dict(warmup='3 epochs')\ndefault_hooks = dict(qat=dict(warmup='4 epochs'))", 'own')
    assert load_config(own).default_hooks.qat.warmup == '4 epochs'
    assert load_config(own, {'qat_hook.warmup': '5 epochs'}).default_hooks.qat.warmup == '5 epochs'
    options = {'qat_hook.warmup': '5 epochs', 'default_hooks.qat.warmup': '6 epochs'}
    assert load_config(own, options).default_hooks.qat.warmup == '6 epochs'
    new = child([QAT], "qat_hook = dict(_delete_=True, type='frostnet_mm.QATHook')", 'new')
    assert load_config(new).default_hooks.qat == dict(type='frostnet_mm.QATHook')


# -- keys that nothing reads


@pytest.mark.parametrize(
    'config, options, message',
    [
        (COCO, {'lr': 0.1}, 'Did you mean optim_wrapper.optimizer.lr?'),
        (COCO, {'batch_size': 8}, 'Did you mean test_dataloader.batch_size, train_dataloader.batch_size, '),
        (COCO, {'optimizer.lr': 0.1}, 'Did you mean optim_wrapper.optimizer.lr?'),
        (COCO, {'max_epoch': 3}, 'Did you mean max_epochs?'),
        (COCO, {'trian_dataloader.batch_size': 3}, 'Did you mean train_dataloader.batch_size'),
        (SEG, {'max_epochs': 3}, 'Did you mean max_iters?'),
        (COCO, {'zzz': 3}, 'Keys are dotted paths into the config.'),
    ],
)
def test_keys_that_are_new_to_the_config(config, options, message):
    key = next(iter(options))
    with pytest.raises(ConfigError) as caught:
        load_config(config, options)
    assert f'--cfg-options {key}=... : {key.split(".")[0]!r} is new to the config ' in str(caught.value)
    assert message in str(caught.value)


def test_variables_that_a_config_of_a_package_has_used(child):
    with pytest.raises(ConfigError) as caught:
        load_config(UPSTREAM, {'max_epochs': 3})
    assert "ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py has used its variable 'max_epochs' already, and " in str(
        caught.value
    )
    assert str(caught.value).endswith('Did you mean train_cfg.max_epochs?')
    cfg = load_config(child([UPSTREAM], 'max_epochs = 3\ntrain_cfg = dict(max_epochs=max_epochs)'), {'max_epochs': 2})
    assert cfg.train_cfg.max_epochs == cfg.max_epochs == 2


def test_parts_of_variables_that_were_copied(log):
    """What a config makes of a dict or list at its top level has a copy of it."""
    for key, value, meant in (
        ('test_pipeline.1.scale', (64, 64), 'val_dataloader.dataset.pipeline.1.scale, test_dataloader.dataset.pip'),
        ('data_preprocessor.mean', [0, 0, 0], 'model.data_preprocessor.mean?'),
        ('norm_cfg.momentum', 0.5, 'model.neck.norm_cfg.momentum, model.bbox_head.norm_cfg.momentum?'),
        ('vis_backends.0.type', 'X', 'visualizer.vis_backends.0.type?'),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(COCO, {key: value})
        first = key.split('.')[0]
        assert f'has used {first!r} already, and nothing would read it any more. Did you mean ' in str(caught.value)
        assert meant in str(caught.value)
    assert load_config(COCO, {'norm_cfg.momentum': 0.03}).norm_cfg.momentum == 0.03  # what it is
    with pytest.raises(ConfigError, match='Did you mean model.data_preprocessor.mean'):
        load_config(
            CONFIGS / 'frostnet_custom_cls.py', {'data_preprocessor.mean': [0, 0, 0]}, classes=('a', 'b')
        )  # none stands beside its model


def test_the_copy_in_a_work_dir_has_no_variables(child, log, tmp_path):
    """All is written out there: who changes a variable of it changes nothing."""
    copy = tmp_path / 'work_dir_copy.py'
    load_config(COCO).dump(copy)
    with pytest.raises(
        ConfigError, match=r'--cfg-options: max_epochs has no effect: .* 600 stands in train_cfg.max_epo'
    ):
        load_config(copy, dict(max_epochs=3))
    message = r'\(320, 320\) stands in test_dataloader.dataset.pipeline.1.scale, train_dataloader'
    with pytest.raises(ConfigError, match=message):
        load_config(copy, dict(input_size=(64, 64)))
    with pytest.raises(ConfigError, match='child.py: max_epochs has no effect'):
        load_config(child([copy], 'max_epochs = 3', 'child'))
    own = 'max_epochs = 3\ntrain_cfg = dict(max_epochs=max_epochs)'
    assert load_config(child([copy], own, 'own')).train_cfg.max_epochs == 3
    for options in (dict(max_epochs=600), dict(log_level='ERROR'), {'train_cfg.max_epochs': 4}, dict(data_root='/x')):
        load_config(copy, options)


@pytest.mark.parametrize('how', ["_base_.get('size')", "getattr(_base_, 'size')", '_base_.size', "_base_['size']"])
def test_a_variable_that_is_read_of_the_base_in_any_way(child, how, tmp_path):
    base = tmp_path / 'base_of_it.py'
    base.write_text('size = 3\nmodel = dict(scale=3)\n')
    assert load_config(child([base], f'model = dict(q={how})', 'reader'), dict(size=64)).model.q == 64


def test_the_tools_end_with_status_2(tmp_path, capsys):
    assert run_tool('train', COCO, '--work-dir', tmp_path, '--cfg-options', 'lr=0.1') == 2
    assert "error: --cfg-options lr=... : 'lr' is new to the config" in capsys.readouterr().err


def test_keys_that_the_runner_reads(log):
    import inspect

    arguments = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    assert arguments <= config_checks.RUNNER_KEYS
    options = {'randomness.seed': 3, 'compile': False, 'model.backbone.init_cfg.type': 'Pretrained'}
    cfg = load_config(COCO, {**options, 'experiment_name': 'x', 'train_dataloader.dataset.max_bad_fraction': 0.5})
    assert cfg.randomness.seed == 3 and cfg.train_dataloader.dataset.max_bad_fraction == 0.5
    assert log == []
    load_config(COCO, {'train_dataloader.batchsize': 3})
    assert log == [
        '--cfg-options train_dataloader.batchsize is new to the config, which has train_dataloader.batch_size. '
        'Is that meant?'
    ]


# -- optimizers

BOOST = "optim_wrapper = dict(optimizer=dict(type='frostnet_mm.{}'{}))"


def test_gradboost_over_the_optimizer_that_it_boosts(child, log):
    cfg = load_config(child([COCO], BOOST.format('GradBoostSGD', '')))
    expected = dict(type='frostnet_mm.GradBoostSGD', lr=0.015, momentum=0.9, weight_decay=4.0e-5)
    assert cfg.optim_wrapper.optimizer == expected
    cfg = load_config(child([CUSTOM], BOOST.format('GradBoostAdamW', '')), classes=('a',))
    assert cfg.optim_wrapper.optimizer == dict(type='frostnet_mm.GradBoostAdamW', lr=0.001, weight_decay=0.05)
    new = BOOST.format('GradBoostSGD', ', _delete_=True, lr=0.02, momentum=0.9')
    cfg = load_config(child([CUSTOM], new), classes=('a',))
    assert cfg.optim_wrapper.optimizer == dict(type='frostnet_mm.GradBoostSGD', lr=0.02, momentum=0.9)
    assert log == []


def test_gradboost_sgd_does_not_take_adamws_learning_rate(child):
    with pytest.raises(ConfigError) as caught:
        load_config(child([CUSTOM], BOOST.format('GradBoostSGD', '')), classes=('a',))
    assert str(caught.value).endswith(
        'child.py: optim_wrapper.optimizer becomes GradBoostSGD and inherits lr=0.001, weight_decay=0.05 from AdamW; '
        'learning rates of AdamW and SGD are of different size. Give its own in a config, without what is inherited: '
        "optim_wrapper=dict(optimizer=dict(_delete_=True, type='frostnet_mm.GradBoostSGD', lr=..., weight_decay=...)). "
        "GradBoost for AdamW is type='frostnet_mm.GradBoostAdamW'."
    )
    with pytest.raises(ConfigError, match='^--cfg-options: optim_wrapper.optimizer becomes SGD and inherits lr=0.001'):
        load_config(CUSTOM, {'optim_wrapper.optimizer.type': 'SGD'}, classes=('a',))


def test_arguments_that_the_new_optimizer_does_not_have(child):
    with pytest.raises(ConfigError, match='AdamW and inherits momentum=0.9 from SGD; AdamW has no momentum'):
        load_config(child([COCO], BOOST.format('AdamW', ', lr=0.001, weight_decay=0.05').replace('frostnet_mm.', '')))


def test_a_weight_decay_that_may_be_meant_is_named(child, log):
    cfg = load_config(child([CUSTOM], BOOST.format('GradBoostSGD', ', lr=0.02')), classes=('a',))
    assert cfg.optim_wrapper.optimizer == dict(type='frostnet_mm.GradBoostSGD', lr=0.02, weight_decay=0.05)
    assert len(log) == 1 and 'becomes GradBoostSGD and inherits weight_decay=0.05 from AdamW. Give its own' in log[0]


# -- paths with commas and blanks


def test_blanks_and_commas_in_paths(tmp_path):
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    root, given = '/a,b/c d', ['data_root=/a,b/c d', 'input_size=256,192', 'randomness.seed=3', 'load_from=None']
    options = parser.parse_args(['--cfg-options', *given]).cfg_options
    assert options == {'data_root': root, 'input_size': [256, 192], 'randomness.seed': 3, 'load_from': None}
    cfg = load_config(COCO, options)
    assert cfg.val_evaluator.ann_file == '/a,b/c d/annotations/instances_val2017.json'
    options = parser.parse_args(['--cfg-options', 'train_dataloader.dataset.ann_file=a b,c.json']).cfg_options
    assert options == {'train_dataloader.dataset.ann_file': 'a b,c.json'}
    options = parser.parse_args(['--cfg-options', 'a.ann_file=[b.json,c.json]', 'a.x=(1,[2,y])']).cfg_options
    assert options == {'a.ann_file': ['b.json', 'c.json'], 'a.x': (1, [2, 'y'])}


@pytest.mark.parametrize(
    'text, message',
    [('input_size', 'input_size: expected KEY=VALUE'), ('a=[1,2', 'a=[1,2: Imbalanced brackets exist in [1,2')],
)
def test_options_that_are_none(text, message, capsys):
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(['--cfg-options', text])
    assert stop.value.code == 2 and f'error: --cfg-options {message}' in capsys.readouterr().err


# -- classes


@pytest.fixture
def three_classes(tmp_path):
    coco = dict(
        images=[dict(id=1, file_name='a.jpg', width=9, height=9)],
        categories=[dict(id=i, name=name) for i, name in enumerate(('nut', 'bolt', 'pin'), 1)],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0)],
    )
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(coco))
    return f'data_root = {str(tmp_path)!r}\n'


def classes_of(cfg):
    loaders = cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader
    return [tuple(loader.dataset.metainfo.classes) for loader in loaders]


@pytest.mark.parametrize(
    'text',
    [
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('nut', 'pin'))))",
        "metainfo = dict(classes=('nut', 'pin'))\nval_dataloader = dict(dataset=dict(metainfo=metainfo))",
        "classes = ('nut', 'pin')",
    ],
)
def test_a_subset_of_the_classes_is_kept(child, three_classes, text):
    cfg = load_config(child([CUSTOM], three_classes + text))
    assert classes_of(cfg) == [('nut', 'pin')] * 3
    assert cfg.model.bbox_head.num_classes == 2 == len(cfg.train_dataloader.dataset.metainfo.palette)
    assert tuple(cfg.classes) == ('nut', 'pin')
    assert classes_of(load_config(child([CUSTOM], three_classes))) == [('nut', 'bolt', 'pin')] * 3


def test_palettes_of_ones_own_are_kept(child, three_classes):
    palette = [(1, 2, 3), (4, 5, 6)]
    text = f"train_dataloader = dict(dataset=dict(metainfo=dict(classes=('nut', 'pin'), palette={palette})))"
    cfg = load_config(child([CUSTOM], three_classes + text))
    assert list(map(tuple, cfg.train_dataloader.dataset.metainfo.palette)) == palette


def test_classes_that_contradict_each_other(child, three_classes):
    text = "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('nut', 'pin'))))\n"
    text += "val_dataloader = dict(dataset=dict(metainfo=dict(classes=('pin', 'nut'))))"
    with pytest.raises(ConfigError, match=r"name different classes: \('nut', 'pin'\) and \('pin', 'nut'\)"):
        load_config(child([CUSTOM], three_classes + text))
    text = "train_dataloader = dict(dataset=dict(metainfo=dict(classes='nut')))"
    with pytest.raises(ConfigError, match=r"classes='nut'\): expected a tuple of names"):
        load_config(child([CUSTOM], three_classes + text))
