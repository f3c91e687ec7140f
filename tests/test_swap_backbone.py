"""FrostNet in configs of the installed mmdet and mmseg, by the tool: what is written, and what is built from it."""

import contextlib
import copy
import io
import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from upstream_models import SIZE, build_config, losses_of

from frostnet_mm import FrostNet, FrostNetClassifier
from frostnet_mm.apis.swap.config_text import differences, format_value
from frostnet_mm.apis.swap.swap import choose_stages
from frostnet_mm.engine.config import ConfigError, load_config
from frostnet_mm.models.dense import DenseNetwork
from frostnet_mm.quantization import QuantizationSettings, float_operators, int8_share, prepare_model

STANDARD = dict(arch='small', out_indices=(0, 1, 2, 4))
DILATED = STANDARD | dict(output_stride=8, norm_cfg=dict(type='SyncBN'))
FPN = {'neck.in_channels': [24, 40, 96, 320]}
DILATED_HEADS = {'pretrained': None, 'decode_head.in_channels': 320, 'auxiliary_head.in_channels': 96}
SSD_LEVELS = (96, 320, 512, 256, 256, 128)
HALF = ('--width', '0.5')
# Base config; arguments of the tool; FrostNet's entry; all else that differs in the model; what makes the test fast.
CASES = {
    'ssdlite': (
        'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
        (),
        dict(arch='small', out_indices=(2, 4)),
        {'neck.in_channels': (96, 320), 'neck.out_channels': SSD_LEVELS, 'bbox_head.in_channels': SSD_LEVELS},
        {},
    ),
    'retinanet': (
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco',
        (),
        STANDARD,
        FPN,
        {'model.bbox_head.stacked_convs': 1},
    ),
    'yolox': (
        'mmdet::yolox/yolox_tiny_8xb8-300e_coco',
        (*HALF, '--arch', 'large'),
        dict(arch='large', widen_factor=0.5, out_indices=(1, 2, 4)),
        {'neck.in_channels': [24, 48, 160]},
        {},
    ),
    'yolov3': (
        'mmdet::yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco',
        (),
        dict(arch='small', out_indices=(1, 2, 4)),
        {'neck.in_channels': [320, 96, 40]},  # YOLOV3Neck counts from the coarsest map
        {},
    ),
    'faster_rcnn': (
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
        ('--arch', 'base'),
        STANDARD | dict(arch='base'),
        FPN,
        {'model.roi_head.bbox_head.fc_out_channels': 64, 'model.train_cfg.rpn_proposal.max_per_img': 50},
    ),
    'faster_rcnn_dc5': (
        'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco',
        (),
        dict(arch='small', out_indices=(4,), output_stride=16),
        {
            'rpn_head.in_channels': 320,
            'roi_head.bbox_roi_extractor.out_channels': 320,
            'roi_head.bbox_head.in_channels': 320,
        },
        {'model.roi_head.bbox_head.fc_out_channels': 64, 'model.train_cfg.rpn_proposal.max_per_img': 50},
    ),
    'gfl': ('mmdet::gfl/gfl_r50_fpn_1x_coco', HALF, STANDARD | dict(widen_factor=0.5), 'half_fpn', {}),
    'deeplabv3plus': (
        'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
        HALF,
        DILATED | dict(widen_factor=0.5),
        {
            'pretrained': None,
            'decode_head.in_channels': 160,
            'decode_head.c1_in_channels': 16,
            'auxiliary_head.in_channels': 48,
        },
        {'model.decode_head.channels': 32},
    ),
    'lraspp': (
        'mmseg::mobilenet_v3/mobilenet-v3-d8-scratch_lraspp_4xb4-320k_cityscapes-512x1024',
        (),
        dict(arch='small', out_indices=(0, 4), output_stride=8, norm_cfg=dict(type='SyncBN')),
        {'decode_head.in_channels': (24, 24, 320), 'decode_head.in_index': (0, 0, 1)},
        {},
    ),
    'fcn': (
        'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024',
        ('--output-stride', '16'),
        DILATED | dict(output_stride=16),
        DILATED_HEADS,
        {'model.decode_head.channels': 32},
    ),
    'upernet': (
        'mmseg::upernet/upernet_r18_4xb2-40k_cityscapes-512x1024',
        (),
        STANDARD | dict(norm_cfg=dict(type='SyncBN')),
        {'pretrained': None, 'decode_head.in_channels': [24, 40, 96, 320], 'auxiliary_head.in_channels': 96},
        {'model.decode_head.channels': 32},
    ),
    # The first map of BiSeNetV2, of stride 8, merges the others: the dilated last stage takes its place.
    'bisenetv2': (
        'mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024',
        (),
        dict(arch='small', out_indices=(0, 1, 2, 3, 4), output_stride=8),
        {'decode_head.in_channels': 320, 'decode_head.in_index': 4}
        | {f'auxiliary_head.{i}.in_channels': (24, 40, 96, 192)[i] for i in range(4)}
        | {f'auxiliary_head.{i}.in_index': i for i in range(4)},
        {'model.decode_head.channels': 32},
    ),
}
HALF_FPN = {'neck.in_channels': [16, 24, 48, 160]}
TRAINED_AT = {'lraspp': (400, 400)}  # its pooling window is 49x49 at stride 8


