"""From a config and a checkpoint to a folder that runs by itself on an engine."""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import device
from ..device import (
    DESCRIPTION,
    DeploymentError,
    SaturationWarning,
    channels_of,
    format_of,
    padding_pixel,
    warn_of_saturation,
)
from ..engine.config import dataset_for_testing, load_config
from ..engine.image_sizes import ImageSizes, image_sizes
from ..files import write_text
from ..quantization.checkpoint import Checkpoint
from .cost import count_macs, engine_int8_share
from .engines import Engine, LayerTime, count_operators, engine_names, engine_of
from .flat_network import Normalization, pixels_last
from .heads.describe import describe_model
from .heads.preprocessing import resize_and_pad
from .loaded_model import LoadedModel, load_for_deployment
from .onnx.export import read_onnx
from .verification.deployment import append_decoding, verify_network, verify_surroundings
from .verification.images import VerificationImage, input_size, verification_images
from .verification.verify import write_check

DEVICE = Path(device.__file__).parent
DEVICE_FOLDER = 'frostnet_device'  # in a deployment; predictor.py knows the name
MORE_IMAGES = 32  # for an output of few values that deviates on fewer
_PACKAGES = ('torch', 'torchao', 'onnx', 'numpy')  # and those of the engines
NOISE = (
    'WARNING: verification on random noise, not on images, which says little of the ranges that photographs fill: no '
    'test images of the config were found. Give some with --images FILE..., or say where the data are with '
    '--cfg-options data_root=PATH.'
)
NOT_RUN = 'Written for {} by its rules and verified on {}; it was not run on the engine itself.'
PIXELS = (
    'Padding is {value:g} in normalized units, which is no pixel from 0 to 255: the network takes its pixels as '
    'float32 (N, H, W, {channels}), not as uint8.'
)
BRANCHES = (
    'The network has the branches of its training ({}), which cost time on every engine: reparameterize the float '
    "checkpoint first (mmpretrain's tools/model_converters/reparameterize_model.py), with deploy=True in the config, "
    'and calibrate that.'
)


@dataclass
class DeployOptions:
    """How a model is deployed.

    Args:
        precision (str): 'int8' or 'float'. Default: 'int8'.
        shape (tuple[int, int], optional): Height and width of the images behind the test pipeline, which is scaled to
            it; by default those that it makes.
        batch (int): Images in a batch, for a fixed shape. Default: 1.
        dynamic (bool): Leave batch size, height and width open. Default: False.
        decode (bool): Append decoding and non-maximum suppression to a detector, for engines that read ONNX. Default:
            False.
        bake (bool): Put the normalization into the network, which then takes (N, H, W, 3) uint8 BGR. Default: False.
        images (Sequence[str]): Images to verify with; by default ``num_images`` of the test data.
        num_images (int): How many of the test data. Default: 4.
        check (bool): Verify the deployment. Default: True.
        cfg_options (dict): Values that replace those of the config.
        weight_bits (int, optional): 8 or 7, for INT8. Default: as the checkpoint was made; 8 for random weights.
        classes (Sequence[str], optional): Names of the classes of a checkpoint that notes none.
        example_shape (tuple[int, int], optional): Height and width that random weights are captured with.
    """

    precision: str = 'int8'
    shape: tuple[int, int] | None = None
    batch: int = 1
    dynamic: bool = False
    decode: bool = False
    bake: bool = False
    images: Sequence[str] = ()
    num_images: int = 4
    check: bool = True
    cfg_options: dict = field(default_factory=dict)
    weight_bits: int | None = None
    classes: Sequence[str] | None = None
    example_shape: tuple[int, int] | None = None


def deploy(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    engine: str,
    out: str | os.PathLike,
    options: DeployOptions | None = None,
) -> dict:
    """Write a deployment and verify it.

    Args:
        config (str | PathLike): The config.
        checkpoint (str | PathLike, optional): The checkpoint; None for random weights, for measuring times.
        engine (str): A name of :func:`~.engines.engine_names`, or one that the config's ``custom_imports`` register.
        out (str | PathLike): The folder; one of an earlier deployment is replaced, once the new one is verified.
        options (DeployOptions, optional): How.

    Returns:
        dict: The content of its ``deploy.json``.

    Raises:
        DeploymentError: The engine is missing or deviates, or the folder holds something else.
        CheckpointError, ConfigError, UnsupportedModelError, QuantizationError: The model cannot be deployed.
    """
    options = options or DeployOptions()
    if engine not in engine_names():
        load_config(config, options.cfg_options, classes=())  # its custom_imports may register the engine
    runner = engine_of(engine)
    runner.require()
    out = Path(out)
    _check_target(out)
    if options.shape is None and not options.dynamic:  # said now, not after loading and calibrating the model
        cfg = load_config(config, options.cfg_options, classes=())
        resize_and_pad(cfg)  # raises for what cannot be expressed
        _require_size(image_sizes(dataset_for_testing(cfg).pipeline))
    opened = None if checkpoint is None else Checkpoint.open(checkpoint, options.classes)
    if options.example_shape is not None and opened is not None:
        raise DeploymentError(
            f"--example-shape goes with 'random': the network of {opened.source} is captured with the shape that it "
            'was trained or calibrated with. Give it to QATHook (example_shape) or to tools/calibrate.py.'
        )
    if options.precision == 'int8' and opened is not None and opened.quantized:
        runner.check_preset(opened.scheme.name, opened.source)  # before the network is captured
    how = (options.precision, options.cfg_options, options.shape, runner.preset, options.weight_bits)
    description = deploy_model(load_for_deployment(config, opened, *how, options.example_shape), runner, out, options)
    warn_of_saturation(description)
    return description


