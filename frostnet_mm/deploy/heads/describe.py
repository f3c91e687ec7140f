"""What surrounds a model's dense network, as plain data: images to its input, its outputs to predictions.

The mm model is the source: its config's test pipeline and data preprocessor (:mod:`.preprocessing`), head and test_cfg.
The result are the keys of deploy.json that :mod:`frostnet_mm.device` reads.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from ...engine.config import ConfigError
from ...models.classifiers import LogitsHead
from ...models.dense import family_of
from .preprocessing import describe_preprocessing

#: Of mmdet's BaseDenseHead: a head that has another one of these decodes in a way of its own.
DECODING_METHODS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')


_BOX_KEYS = ('score_thr', 'nms_pre', 'min_bbox_size', 'nms', 'max_per_img')
_YOLOX_KEYS = (*_BOX_KEYS, 'multi_label')  # it reads score_thr and nms of them
_LABEL_KEYS = ('mode', 'crop_size', 'stride')


class _NoDecodingError(Exception):
    """Why a head's outputs cannot be decoded outside mm."""


def describe_model(model: nn.Module, cfg: Config) -> dict:
    """Describe what a model does before and after its dense network.

    Args:
        model (nn.Module): A detector, segmenter or classifier with ``dataset_meta``.
        cfg (Config): Its config.

    Returns:
        dict: ``task``, ``classes``, ``palette``, ``preprocessing`` (never baked) and ``decoding`` as in deploy.json.
        Where no decoding is known (two-stage detectors, heads of other kinds), ``decoding`` is None and
        ``no_decoding`` says why; otherwise ``no_decoding`` is None.

    Raises:
        ConfigError: The test pipeline or the data preprocessor does something that cannot be expressed, or the classes
            of the data set are not those of the head.
        UnsupportedModelError: The model has no dense network that is known.
    """
    task = family_of(model).task
    meta = getattr(model, 'dataset_meta', None) or {}
    if not meta.get('classes'):
        raise ConfigError(
            'The model does not say which classes it predicts (dataset_meta): load it with '
            "frostnet_mm.apis.inference.load_model, or set model.dataset_meta = dict(classes=('cat', …))."
        )
    classes = [str(name) for name in meta['classes']]
    decoding, reason = None, None
    try:
        decoding = _DECODINGS[task](model)
    except _NoDecodingError as error:
        reason = str(error)
    # a head of one channel tells its only class from the background; mmseg counts the background as a class then
    if decoding is not None and decoding['num_classes'] not in (1, len(classes)):
        raise ConfigError(
            f'The head has {decoding["num_classes"]} classes, dataset_meta names {len(classes)}: use the config that '
            'the checkpoint was trained with.'
        )
    return dict(
        task=task,
        classes=classes,
        palette=_palette(meta.get('palette'), len(classes)),
        preprocessing=describe_preprocessing(model, cfg),
        decoding=decoding,
        no_decoding=reason,
    )


def _palette(palette: Any, count: int) -> list[list[int]]:
    """The data set's colours (RGB); none where it has no list of them, or too few."""
    if not isinstance(palette, Sequence) or isinstance(palette, str) or len(palette) < count:
        return []
    return [[int(value) for value in colour] for colour in palette[:count]]


# -- after the network


def _segmentation(model: nn.Module) -> dict:
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder

    head, bases = model.decode_head, (BaseDecodeHead, EncoderDecoder)
    if isinstance(head, nn.ModuleList):
        head, bases = head[-1], (BaseCascadeDecodeHead, CascadeEncoderDecoder)
    for name in ('predict', 'predict_by_feat'):
        if getattr(type(head), name, None) is not getattr(bases[0], name):
            raise _NoDecodingError(f'{type(head).__name__} has a {name} of its own')
    for name in ('predict', 'inference', 'whole_inference', 'encode_decode', 'postprocess_result'):
        if getattr(type(model), name) is not getattr(bases[1], name):
            raise _NoDecodingError(f'{type(model).__name__} has a {name} of its own')
    if model.test_cfg.get('mode', 'whole') != 'whole':
        raise _NoDecodingError(f'test_cfg.mode is {model.test_cfg["mode"]!r}, expected "whole"')
    _require_known(model.test_cfg, _LABEL_KEYS, type(model).__name__)
    decoding = dict(
        kind='logits',
        output='decode_head',
        align_corners=bool(head.align_corners),
        num_classes=int(head.out_channels),
    )
    if head.out_channels == 1:
        decoding['threshold'] = float(head.threshold)
    return decoding


