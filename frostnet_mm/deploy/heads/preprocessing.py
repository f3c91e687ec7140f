"""Images to a model's input, as plain data: what its test pipeline and its data preprocessor do."""

from collections.abc import Sequence

from mmengine.config import Config, ConfigDict
from torch import nn

from ...device.resizing import DEFAULT, EDGES, METHODS
from ...engine.config import ConfigError, dataset_for_testing
from ...engine.image_sizes import CROPS, EFFICIENTNET_PADDING, RESIZINGS, image_sizes, size_of
from ...models.dense import family_of
from ...models.input_channels import input_channels
from ...registry import type_name

BEFORE = ('LoadImage', 'LoadImageFromFile', 'LoadImageFromNDArray')
IGNORED = (
    'LoadAnnotations',
    'LoadPanopticAnnotations',
    'LoadSegAnnotations',
    'PackDetInputs',
    'PackSegInputs',
    'PackClsInputs',
    'PackInputs',
)
EXPRESSED = (*BEFORE, *IGNORED, *RESIZINGS, *CROPS, 'Pad')
PREPROCESSORS = ('ImgDataPreprocessor', 'DetDataPreprocessor', 'SegDataPreProcessor', 'ClsDataPreprocessor')


def describe_preprocessing(model: nn.Module, cfg: Config) -> dict:
    """Describe what is done to an image before it is a model's input.

    Args:
        model (nn.Module): A detector, segmenter or classifier.
        cfg (Config): Its config.

    Returns:
        dict: ``preprocessing`` as in deploy.json, never baked.

    Raises:
        ConfigError: The test pipeline or the data preprocessor does something that cannot be expressed.
    """
    resize, pad, options = resize_and_pad(cfg)
    if family_of(model).task != 'classification' and ('crop' in options or 'middle' in (resize or {})):
        name = 'CenterCrop' if 'crop' in options else 'EfficientNetCenterCrop'
        raise _inexpressible(f'the transform {name}', 'expected one that keeps all of the image')
    settings = _data_preprocessor(model.data_preprocessor, input_channels(model))
    if pad is not None:
        pad['value'] = (pad['value'] * len(settings['mean']))[: len(settings['mean'])]
    return dict(resize=resize, pad=pad, **settings, baked=False, **options)


def resize_and_pad(cfg: Config) -> tuple[dict | None, dict | None, dict]:
    """What the test pipeline of a config makes of an image's size.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[dict | None, dict | None, dict]: ``resize`` and ``pad`` as deploy.json has them, None without such a step;
        and options that are absent otherwise: of the loader, and ``crop``.

    Raises:
        ConfigError: It does something that cannot be expressed.
    """
    resize = pad = None
    options = {}
    steps = dataset_for_testing(cfg).pipeline
    if not steps or type_name(steps[0]) not in BEFORE:
        raise _inexpressible('another first step than reading a file', f'expected one of {", ".join(BEFORE)}')
    for index, step in enumerate(steps):
        name = type_name(step)
        resizes = name in RESIZINGS or name == 'EfficientNetCenterCrop'
        if name not in EXPRESSED:
            raise _inexpressible(f'the transform {name}', f'expected only {", ".join(EXPRESSED)}')
        if (resizes and (resize or pad or 'crop' in options)) or (name == 'Pad' and pad):
            raise _inexpressible(
                f'a second transform {name}, or one after CenterCrop or Pad',
                'expected Resize, then CenterCrop, then Pad, each once',
            )
        if resizes:
            resize = _RESIZINGS[name](step) | _method(step)
        elif name == 'CenterCrop':
            options['crop'] = _crop(step, 'crop' in options or pad is not None)
        elif name == 'Pad':
            pad = _pad(step, image_sizes(steps[:index]).longest)
        elif step.get('color_type') == 'color_ignore_orientation':
            options['ignore_orientation'] = True  # of the loader; absent otherwise, as in earlier deployments
    return resize, pad, options


def _inexpressible(what: str, expected: str) -> ConfigError:
    return ConfigError(
        f'A deployment cannot express {what} of the test pipeline; {expected}. Change test_dataloader.dataset.pipeline '
        'of the config.'
    )


def _resize(step: ConfigDict) -> dict:
    if step.get('scale') is None:
        raise _inexpressible(
            f'Resize with scale_factor={step.get("scale_factor")!r}', 'expected a scale (width, height)'
        )
    height, width = size_of(step, 'scale')
    return dict(width=width, height=height, keep_ratio=bool(step.get('keep_ratio', False)))