def deploy_model(source: LoadedModel, engine: Engine, out: Path, options: DeployOptions) -> dict:
    """As :func:`deploy`, of a model that is loaded already; without a word of sums that may saturate on this CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', SaturationWarning)  # if they do, the verification says so
        return _deploy_model(source, engine, out, options)


def _deploy_model(source: LoadedModel, engine: Engine, out: Path, options: DeployOptions) -> dict:
    _check_engine(source, engine, options)
    if branched := branched_layers(source.model):
        print(BRANCHES.format(', '.join(branched)), flush=True)
    description = describe_model(source.model, source.cfg)
    settings = description['preprocessing']
    baked = None
    if options.bake:
        settings['baked'] = True
        baked = Normalization.of(settings)
    example, dynamic = _example(settings, source.image_sizes, options)
    if baked is not None and example.dtype != torch.uint8:
        print(PIXELS.format(value=settings['pad_value'], channels=len(baked.mean)), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f'.{out.name}.'))
    try:
        files = engine.write(source.network, example, folder, dynamic, baked)
        copy_device(folder, engine)
        description |= dict(format=format_of(settings)) | _facts(source, engine, folder, files, example, dynamic)
        _save(description, folder)
        paths = list(options.images) or source.test_paths(options.num_images)
        if channels_of(description) not in (1, 3):
            paths = []  # files have no other numbers of channels
        if options.check and not paths and not source.facts['random_weights']:
            print(f'{NOISE} {source.lacking}'.rstrip(), flush=True)
        images = verification_images(source, paths, description, example, dynamic)
        description |= _measure(source, engine, folder, [image.raw for image in images])
        if options.check:
            kind = 'images' if source.has_data or options.images else 'noise'

            def more() -> list[VerificationImage]:
                further = paths and source.test_paths(max(MORE_IMAGES, options.num_images))
                return verification_images(source, further, description, example, dynamic, MORE_IMAGES)

            given = (source, engine, folder, images, baked, kind)
            description['verification'], compared = verify_network(*given, None if options.images else more)
            size = None if dynamic else input_size(example)
            description['verification'] |= verify_surroundings(source, description, images, size)
            if not options.decode:
                description['files'] |= write_check(folder, description, images[0], compared)
        if options.decode:
            description |= append_decoding(source, description, engine, folder, images)
        _save(description, folder)
        _replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return description


def _check_engine(source: LoadedModel, engine: Engine, options: DeployOptions) -> None:
    """Refuse what an engine does not do, before anything is written for it."""
    engine.precision_options(source.precision)
    if source.settings is not None:
        engine.check_preset(source.preset, source.source)
    if options.decode and not engine.reads_onnx:
        raise DeploymentError(f'{engine.name} reads no ONNX, which decoding is written in: leave --with-decode out.')


def branched_layers(model: nn.Module) -> list[str]:
    """Which layers would be fewer when reparameterized, by the names that mmpretrain gives to that.

    Args:
        model (nn.Module): A model; MobileOne and RepVGG have such layers.

    Returns:
        list[str]: Their classes, without those that hold others of them.
    """
    layers = [m for m in model.modules() if hasattr(m, 'switch_to_deploy') and getattr(m, 'deploy', None) is False]
    inner = [layer for layer in layers if not any(other in layers for other in layer.modules() if other is not layer)]
    return sorted({type(layer).__name__ for layer in inner})


def copy_device(folder: str | os.PathLike, engine: Engine | None = None) -> None:
    """Copy what runs a deployment into its folder: ``predictor.py`` and the package that it loads.

    Args:
        folder (str | PathLike): The deployment.
        engine (Engine, optional): Its engine, whose own file is copied too if it is of another package.
    """
    package = Path(folder) / DEVICE_FOLDER
    for source in DEVICE.rglob('*.py'):
        target = package / source.relative_to(DEVICE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    shutil.copyfile(DEVICE / 'predictor.py', Path(folder) / 'predictor.py')
    if engine is not None and engine.device_file is not None:
        shutil.copyfile(engine.device_file, package / 'engines' / f'{engine.name}.py')


def _check_target(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DeploymentError(f'{out} is a file; expected the name of a folder.')
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise DeploymentError(f'{out} holds other files; expected an empty folder, a deployment, or none.')


def _replace(folder: Path, out: Path) -> None:
    """Put a finished folder in the place of what is there."""
    os.chmod(folder, 0o755)
    if out.is_dir():
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f'.{out.name}.old.'))
        os.replace(out, old / out.name)
        os.replace(folder, out)
        shutil.rmtree(old)
    else:
        os.replace(folder, out)


def _save(description: dict, folder: Path) -> None:
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1) + '\n')


def _require_size(sizes: ImageSizes) -> None:
    """Refuse a test pipeline that leaves the size of the images open."""
    if sizes.fixed is not None:
        return
    if sizes.cropped:
        height, width = sizes.most
        raise DeploymentError(
            f'The CenterCrop of the test pipeline leaves {width}x{height} (width x height) of an image, and less of a '
            f'smaller one. Give --shape {height} {width}, with which smaller ones are refused, or leave the size open '
            '(--dynamic).'
        )
    hint = ''
    if sizes.nominal is not None:
        height, width = sizes.nominal
        which = 'Square images' if height == width else f'Images of the same ratio as its scale, {width}x{height},'
        hint = f' {which} need --shape {height} {width}.'
    raise DeploymentError(
        'The test pipeline keeps the ratio of an image, so its size differs from image to image. Give the size of '
        f'all your images after resizing (--shape HEIGHT WIDTH), or leave it open (--dynamic).{hint}'
    )


def _example(settings: dict, sizes: ImageSizes, options: DeployOptions) -> tuple[Tensor, bool]:
    """Images of the shape that the network is written for, and whether the shape stays open."""
    if options.shape is None and not options.dynamic:
        _require_size(sizes)
    height, width = options.shape or sizes.fixed or sizes.nominal or (320, 320)
    divisor = settings['size_divisor']
    height, width = (-(-size // divisor) * divisor for size in (height, width))
    generator = torch.Generator().manual_seed(0)
    channels = len(settings['mean'])
    if options.bake:
        shape = (options.batch, height, width, channels)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        kind = torch.uint8 if padding_pixel(settings)[1] is np.uint8 else torch.float32
        return pixels.to(kind), options.dynamic
    return torch.randn((options.batch, channels, height, width), generator=generator), options.dynamic


def _facts(
    source: LoadedModel, engine: Engine, folder: Path, files: list[str], example: Tensor, dynamic: bool
) -> dict[str, object]:
    """What is known before the engine runs."""
    axes = (0, 1, 2) if pixels_last(example.shape) else (0, 2, 3)
    shape = [None if dynamic and axis in axes else size for axis, size in enumerate(example.shape)]
    return dict(
        engine=engine.name,
        precision=source.precision,
        network=files[0],
        files={name: sha256((folder / name).read_bytes()).hexdigest() for name in files},
        input=dict(name='images', shape=shape, dtype=str(example.dtype).removeprefix('torch.')),
        outputs=[dict(name=name) for name in source.network.names],
        numerics=source.numerics,
        requires={engine.name: engine.device.minimum} if engine.device.minimum else {},
        versions=_versions(),
        **(dict(not_run=NOT_RUN.format(engine.name, engine.stand_in)) if engine.stand_in else {}),
    )


def _versions() -> dict[str, str]:
    from ..version import __version__

    found = dict(frostnet_mm=__version__)
    engines = (engine_of(name).device.package for name in engine_names())
    for package in dict.fromkeys((*_PACKAGES, *engines)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # optional ones
            continue
    return found


def _measure(source: LoadedModel, engine: Engine, folder: Path, inputs: list[np.ndarray]) -> dict[str, object]:
    """What the network costs, and what the engine makes of it."""
    last = pixels_last(inputs[0].shape)
    height, width = inputs[0].shape[1:3] if last else inputs[0].shape[2:]
    channels = inputs[0].shape[3 if last else 1]
    macs = count_macs(source.float_network, torch.zeros(1, channels, height, width))
    layers: list[LayerTime] = engine.profile(folder, inputs[:1])
    model = dict(source.facts, macs=macs, macs_shape=[int(height), int(width)])
    onnx_model = read_onnx(folder)
    return dict(
        model=model,
        int8_share=source.int8_share,
        float_operators=source.float_operators,
        engine_int8_share=None if onnx_model is None or not layers else engine_int8_share(onnx_model, layers),
        operators=count_operators(layers),
    )
