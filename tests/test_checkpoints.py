"""Checkpoints: the authors' release format, mm's own, and files that must be refused."""

import argparse
import logging
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from reference_frostnet import ReferenceFrostNetSmall, randomize

from frostnet_mm import CheckpointError, FrostNet, FrostNetClassifier, load_pretrained, read_checkpoint
from frostnet_mm.models.checkpoints import TRUST_VARIABLE, convert_release_state_dict, describe_frostnet


@pytest.fixture(scope='module')
def reference():
    torch.manual_seed(0)
    return randomize(ReferenceFrostNetSmall()).eval()


@pytest.fixture
def log():
    """Everything that mmengine's current logger prints, as one list of messages."""
    messages = []

    class Handler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger = MMLogger.get_instance('test_checkpoints', log_level='INFO')
    handler = Handler()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def pretrained(path, **kwargs):
    net = FrostNet('small', init_cfg=dict(type='Pretrained', checkpoint=str(path)), **kwargs)
    net.init_weights()
    return net.eval()


def test_release_file_with_module_prefix_and_ema(reference, tmp_path, log):
    ema = {f'module.{k}': v for k, v in reference.state_dict().items()}
    plain = {k: torch.zeros_like(v) for k, v in ema.items()}
    path = tmp_path / 'frostnet_small.tar'
    torch.save(
        dict(
            epoch=3,
            arch='frostnet',
            args=argparse.Namespace(lr=0.1),
            metric=np.float64(74.6),
            state_dict=plain,
            state_dict_ema=ema,
        ),
        path,
    )
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(pretrained(path, out_indices=(0, 1, 2, 3, 4))(x), reference.features(x), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert any('EMA' in m for m in log)
    assert any('classifier' in m and 'conv_head' in m for m in log), 'what is left out must be named'

    classifier = FrostNetClassifier('small', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    classifier.init_weights()
    with torch.no_grad():
        torch.testing.assert_close(classifier.eval()(x), reference(x))


def test_release_file_without_ema_and_bare_state_dict(reference, tmp_path):
    for name, content in (('a.tar', dict(state_dict=reference.state_dict())), ('b.tar', reference.state_dict())):
        torch.save(content, tmp_path / name)
        net = pretrained(tmp_path / name)
        torch.testing.assert_close(
            net.stages[4][0].squeeze.bn.running_var, reference.layer5[0].squeeze_conv.conv[1].running_var
        )


def test_stages_that_are_not_built_are_named(reference, tmp_path, log):
    torch.save(reference.state_dict(), tmp_path / 'r.tar')
    net = pretrained(tmp_path / 'r.tar', out_indices=(1, 2))
    torch.testing.assert_close(net.stem.conv.weight, reference.conv1.conv[0].weight)
    assert any('stages.3' in m and 'stages.4' in m for m in log)


def test_backbone_out_of_a_detector_checkpoint(tmp_path, log):
    source = randomize(FrostNet('small', 0.35))
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()} | {'bbox_head.cls.weight': torch.zeros(3)}
    torch.save(dict(meta={}, state_dict=state), tmp_path / 'det.pth')
    net = FrostNet('small', 0.35)
    load_pretrained(net, tmp_path / 'det.pth')
    for a, b in zip(net.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert any('bbox_head' in m for m in log)


def test_checkpoint_of_another_width_names_both(tmp_path):
    torch.save(FrostNet('base', 0.5).state_dict(), tmp_path / 'base.pth')
    with pytest.raises(CheckpointError) as error:
        load_pretrained(FrostNet('small', 1.0), tmp_path / 'base.pth')
    assert "FrostNet(arch='base', widen_factor=0.5)" in str(error.value)
    assert 'in the file' in str(error.value) and 'in the model' in str(error.value)


@pytest.mark.parametrize('arch', ['small', 'base', 'large'])
@pytest.mark.parametrize('width', [0.35, 0.5, 0.75, 1.0, 1.25])
def test_describe_recognizes_every_variant(arch, width):
    with torch.device('meta'):
        state_dict = FrostNet(arch, width).state_dict()
    assert describe_frostnet(state_dict) == f'FrostNet(arch={arch!r}, widen_factor={width})'


def test_missing_weight_is_an_error(reference, tmp_path):
    state = dict(reference.state_dict())
    del state['layer3.2.conv2.conv.1.running_mean']
    torch.save(state, tmp_path / 'r.tar')
    with pytest.raises(CheckpointError, match='1 missing.*stages.2.2.depthwise.bn.running_mean'):
        pretrained(tmp_path / 'r.tar')


def test_unknown_release_key_is_an_error(reference):
    state = dict(reference.state_dict()) | {'layer1.0.conv2.activation_post_process.scale': torch.ones(1)}
    with pytest.raises(CheckpointError, match='activation_post_process'):
        convert_release_state_dict(state)


def test_every_release_key_is_converted_once(reference):
    converted = convert_release_state_dict(reference.state_dict())
    assert len(converted) == len(reference.state_dict())
    assert set(converted) == set(FrostNetClassifier('small').state_dict())


def test_unreadable_files(tmp_path):
    torch.save(FrostNet('small', 0.35).state_dict(), tmp_path / 'good.pth')
    content = (tmp_path / 'good.pth').read_bytes()
    (tmp_path / 'truncated.pth').write_bytes(content[: len(content) // 2])
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'text.pth').write_text('<html>404</html>')
    for name in ('truncated.pth', 'empty.pth', 'text.pth'):
        with pytest.raises(CheckpointError, match=f'{name}.*truncated or not a file of torch.save'):
            read_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='missing.pth does not exist.*good.pth'):
        read_checkpoint(tmp_path / 'missing.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list'):
        read_checkpoint(tmp_path / 'list.pth')
    torch.save(dict(state_dict=dict(a=1)), tmp_path / 'nothing.pth')
    with pytest.raises(CheckpointError, match='no weights.*found a'):
        load_pretrained(FrostNet('small', 0.35), tmp_path / 'nothing.pth')


class Foreign:
    """Stands for a class of somebody's training script."""


class Getattr:
    """Pickles as ``getattr(owner, name)``, the first link of a chain to any function."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


def test_foreign_objects_are_not_executed(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (exec, ("open('ran', 'w')",))

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'evil.pth').write_bytes(pickle.dumps(dict(state_dict=Evil())))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'evil.pth')
    torch.save(dict(state_dict={}, extra=Foreign()), tmp_path / 'foreign.pth')
    with pytest.raises(CheckpointError, match=f'Foreign.*{TRUST_VARIABLE}=1'):
        read_checkpoint(tmp_path / 'foreign.pth')
    for owner, name in ((str, 'format'), (HistoryBuffer, '__init__')):
        (tmp_path / 'getattr.pth').write_bytes(pickle.dumps(dict(state_dict=Getattr(owner, name))))
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / 'getattr.pth')
    assert not (tmp_path / 'ran').exists()
    monkeypatch.setenv(TRUST_VARIABLE, '1')
    assert isinstance(read_checkpoint(tmp_path / 'foreign.pth')['extra'], Foreign)


def test_what_mmengine_stores_is_read(tmp_path):
    history = HistoryBuffer()
    history.update(1.5)
    torch.save(
        dict(
            meta=dict(epoch=1, seed=np.int64(3)), message_hub=dict(log_scalars={'train/loss': history}), state_dict={}
        ),
        tmp_path / 'mm.pth',
    )
    assert read_checkpoint(tmp_path / 'mm.pth')['message_hub']['log_scalars']['train/loss'].current() == 1.5
