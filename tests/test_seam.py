"""The seam: how outputs nest, which models have one, and what is put there for good and for a while."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tiny_segmenter import images, segmenter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frostnet_mm.models.dense import (
    FAMILIES,
    DenseNetwork,
    OutputLayout,
    UnsupportedModelError,
    attach,
    attached,
    detach,
    detached,
    family_of,
)

# -- how outputs nest


def maps(*values):
    return [torch.tensor(float(value)) for value in values]


DETECTOR = (maps(0, 1), maps(2, 3)), maps(4, 5)
DETECTOR_NAMES = ('bbox_head.0.0', 'bbox_head.0.1', 'bbox_head.1.0', 'bbox_head.1.1', 'feature.0', 'feature.1')


@pytest.mark.parametrize(
    'outputs, head, names',
    [
        (DETECTOR, 'bbox_head', DETECTOR_NAMES),
        ((maps(0)[0], []), 'decode_head', ('decode_head',)),
        ((maps(0)[0], maps(1)), 'decode_head', ('decode_head', 'feature.0')),
        (({'cls': maps(0)[0], 'box': (maps(1)[0],)}, []), 'head', ('head.cls', 'head.box.0')),
    ],
)
def test_names_and_nesting(outputs, head, names):
    layout = OutputLayout.of(outputs, head)
    assert layout.names == layout.all_names == names
    flat = layout.flatten(outputs)
    by_name = dict(zip(layout.names, flat, strict=True))
    assert [float(by_name[name]) for name in names] == list(range(len(names)))  # counted in the order of the outputs
    assert layout.nest(flat) == outputs and layout == OutputLayout.of(outputs, head)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.indices = ()


def test_layout_for_inference():
    layout = OutputLayout.of(DETECTOR, 'bbox_head')
    assert layout.for_inference(keep_features=True) == layout
    without = layout.for_inference(keep_features=False)
    assert without.names == DETECTOR_NAMES[:4] and without.indices == (0, 1, 2, 3) and without.features == (4, 5)
    assert [float(value) for value in without.flatten(DETECTOR)] == [0, 1, 2, 3]
    assert without.select('abcdef') == ('a', 'b', 'c', 'd')
    assert without.nest('abcd') == ((['a', 'b'], ['c', 'd']), [None, None])
    message = r'^3 tensors were given, expected 4: bbox_head\.0\.0, .*, bbox_head\.1\.1\.$'
    with pytest.raises(ValueError, match=message):
        without.nest('abc')


# -- kinds of models


def stand_in(name, package, base='', **attributes):
    """An object whose class, or a base of it, has a name in a package."""
    kind = type(base or name, (SimpleNamespace,), dict(__module__=f'{package}.models'))
    return (type(name, (kind,), dict(__module__='my_project')) if base else kind)(**attributes)


def test_families_are_found_by_a_base_class():
    found = {family.base: (family.head, family.task, family.features_at_inference) for family in FAMILIES}
    assert found == {
        'TwoStageDetector': ('rpn_head', 'detection', True),
        'SingleStageDetector': ('bbox_head', 'detection', False),
        'SingleStageInstanceSegmentor': ('mask_head', 'detection', False),  # the last of two
        'EncoderDecoder': ('decode_head', 'segmentation', False),
        'ImageClassifier': ('head', 'classification', False),
    }
    assert family_of(stand_in('SSD', 'mmdet', 'SingleStageDetector')).base == 'SingleStageDetector'
    assert family_of(stand_in('FCN', 'mmseg', 'EncoderDecoder', decode_head=None)).base == 'EncoderDecoder'
    assert family_of(stand_in('ImageClassifier', 'mmpretrain', head=nn.Identity())).task == 'classification'
    yolact = stand_in('YOLACT', 'mmdet', 'SingleStageInstanceSegmentor', bbox_head=nn.Identity())
    assert (family_of(yolact).head, family_of(yolact).features_at_inference) == ('bbox_head', True)
    solo = stand_in('SOLO', 'mmdet', 'SingleStageInstanceSegmentor', bbox_head=None, mask_head=nn.Identity())
    assert (family_of(solo).head, family_of(solo).features_at_inference) == ('mask_head', False)
    own = stand_in('SingleStageDetector', 'my_mmdet')
    message = (
        r'^SingleStageDetector has no dense network that is known here; expected one of mmdet\.TwoStageDetector, '
        r'mmdet\.SingleStageDetector, mmdet\.SingleStageInstanceSegmentor, mmseg\.EncoderDecoder, '
        r'mmpretrain\.ImageClassifier, frostnet_mm\.ImageClassifier\.$'
    )
    with pytest.raises(UnsupportedModelError, match=message):
        family_of(own)


def test_features_that_the_rest_reads():
    assert family_of(stand_in('TwoStageDetector', 'mmdet', with_rpn=True)).features(None) is None
    assert family_of(stand_in('SingleStageDetector', 'mmdet')).features(None) == ()
    heads = nn.ModuleList(nn.Identity() for _ in range(3))
    for head, index in zip(heads, (2, (0, 2), -1), strict=True):
        head.in_index = index
    options = dict(decode_head=None, with_auxiliary_head=True)
    for head, expected in ((heads, (2, 0, -1)), (heads[1], (0, 2)), (heads[0], (2,))):
        model = stand_in('EncoderDecoder', 'mmseg', auxiliary_head=head, **options)
        assert family_of(model).features(model) == expected
    without = stand_in('EncoderDecoder', 'mmseg', decode_head=None, with_auxiliary_head=False)
    assert family_of(without).features(without) == ()


class BaseCascadeDecodeHead(nn.Module):
    def loss(self):
        pass

    def predict(self):
        pass


class PointHead(BaseCascadeDecodeHead):
    def predict(self):
        pass


class ArcFaceClsHead(nn.Module):
    pass


class MultiTaskHead(nn.Module):
    pass


@pytest.mark.parametrize(
    'model, message',
    [
        (
            stand_in('RCNN', 'mmdet', 'TwoStageDetector', with_rpn=False),
            'RCNN has no RPN (precomputed proposals): expected rpn_head in the config.',
        ),
        (
            stand_in('Cascade', 'mmseg', 'EncoderDecoder', decode_head=nn.ModuleList([nn.Identity(), PointHead()])),
            'Cascade has the decode head PointHead behind another one, whose own loss and predict choose what its '
            'forward pass reads (PointRend: points of the maps); expected one whose forward pass reads the feature '
            'maps and the output of the head before it, such as OCRHead.',
        ),
        (
            stand_in('ImageClassifier', 'mmpretrain', head=None),
            'ImageClassifier has no head: expected head in the config.',
        ),
        (
            stand_in('ImageClassifier', 'mmpretrain', head=type('MyHead', (ArcFaceClsHead,), {})()),
            'ImageClassifier has a MyHead, which reads the labels to compute its logits in training; expected a head '
            'such as LinearClsHead.',
        ),
        (
            stand_in('ImageClassifier', 'mmpretrain', head=MultiTaskHead()),
            'ImageClassifier has a MultiTaskHead, whose heads each read the features by themselves; expected a head '
            'such as LinearClsHead.',
        ),
    ],
)
def test_refusals(model, message):
    with pytest.raises(UnsupportedModelError) as error:
        family_of(model)
    assert str(error.value) == message


# -- what is put at the seam


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x):
        return (self.conv(x),)


@pytest.fixture
def model():
    return segmenter(Backbone).eval()


def returns(value):
    """A dense network that computes nothing."""
    return lambda batch: (torch.full((len(batch), 5, 2, 2), float(value)), [])


@torch.no_grad()
def logits(model):
    """What the model's head hands to its losses and its decoding."""
    return model.decode_head(model.extract_feat(images()))