def _resize_edge(step: ConfigDict) -> dict:
    edge, side = step.get('edge', 'short'), _whole(step, 'scale', 1)
    if edge not in EDGES:
        raise _inexpressible(f'ResizeEdge with edge={edge!r}', f'expected one of {", ".join(EDGES)}')
    return dict(width=side, height=side, keep_ratio=True, edge=edge)


def _resized_middle(step: ConfigDict) -> dict:
    side, padding = _whole(step, 'crop_size', 1), _whole(step, 'crop_padding', 0, EFFICIENTNET_PADDING)
    return dict(width=side, height=side, keep_ratio=False, middle=side / (side + padding))


def _whole(step: ConfigDict, key: str, least: int, default: int | None = None) -> int:
    value = step.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _inexpressible(f'{type_name(step)} with {key}={value!r}', f'expected a whole number from {least}')
    return value


def _method(step: ConfigDict) -> dict:
    """How a transform resizes; nothing where it is as usual, as in earlier deployments."""
    usual = dict(zip(('backend', 'interpolation'), DEFAULT, strict=True))
    if type_name(step) == 'EfficientNetCenterCrop':
        usual['interpolation'] = 'bicubic'
    backend, method = (step.get(key) or value for key, value in usual.items())
    if method not in METHODS.get(backend, ()):
        known = '; '.join(f'{name}: {", ".join(methods)}' for name, methods in METHODS.items())
        raise _inexpressible(
            f'{type_name(step)} with backend={backend!r} and interpolation={method!r}', f'known are {known}'
        )
    return {} if (backend, method) == DEFAULT else dict(backend=backend, interpolation=method)


_RESIZINGS = dict(Resize=_resize, ResizeEdge=_resize_edge, EfficientNetCenterCrop=_resized_middle)


def _crop(step: ConfigDict, late: bool) -> dict:
    options = {key: value for key, value in step.items() if key not in ('type', 'crop_size') and value}
    if late or options.keys() - {'pad_mode', 'pad_cfg', 'clip_object_border'}:
        raise _inexpressible(
            f'CenterCrop with {options}' if options else 'CenterCrop there', 'expected one, before Pad'
        )
    height, width = size_of(step, 'crop_size')
    return dict(width=width, height=height)


def _pad(step: ConfigDict, longest: int | None) -> dict:
    size = step.get('size')
    if step.get('pad_to_square') and longest is not None and not step.get('size_divisor'):
        size = [longest] * 2
    if size is None or step.get('padding_mode', 'constant') != 'constant':
        given = ', '.join(f'{key}={value!r}' for key, value in step.items() if key != 'type')
        raise _inexpressible(
            f'Pad with {given}', 'expected a constant and a size, or pad_to_square after a square scale'
        )
    value = step.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, dict) else value
    value = list(value) if isinstance(value, Sequence) else [value]
    return dict(width=int(size[0]), height=int(size[1]), value=[int(v) for v in value])


def _data_preprocessor(preprocessor: nn.Module, channels: int) -> dict:
    name = type(preprocessor).__name__
    if name not in PREPROCESSORS:
        raise ConfigError(
            f'A deployment cannot express the data preprocessor {name}; expected one of {", ".join(PREPROCESSORS)}.'
        )
    if name == 'SegDataPreProcessor':  # pads in testing only by its test_cfg
        options = preprocessor.test_cfg or {}
        divisor, value = options.get('size_divisor') or 1, preprocessor.pad_val
        if options.get('size') is not None:
            raise ConfigError(
                f'A deployment cannot express test_cfg.size={options["size"]!r} of the data preprocessor; expected '
                'test_cfg=dict(size_divisor=…), or none.'
            )
    else:
        divisor, value = preprocessor.pad_size_divisor, preprocessor.pad_value
    mean, std = (
        getattr(preprocessor, key).flatten().tolist() if preprocessor._enable_normalize else [default]
        for key, default in (('mean', 0.0), ('std', 1.0))
    )
    if {len(mean), len(std)} - {1, channels}:
        raise ConfigError(
            f'The data preprocessor has mean={mean} and std={std}, the backbone reads images of {channels} channels: '
            f'expected 1 or {channels} numbers each.'
        )
    mean, std = (values * (channels // len(values)) for values in (mean, std))
    return dict(
        size_divisor=int(divisor),
        pad_value=float(value),
        bgr_to_rgb=bool(_converts_channels(preprocessor)) and channels == 3,
        mean=mean,
        std=std,
    )


def _converts_channels(preprocessor: nn.Module) -> bool:
    """Whether a data preprocessor exchanges red and blue; mmpretrain's calls it ``to_rgb``."""
    return preprocessor._channel_conversion if hasattr(preprocessor, '_channel_conversion') else preprocessor.to_rgb