def swap(base, out, *args):
    """Exit status and output of the tool."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = run_tool('swap_backbone', base, '--out', out, *args)
    return status, output.getvalue(), errors.getvalue()


@pytest.fixture(scope='module', params=CASES)
def case(request, tmp_path_factory):
    base, args, backbone, expected, cut = CASES[request.param]
    out = tmp_path_factory.mktemp('swap') / 'new.py'
    size = TRAINED_AT.get(request.param, SIZE)
    status, printed, errors = swap(base, out, *args, '--shape', *size)
    assert status == 0, errors
    expected = HALF_FPN if expected == 'half_fpn' else expected
    return SimpleNamespace(
        name=request.param,
        base=load_config(base),
        new=Config.fromfile(out),
        backbone=dict(type='frostnet_mm.FrostNet') | backbone,
        expected=expected,
        cut=cut,
        size=size,
        out=out,
        printed=printed,
    )


def leaves(node, prefix=''):
    """Dotted key and value of everything in a config but the scope that mmengine adds to an installed base."""
    if isinstance(node, dict) or (isinstance(node, list) and node and isinstance(node[0], dict)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            if key != '_scope_':
                yield from leaves(value, f'{prefix}.{key}' if prefix else str(key))
    else:
        yield prefix, node


def test_only_the_backbone_and_channels_differ(case):
    assert case.new.model.backbone.to_dict() == case.backbone
    old, new = ({k: v for k, v in leaves(c.model) if not k.startswith('backbone.')} for c in (case.base, case.new))
    assert old.keys() == new.keys()
    assert {key: value for key, value in new.items() if value != old[key]} == case.expected
    assert all(type(new[key]) is type(old[key]) for key in case.expected if key != 'pretrained')
    outside = [
        {k: v for k, v in leaves(c.to_dict()) if not k.startswith(('model.', 'custom_imports.'))}
        for c in (case.base, case.new)
    ]
    assert outside[0] == outside[1]
    assert case.new.custom_imports == dict(imports=['frostnet_mm'], allow_failed_imports=False)
    assert list(leaves(load_config(case.out).model)) == list(leaves(case.new.model))


def test_a_training_loss_is_finite(case):
    cfg = Config.fromfile(case.out)
    cfg.merge_from_dict(case.cut)
    losses, total = losses_of(build_config(cfg.model, cfg.default_scope).train(), case.size)
    assert losses and all(math.isfinite(value) for value in losses.values())
    assert total.item() > 0


def macs_by_hooks(model, size):
    """A second count: output elements times the weights that each is summed over."""
    count, handles = [0], []

    def add(module, _, output):
        per_position = module.weight.numel() // module.weight.shape[0]
        count[0] += output.numel() * per_position

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            handles.append(module.register_forward_hook(add))
    network = DenseNetwork(model).eval().to('meta')
    head = getattr(network, network.head_name)
    with torch.no_grad():
        head.forward(network.features(torch.empty(1, 3, *size, device='meta')))
    return count[0]


def test_printed_costs_are_those_of_the_models(case):
    rows = re.findall(r'^(?:before|after) +\w+ +([\d,]+) +([\d,]+) +([\d,]+) M$', case.printed, re.M)
    assert len(rows) == 2
    for cfg, row in zip((case.base, case.new), rows, strict=True):
        model = copy.deepcopy(cfg.model)
        model.data_preprocessor.pop('batch_augments', None)
        init_default_scope(cfg.default_scope)
        built = MODELS.build(model)
        params, own, macs = (int(number.replace(',', '')) for number in row)
        assert params == sum(p.numel() for p in built.parameters())
        assert own == sum(p.numel() for p in built.backbone.parameters())
        assert macs == round(macs_by_hooks(built, case.size) / 1e6)


def test_what_is_printed_names_every_change(case):
    assert 'model.backbone: dict(' in case.printed
    for key in case.expected:
        printed_key = re.sub(r'[.](\d)[.]', r'[\1].', key)
        assert f'\nmodel.{printed_key}: ' in case.printed
    left_out = 'left out, because FrostNet starts from random weights' in case.printed
    assert left_out == (case.name in ('retinanet', 'faster_rcnn', 'faster_rcnn_dc5', 'gfl'))
    assert ('map 0 had stride 2, its replacement has stride 4' in case.printed) == (case.name == 'lraspp')


def test_ssdlite_at_its_own_size(tmp_path):
    """746 M and 660 M multiply-accumulates at 320x320, the size of the config's test pipeline."""
    status, printed, _ = swap(CASES['ssdlite'][0], tmp_path / 'a.py')
    assert status == 0 and 'MACs at 320x320' in printed
    assert re.findall(r'(\d+) M$', printed, re.M) == ['746', '660']


