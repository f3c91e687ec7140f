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
from frostnet_mm.models.pretrained import require_some
from frostnet_mm.models.weight_names import other_depth, prefix_of
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


RESNET, VGG = dict(type='mmdet.ResNet', depth=50), dict(type='frostnet_mm.VGG', depth=16)
THREE_STAGES = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 1, 2))
CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=1 / 16), stages=(False, True, True, True), position='after_conv3')
LITE, SHUFFLE = dict(type='frostnet_mm.EfficientNetLite'), dict(type='frostnet_mm.ShuffleNetV2')
FROST = dict(type='frostnet_mm.FrostNet')


def save_backbone(cfg, path, **others):
    """Random weights of a backbone, as a classifier's checkpoint holds them."""
    backbone = MODELS.build(cfg).state_dict()
    state = {f'backbone.{name}': value for name, value in backbone.items()}
    torch.save(dict(state_dict=state | {'head.fc.weight': torch.ones(3, 3)}, **others), path)
    return backbone


@pytest.mark.parametrize(
    ('file', 'network', 'message'),
    [
        (RESNET | dict(depth=18), RESNET | dict(depth=34), 'layer1 has 2 layers in the file and 3 in the network'),
        (RESNET | dict(depth=34), RESNET | dict(depth=18), 'layer1 has 3 layers in the file and 2 in the network'),
        (RESNET, RESNET | dict(depth=18), 'layer1 has 3 layers'),
        (RESNET | dict(depth=18), RESNET, 'layer1 has 2 layers'),
        (RESNET, RESNET | dict(depth=101), 'layer3 has 6 layers in the file and 23 in the network'),
        (RESNET, dict(type='mmdet.ResNetV1d', depth=50), r'layers of layer1\.0\.downsample have other numbers'),
        (VGG | dict(depth=13), VGG, 'features has 20 layers in the file and 26'),
        (VGG, VGG | dict(depth=13), 'features has 26 layers in the file and 20'),
        (VGG | dict(depth=11, with_bn=False), VGG | dict(depth=11), 'features has 8 layers in the file and 16'),
        (LITE | dict(arch='lite1'), LITE, r'stages\.1 has 3 layers in the file and 2 in the network'),
        (LITE, LITE | dict(arch='lite1'), 'EfficientNetLite: of .* missing'),
        (RESNET, RESNET | dict(in_channels=1), r'conv1\.weight, the first conv.* have 3 channels there and 1 here'),
        (
            SHUFFLE,
            SHUFFLE | dict(in_channels=4),
            r'stem\.0\.conv\.weight, the first conv.* 3 channels there and 4 here',
        ),
    ],
)
def test_weights_of_a_similar_network_are_refused(file, network, message, tmp_path):
    """Of which more weights fit than do not."""
    path = tmp_path / 'other.pth'
    save_backbone(file, path)
    model = MODELS.build(network | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))))
    with pytest.raises(CheckpointError, match=message):
        model.init_weights()


@pytest.mark.parametrize(
    ('file', 'network'),
    [
        (RESNET, RESNET | THREE_STAGES),  # without its last stage
        (RESNET | THREE_STAGES, RESNET),
        (RESNET, RESNET | dict(plugins=[CONTEXT])),  # something new in each block
        (VGG, VGG | dict(num_stages=3, dilations=(1, 1, 1), out_indices=(2,))),
        (SHUFFLE, SHUFFLE | dict(out_indices=(0, 1))),
        (FROST, FROST | dict(out_indices=(2,))),
    ],
)
def test_a_part_of_a_network_is_the_same_network(file, network, tmp_path):
    path = tmp_path / 'same.pth'
    expected = save_backbone(file, path)
    model = MODELS.build(network | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))))
    model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in expected.items() if name in own)


def test_a_detector_does_not_begin_on_a_backbone_of_another_depth(tmp_path):
    """By load_from; a neck of another depth is an ordinary change."""

    class Detector(BaseModule):
        def __init__(self, depth, levels):
            super().__init__()
            self.backbone = nn.ModuleDict(
                dict(one=nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(depth))), two=nn.Conv2d(3, 3, 1))
            )
            self.neck = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(levels))
            self.head = nn.Conv2d(3, 3, 1)

    assert require_some(Detector(2, 3), Detector(2, 2).state_dict(), 'file') == 12
    assert require_some(Detector(2, 2), Detector(2, 3).state_dict(), 'file') == 12
    with pytest.raises(CheckpointError, match=r'file has another network than Detector: backbone\.one has 3 layers'):
        require_some(Detector(2, 3), Detector(3, 3).state_dict(), 'file')


@pytest.mark.parametrize(
    ('names', 'found'),
    [
        ('a.0 a.1 b.0', ''),
        ('a.0 b.0', 'a has 1 layers in the file and 2 in the network'),
        ('a.0 a.1 a.2 b.0', 'a has 3 layers in the file and 2 in the network'),
        ('a.0 a.2 b.0', 'the layers of a have other numbers'),
        ('a.0', ''),  # nothing fits behind: the network goes on behind the file
        ('b.0', ''),  # another part
        ('a.0 a.1 b.0 b.1', ''),  # the file goes on behind the network
    ],
)
def test_which_rows_have_another_depth(names, found):
    assert other_depth(['0.w', '1.w', 'b'], ['0.w', 'b'], {'0.w', 'b'}).startswith('its sequence has 1 layers in')
    own = ['a.0', 'a.1', 'b.0']
    assert other_depth(own, names.split(), {*own} & {*names.split()}) == found


def test_averaged_weights_are_taken_where_a_file_has_both(tmp_path):
    path = tmp_path / 'ema.pth'
    averages = MODELS.build(SHUFFLE).state_dict()
    zeros = {f'backbone.{name}': torch.zeros_like(value) for name, value in averages.items()}
    for own in (dict(state_dict_ema=averages, state_dict=zeros), dict(model=averages)):
        torch.save(own, path)
        backbone = MODELS.build(SHUFFLE | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))))
        backbone.init_weights()
        assert all(torch.equal(value, averages[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    'cfg', [dict(type='frostnet_mm.AlexNet'), VGG | dict(depth=11), dict(type='frostnet_mm.ResNet', depth=18), FROST]
)
@pytest.mark.parametrize('prefix', ['', 'net.encoder.'])
def test_a_backbone_alone_is_found_under_any_prefix(cfg, prefix, tmp_path):
    """Of mmcv's classes too, which know no ``init_cfg``."""
    path = tmp_path / 'backbone.pth'
    expected = MODELS.build(cfg).state_dict()
    torch.save({prefix + name: value for name, value in expected.items()}, path)
    backbone = MODELS.build(cfg | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))))
    backbone.init_weights()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.state_dict().items())


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
