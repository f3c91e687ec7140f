"""From a config and a checkpoint to a folder that runs by itself on an engine."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..apis.inference import build_pipeline
from ..device import predictor
from ..device.predictor import (
    DESCRIPTION,
    FORMAT,
    DeploymentError,
    Detections,
    Geometry,
    compare_outputs,
    decode,
    open_network,
    read_deployment,
)
from ..files import write_text
from ..quantization.checkpoint import Checkpoint
from .cost import count_macs, engine_int8_share
from .engines.base import Engine, LayerTime, count_operators
from .flat_network import Normalization, traceable
from .heads.describe import describe_model
from .heads.onnx_decoding import NAMES, OUTPUTS, with_decoding
from .loaded_model import LoadedModel, load_for_deployment
from .verification import verify

ENGINE_CLASSES = {
    'onnxruntime': 'OnnxRuntimeEngine',
    'openvino': 'OpenVINOEngine',
    'executorch': 'ExecuTorchEngine',
    'inductor': 'InductorEngine',
}
_PACKAGES = ('torch', 'torchao', 'onnx', 'onnxruntime', 'openvino', 'executorch', 'numpy')
_NOISE_IMAGES = 4  # to verify with where there are no images: one alone says little of an output of few elements
DECODED_SHARE = 0.98  # ties between equal scores are decided in another order; the limit of candidates is another


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


def engine_of(name: str) -> Engine:
    """Look up an engine.

    Raises:
        DeploymentError: There is none of that name.
    """
    if name not in ENGINE_CLASSES:
        raise DeploymentError(f'The engine {name!r} is not known; expected one of {", ".join(ENGINE_CLASSES)}.')
    return getattr(import_module(f'.engines.{name}', __package__), ENGINE_CLASSES[name])()


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
        engine (str): 'onnxruntime', 'openvino', 'executorch' or 'inductor'.
        out (str | PathLike): The folder; one of an earlier deployment is replaced, once the new one is verified.
        options (DeployOptions, optional): How.

    Returns:
        dict: The content of its ``deploy.json``.

    Raises:
        DeploymentError: The engine is missing or deviates, or the folder holds something else.
        CheckpointError, ConfigError, UnsupportedModelError, QuantizationError: The model cannot be deployed.
    """
    options = options or DeployOptions()
    runner = engine_of(engine)
    runner.require()
    out = Path(out)
    _check_target(out)
    opened = None if checkpoint is None else Checkpoint.open(checkpoint)
    if opened is not None and options.precision == 'int8' and opened.quantized:
        _check_preset(opened.scheme.name, runner, opened.source)  # before the network is captured
    how = (options.precision, options.cfg_options, options.shape, runner.numerics, options.weight_bits)
    return deploy_model(load_for_deployment(config, opened, *how), runner, out, options)


def _check_preset(preset: str, engine: Engine, source: str) -> None:
    if engine.numerics == 'executorch' != preset:
        raise DeploymentError(
            f'{source} was quantized with numerics={preset!r} (unsigned activations), which ExecuTorch does '
            "not run; expected numerics='executorch'. Calibrate it: python tools/calibrate.py CONFIG CHECKPOINT "
            '--numerics executorch, or train with default_hooks.qat.numerics=executorch.'
        )


def deploy_model(source: LoadedModel, engine: Engine, out: Path, options: DeployOptions) -> dict:
    """As :func:`deploy`, of a model that is loaded already."""
    if source.preset is not None:
        _check_preset(source.preset, engine, source.source)
    description = describe_model(source.model, source.cfg)
    settings = description['preprocessing']
    baked = None
    if options.bake:
        settings['baked'] = True
        baked = Normalization(tuple(settings['mean']), tuple(settings['std']), settings['bgr_to_rgb'])
    example, dynamic = _example(settings, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f'.{out.name}.'))
    try:
        files = engine.write(source.network, example, folder, dynamic, baked)
        shutil.copyfile(Path(predictor.__file__), folder / 'predictor.py')
        description |= _facts(source, engine, folder, files, example, dynamic)
        _save(description, folder)
        pairs = _verification_images(source, options, example, dynamic)
        description |= _measure(source, engine, folder, [raw if baked else image for raw, image in pairs])
        if options.check:
            description['verification'], compared = _verify(source, engine, folder, pairs, baked, options)
            if not options.decode:
                description['files'] |= verify.write_check(folder, description, pairs[0], *compared)
        if options.decode:
            description |= _append_decoding(description, engine, folder, pairs, baked is not None)
        _save(description, folder)
        _replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return description


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


