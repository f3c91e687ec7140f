"""Reading configs: data roots, classes, names of installed packages."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config

from frostnet_mm.engine.config import ConfigError, load_config, move_data_root, without_pretrained

CONFIGS = ROOT / 'configs'


def paths_under(node, root):
    if isinstance(node, dict):
        return sum((paths_under(v, root) for v in node.values()), [])
    if isinstance(node, (list, tuple)):
        return sum((paths_under(v, root) for v in node), [])
    return [node] if isinstance(node, str) and node.startswith(root) else []


@pytest.mark.parametrize('given', ['/somewhere/else', '/somewhere/else/', 'relative'])
def test_one_option_moves_every_path(given):
    cfg = load_config(CONFIGS / 'ssdlite_frostnet_coco.py', dict(data_root=given))
    assert not paths_under(cfg.to_dict(), 'data/coco')
    root = given.rstrip('/')
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == f'{root}/annotations/instances_val2017.json'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == cfg.data_root == root
    assert len(paths_under(cfg.to_dict(), root)) == 6  # data_root, three data sets, two evaluators


def test_environment_variable(monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/mnt/coco')
    cfg = load_config(CONFIGS / 'retinanet_frostnet_coco.py')
    assert cfg.train_dataloader.dataset.data_root == '/mnt/coco'
    assert cfg.val_evaluator.ann_file == '/mnt/coco/annotations/instances_val2017.json'
    cfg = load_config(CONFIGS / 'retinanet_frostnet_coco.py', dict(data_root='/mnt/other'))
    assert cfg.val_evaluator.ann_file == '/mnt/other/annotations/instances_val2017.json'


def test_a_name_that_only_begins_like_the_root_stays():
    cfg = Config(dict(data_root='data', a='data/x', b='database/x', c=['data', ('data/y',)], d='my/data/x'))
    move_data_root(cfg, '/new')
    assert cfg.to_dict() == dict(data_root='/new', a='/new/x', b='database/x', c=['/new', ('/new/y',)], d='my/data/x')


def test_data_root_needs_one_in_the_config(tmp_path):
    (tmp_path / 'c.py').write_text('model = dict()')
    with pytest.raises(ConfigError, match='defines data_root'):
        load_config(tmp_path / 'c.py', dict(data_root='x'))


def test_classes_from_annotations(tmp_path):
    (tmp_path / 'annotations').mkdir()
    coco = dict(
        images=[dict(id=1, file_name='a.jpg', width=9, height=9)],
        categories=[dict(id=5, name='nut'), dict(id=9, name='bolt')],
        annotations=[dict(id=1, image_id=1, category_id=9, bbox=[1, 1, 4, 4], area=16, iscrowd=0)],
    )
    (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(coco))
    cfg = load_config(CONFIGS / 'ssdlite_frostnet_custom.py', dict(data_root=str(tmp_path)))
    assert cfg.model.bbox_head.num_classes == 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == ('nut', 'bolt')
        assert len(loader.dataset.metainfo.palette) == 2
    again = load_config(CONFIGS / 'ssdlite_frostnet_custom.py', classes=('a', 'b', 'c'))
    assert again.model.bbox_head.num_classes == 3  # a checkpoint's classes need no annotations


@pytest.mark.parametrize(
    'name, kind',
    [
        ('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', 'SingleStageDetector'),
        ('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py', 'EncoderDecoder'),
    ],
)
def test_configs_of_installed_packages(name, kind, monkeypatch):
    import subprocess

    def refuse(*args, **kwargs):
        raise AssertionError(f'nothing may be installed: {args}')

    monkeypatch.setattr(subprocess, 'check_call', refuse)  # by which mmengine's get_config runs pip
    assert load_config(name).model.type == kind


@pytest.mark.parametrize(
    'name, words',
    [
        ('mmnothing::a.py', "no package 'mmnothing' is installed"),
        ('mmdet::ssd/ssdlite_mobilenet.py', 'ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'),
        ('configs/none.py', 'does not exist'),
        (str(CONFIGS), 'is a folder. In .*/configs there are: alexnet_custom_cls.py, '),
    ],
)
def test_configs_that_do_not_exist(name, words):
    with pytest.raises(FileNotFoundError, match=words):
        load_config(name)


def test_options_that_do_not_fit():
    with pytest.raises(ConfigError, match='does not fit'):
        load_config(CONFIGS / 'ssdlite_frostnet_coco.py', {'train_dataloader.batch_size.x': 3})


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda p: p.stem)
def test_every_config_names_its_packages_types(path):
    """Every type of the config resolves in the registries after one import, as in a user's own script."""
    from mmengine.registry import MODELS

    cfg = Config.fromfile(path)
    assert cfg.custom_imports['imports'] == ['frostnet_mm']
    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        for part in ('backbone', 'neck', 'bbox_head', 'rpn_head', 'roi_head', 'decode_head'):
            if part in cfg.model:
                assert registry.get(cfg.model[part].type) is not None
    if 'ann_file' in cfg.val_evaluator:
        assert Path(cfg.val_evaluator.ann_file).name == 'instances_val2017.json'


def test_a_checkpoint_among_other_initializations_is_removed_too():
    kaiming, pretrained = dict(type='Kaiming', layer='Conv2d'), dict(type='Pretrained', checkpoint='net.pth')
    model = dict(backbone=dict(init_cfg=[kaiming, pretrained]), neck=[dict(init_cfg=pretrained)], init_cfg=[kaiming])
    without_pretrained(model)
    assert model == dict(backbone=dict(init_cfg=None), neck=[dict(init_cfg=None)], init_cfg=[kaiming])
