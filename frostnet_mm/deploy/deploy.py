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
from torch import Tensor

from .. import device
from ..device import (
    DESCRIPTION,
    FORMAT,
    DeploymentError,
    SaturationWarning,
    channels_of,
    compare_outputs,
    open_network,
    padding_pixel,
    read_deployment,
    warn_of_saturation,
)
from ..engine.config import load_config
from ..files import write_text
from ..quantization.checkpoint import Checkpoint
from .cost import count_macs, engine_int8_share
from .engines import Engine, LayerTime, count_operators, engine_names, engine_of
from .flat_network import Normalization, pixels_last, traceable
from .heads.describe import describe_model, resize_and_pad
from .heads.onnx_decoding import GEOMETRY, NAMES, OUTPUTS, image_size, with_decoding
from .loaded_model import LoadedModel, load_for_deployment
from .verification import predictions, verify
from .verification.images import VerificationImage, input_size, verification_images

DEVICE = Path(device.__file__).parent
DEVICE_FOLDER = 'frostnet_device'  # in a deployment; predictor.py knows the name
_PACKAGES = ('torch', 'torchao', 'onnx', 'numpy')  # and those of the engines
NOISE = (
    'WARNING: verification on random noise, not on images, which says little of the ranges that photographs fill: no '
    'test images of the config were found. Give some with --images FILE..., or say where the data are with '
    '--cfg-options data_root=PATH.'
)
PIXELS = (
    'Padding is {value:g} in normalized units, which is no pixel from 0 to 255: the network takes its pixels as '
    'float32 (N, H, W, {channels}), not as uint8.'
)