def _detection(model: nn.Module) -> dict:
    from mmdet.models.dense_heads import YOLOXHead
    from mmdet.models.detectors import SingleStageDetector

    if not isinstance(model, SingleStageDetector):
        raise _NoDecodingError(f'{type(model).__name__} is no single-stage detector: more than its head decodes')
    if type(model).predict is not SingleStageDetector.predict:
        raise _NoDecodingError(f'{type(model).__name__} has a predict of its own')
    head = model.bbox_head
    yolox = isinstance(head, YOLOXHead) and not _own_methods(head, YOLOXHead, '_bbox_decode')
    kinds = ['scores', 'boxes', 'objectness'] if yolox else _outputs_of(head)
    priors, test_cfg = head.prior_generator, model.test_cfg
    _require_known(test_cfg, _YOLOX_KEYS if yolox else _BOX_KEYS, type(head).__name__)
    return dict(
        **_priors(priors),
        coder=dict(type='yolox') if yolox else _coder(head.bbox_coder),
        scores='sigmoid' if yolox or head.use_sigmoid_cls else 'softmax',
        num_classes=int(head.num_classes),
        outputs={
            kind: [f'bbox_head.{index}.{level}' for level in range(priors.num_levels)]
            for index, kind in enumerate(kinds)
        },
        score_threshold=float(test_cfg.get('score_thr', 0)),
        nms_pre=int(test_cfg.get('nms_pre', -1)),
        **_suppression(test_cfg.get('nms')),
        max_per_image=None if yolox else int(test_cfg.max_per_img),
        min_size=-1.0 if yolox else float(test_cfg.get('min_bbox_size', -1)),
        clip=False if yolox else bool(head.bbox_coder.clip_border),
    )


def _require_known(test_cfg: ConfigDict, known: Sequence[str], head: str) -> None:
    """Refuse a test_cfg with a key that decoding outside mm would leave out of account."""
    unknown = [f'test_cfg.{key}={test_cfg[key]!r}' for key in test_cfg if key not in known]
    if unknown:
        raise _NoDecodingError(
            f'{", ".join(unknown)} of {head} is unknown outside mm, expected only {", ".join(known)}; take it out of '
            'the config if nothing reads it'
        )


def _own_methods(head: nn.Module, base: type, *more: str) -> list[str]:
    """Methods by which a head decodes in another way than a class of mmdet."""
    return [name for name in (*DECODING_METHODS, *more) if getattr(type(head), name) is not getattr(base, name)]