@pytest.mark.parametrize('name', ['retinanet', 'deeplabv3plus'])
def test_all_of_the_network_runs_in_int8(name, tmp_path):
    base, args, _, _, cut = CASES[name]
    assert swap(base, tmp_path / 'a.py', *args, '--shape', 64, 64)[0] == 0
    cfg = load_config(tmp_path / 'a.py', cut)
    network = prepare_model(build_config(cfg.model, cfg.default_scope), QuantizationSettings())
    assert float_operators(network) == [] and int8_share(network) == 1.0


@pytest.mark.parametrize('arch', ['small', 'base', 'large', 'engine-m'])
@pytest.mark.parametrize(
    'strides, stages, output_stride',
    [
        ((4, 8, 16, 32), [0, 1, 2, 4], 32),
        ((16, 32), [2, 4], 32),
        ((8, 16), [1, 4], 16),
        ((32,), [4], 32),
        ((16,), [4], 16),
        ((4, 8, 8, 8), [0, 1, 2, 4], 8),
        ((4, 8, 16, 16), [0, 1, 2, 4], 16),
        ((4, 8, 16, 32, 32), [0, 1, 2, 3, 4], 32),
        ((2, 4, 8), [0, 0, 4], 8),
        ((8, 4, 8, 16, 32), [4, 0, 1, 2, 3], 8),
    ],
)
def test_stages_have_the_strides_of_the_old_maps(arch, strides, stages, output_stride):
    assert choose_stages(strides) == (stages, output_stride)
    network = FrostNet(arch, 0.35, out_indices=sorted(set(stages)), output_stride=output_stride)
    maps = dict(zip(network.out_indices, network(torch.zeros(1, 3, 64, 64)), strict=True))
    for stride, stage in zip(strides, stages, strict=True):
        assert 64 // maps[stage].shape[-1] == min(max(stride, 4), output_stride)


@pytest.mark.parametrize(
    'strides, words',
    [
        ((8, 16, 32, 64), r'strides \(8, 16, 32, 64\)'),
        ((4,), 'dilated to 8 or 16 at most'),
        ((16, 8, 4, 2, 1), '--out-indices'),
        ((8, 8, 16), '2 maps of the base backbone have stride 8, FrostNet has 1 at output stride 16'),
        ((4, 16, 32, 32, 32), '3 maps of the base backbone have stride 32, FrostNet has 2'),
    ],
)
def test_strides_that_frostnet_lacks(strides, words):
    with pytest.raises(ConfigError, match=words):
        choose_stages(strides)


# -- options


def test_stages_by_hand(tmp_path):
    args = ('--out-indices', 0, 1, 4, '--shape', 400, 400)
    status, printed, _ = swap(CASES['lraspp'][0], tmp_path / 'a.py', *args)
    head = load_config(tmp_path / 'a.py').model.decode_head
    assert status == 0 and (head.in_channels, head.in_index) == ((24, 40, 320), (0, 1, 2))
    assert 'map 1 had stride 4, its replacement has stride 8' in printed