@dataclass
class DeployOptions:
    """How a model is deployed.

    Args:
        precision (str): 'int8' or 'float'. Default: 'int8'.
        shape (tuple[int, int], optional): Height and width of the images; by default those of the test pipeline.
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
        _require_size(*resize_and_pad(load_config(config, options.cfg_options, classes=()))[:2])
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
    description = describe_model(source.model, source.cfg)
    settings = description['preprocessing']
    baked = None
    if options.bake:
        settings['baked'] = True
        baked = Normalization(tuple(settings['mean']), tuple(settings['std']), settings['bgr_to_rgb'])
    example, dynamic = _example(settings, options)
    if baked is not None and example.dtype != torch.uint8:
        print(PIXELS.format(value=settings['pad_value'], channels=len(baked.mean)), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f'.{out.name}.'))
    try:
        files = engine.write(source.network, example, folder, dynamic, baked)
        copy_device(folder, engine)
        description |= _facts(source, engine, folder, files, example, dynamic)
        _save(description, folder)
        paths = list(options.images) or source.test_paths(options.num_images)
        if channels_of(description) not in (1, 3):
            paths = []  # files have no other numbers of channels
        if options.check and not paths and not source.facts['random_weights']:
            print(f'{NOISE} {source.lacking}'.rstrip(), flush=True)
        images = verification_images(source, paths, description, example, dynamic)
        description |= _measure(source, engine, folder, [image.raw for image in images])
        if options.check:
            description['verification'], compared = _verify(source, engine, folder, images, baked, options)
            size = None if dynamic else input_size(example)
            description['verification'] |= _compare_with_mm(source, description, images, baked, size)
            if not options.decode:
                description['files'] |= verify.write_check(folder, description, images[0], *compared)
        if options.decode:
            description |= _append_decoding(description, engine, folder, images)
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


def _require_size(resize: dict | None, pad: dict | None) -> None:
    """Refuse a test pipeline that leaves the size of the images open."""
    if pad is not None or (resize is not None and not resize['keep_ratio']):
        return
    hint = ''
    if resize is not None:
        height, width = resize['height'], resize['width']
        hint = f' Images of the same ratio as its scale, {width}x{height}, need --shape {height} {width}.'
    raise DeploymentError(
        'The test pipeline keeps the ratio of an image, so its size differs from image to image. Give the size of '
        f'all your images after resizing (--shape HEIGHT WIDTH), or leave it open (--dynamic).{hint}'
    )


def _example(settings: dict, options: DeployOptions) -> tuple[Tensor, bool]:
    """Images of the shape that the network is written for, and whether the shape stays open."""
    resize, pad = settings['resize'], settings['pad']
    if options.shape is None and not options.dynamic:
        _require_size(resize, pad)
    place = pad or resize or dict(height=320, width=320)
    height, width = options.shape or (place['height'], place['width'])
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
        format=FORMAT,
        engine=engine.name,
        precision=source.precision,
        network=files[0],
        files={name: sha256((folder / name).read_bytes()).hexdigest() for name in files},
        input=dict(name='images', shape=shape, dtype=str(example.dtype).removeprefix('torch.')),
        outputs=[dict(name=name) for name in source.network.names],
        numerics=source.numerics,
        requires={engine.name: engine.device.minimum} if engine.device.minimum else {},
        versions=_versions(),
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
    onnx_model = _onnx_of(folder)
    return dict(
        model=model,
        int8_share=source.int8_share,
        float_operators=source.float_operators,
        engine_int8_share=None if onnx_model is None or not layers else engine_int8_share(onnx_model, layers),
        operators=count_operators(layers),
    )


def _compare_with_mm(
    source: LoadedModel,
    description: dict,
    images: Sequence[VerificationImage],
    baked: Normalization | None,
    size: tuple[int, int] | None,
) -> dict[str, float]:
    """What surrounds the network, against mm's own pipeline, on an image in several sizes; the network is torch's.

    Raises:
        DeploymentError: The boxes or label maps are others.
    """
    if description['decoding'] is None:
        return {}
    alone = description | dict(input=description['input'] | dict(shape=[1, *description['input']['shape'][1:]]))
    share = predictions.require_equal(
        predictions.predictor_of(predictions.reference_of(source.network, baked), alone),
        predictions.mm_predictor(source, size),
        predictions.other_sizes(images[0].pixels),
        predictions.SHARE,
        'predictor.py',
        "mm's own pipeline",
    )
    return dict(predicted_share=share)


def _append_decoding(description: dict, engine: Engine, folder: Path, images: Sequence[VerificationImage]) -> dict:
    """Replace the network of a verified deployment by one that decodes, and compare the boxes.

    Raises:
        DeploymentError: The engine or the head has no such form, or finds other boxes.
    """
    if description['decoding'] is None:
        raise DeploymentError(f'{description["no_decoding"]}: leave --with-decode out.')
    pixels = predictions.other_sizes(images[0].pixels)
    content = (folder / 'network.onnx').read_bytes()
    if description['decoding']['kind'] in ('anchors', 'points'):
        size = image_size(description['preprocessing'], description['decoding'])
    else:
        size = None
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name in description['files']:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(scratch) / name)
        plain = open_network(scratch, description)
        files = engine.write_onnx(with_decoding(content, description['decoding'], size), folder)
        changed = description | dict(
            files={name: sha256((folder / name).read_bytes()).hexdigest() for name in files},
            outputs=[dict(name=name) for name in NAMES],
            decoding=dict(kind='boxes', outputs=OUTPUTS, score_threshold=description['decoding']['score_threshold']),
        )
        if size is None:
            changed['geometry_input'] = GEOMETRY
        network = open_network(folder, changed)
        share = predictions.require_equal(
            predictions.predictor_of(network, changed),
            predictions.predictor_of(plain, description),
            pixels,
            predictions.DECODED_SHARE,
            f'{engine.name} with decoding',
            'NumPy',
        )
        for opened in (network, plain):
            opened.close()
    changed['verification'] = dict(description.get('verification', {}), decoded_share=share)
    return changed


def _onnx_of(folder: Path):
    path = folder / 'network.onnx'
    if not path.is_file():
        return None
    import onnx

    return onnx.load(path)


@torch.no_grad()
def _verify(
    source: LoadedModel,
    engine: Engine,
    folder: Path,
    images: Sequence[VerificationImage],
    baked: Normalization | None,
    options: DeployOptions,
) -> tuple[dict, tuple[list[np.ndarray], list[np.ndarray]]]:
    """Run the deployment on the images and compare.

    Returns:
        tuple[dict, tuple[list[ndarray], list[ndarray]]]: What ``deploy.json`` says of it; and for the first image the
        outputs of the reference and of the float network.

    Raises:
        DeploymentError: It deviates beyond the bounds.
    """
    network = open_network(folder, read_deployment(folder))
    found = [network(image.raw) for image in images]
    network.close()
    pixels = baked is not None and source.precision == 'float'  # its padding is rounded to half a grey level
    runs = [traceable(run, baked) if pixels else run for run in (source.network, source.float_network)]
    inputs = [torch.from_numpy(image.raw if pixels else image.normalized) for image in images]
    expected, in_float = ([[value.numpy() for value in run(each)] for each in inputs] for run in runs)
    outputs = compare_outputs(source.network.names, found, expected, in_float)
    model = _onnx_of(folder)
    layers = []
    if model is not None:
        layers = verify.check_layers(engine, model, traceable(source.network, baked), images[0].raw)
    print(verify.describe(outputs, layers))
    verify.require_agreement(outputs, layers, engine.name, source.weight_bits)
    kind = 'images' if source.has_data or options.images else 'noise'
    return verify.summarize(outputs, layers, len(images), kind), (expected[0], in_float[0])
