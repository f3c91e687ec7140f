"""Trainings that go on in a copy of their folder, or where it was moved to: what is named there is not touched here."""

import shutil

import pytest
from conftest import run_tool
from small_classifier import write_small_classifier
from test_image_folder import three_classes

from frostnet_mm.models import read_checkpoint


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config, and the folder of a training of two epochs."""
    root = tmp_path_factory.mktemp('first')
    more = 'optim_wrapper = dict(optimizer=dict(lr=0.005))'
    config = write_small_classifier(root / 'small.py', three_classes(root / 'data'), more=more)
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