def test_a_classifier(tmp_path):
    (tmp_path / 'base.py').write_text(
        f"_base_ = {str(ROOT / 'configs/resnet18_custom_cls.py')!r}\nclasses = ('cat', 'dog', 'hen')\n"
    )
    status, printed, errors = swap(tmp_path / 'base.py', tmp_path / 'new.py')
    assert status == 0, errors
    # ResNet-18's 11,176,512, and 3 * 513 of the head
    assert 'model.head.in_channels: 512 -> 320' in printed and '11,178,051' in printed
    new = load_config(tmp_path / 'new.py').model
    assert new.backbone.type == 'frostnet_mm.FrostNet' and new.head.in_channels == 320 and new.head.num_classes == 3


def test_a_config_of_ones_own_as_base(tmp_path):
    status, _, errors = swap(ROOT / 'configs/ssdlite_frostnet_coco.py', tmp_path / 'a.py', '--arch', 'large', *HALF)
    assert status == 0, errors
    model = load_config(tmp_path / 'a.py').model
    assert model.backbone.arch == 'large' and model.neck.in_channels == (48, 160)
    assert model.bbox_head.in_channels == (48, 160, 512, 256, 256, 128)


def test_a_checkpoint_keeps_what_is_frozen_and_checks_the_preprocessing(tmp_path):
    weights = tmp_path / 'frostnet.pth'
    torch.manual_seed(0)
    classifier = FrostNetClassifier('small', num_classes=3)
    torch.save(dict(state_dict=classifier.state_dict()), weights)
    args = ('--checkpoint', weights, '--shape', 64, 64)
    status, printed, errors = swap('mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco', tmp_path / 'a.py', *args)
    assert status == 0, errors
    backbone = load_config(tmp_path / 'a.py').model.backbone
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=str(weights))
    assert 'note: data_preprocessor has mean=[103.53, 116.28, 123.675]' in printed and 'bgr_to_rgb=False' in printed
    built = MODELS.build(backbone)
    built.init_weights()
    torch.testing.assert_close(built.stem.conv.weight, classifier.backbone.stem.conv.weight, rtol=0, atol=0)
    status, printed, _ = swap(CASES['retinanet'][0], tmp_path / 'b.py', *args)
    assert status == 0 and 'data_preprocessor' not in printed
    status, _, errors = swap(CASES['retinanet'][0], tmp_path / 'c.py', *args, '--arch', 'large')
    assert status == 2 and 'small' in errors and not (tmp_path / 'c.py').exists()


# -- refusals: one message that names the part and its key, and no file


@pytest.mark.parametrize(
    'base, args, words',
    [
        ('mmdet::detr/detr_r50_8xb2-150e_coco', (), 'DETR has no dense network that is known here'),
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco', (), 'model.roi_head.shared_head (ResLayer)'),
        (CASES['yolox'][0], ('--out-indices', 0, 1, 4), 'model.neck (YOLOXPAFPN, in_channels=[24, 40, 320])'),
        (CASES['yolox'][0], ('--out-indices', 1, 2), 'each of the 3 maps of the base backbone, of strides 8, 16, 32'),
        (CASES['yolox'][0], ('--out-indices', 2, 1, 4), 'model.neck.in_channels: YOLOXPAFPN reads one map after'),
        (CASES['retinanet'][0], ('--output-stride', 16), "The detector's heads would read maps of the sizes"),
        (CASES['retinanet'][0], ('--width', 0), 'widen_factor=0.0 is not a width'),
        (CASES['retinanet'][0], ('--checkpoint', 'none.pth'), '--checkpoint none.pth does not exist'),
        (CASES['lraspp'][0], ('--shape', 64, 64), 'cannot run at 64x64, give another --shape'),
        (CASES['bisenetv2'][0].replace('bisenetv2', 'bisenetv1'), (), 'mmseg'),
    ],
)
def test_refusals(base, args, words, tmp_path):
    status, _, errors = swap(base, tmp_path / 'a.py', *args)
    assert status == 2 and words in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'text, words',
    [
        (
            "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\nmodel = dict(neck=dict(in_channels=[1, 2]))",
            'model.neck.in_channels=[1, 2] (FPN): expected [64, 128, 256, 512]',
        ),
        ('model = dict(type="A")', 'has no model with a backbone of its own'),
    ],
)
def test_a_base_that_does_not_fit_itself(text, words, tmp_path):
    (tmp_path / 'base.py').write_text(text)
    status, _, errors = swap(tmp_path / 'base.py', tmp_path / 'a.py', '--shape', 64, 64)
    assert status == 2 and words in errors and not (tmp_path / 'a.py').exists()