def _example(settings: dict, options: DeployOptions) -> tuple[Tensor, bool]:
    """Images of the shape that the network is written for, and whether the shape stays open."""
    resize, pad = settings['resize'], settings['pad']
    fixed = pad is not None or (resize is not None and not resize['keep_ratio'])
    if options.shape is None and not fixed and not options.dynamic:
        raise DeploymentError(
            'The test pipeline keeps the ratio of an image, so its size differs from image to image. Give the size of '
            'all your images after resizing (--shape HEIGHT WIDTH), or leave it open (--dynamic).'
        )
    place = pad or resize or dict(height=320, width=320)
    height, width = options.shape or (place['height'], place['width'])
    divisor = settings['size_divisor']
    height, width = (-(-size // divisor) * divisor for size in (height, width))
    generator = torch.Generator().manual_seed(0)
    if options.bake:
        shape = (options.batch, height, width, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), options.dynamic
    return torch.randn((options.batch, 3, height, width), generator=generator), options.dynamic


def _facts(
    source: LoadedModel, engine: Engine, folder: Path, files: list[str], example: Tensor, dynamic: bool
) -> dict[str, object]:
    """What is known before the engine runs."""
    axes = (0, 1, 2) if example.dtype == torch.uint8 else (0, 2, 3)
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
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    from ..version import __version__

    found = dict(frostnet_mm=__version__)
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # optional ones
            continue
    return found


def _measure(source: LoadedModel, engine: Engine, folder: Path, inputs: list[np.ndarray]) -> dict[str, object]:
    """What the network costs, and what the engine makes of it."""
    height, width = inputs[0].shape[1:3] if inputs[0].dtype == np.uint8 else inputs[0].shape[2:]
    macs = count_macs(source.float_network, torch.zeros(1, 3, height, width))
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


def _append_decoding(
    description: dict, engine: Engine, folder: Path, pairs: Sequence[tuple[np.ndarray, np.ndarray]], baked: bool
) -> dict:
    """Replace the network of a verified deployment by one that decodes, and compare the boxes.

    Raises:
        DeploymentError: The engine or the head has no such form, or finds other boxes.
    """
    height, width = pairs[0][1].shape[2:]
    geometry = Geometry((height, width), (height, width), (height, width), (1.0, 1.0))
    plain = open_network(folder, description)
    expected = [decode(plain(raw if baked else image), description, geometry) for raw, image in pairs]
    plain.close()
    if not (folder / 'network.onnx').is_file():
        raise DeploymentError(f'{engine.name} reads no ONNX, which decoding is written in: leave --with-decode out.')
    content = with_decoding((folder / 'network.onnx').read_bytes(), description['decoding'], (height, width))
    files = engine.write_onnx(content, folder)
    changed = description | dict(
        files={name: sha256((folder / name).read_bytes()).hexdigest() for name in files},
        outputs=[dict(name=name) for name in NAMES],
        decoding=dict(kind='boxes', outputs=OUTPUTS, score_threshold=description['decoding']['score_threshold']),
    )
    network = open_network(folder, changed)
    found = [decode(network(raw if baked else image), changed, geometry) for raw, image in pairs]
    network.close()
    shares = [_share_found(one, other) for one, other in zip(expected, found, strict=True)]
    if min(shares) < DECODED_SHARE:
        raise DeploymentError(
            f'{engine.name} decodes {min(shares):.1%} of the boxes that NumPy decodes of the same network, expected at '
            f'least {DECODED_SHARE:.0%}.'
        )
    changed['verification'] = dict(description.get('verification', {}), decoded_share=min(shares))
    return changed


def _share_found(expected: Detections, found: Detections) -> float:
    """The share of boxes that the other has too: same class, the same box within half a pixel, score within 0.001."""
    if not len(expected.boxes):
        return 1.0 if not len(found.boxes) else 0.0
    if not len(found.boxes):
        return 0.0
    near = np.abs(expected.boxes[:, None] - found.boxes[None]).max(2) < 0.5
    near &= expected.labels[:, None] == found.labels[None]
    near &= np.abs(expected.scores[:, None] - found.scores[None]) < 1e-3
    return float(near.any(1).sum()) / max(len(expected.boxes), len(found.boxes))


def _onnx_of(folder: Path):
    path = folder / 'network.onnx'
    if not path.is_file():
        return None
    import onnx

    return onnx.load(path)


def _verification_images(
    source: LoadedModel, options: DeployOptions, example: Tensor, dynamic: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a raw batch (N, H, W, 3) and the preprocessed one (N, 3, H, W)."""
    pairs = []
    size = example.shape[1:3] if example.dtype == torch.uint8 else example.shape[2:]
    paths = list(options.images) or source.test_paths(options.num_images)
    for path in paths:
        raw, image = preprocess_image(source.model, source.cfg, path)
        if not dynamic and tuple(image.shape[2:]) != tuple(size):
            raise DeploymentError(
                f'{path} has the size {tuple(image.shape[2:])} behind the test pipeline, but the network is written '
                f'for {tuple(size)}. Deploy with --dynamic, or verify with images of one size (--images).'
            )
        pairs.append((raw, image))
    if not pairs:
        generator = np.random.default_rng(0)
        for _ in range(_NOISE_IMAGES):
            raw = generator.integers(0, 256, (1, *size, 3), dtype=np.uint8)
            pairs.append((raw, normalize(source.model, [torch.from_numpy(raw[0]).permute(2, 0, 1)])))
    if not dynamic:
        pairs = [tuple(np.repeat(part, len(example), 0) for part in pair) for pair in pairs]
    return pairs


def normalize(model: nn.Module, inputs: list[Tensor]) -> np.ndarray:
    """The model's data preprocessor on images (3, H, W)."""
    data = dict(inputs=inputs, data_samples=[])
    return model.data_preprocessor(data, False)['inputs'].contiguous().numpy()


def preprocess_image(model: nn.Module, cfg: Config, path: str) -> tuple[np.ndarray, np.ndarray]:
    """An image file behind the test pipeline: raw (1, H, W, 3), and normalized (1, 3, H, W)."""
    data = pseudo_collate([build_pipeline(cfg)(dict(img_path=str(path), img_id=0))])
    image = model.data_preprocessor(data, False)['inputs'].contiguous().numpy()
    raw = data['inputs'][0].permute(1, 2, 0).numpy()
    if raw.shape[:2] != image.shape[2:]:  # padded to a divisor: by what the normalization maps to about 0
        settings = getattr(model.data_preprocessor, 'mean', torch.zeros(3)).flatten().tolist()
        mean = settings[::-1] if getattr(model.data_preprocessor, '_channel_conversion', False) else settings
        padded = np.empty((*image.shape[2:], 3), np.uint8)
        padded[:] = np.round(mean)
        padded[: raw.shape[0], : raw.shape[1]] = raw
        raw = padded
    return np.ascontiguousarray(raw[None]), image


@torch.no_grad()
def _verify(
    source: LoadedModel,
    engine: Engine,
    folder: Path,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
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
    found = [network(raw if baked else image) for raw, image in pairs]
    network.close()
    expected, exact = (
        [[value.numpy() for value in run(torch.from_numpy(image))] for _, image in pairs]
        for run in (source.network, source.float_network)
    )
    outputs = compare_outputs(source.network.names, found, expected, exact)
    model = _onnx_of(folder)
    layers = []
    if model is not None:
        module, images = traceable(source.network, baked), pairs[0][0 if baked else 1]
        layers = verify.check_layers(engine.name, model, module, images)
    print(verify.describe(outputs, layers))
    verify.require_agreement(outputs, layers, engine.name, source.weight_bits)
    kind = 'images' if source.has_data or options.images else 'noise'
    return verify.summarize(outputs, layers, len(pairs), kind), (expected[0], exact[0])