def _outputs_of(head: nn.Module) -> list[str]:
    """The kinds of outputs of a head that decodes as mmdet's BaseDenseHead does."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    name = type(head).__name__
    own = _own_methods(head, BaseDenseHead)
    if own:
        raise _NoDecodingError(f'{name} has a {own[0]} of its own')
    if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
        raise _NoDecodingError(f'{name} computes its scores by its loss ({type(head.loss_cls).__name__})')
    # BaseDenseHead passes the outputs of forward on as the first arguments of loss_by_feat
    arguments = list(inspect.signature(head.loss_by_feat).parameters)
    count = arguments.index('batch_gt_instances') if 'batch_gt_instances' in arguments else 0
    if count not in (2, 3):
        raise _NoDecodingError(f'{name} has {count} kinds of outputs, expected scores and boxes, or centerness too')
    return ['scores', 'boxes', 'centerness'][:count]


def _priors(generator: Any) -> dict:
    kind = type(generator).__name__
    strides = [[int(side) for side in stride] for stride in generator.strides]
    if kind in ('AnchorGenerator', 'SSDAnchorGenerator'):
        anchors = [torch.as_tensor(level).tolist() for level in generator.base_anchors]
        levels = [dict(stride=s, base_anchors=a) for s, a in zip(strides, anchors, strict=True)]
        return dict(kind='anchors', levels=levels)
    if kind == 'MlvlPointGenerator':
        return dict(kind='points', levels=[dict(stride=s, offset=float(generator.offset)) for s in strides])
    raise _NoDecodingError(f'its priors are of a {kind}, expected AnchorGenerator, SSDAnchorGenerator or points')


def _coder(coder: Any) -> dict:
    kind = type(coder).__name__
    if kind == 'DeltaXYWHBBoxCoder':
        return dict(
            type='delta_xywh',
            means=[float(value) for value in coder.means],
            stds=[float(value) for value in coder.stds],
            wh_ratio_clip=16 / 1000,  # the default of its decode, which no head overrides
            ctr_clamp=float(coder.ctr_clamp) if coder.add_ctr_clamp else None,
        )
    if kind == 'DistancePointBBoxCoder':
        return dict(type='distance')
    raise _NoDecodingError(f'its boxes are of a {kind}, expected DeltaXYWHBBoxCoder or DistancePointBBoxCoder')


def _suppression(nms: ConfigDict | None) -> dict:
    options = dict(nms or {})
    kind = options.pop('type', 'nms' if nms else None)
    threshold = options.pop('iou_threshold', options.pop('iou_thr', None))
    agnostic = bool(options.pop('class_agnostic', False))
    options.pop('split_thr', None)  # how mmcv divides the work, not what comes out
    if kind != 'nms' or threshold is None or options:
        raise _NoDecodingError(f'test_cfg.nms is {dict(nms or {})}, expected dict(type="nms", iou_threshold=…)')
    return dict(iou_threshold=float(threshold), class_agnostic=agnostic)


def _classification(model: nn.Module) -> dict:
    head, count = model.head, getattr(model.head, 'num_classes', None)
    base = _softmax_head(type(head))
    own = 'predict' if base is None else _overridden(type(head), base, ('predict', '_get_predictions'))
    if own is not None:
        raise _NoDecodingError(f'{type(head).__name__} has a {own} of its own')
    own = _overridden(type(model), _base_of(type(model), 'ImageClassifier'), ('predict',))
    if own is not None:
        raise _NoDecodingError(f'{type(model).__name__} has a {own} of its own')
    if count is None and _overridden(type(head), base, ('forward',)) is None:
        count = getattr(model.backbone, 'num_classes', None)  # mmpretrain's ClsHead puts out what the backbone does
    if not count:
        raise _NoDecodingError(f'{type(head).__name__} does not say how many classes it has (num_classes)')
    return dict(kind='classes', output='head', num_classes=int(count))


def _softmax_head(kind: type) -> type | None:
    """The class of ours or of mmpretrain that a head predicts as: softmax of what forward returns."""
    return LogitsHead if issubclass(kind, LogitsHead) else _base_of(kind, 'ClsHead')


def _base_of(kind: type, name: str) -> type | None:
    """Of a class and its bases, the last one of a name: mmpretrain need not be installed."""
    return next((one for one in reversed(kind.__mro__) if one.__name__ == name), None)


def _overridden(kind: type, base: type | None, methods: Sequence[str]) -> str | None:
    """The first of some methods that a class has not from a base; None if it has all."""
    return next((name for name in methods if getattr(kind, name, None) is not getattr(base, name, None)), None)


_DECODINGS = dict(detection=_detection, segmentation=_segmentation, classification=_classification)