def test_a_decode_head_of_other_channels_is_named(tmp_path):
    fcn = load_config(CASES['fcn'][0])
    fcn.model.decode_head.in_channels = 100
    fcn.dump(tmp_path / 'base.py')
    status, _, errors = swap(tmp_path / 'base.py', tmp_path / 'a.py', '--shape', 64, 64)
    assert status == 2 and 'model.decode_head.in_channels=100 (FCNHead): expected [512]' in errors


def test_files_are_not_lost(tmp_path):
    (tmp_path / 'a.py').write_text('model = dict()')
    status, _, errors = swap(CASES['retinanet'][0], tmp_path / 'a.py')
    assert status == 2 and 'exists already; give --overwrite' in errors
    assert swap(CASES['retinanet'][0], tmp_path / 'a.txt')[0] == 2
    base = tmp_path / 'base.py'
    base.write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'")
    status, _, errors = swap(base, base, '--overwrite')
    assert status == 2 and 'is the base config itself' in errors
    assert swap(base, tmp_path / 'a.py', '--overwrite')[0] == 0
    assert (tmp_path / 'a.py').read_text().startswith("_base_ = 'base.py'\n")


# -- configs as text


def test_values_are_written_as_they_are():
    value = dict(a=1, b=(1,), c=[dict(x='y' * 60, z='w' * 60), {}], d={'e-f': None, 2: ((), [True])}, g=[1.5] * 40)
    for indent in (0, 4):
        text = format_value(value, indent)
        assert eval(text) == value and max(map(len, text.splitlines())) <= 140
    assert format_value(dict(type='A', b=(1, 2))) == "dict(type='A', b=(1, 2))"


def test_differences_of_configs():
    old = dict(a=1, b=dict(c=(1, 2), d=[dict(e=1), dict(e=2)]), f=3)
    new = dict(a=1, b=dict(c=[1, 2], d=[dict(e=1), dict(e=4)]), g=5)
    assert differences(old, new) == [('b.c', (1, 2), [1, 2]), ('b.d[1].e', 2, 4), ('f', 3, None), ('g', None, 5)]


@pytest.mark.parametrize('name, channels', [('alexnet', 256), ('vgg11', 512), ('shufflenetv2', 464)])
def test_classifiers_are_swapped_without_their_data(name, channels, tmp_path, capsys):
    """Their heads pool the last map, whatever its size; of VGG's five maps one is read."""
    assert run_tool('swap_backbone', ROOT / f'configs/{name}_custom_cls.py', '--out', tmp_path / 'a.py') == 0
    said = capsys.readouterr().out
    assert f'model.head.in_channels: {channels} -> 320' in said
    assert 'note: the data are not here: parameters are those for 2 classes' in said
    cfg = load_config(tmp_path / 'a.py', classes=('x', 'y', 'z'))
    assert cfg.model.backbone.out_indices == (4,)
    assert MODELS.build(cfg.model).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_backbone_for_grey_images_is_swapped_for_one(tmp_path):
    grey = tmp_path / 'grey.py'
    grey.write_text(
        f'_base_ = {str(ROOT / "configs/shufflenetv2_custom_cls.py")!r}\nmodel = dict(backbone=dict(in_channels=1))\n'
    )
    assert run_tool('swap_backbone', grey, '--out', tmp_path / 'a.py') == 0
    cfg = load_config(tmp_path / 'a.py', classes=('x', 'y'))
    assert MODELS.build(cfg.model).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 2)


def test_a_backbone_that_puts_out_logits_is_no_backbone_to_swap(tmp_path, capsys):
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = {str(ROOT / "configs/alexnet_custom_cls.py")!r}\nmodel = dict(backbone=dict(num_classes=2), '
        "head=dict(_delete_=True, type='frostnet_mm.LogitsHead', num_classes=2))\n"
    )
    assert run_tool('swap_backbone', base, '--out', tmp_path / 'a.py') == 2
    assert 'AlexNet, puts out the logits itself (LogitsHead): expected one that' in capsys.readouterr().err