def computes(model):
    """The constant that is attached, or None for the model's own arithmetic."""
    found = logits(model)
    return None if found.shape[-2:] == (16, 24) else float(found.unique())


def test_attach_and_detach(model):
    own = logits(model)
    detach(model)  # nothing to undo
    attach(model, returns(1))
    attach(model, returns(2))
    assert computes(model) == 2.0
    detach(model)
    assert torch.equal(logits(model), own)
    assert 'extract_feat' not in model.__dict__ and 'forward' not in model.decode_head.__dict__


def test_the_modules_themselves_run_within_detached(model):
    own = logits(model)
    attach(model, returns(1))
    message = '^tuple was given to the head of a model that another network is attached to, expected .*detached'
    with pytest.raises(TypeError, match=message):
        DenseNetwork(model)(images())
    with detached(model):
        assert torch.equal(DenseNetwork(model)(images())[0], own)


def test_contexts_restore_what_was_there(model):
    own = logits(model)
    with attached(model, returns(1)):
        assert computes(model) == 1.0
        with detached(model):
            assert torch.equal(logits(model), own)
            with attached(model, returns(2)):
                assert computes(model) == 2.0
            assert computes(model) is None
        assert computes(model) == 1.0
        with attached(model, returns(3)):
            detach(model)
        assert computes(model) == 1.0
        with pytest.raises(KeyError), detached(model):
            raise KeyError
        with pytest.raises(KeyError), attached(model, returns(4)):
            raise KeyError
        assert computes(model) == 1.0
    assert torch.equal(logits(model), own)
    attach(model, returns(5))
    network = model.__dict__['extract_feat']
    with detached(model), attached(model, returns(6)):
        pass
    assert model.__dict__['extract_feat'] is network and computes(model) == 5.0


