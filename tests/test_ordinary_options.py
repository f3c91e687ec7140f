"""Ordinary options and slips: each works, or ends in one message and status 2."""

import json

import pytest
from conftest import ROOT, SHORT, run_tool

from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.registry import unknown_type_message

MINI = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'


def train(tmp_path, root, *options, work_dir='run', arguments=()):
    given = ('--cfg-options', f'data_root={root}', *SHORT, *options)
    return run_tool('train', MINI, '--work-dir', tmp_path / work_dir, *arguments, *given)


@pytest.mark.parametrize(
    'option, message',
    [
        (
            'model.bbox_head.type=SSDHeadd',
            "model.bbox_head: type='SSDHeadd' of the config is no model that is known. Did you mean SSDHead",
        ),
        (
            'model.bbox_head.type=mmdet.SSDHeadd',
            "model.bbox_head: type='mmdet.SSDHeadd' of the config is no model that is known. Did you mean SSDHead",
        ),
        (
            'train_dataloader.dataset.type=CocoDatset',
            "train_dataloader.dataset: type='CocoDatset' of the config is no dataset that is known. ",
        ),
        (
            'optim_wrapper.optimizer.type=SGDD',
            "type='SGDD' of the config is no optimizer that is known. Did you mean SGD",
        ),
    ],
)
def test_misspelt_types(tmp_path, mini_coco, capsys, option, message):
    assert train(tmp_path, mini_coco, option) == 2
    assert f'\nerror: {message}' in capsys.readouterr().err


def test_other_errors_stay_what_they_are():
    assert unknown_type_message(KeyError('classes')) is None and unknown_type_message(RuntimeError()) is None


def test_no_workers_with_persistent_ones(tmp_path, mini_coco):
    options = [f'{name}_dataloader.persistent_workers=True' for name in ('train', 'val', 'test')]
    assert train(tmp_path, mini_coco, *options, 'train_cfg.max_epochs=1') == 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'coco/bbox_mAP:' in log


@pytest.mark.parametrize('work_dir', ['file', 'file/below'])
def test_a_work_dir_that_is_a_file(tmp_path, mini_coco, capsys, work_dir):
    (tmp_path / 'file').write_text('')
    assert train(tmp_path, mini_coco, work_dir=work_dir) == 2
    expected = f'error: The work dir {tmp_path / work_dir} cannot be made: {tmp_path / "file"} is a file. '
    assert expected in capsys.readouterr().err


def test_encodings_of_configs(tmp_path):
    path = tmp_path / 'config.py'
    path.write_bytes('# one\n# Größe\nsize = 3\n'.encode('cp1252'))
    with pytest.raises(
        ConfigError, match='config.py, or a base file of it, is not UTF-8: byte 0xf6 in line 2. Save it'
    ):
        load_config(path)
    path.write_bytes('size = 3\n'.encode('utf-8-sig'))
    assert load_config(path).size == 3


def test_resuming_with_other_classes(tmp_path, mini_coco, trained, capsys):
    json_file = mini_coco / 'annotations/instances_train2017.json'
    names = [category['name'] for category in json.loads(json_file.read_text())['categories']]
    checkpoint = trained / 'epoch_2.pth'
    few = ','.join(names[:2])
    options = ('train_cfg.max_epochs=3', 'model.bbox_head.num_classes=2')
    options += tuple(f'{name}_dataloader.dataset.metainfo.classes=({few})' for name in ('train', 'val', 'test'))
    assert train(tmp_path, mini_coco, *options, arguments=('--resume', checkpoint)) == 2
    error = capsys.readouterr().err
    assert f'error: {checkpoint} was trained on {len(names)} classes ({", ".join(names[:4])}' in error
    assert f'the training data have 2 ({", ".join(names[:2])}): it cannot be resumed.' in error
