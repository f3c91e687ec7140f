"""Trainings that go on in a copy of their folder, or where it was moved to: what is named there is not touched here."""

import shutil

import pytest
from conftest import ROOT, run_tool
from test_image_folder import three_classes

from frostnet_mm.models import read_checkpoint

CONFIG = ROOT / 'configs/frostnet_custom_cls.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config, and the folder of a training of two epochs."""
    root = tmp_path_factory.mktemp('first')
    config = root / 'small.py'
    config.write_text(
        f"""
_base_ = {str(CONFIG)!r}
data_root, input_size, max_epochs, batch_size = {str(three_classes(root / 'data'))!r}, 32, 2, 8
arch = dict(_delete_=True, stem=16, stages=[[(3, 16, 2, None, 2)], [(3, 48, 2, None, 1, 'fused')]])
model = dict(
    backbone=dict(arch=arch, out_indices=(1,)), head=dict(in_channels=48, hidden_channels=None, dropout=0.0)
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=0.005))
"""
    )
    assert run_tool('train', config, '--work-dir', root / 'run') == 0
    return config, root / 'run'


def state_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob('*.pth')}


def go_on(config, folder, epochs=6):
    """Until a new best one comes: six epochs of three classes that are told apart."""
    return run_tool('train', config, '--work-dir', folder, '--resume', '--cfg-options', f'max_epochs={epochs}')


def test_a_copy_goes_on_by_itself(trained, tmp_path, capsys):
    """It was resumed from the first folder, and took the best checkpoint of that away when it had a better one."""
    config, first = trained
    copy = tmp_path / 'copy'
    shutil.copytree(first, copy)
    before = state_of(first)
    assert go_on(config, copy) == 0
    said = capsys.readouterr().out
    assert f'of another folder: {copy}/epoch_2.pth is resumed from.' in said and 'new best' not in said
    assert state_of(first) == before
    info = read_checkpoint(copy / 'epoch_6.pth')['message_hub']['runtime_info']
    assert str(copy) in info['best_ckpt'] and not str(info['last_ckpt']).startswith(str(first))
    best = [path.name for path in copy.glob('best_*.pth')]
    assert len(best) == 1  # the one of the copy went when it was surpassed


def test_a_checkpoint_of_another_folder_is_gone_on_with(trained, tmp_path):
    config, first = trained
    before, other = state_of(first), tmp_path / 'other'
    options = ('--resume', first / 'epoch_2.pth', '--cfg-options', 'max_epochs=6')
    assert run_tool('train', config, '--work-dir', other, *options) == 0
    assert state_of(first) == before and (other / 'epoch_6.pth').is_file()


def test_a_moved_folder_goes_on(trained, tmp_path, capsys):
    config, first = trained
    moved = tmp_path / 'moved'
    shutil.copytree(first, moved)
    (moved / 'last_checkpoint').write_text('/gone/run/epoch_2.pth')
    assert go_on(config, moved, 3) == 0 and (moved / 'epoch_3.pth').is_file()
    (moved / 'last_checkpoint').write_text('/gone/run/epoch_9.pth')
    capsys.readouterr()
    assert go_on(config, moved, 4) == 2
    said = capsys.readouterr().err
    assert 'names /gone/run/epoch_9.pth, which is not there. Checkpoints in ' in said
    assert 'epoch_2.pth, epoch_3.pth. Give one: --resume CHECKPOINT.' in said