def test_an_attribute_of_the_users_own_survives(model):
    """An instance may have a ``forward`` of its own, by which the dense network is computed."""
    forward = model.decode_head.forward
    model.decode_head.forward = lambda features: forward(features) + 1
    own = logits(model)
    detach(model)
    assert torch.equal(logits(model), own)
    with attached(model, returns(1)):
        assert computes(model) == 1.0
    assert torch.equal(logits(model), own) and torch.equal(DenseNetwork(model)(images())[0], own)


def test_a_copy_has_a_copy_of_what_is_attached(model):
    """As an exponential moving average copies a model with its quantized network."""
    model.add_module('inner', nn.Conv2d(3, 5, 1))
    attach(model, Execute(model.inner))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.inner.weight.zero_()
        other.inner.bias.fill_(7.0)
    assert computes(other) == 7.0
    assert float(logits(model).std()) > 0


class Execute(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return self.network(batch)[:, :, :2, :2], []


def test_a_wrapped_model(model, tmp_path):
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        with attached(wrapped, returns(1)):
            assert computes(model) == 1.0
            with detached(wrapped):
                assert computes(model) is None
            detach(wrapped)
            assert computes(model) is None
    finally:
        torch.distributed.destroy_process_group()


class TwoStageDetector(nn.Module):
    """Stands in for mmdet's: what is asked of it to find its family."""

    __module__ = 'mmdet.models.detectors.two_stage'
    with_rpn = True

    def __init__(self, rpn_head):
        super().__init__()
        self.rpn_head = rpn_head


class EmbeddingRPNHead(nn.Module):
    """As in Sparse R-CNN: proposals that are parameters; no forward."""


def test_learned_proposals_are_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match='has the RPN EmbeddingRPNHead, which has no forward pass'):
        family_of(TwoStageDetector(EmbeddingRPNHead()))
    assert family_of(TwoStageDetector(nn.Conv2d(3, 1, 1))).head == 'rpn_head'


class QueryHead(nn.Module):
    """As mmdet's MaskFormerHead."""

    def forward(self, x, batch_data_samples, scale=1, *rest, **options):
        return x


class SingleStageDetector(nn.Module):
    __module__ = 'mmdet.models.detectors.single_stage'

    def __init__(self, **heads):
        super().__init__()
        for name, head in heads.items():
            self.add_module(name, head)


def test_heads_that_compute_no_maps_from_maps_are_refused():
    message = r'^SingleStageDetector has the bbox_head QueryHead, whose forward pass reads batch_data_samples too: exp'
    with pytest.raises(UnsupportedModelError, match=message):
        DenseNetwork(SingleStageDetector(bbox_head=QueryHead()))
    message = r'^SingleStageDetector has no bbox_head, but panoptic_head \(QueryHead\): expected one, whose outputs are'
    with pytest.raises(UnsupportedModelError, match=message):
        DenseNetwork(SingleStageDetector(panoptic_head=QueryHead()))
