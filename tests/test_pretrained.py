"""``init_cfg=dict(type='Pretrained')`` and ``load_from``: the weights of the file are there, or it is said."""

import mmdet.models  # noqa: F401  (registers)
import mmseg.models  # noqa: F401
import pytest
import torch
from conftest import ROOT, SHORT, run_tool
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from torch import nn

from frostnet_mm.engine.config import load_config
from frostnet_mm.models import CheckpointError, FrostNet
from frostnet_mm.models.pretrained import prefix_of
from frostnet_mm.registry import MODELS

CONFIG = ROOT / 'configs/examples/ssdlite_frostnet_minicoco.py'
# a classifier's config, and the backbone of a detector or segmenter that takes its weights
BACKBONES = {
    'shufflenetv2': dict(type='frostnet_mm.ShuffleNetV2'),
    'mobilenetv2': dict(type='mmdet.MobileNetV2'),
    'mobilenetv3': dict(type='mmseg.MobileNetV3', arch='large'),
    'resnet18': dict(type='mmdet.ResNet', depth=18),
    'frostnet': dict(type='frostnet_mm.FrostNet'),
}


def classifier(name, path):
    """An untrained classifier, whose weights no other network has, in a checkpoint."""
    model = MODELS.build(load_config(ROOT / f'configs/{name}_custom_cls.py', classes=('a', 'b')).model)
    for number, value in enumerate(model.state_dict().values()):
        value.copy_(torch.full_like(value, number))
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return model.backbone.state_dict()


@pytest.mark.parametrize('name', BACKBONES)
def test_a_classifier_is_a_backbones_init_cfg(name, tmp_path):
    """Of this project's backbones and of mm's, with no prefix, in every form that mm takes."""
    path = tmp_path / 'classifier.pth'
    expected = classifier(name, path)
    for init in (
        dict(type='Pretrained', checkpoint=str(path)),
        dict(type='Pretrained', checkpoint=str(path), prefix='backbone'),
        [dict(type='Constant', layer='Conv2d', val=7), dict(type='Pretrained', checkpoint=str(path))],
        dict(type=PretrainedInit, checkpoint=str(path)),
    ):
        backbone = MODELS.build(dict(BACKBONES[name], init_cfg=init))
        backbone.init_weights()
        own = backbone.state_dict()
        assert [key for key, value in own.items() if not torch.equal(value, expected[key])] == []


class Net(BaseModule):
    def __init__(self, channels=4, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = nn.Conv2d(3, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)


def saved(path, **entries):
    torch.save(dict(state_dict={name.replace('__', '.'): value for name, value in entries.items()}), path)
    return dict(type='Pretrained', checkpoint=str(path))


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        (dict(backbone__stem__weight=torch.ones(4)), r'the file has backbone\.stem\.weight, …; expected conv1\.weight'),
        (
            dict(student__conv1__weight=torch.ones(4, 3, 3, 3), teacher__conv1__weight=torch.ones(4, 3, 3, 3)),
            r'the file has student\.conv1\.weight, teacher\.conv1\.weight, …',
        ),
        (
            dict(net__conv1__weight=torch.ones(8, 3, 3, 3)),
            r'conv1\.weight is \(8, 3, 3, 3\) in the file and \(4, 3, 3, 3\) in the network',
        ),
        (dict(conv1__weight=3), r'conv1\.weight is \(\) in the file'),
    ],
)
def test_a_file_of_which_nothing_fits_is_refused(entries, message, tmp_path):
    init = saved(tmp_path / 'other.pth', **entries)
    with pytest.raises(CheckpointError, match=rf'other\.pth: no weight fits Net: {message}'):
        Net(init_cfg=init).init_weights()


@pytest.mark.parametrize(
    'own, other',
    [
        (dict(type='mmseg.MobileNetV2', widen_factor=0.5), dict(type='mmseg.MobileNetV2')),  # counters of norms alone
        (dict(type='mmdet.MobileNetV2', widen_factor=0.5), dict(type='mmdet.MobileNetV2')),  # the last norm too
        (dict(type='frostnet_mm.ShuffleNetV2', widen_factor=0.5), dict(type='frostnet_mm.ShuffleNetV2')),  # the stem
    ],
)
def test_weights_of_another_width_are_refused(own, other, tmp_path):
    """Though each norm's counter of batches fits, and some weights do."""
    path = tmp_path / 'wide.pth'
    torch.save(MODELS.build(other).state_dict(), path)
    model = MODELS.build(own | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))))
    with pytest.raises(
        CheckpointError, match='(no weight fits|[0-9]+ of [0-9]+ weights fit) .* others differ likewise'
    ):
        model.init_weights()


def test_a_part_is_taken_with_mms_list_of_the_rest(tmp_path):
    weight = torch.randn(4, 3, 3, 3)
    net = Net(init_cfg=saved(tmp_path / 'part.pth', module__net__conv1__weight=weight, head=torch.ones(2)))
    before = net.conv2.weight.clone()
    net.init_weights()
    assert torch.equal(net.conv1.weight, weight) and torch.equal(net.conv2.weight, before)
    named = Net(init_cfg=dict(net.init_cfg, prefix='other'))
    with pytest.raises(CheckpointError, match=r'expected other\.conv1\.weight, other\.conv1\.bias'):
        named.init_weights()


@pytest.mark.parametrize(
    ('names', 'prefix'),
    [
        (['conv.weight', 'a.conv.weight'], ''),  # as they are
        (['a.b.conv.weight', 'a.b.conv.bias', 'c.conv.bias'], 'a.b.'),  # most
        (['a.conv.weight', 'b.conv.weight'], ''),  # which of the two?
        (['x'], ''),
        ([], ''),
    ],
)
def test_under_which_prefix(names, prefix):
    assert prefix_of(['conv.weight', 'conv.bias'], names) == prefix


def test_training_does_not_begin_on_weights_of_something_else(mini_coco, tmp_path, capsys):
    """A backbone alone is no start for a detector by load_from: every weight would begin as without it."""
    torch.save(dict(state_dict=FrostNet(widen_factor=0.5).state_dict()), tmp_path / 'backbone.pth')
    options = ['--cfg-options', f'data_root={mini_coco}', *SHORT]
    arguments = ('train', CONFIG, '--work-dir', tmp_path / 'run', *options, f'load_from={tmp_path}/backbone.pth')
    assert run_tool(*arguments) == 2
    message = capsys.readouterr().err
    assert 'backbone.pth: no weight fits' in message and "model.backbone.init_cfg=dict(type='Pretrained'" in message
    assert 'Traceback' not in message
