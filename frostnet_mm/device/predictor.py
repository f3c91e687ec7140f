"""Runs a deployment: images in, boxes or label maps out, with nothing but NumPy, an engine and a decoder of images.

This file is copied into every deployment folder and runs there by itself::

    python predictor.py --check
    python predictor.py street.jpg --out found.png --json found.json

It needs numpy, the engine's package (onnxruntime, openvino, executorch or torch) and OpenCV or Pillow. With OpenCV the
network gets the pixels that the test pipeline gives it, bit by bit. Without it Pillow reads the files and NumPy resizes
them: a resized pixel differs by at most 1 of 255, a JPEG's decoder may add some more.
"""

import argparse
import hashlib
import importlib
import io
import json
import math
import os
import platform
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
DESCRIPTION = 'deploy.json'
CHECK = 'check.npz'  # an image, and for each output positions in it with the values of the reference and of float
CHECKED = ('positions', 'reference', 'exact')
# The engine's INT8 may be as far from float as the reference's INT8 is, give or take the noise of rounding: measured
# 0.74 to 1.13 of it for twelve outputs in two engines.
FACTOR, ALLOWANCE = 1.25, 0.25  # and a quarter of a step
FLOAT_BOUND = 1e-3  # of an output's range; float32 in another order of summation: measured below 1e-5
AGAIN = 'Deploy the model again (python tools/deploy.py), or copy the whole folder again.'
#: What is read of deploy.json, with its types; other keys inform people.
KEYS: dict[str, Any] = {
    'engine': str, 'network': str, 'files': dict, 'task': str, 'classes': list, 'palette': list,
    'input': ('name', 'shape', 'dtype'), 'outputs': list, 'decoding': (dict, type(None)),
    'preprocessing': ('resize', 'pad', 'size_divisor', 'bgr_to_rgb', 'mean', 'std', 'baked'),
}  # fmt: skip
_BOXES = (
    'levels', 'coder', 'scores', 'num_classes', 'outputs', 'score_threshold', 'nms_pre', 'iou_threshold',
    'max_per_image', 'min_size', 'class_agnostic', 'clip',
)  # fmt: skip
DECODINGS = {
    'anchors': _BOXES,
    'points': _BOXES,
    'logits': ('output', 'align_corners', 'num_classes'),
    'boxes': ('outputs',),
}
PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
OVERFLOW = (
    'This CPU has no VNNI: engines add INT8 products in 16 bits here, which overflow without a word where weights have '
    '8 bits. For such CPUs deploy the model with --weight-bits 7.'
)
#: Sigmoids of logits this far below the threshold's are below it, whatever the rounding.
MARGIN = 0.01
NMS_BLOCK = 256
CHECK_RUNS = 11  # of the network, to time it
#: onnxruntime's key for INT8 products that cannot overflow on x86 CPUs without VNNI.
EXACT_PRODUCTS = 'session.x64quantprecision'


try:
    from frostnet_mm.device.errors import DeploymentError, ImageError
except ImportError:
    DeploymentError = type('DeploymentError', (ValueError,), {})
    ImageError = type('ImageError', (ValueError,), {})


class OverflowWarning(UserWarning):
    """An engine that may compute nonsense on this CPU."""


@dataclass
class Detections:
    """Objects found in an image, by falling score.

    Args:
        boxes (np.ndarray): float32 of shape (K, 4): x1, y1, x2, y2 in pixels of the image given.
        scores (np.ndarray): float32 of shape (K,).
        labels (np.ndarray): int64 of shape (K,), indices of ``classes``.
        classes (Sequence[str]): The class names.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: Sequence[str] = ()

    def to_dict(self) -> dict:
        """The detections as plain data."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return dict(
            detections=[
                {'label': i, 'class': self.classes[i], 'score': round(s, 4), 'bbox': [round(v, 2) for v in box]}
                for i, s, box in rows
            ]
        )


@dataclass
class LabelMap:
    """The class of every pixel.

    Args:
        labels (np.ndarray): uint8 (uint16 for more than 256 classes) of shape (H, W) of the image given.
        classes (Sequence[str]): The class names.
    """

    labels: np.ndarray
    classes: Sequence[str] = ()

    def to_dict(self) -> dict:
        """The number of pixels of each class that occurs."""
        found = zip(*np.unique(self.labels, return_counts=True), strict=True)
        return dict(pixels={self.classes[int(i)]: int(count) for i, count in found})


class Geometry(NamedTuple):
    """Sizes (height, width) of an image on its way to the network, and the scales (x, y) of resizing."""

    original: tuple[int, int]
    image: tuple[int, int]  # resized and padded by the pipeline; boxes are clipped to it
    padded: tuple[int, int]  # that of the network's input
    scale: tuple[float, float]


# -- the folder


def read_deployment(folder: str | os.PathLike, verify: bool = True) -> dict:
    """Read and check the description of a deployment.

    Args:
        folder (str | PathLike): The deployment.
        verify (bool): Whether to compare the sha256 of its files. Default: True.

    Returns:
        dict: The content of deploy.json.

    Raises:
        DeploymentError: It is missing, damaged, of another format, or its files are not those that were deployed.
    """
    path = Path(folder) / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise DeploymentError(f'{folder} is no deployment: expected a file {DESCRIPTION} in it. {AGAIN}') from error
    except (OSError, ValueError) as error:
        raise DeploymentError(
            f'{path} cannot be read as JSON ({error}): it is truncated or foreign. {AGAIN}'
        ) from error
    if not isinstance(description, dict) or 'format' not in description:
        raise DeploymentError(f'{path} does not describe a deployment: expected an object with "format". {AGAIN}')
    if description['format'] != FORMAT:
        raise DeploymentError(
            f'{path} has format {description["format"]!r}, this predictor reads {FORMAT}: use the predictor.py of the '
            'deployment itself, or deploy the model again.'
        )
    _check_keys(description, path)
    _check_files(description, Path(folder), verify)
    return description


def _check_keys(description: dict, path: Path) -> None:
    for key, kind in KEYS.items():
        if key not in description:
            raise DeploymentError(f'{path} has no "{key}": it is truncated or foreign. {AGAIN}')
        value, nested = description[key], isinstance(kind[0], str) if isinstance(kind, tuple) else False
        if not isinstance(value, dict if nested else kind):
            raise DeploymentError(f'{path}: "{key}" is {value!r}, not of the type expected. {AGAIN}')
        for name in kind if nested else ():
            if name not in value:
                raise DeploymentError(f'{path}: "{key}" has no "{name}". {AGAIN}')
    for key, known in (('engine', tuple(ENGINES)), ('task', ('detection', 'segmentation'))):
        if description[key] not in known:
            raise DeploymentError(f'{path}: "{key}" is {description[key]!r}, expected one of {", ".join(known)}.')
    _check_decoding(description, path)


def _check_decoding(description: dict, path: Path) -> None:
    names = [output.get('name') if isinstance(output, dict) else None for output in description['outputs']]
    if not names or None in names:
        raise DeploymentError(f'{path}: "outputs" is {description["outputs"]!r}, expected names of outputs. {AGAIN}')
    decoding = description['decoding']
    if decoding is None:
        return
    if decoding.get('kind') not in DECODINGS:
        raise DeploymentError(
            f'{path}: "decoding" is of kind {decoding.get("kind")!r}, expected one of {", ".join(DECODINGS)}. {AGAIN}'
        )
    lacking = [key for key in DECODINGS[decoding['kind']] if key not in decoding]
    if lacking:
        raise DeploymentError(f'{path}: "decoding" has no {", ".join(lacking)}. {AGAIN}')
    read = [name for level in decoding.get('outputs', {}).values() for name in level]
    missing = [name for name in [*read, decoding.get('output')] if name is not None and name not in names]
    if missing:
        raise DeploymentError(f'{path}: "decoding" reads {missing}, the network has {names}. {AGAIN}')


def _check_files(description: dict, folder: Path, verify: bool) -> None:
    files = description['files']
    if description['network'] not in files:
        raise DeploymentError(f'{folder}: "files" lacks the network {description["network"]}. {AGAIN}')
    for name, expected in files.items():
        path = folder / name
        if Path(name).is_absolute() or '..' in Path(name).parts:
            raise DeploymentError(f'{folder}: the file {name} lies outside of the deployment. {AGAIN}')
        if not path.is_file():
            raise DeploymentError(f'{path} is missing, {DESCRIPTION} names it. {AGAIN}')
        if not verify:
            continue
        digest = hashlib.sha256()
        with path.open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != expected:
            raise DeploymentError(
                f'{path} is not the file that was deployed: its sha256 is {digest.hexdigest()}, {DESCRIPTION} says '
                f'{expected}. {AGAIN}'
            )


# -- engines


class Network:
    """A network that an engine runs; calls from several threads are safe.

    Args:
        description (dict): What :func:`read_deployment` returned.
        run (Callable): Takes the images, returns the outputs in the order of the description.
        handle: The engine's own object, for what an engine's user may want of it.
    """

    def __init__(self, description: dict, run: Callable[[np.ndarray], list[np.ndarray]], handle: Any) -> None:
        self.description = description
        self.handle = handle
        self._run = run

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Run the network.

        Args:
            images (np.ndarray): Of the shape and dtype that the description's ``input`` has.

        Returns:
            list[np.ndarray]: In the order of the description's ``outputs``; arrays of the caller's own.

        Raises:
            DeploymentError: The shape or the dtype is another one, or the network is closed.
        """
        run = self._run
        if run is None:
            raise DeploymentError('The network is closed: open it again with open_network().')
        shape, dtype = self.description['input']['shape'], self.description['input']['dtype']
        fits = len(images.shape) == len(shape) and all(e in (None, s) for s, e in zip(images.shape, shape, strict=True))
        if not fits or images.dtype != dtype:
            raise DeploymentError(
                f'The network was given {images.dtype} of shape {tuple(images.shape)}, it expects {dtype} of shape '
                f'{tuple("any" if size is None else size for size in shape)}.'
            )
        return run(np.ascontiguousarray(images))

    def close(self) -> None:
        """Let go of the engine; calls after it raise."""
        self._run = self.handle = None


def open_network(
    folder: str | os.PathLike, description: dict | None = None, threads: int | None = None, **engine_options
) -> Network:
    """Load the network of a deployment into its engine.

    Args:
        folder (str | PathLike): The deployment.
        description (dict, optional): What :func:`read_deployment` returned. Default: read and verify it.
        threads (int, optional): Threads of one run. Default: the engine's own choice.
        engine_options: onnxruntime: ``session_options`` (onnxruntime.SessionOptions), ``providers`` (list[str]).
            openvino: ``precision_hint`` ('f32' by default, or 'bf16', of what is not INT8), ``config`` (dict of
            properties). The others take none.

    Returns:
        Network: Ready to be called.

    Raises:
        DeploymentError: The engine is not installed, does not know an option, or cannot load the network.
    """
    description = read_deployment(folder) if description is None else description
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise DeploymentError(f'threads={threads!r}, expected None or a whole number from 1.')
    module, package, options, opener = ENGINES[description['engine']]
    unknown = sorted(set(engine_options) - set(options))
    if unknown:
        raise DeploymentError(f'{description["engine"]} has no option {unknown}, expected one of {list(options)}.')
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise DeploymentError(
            f'This deployment needs {description["engine"]}, which cannot be imported ({error}): pip install {package}'
        ) from error
    path = str(Path(folder) / description['network'])
    try:
        run, handle = opener(path, description, threads, **engine_options)
    except Exception as error:  # the engines' own classes, which have no base in common
        raise DeploymentError(f'{description["engine"]} cannot load {path}: {error}') from error
    return Network(description, run, handle)


def sums_overflow(cpuinfo: str | os.PathLike = '/proc/cpuinfo') -> bool | None:
    """Whether this CPU's INT8 sums may overflow: x86 without VNNI adds two products of u8 and s8 in 16 bits.

    Args:
        cpuinfo (str | PathLike): What Linux says about the CPU.

    Returns:
        bool | None: None where it is an x86 and the system does not tell.
    """
    if platform.machine().lower() not in ('x86_64', 'amd64', 'i386', 'i686', 'x86'):
        return False
    try:
        lines = Path(cpuinfo).read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return None
    flags = next((set(line.partition(':')[2].split()) for line in lines if line.startswith('flags')), None)
    if flags is None:
        return None
    return 'ssse3' in flags and not flags & {'avx512_vnni', 'avx_vnni'}


def weight_bits_of(description: dict) -> int | None:
    """Bits of a deployment's INT8 weights; None for one in float."""
    if description.get('precision') != 'int8':
        return None
    numerics = description.get('numerics')
    return numerics.get('weight_bits', 8) if isinstance(numerics, dict) else 8


def may_overflow(description: dict) -> bool:
    """Whether a deployment's INT8 sums may overflow on this CPU.

    onnxruntime is told to take others (:func:`exact_session`), and ExecuTorch's XNNPACK has 32 bits for every product.
    """
    fast = description['engine'] in ('openvino', 'inductor')
    return fast and weight_bits_of(description) == 8 and bool(sums_overflow())


def _warn_of_overflow(description: dict) -> None:
    if may_overflow(description):
        warnings.warn(
            f'Results of {description["engine"]} may be wrong. {OVERFLOW} Or deploy it to onnxruntime, which has exact '
            'sums for such CPUs.',
            OverflowWarning,
            stacklevel=4,
        )


def exact_session(settings: Any) -> Any:
    """Have onnxruntime take exact INT8 products on CPUs whose fast ones overflow.

    It then makes weights of more than 7 bits unsigned and multiplies in 16 bits. That is slower, also where nothing can
    overflow, so such CPUs are left alone. Where the system does not tell (Windows, macOS on Intel), being right comes
    first.

    Args:
        settings (onnxruntime.SessionOptions): Changed in place, unless they say themselves which products to take.

    Returns:
        onnxruntime.SessionOptions: The same.
    """
    if sums_overflow() is not False:
        try:
            settings.get_session_config_entry(EXACT_PRODUCTS)
        except RuntimeError:  # not set
            settings.add_session_config_entry(EXACT_PRODUCTS, '1')
    return settings


def _open_onnxruntime(path, description, threads, session_options=None, providers=('CPUExecutionProvider',)):
    import onnxruntime

    settings = exact_session(session_options or onnxruntime.SessionOptions())
    if threads is not None:
        settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=list(providers))
    names, name = [output['name'] for output in description['outputs']], description['input']['name']
    return lambda images: session.run(names, {name: images}), session


def _open_openvino(path, description, threads, precision_hint='f32', config=None):
    import openvino

    _warn_of_overflow(description)
    settings = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision_hint}
    if threads is not None:
        settings['INFERENCE_NUM_THREADS'] = threads
    compiled = openvino.Core().compile_model(path, 'CPU', settings | (config or {}))
    names = [output['name'] for output in description['outputs']]
    local = threading.local()  # an infer request belongs to one run at a time

    def run(images):
        if not hasattr(local, 'request'):
            local.request = compiled.create_infer_request()
        local.request.infer([images], share_inputs=True)
        return [np.array(local.request.get_tensor(name).data) for name in names]

    return run, compiled


def _open_executorch(path, description, threads):
    import executorch.kernels.quantized  # noqa: F401  registers the kernels, which the runtime must find at loading
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(path)
    method, lock = program.load_method('forward'), threading.Lock()

    def run(images):
        with lock:  # a method has one set of buffers, which the next run overwrites
            return [output.numpy().copy() for output in method.execute([torch.from_numpy(images)])]

    return run, (program, method)


def _open_inductor(path, description, threads):
    import torch

    _warn_of_overflow(description)
    if threads is not None:
        torch.set_num_threads(threads)
    model, lock = torch._inductor.aoti_load_package(path), threading.Lock()

    def run(images):
        with torch.no_grad(), lock:
            outputs = model(torch.from_numpy(images))
        return [output.numpy() for output in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]

    return run, model


#: Module to import, package to install, options, function that loads.
ENGINES: dict[str, tuple[str, str, tuple[str, ...], Callable]] = {
    'onnxruntime': ('onnxruntime', 'onnxruntime', ('session_options', 'providers'), _open_onnxruntime),
    'openvino': ('openvino', 'openvino', ('precision_hint', 'config'), _open_openvino),
    'executorch': ('executorch.runtime', 'executorch', (), _open_executorch),
    'inductor': ('torch._inductor', 'torch', (), _open_inductor),
}


# -- images


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file; EXIF orientation is applied, alpha dropped, 16 bit values keep their upper 8 bits.

    Args:
        path (str | PathLike): The file.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3), BGR.

    Raises:
        ImageError: It is missing, empty, truncated or no image.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot use the image '{path}': {error.strerror or error}") from error
    if not content:
        raise ImageError(f"cannot use the image '{path}': the file is empty (0 bytes)")
    cv2, pillow = _optional('cv2'), _optional('PIL.Image')
    if cv2 is None and pillow is None:
        raise ImageError('Reading images needs OpenCV or Pillow: pip install opencv-python-headless')
    image, reason = None, 'OpenCV cannot decode it'
    # OpenCV fills what a truncated file lacks with grey: Pillow, which refuses it, decides
    if cv2 is not None and not (_lacks_end(content) and (pillow is None or _with_pillow(content)[0] is None)):
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            reason = f'OpenCV says: {error}'
    if image is None and pillow is not None:
        image, reason = _with_pillow(content)
    if image is None:
        raise ImageError(f"cannot use the image '{path}': it is truncated, damaged or no image; {reason}")
    return as_bgr(image)


def _lacks_end(content: bytes) -> bool:
    if content.startswith(b'\xff\xd8'):
        return b'\xff\xd9' not in content[-1024:]
    return content.startswith(b'\x89PNG\r\n\x1a\n') and b'IEND\xaeB`\x82' not in content[-1024:]


def _with_pillow(content: bytes) -> tuple[np.ndarray | None, str]:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as source:
            image = ImageOps.exif_transpose(source)
            if image.mode.startswith('I;16'):  # Pillow would clip to 255 instead of scaling
                return np.asarray(image).astype(np.uint16), ''
            if image.mode in 'IF':
                return None, f'its mode {image.mode} has no known range, expected 8 or 16 bits a channel'
            return np.asarray(image.convert('RGB'))[..., ::-1], ''
    except (OSError, EOFError, IndexError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return None, f'Pillow says: {error}'  # what its decoders raise differs by format


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Bring an image array to uint8 BGR.

    Args:
        image (np.ndarray): uint8 or uint16 (of which the upper 8 bits are kept) of shape (H, W), (H, W, 1), (H, W, 3)
            as BGR, or (H, W, 4) as BGRA, of which alpha is dropped.

    Returns:
        np.ndarray: uint8 of shape (H, W, 3).

    Raises:
        ImageError: It is of another kind, or has no pixel.
    """
    kind, shape = getattr(image, 'dtype', type(image).__name__), getattr(image, 'shape', ())
    channels = shape[2] if len(shape) == 3 else 1
    if kind not in (np.uint8, np.uint16) or len(shape) not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ImageError(
            f'The image is {kind} of shape {shape}, expected uint8 or uint16 of shape (height, width), '
            '(height, width, 3) in BGR order or (height, width, 4), with at least one pixel.'
        )
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return np.repeat(image.reshape(*shape[:2], 1), 3, 2) if channels == 1 else np.ascontiguousarray(image[..., :3])


def _neighbours(given: int, wanted: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the wanted positions the two given ones, and the weight of the second; as torch computes them."""
    positions = np.arange(wanted, dtype=np.float32)
    if align_corners:
        source = positions * np.float32((given - 1) / (wanted - 1) if wanted > 1 else 0)
    else:
        source = np.maximum((positions + np.float32(0.5)) * np.float32(given / wanted) - np.float32(0.5), 0)
    first = np.minimum(source.astype(np.int64), given - 1)
    return first, np.minimum(first + 1, given - 1), np.clip(source - first.astype(np.float32), 0, 1)


def resize_plane(plane: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """Resize bilinearly, as ``torch.nn.functional.interpolate`` does without antialiasing.

    Args:
        plane (np.ndarray): float32 of shape (H, W).
        size (tuple[int, int]): The height and width wanted.
        align_corners (bool): Whether the centres of the corner pixels stay where they are. Default: False.

    Returns:
        np.ndarray: float32 of that size.
    """
    if plane.shape == tuple(size):
        return plane
    cv2 = None if align_corners else _optional('cv2')
    if cv2 is not None:
        return cv2.resize(np.ascontiguousarray(plane), size[::-1], interpolation=cv2.INTER_LINEAR)
    first, second, weight = _neighbours(plane.shape[1], size[1], align_corners)
    plane = plane[:, first] * (1 - weight) + plane[:, second] * weight
    first, second, weight = _neighbours(plane.shape[0], size[0], align_corners)
    return plane[first] * (1 - weight[:, None]) + plane[second] * weight[:, None]


def _resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    cv2 = _optional('cv2')
    if cv2 is not None:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    planes = [resize_plane(image[..., c].astype(np.float32), size) for c in range(3)]
    return np.rint(np.stack(planes, -1)).astype(np.uint8)


def resized(size: tuple[int, int], resize: dict | None) -> tuple[int, int]:
    """The size (height, width) that an image of a size is resized to; rounded as ``mmcv.rescale_size``."""
    height, width = size
    if resize is None:
        return height, width
    long, short = max(resize['width'], resize['height']), min(resize['width'], resize['height'])
    if not resize['keep_ratio']:
        return resize['height'], resize['width']
    scale = min(long / max(height, width), short / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def preprocess(image: np.ndarray, description: dict) -> tuple[np.ndarray, Geometry]:
    """What the test pipeline and the data preprocessor do: resize, pad, normalize.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3).
        description (dict): What :func:`read_deployment` returned.

    Returns:
        tuple[np.ndarray, Geometry]: The network's input, and the sizes for :func:`decode`. An image smaller than the
        network's fixed size is padded at the right and the bottom, as in a batch with a larger one.

    Raises:
        DeploymentError: The image comes out larger than the network's fixed size.
    """
    settings, original = description['preprocessing'], image.shape[:2]
    size = resized(original, settings['resize'])
    if 0 in size:
        raise ImageError(f'An image of {original[1]}x{original[0]} pixels (width x height) is resized to nothing.')
    scale = (size[1] / original[1], size[0] / original[0])
    image = image if size == original else _resize_image(image, size)
    if settings['pad'] is not None:
        padded = np.empty(
            (max(settings['pad']['height'], size[0]), max(settings['pad']['width'], size[1]), 3), np.uint8
        )
        padded[:] = settings['pad']['value']
        padded[: size[0], : size[1]] = image
        image, size = padded, padded.shape[:2]
    divisor, shape = settings['size_divisor'], description['input']['shape']
    whole = tuple(-(-side // divisor) * divisor for side in size)
    fixed = shape[1:3] if settings['baked'] else shape[2:4]
    final = tuple(side if limit is None else limit for side, limit in zip(whole, fixed, strict=True))
    if any(side > limit for side, limit in zip(whole, final, strict=True)):
        raise DeploymentError(
            f'An image of {original[1]}x{original[0]} pixels becomes {whole[1]}x{whole[0]} (width x height), the '
            f'network has the fixed size {final[1]}x{final[0]}: deploy the model with a shape that holds it, or for '
            'any shape (dynamic).'
        )
    return normalize_pixels(image, final, settings), Geometry(original, size, final, scale)


def normalize_pixels(image: np.ndarray, size: tuple[int, int], settings: dict) -> np.ndarray:
    """A network's input of a resized image.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3).
        size (tuple[int, int]): Height and width of the input, padded at the right and the bottom.
        settings (dict): The description's ``preprocessing``.

    Returns:
        np.ndarray: float32 of shape (1, 3, H, W), or with preprocessing baked in uint8 of shape (1, H, W, 3).
    """
    height, width = image.shape[:2]
    mean, std = (np.asarray(settings[key], np.float32) for key in ('mean', 'std'))
    if settings['baked']:  # the padding is to be 0 after normalization: the mean is, but for its rounding
        images = np.empty((1, *size, 3), np.uint8)
        images[:] = np.rint(mean[::-1] if settings['bgr_to_rgb'] else mean).clip(0, 255)
        images[0, :height, :width] = image
        return images
    images = np.full((1, 3, *size), settings.get('pad_value', 0), np.float32)
    for channel in range(3):
        plane = images[0, channel, :height, :width]
        source = image[..., 2 - channel if settings['bgr_to_rgb'] else channel]
        np.subtract(source, mean[channel], out=plane, dtype=np.float32)
        np.divide(plane, std[channel], out=plane)
    return images


# -- decoding


def _sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over='ignore'):  # exp(89) is infinite in float32, and its inverse 0
        return 1 / (1 + np.exp(-values))


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, limit: int | None = None) -> np.ndarray:
    """Greedy non-maximum suppression, as ``mmcv.ops.nms``; of equal scores the first comes first.

    INT8 networks give many equal scores. Which of them mm takes first depends on the CPU: its sorting is not stable.

    Args:
        boxes (np.ndarray): float32 of shape (N, 4): x1, y1, x2, y2.
        scores (np.ndarray): float32 of shape (N,).
        iou_threshold (float): A box that overlaps a better one by more is dropped.
        limit (int, optional): Stop at so many boxes. Default: all.

    Returns:
        np.ndarray: Indices of the boxes that are kept, by falling score.
    """
    order = np.argsort(-scores, kind='stable')
    boxes = boxes[order]
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), NMS_BLOCK):  # a whole matrix of overlaps would grow with the square
        block = np.arange(start, min(start + NMS_BLOCK, len(order)))
        if len(kept):
            block = block[~_overlap(boxes[block], boxes[kept], iou_threshold).any(1)]
        overlaps = _overlap(boxes[block], boxes[block], iou_threshold)
        alive = np.ones(len(block), bool)
        for index in np.flatnonzero(np.triu(overlaps, 1).any(1)):  # the others suppress none
            if alive[index]:
                alive[index + 1 :] &= ~overlaps[index, index + 1 :]
        kept = np.concatenate([kept, block[alive]])
        if limit is not None and len(kept) >= limit:
            break
    return order[kept[:limit]]


def _overlap(one: np.ndarray, other: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Whether the IoU of each of one's boxes with each of the other's exceeds a threshold, of shape (N, M)."""
    x1, y1, x2, y2 = one.T[:, :, None]
    u1, v1, u2, v2 = other.T[:, None]
    intersection = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0)
    intersection *= np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0)
    with np.errstate(invalid='ignore', divide='ignore'):  # boxes without area: 0 / 0 exceeds nothing
        return intersection / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection) > np.float32(iou_threshold)


class _Candidates(NamedTuple):
    scores: np.ndarray
    labels: np.ndarray
    anchors: np.ndarray  # index among the anchors of a position
    positions: np.ndarray  # y * width + x


def _confident(logits: np.ndarray, anchors: int, decoding: dict, threshold: float) -> _Candidates:
    """Pairs of prior and class above a threshold, the best ``nms_pre`` of a level (A * C, H, W), by falling score."""
    classes, area = decoding['num_classes'], logits.shape[1] * logits.shape[2]
    softmax, least = decoding['scores'] == 'softmax', np.float32(threshold)
    # most logits are far below: compare them to a bound before anything else is computed
    if threshold <= 0 or threshold >= 1:
        low = np.float32(-np.inf if threshold <= 0 else np.inf)
    else:  # a class's softmax is at most its exponential over that of the background, which comes last
        low = np.float32(math.log(threshold / (1 if softmax else 1 - threshold)) - MARGIN)
    if softmax:
        grid = logits.reshape(anchors, classes + 1, area)
        anchor, position = np.nonzero(grid[:, :-1].max(1) > grid[:, -1] + low)
        rows = grid[anchor, :, position]
        rows = np.exp(rows - rows.max(1, keepdims=True))
        values = rows[:, :-1] / rows.sum(1, keepdims=True)
        row, label = np.nonzero(values > least)
        scores, anchor, position = values[row, label], anchor[row], position[row]
    else:
        index = np.flatnonzero(logits.reshape(-1) > low)
        scores = _sigmoid(logits.reshape(-1)[index])
        index, scores = index[scores > least], scores[scores > least]
        channel, position = np.divmod(index, area)
        anchor, label = np.divmod(channel, classes)
    # the order of mmdet, where the class runs fastest, then the anchor; it decides between equal scores
    order = np.lexsort(((position * anchors + anchor) * classes + label, -scores))
    order = order[: min(decoding['nms_pre'], len(order))]
    return _Candidates(scores[order], label[order], anchor[order], position[order])


def _most_likely(logits: np.ndarray, objectness: np.ndarray, threshold: float) -> _Candidates:
    """YOLOX: the best class of each position, by its score times objectness."""
    sure = _sigmoid(objectness.reshape(-1))
    positions = np.flatnonzero(sure >= np.float32(threshold))
    values = _sigmoid(logits.reshape(len(logits), -1)[:, positions])
    scores = values.max(0) * sure[positions]
    good = scores >= np.float32(threshold)
    return _Candidates(scores[good], values.argmax(0)[good], np.zeros(good.sum(), np.int64), positions[good])


def _decode_boxes(values, found: _Candidates, width: int, level: dict, decoding: dict, size) -> np.ndarray:
    """Boxes (K, 4) in pixels of the network's input."""
    y, x = np.divmod(found.positions, width)
    coder, stride = decoding['coder'], np.asarray(level['stride'], np.float32)
    grid = np.stack([x, y], 1).astype(np.float32)
    if decoding['kind'] == 'anchors':
        priors = np.asarray(level['base_anchors'], np.float32)[found.anchors] + np.tile(grid * stride, 2)
        boxes = _decode_deltas(priors, values, coder)
    else:
        points = (grid + np.float32(level['offset'])) * stride
        if coder['type'] == 'distance':
            boxes = np.concatenate([points - values[:, :2], points + values[:, 2:]], 1)
        else:
            centre, half = values[:, :2] * stride + points, np.exp(values[:, 2:]) * stride / 2
            boxes = np.concatenate([centre - half, centre + half], 1)
    return np.clip(boxes, 0, np.asarray(size[::-1] * 2, np.float32)) if decoding['clip'] else boxes


def _decode_deltas(priors: np.ndarray, deltas: np.ndarray, coder: dict) -> np.ndarray:
    deltas = deltas * np.asarray(coder['stds'], np.float32) + np.asarray(coder['means'], np.float32)
    centre, size = (priors[:, :2] + priors[:, 2:]) * np.float32(0.5), priors[:, 2:] - priors[:, :2]
    shift, growth = size * deltas[:, :2], deltas[:, 2:]
    limit = np.float32(abs(math.log(coder['wh_ratio_clip'])))
    if coder['ctr_clamp'] is None:
        growth = np.clip(growth, -limit, limit)
    else:
        shift = np.clip(shift, -coder['ctr_clamp'], coder['ctr_clamp'])
        growth = np.minimum(growth, limit)
    centre, half = centre + shift, size * np.exp(growth) * np.float32(0.5)
    return np.concatenate([centre - half, centre + half], 1)


def _output(outputs: dict, name: str, channels: int) -> np.ndarray:
    """An output as a map (channels, H, W)."""
    value = outputs[name]
    if value.ndim != 4 or value.shape[:2] != (1, channels):
        raise DeploymentError(
            f'Output {name} has shape {value.shape}, expected (1, {channels}, height, width). {AGAIN}'
        )
    if np.isnan(value.max()):
        raise DeploymentError(f'Output {name} holds NaN: the network does not compute what was trained.')
    return np.asarray(value[0], np.float32)


def _decode_level(outputs: dict, index: int, decoding: dict, geometry: Geometry, threshold: float):
    """Boxes in pixels of the network's input, scores and labels of one level."""
    level, names = decoding['levels'][index], {kind: every[index] for kind, every in decoding['outputs'].items()}
    anchors = len(level.get('base_anchors', [0]))
    logits = _output(outputs, names['scores'], anchors * (decoding['num_classes'] + (decoding['scores'] == 'softmax')))
    if 'objectness' in names:
        found = _most_likely(logits, _output(outputs, names['objectness'], 1), threshold)
    else:
        found = _confident(logits, anchors, decoding, threshold)
    scores = found.scores
    if 'centerness' in names:
        factors = _output(outputs, names['centerness'], anchors).reshape(anchors, -1)
        scores = scores * _sigmoid(factors[found.anchors, found.positions])
    values = _output(outputs, names['boxes'], anchors * 4).reshape(anchors, 4, -1)[found.anchors, :, found.positions]
    return _decode_boxes(values, found, logits.shape[2], level, decoding, geometry.image), scores, found.labels


def _decode_detections(outputs: dict, decoding: dict, geometry: Geometry, score_threshold: float | None):
    threshold = decoding['score_threshold'] if score_threshold is None else score_threshold
    parts = [_decode_level(outputs, i, decoding, geometry, threshold) for i in range(len(decoding['levels']))]
    boxes, scores, labels = (np.concatenate(kind) for kind in zip(*parts, strict=True))
    if decoding['coder']['type'] == 'yolox':  # its head divides, the others multiply: the last bit differs
        boxes = boxes / np.tile(np.asarray(geometry.scale, np.float32), 2)
    else:
        boxes = boxes * np.tile(np.asarray([1 / s for s in geometry.scale], np.float32), 2)
    good = np.ones(len(boxes), bool)
    if decoding['min_size'] >= 0:
        good &= (boxes[:, 2:] - boxes[:, :2] > np.float32(decoding['min_size'])).all(1)
    if score_threshold is not None and 'centerness' in decoding['outputs']:  # mm compares before centerness
        good &= scores > np.float32(score_threshold)
    return _suppress(boxes[good], scores[good], labels[good], decoding)


def _suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, decoding: dict):
    if not len(boxes):
        return boxes.astype(np.float32), scores.astype(np.float32), labels
    apart = boxes
    if not decoding['class_agnostic']:  # shifts each class to where no other is, as mmcv.ops.batched_nms
        apart = boxes + (labels.astype(np.float32) * (boxes.max() + np.float32(1)))[:, None]
    most = decoding['max_per_image']
    kept = nms(apart, scores, decoding['iou_threshold'], most if most is not None and most > 0 else None)[:most]
    return boxes[kept], scores[kept], labels[kept]


def _decode_labels(outputs: dict, decoding: dict, geometry: Geometry, network_size: tuple[int, int]) -> np.ndarray:
    logits, classes = _output(outputs, decoding['output'], decoding['num_classes']), decoding['num_classes']
    labels = np.zeros(geometry.original, np.uint8 if classes <= 256 else np.uint16)
    for index, plane in enumerate(logits):  # one by one: all classes at the image's size may be gigabytes
        plane = resize_plane(plane, network_size, decoding['align_corners'])
        plane = plane[: geometry.image[0], : geometry.image[1]]
        plane = resize_plane(plane, geometry.original, decoding['align_corners'])
        if classes == 1:
            return (_sigmoid(plane) > np.float32(decoding['threshold'])).astype(np.uint8)
        if index == 0:
            best = plane.copy()
            continue
        better = plane > best
        np.copyto(labels, labels.dtype.type(index), where=better)
        np.copyto(best, plane, where=better)
    return labels


def _decoded(outputs: dict, geometry: Geometry, score_threshold: float | None):
    """What a network with decoding has found, in pixels of the original image."""
    boxes, scores, labels = (outputs[name] for name in ('boxes', 'scores', 'labels'))
    good = scores > np.float32(-np.inf if score_threshold is None else score_threshold)
    scale = np.tile(np.asarray([1 / s for s in geometry.scale], np.float32), 2)
    return boxes[good] * scale, scores[good], labels[good].astype(np.int64)


def decode(
    outputs: Sequence[np.ndarray], description: dict, geometry: Geometry, score_threshold: float | None = None
) -> Detections | LabelMap:
    """What the head does after the network: priors, boxes, suppression; or resizing and the best class.

    Args:
        outputs (Sequence[np.ndarray]): The network's outputs for one image.
        description (dict): What :func:`read_deployment` returned.
        geometry (Geometry): What :func:`preprocess` returned.
        score_threshold (float, optional): Replaces the description's.

    Returns:
        Detections | LabelMap: In pixels of the original image.

    Raises:
        DeploymentError: An output has another shape than the description says, or is not a number.
    """
    decoding, classes = description['decoding'], description['classes']
    names = [output['name'] for output in description['outputs']]
    by_name = dict(zip(names, outputs, strict=True))
    if decoding['kind'] == 'logits':
        return LabelMap(_decode_labels(by_name, decoding, geometry, geometry.padded), classes)
    if decoding['kind'] == 'boxes':
        return Detections(*_decoded(by_name, geometry, score_threshold), classes)
    return Detections(*_decode_detections(by_name, decoding, geometry, score_threshold), classes)


class Predictor:
    """Predicts images with a deployment; calls from several threads are safe.

    Args:
        folder (str | PathLike): The deployment.
        threads (int, optional): Threads of one run of the network. Default: the engine's own choice.
        score_threshold (float, optional): Detections of lower scores are left out. Default: the deployment's, which is
            that of the model's test_cfg.
        network (Callable, optional): What to run in place of the deployment's network.
        engine_options: As for :func:`open_network`.

    Raises:
        DeploymentError: The deployment cannot be used, or no decoding is known for its head.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        threads: int | None = None,
        score_threshold: float | None = None,
        network: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None,
        **engine_options,
    ) -> None:
        self.description = read_deployment(folder)
        if self.description['decoding'] is None:
            reason = self.description.get('no_decoding') or 'no decoding is known for its head'
            raise DeploymentError(
                f'{folder} cannot predict by itself: {reason}. Run its network with open_network() and decode the '
                'outputs with the model that it was made from.'
            )
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise DeploymentError(f'score_threshold={score_threshold!r}, expected None or a number from 0 to 1.')
        self.score_threshold = score_threshold
        self.network = network or open_network(folder, self.description, threads, **engine_options)

    def predict(self, image: str | os.PathLike | np.ndarray) -> Detections | LabelMap:
        """Predict an image.

        Args:
            image (str | PathLike | np.ndarray): A file, or an array as :func:`as_bgr` takes it.

        Returns:
            Detections | LabelMap: In pixels of the image.

        Raises:
            ImageError: The image cannot be used.
            DeploymentError: It does not fit the network.
        """
        image = read_image(image) if isinstance(image, (str, os.PathLike)) else as_bgr(image)
        images, geometry = preprocess(image, self.description)
        return decode(self.network(images), self.description, geometry, self.score_threshold)

    def draw(self, image: str | os.PathLike | np.ndarray, result: Detections | LabelMap) -> np.ndarray:
        """Draw a prediction on a copy of its image; uint8 BGR of shape (H, W, 3)."""
        image = read_image(image) if isinstance(image, (str, os.PathLike)) else as_bgr(image)
        colours = [_colour(i, self.description['palette']) for i in range(len(self.description['classes']))]
        if isinstance(result, LabelMap):
            return ((image.astype(np.uint16) + np.asarray(colours, np.uint8)[result.labels]) // 2).astype(np.uint8)
        return _draw_boxes(image, result, colours)


def _colour(label: int, palette: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """BGR of a class: of the palette (RGB), else as PASCAL VOC numbers its colours."""
    if label < len(palette):
        return tuple(int(value) for value in palette[label][::-1])
    return tuple(sum(((label + 1) >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3)) for c in (2, 1, 0))


def _draw_boxes(image: np.ndarray, result: Detections, colours: list[tuple[int, int, int]]) -> np.ndarray:
    cv2, thickness = _optional('cv2'), max(1, round(max(image.shape) / 500))
    rows = [
        (tuple(round(v) for v in box), colours[i], f'{result.classes[i]} {score:.2f}')
        for box, i, score in zip(result.boxes.tolist(), result.labels.tolist(), result.scores.tolist(), strict=True)
    ]
    if cv2 is not None:
        image, scale = np.array(image), max(image.shape) / 1200
        for (x1, y1, x2, y2), colour, text in rows[::-1]:  # the best on top
            cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)
            cv2.putText(image, text, (x1, max(y1 - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness)
        return image
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    pen = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), colour, text in rows[::-1]:
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour[::-1], width=thickness)
        pen.text((x1, max(y1 - 12, 0)), text, fill=colour[::-1])
    return np.asarray(picture)[..., ::-1]


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a BGR image; the suffix says in which format."""
    path, cv2 = Path(path), _optional('cv2')
    path.parent.mkdir(parents=True, exist_ok=True)
    if cv2 is None:
        from PIL import Image

        Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(path)
    else:
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


# -- the engine of this machine against what was deployed


@dataclass(frozen=True)
class OutputDifference:
    """How far an engine's output is from the reference. A step is 1/255 of the range of the output.

    Args:
        name (str): Name of the output.
        max_steps (float): Largest difference to the reference.
        differing (float): Share of the elements that are more than half a step away: another 8 bit value.
        rms_steps (float): Root mean square difference to the reference.
        engine_error (float): Root mean square difference of the engine to float, in steps.
        reference_error (float): Root mean square difference of the reference to float, in steps.
    """

    name: str
    max_steps: float
    differing: float
    rms_steps: float
    engine_error: float
    reference_error: float

    @property
    def passed(self) -> bool:
        """Whether the engine is as near to float as the reference is."""
        if not self.reference_error:  # the reference is float itself
            return self.max_steps <= 255 * FLOAT_BOUND
        return self.engine_error <= FACTOR * self.reference_error + ALLOWANCE


def compare_outputs(
    names: Sequence[str],
    engine: Sequence[Sequence[np.ndarray]],
    reference: Sequence[Sequence[np.ndarray]],
    exact: Sequence[Sequence[np.ndarray]],
) -> list[OutputDifference]:
    """Compare the outputs of an engine.

    Args:
        names (Sequence[str]): Names of the outputs.
        engine (Sequence[Sequence[ndarray]]): For each image the outputs.
        reference (Sequence[Sequence[ndarray]]): Those of the integer-exact reference, or of the float network for a
            float deployment.
        exact (Sequence[Sequence[ndarray]]): Those of the float network with the same weights.

    Returns:
        list[OutputDifference]: For each output, over all images.

    Raises:
        DeploymentError: An output has another shape, or is not finite.
    """
    results = []
    for index, name in enumerate(names):
        for found, expected in zip(engine, reference, strict=True):
            if found[index].shape != expected[index].shape:
                raise DeploymentError(
                    f'The engine puts out {name} of shape {found[index].shape}, expected {expected[index].shape}.'
                )
            if not np.isfinite(found[index]).all():
                raise DeploymentError(f"The engine's output {name} is not finite.")
        one, other, true = (
            np.concatenate([outputs[index].ravel() for outputs in outputs_by_image]).astype(np.float64)
            for outputs_by_image in (engine, reference, exact)
        )
        step = max((other.max() - other.min()) / 255, np.finfo(np.float32).tiny)
        difference = np.abs(one - other) / step
        results.append(
            OutputDifference(
                name,
                float(difference.max()),
                float((difference > 0.5).mean()),
                _rms(difference),
                _rms((one - true) / step),
                _rms((other - true) / step),
            )
        )
    return results


def describe_outputs(outputs: Sequence[OutputDifference]) -> str:
    """The comparison as a table."""
    width = max(len(output.name) for output in outputs)
    lines = [f'{"output":{width}s}  max steps  differing  rms steps  (to float: engine, reference)']
    for output in outputs:
        lines.append(
            f'{output.name:{width}s}  {output.max_steps:9.2f}  {output.differing:9.3%}  {output.rms_steps:9.3f}  '
            f'({output.engine_error:.3f}, {output.reference_error:.3f}){"" if output.passed else "  FAILED"}'
        )
    return '\n'.join(lines)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def check_values(outputs: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The values of outputs, flattened, at the positions that are compared on other machines."""
    return [value.ravel()[where] for value, where in zip(outputs, positions, strict=True)]


def check_deployment(
    folder: str | os.PathLike, network: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
) -> list[OutputDifference]:
    """Compare the engine of this machine with what was deployed, on an image that it was verified with.

    Args:
        folder (str | PathLike): The deployment.
        network (Callable, optional): What to run in place of :func:`open_network`'s.

    Returns:
        list[OutputDifference]: For each output, by some thousand of its values.

    Raises:
        DeploymentError: The deployment cannot be used, holds nothing to compare with, or its engine cannot run it.
    """
    description = read_deployment(folder)
    if CHECK not in description['files']:
        raise DeploymentError(
            f'{folder} has no {CHECK} to compare with: it was deployed without verification (--no-verify), with its '
            'decoding in the network (--with-decode), or by an older version. Deploy it again without these.'
        )
    names, path = [output['name'] for output in description['outputs']], Path(folder) / CHECK
    try:
        with np.load(path, allow_pickle=False) as stored:
            images = stored['images']
            positions, reference, exact = ([stored[f'{kind}_{i}'] for i in range(len(names))] for kind in CHECKED)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DeploymentError(f'{path} cannot be read ({error}). {AGAIN}') from error
    if images.dtype != description['input']['dtype']:  # pixels of a network that reads normalized ones
        settings = description['preprocessing']
        images = np.concatenate([normalize_pixels(image, image.shape[:2], settings) for image in images])
    outputs = (network or open_network(folder, description))(images)
    for name, value, where in zip(names, outputs, positions, strict=True):
        if where.max() >= value.size:
            raise DeploymentError(
                f'The engine puts out {name} of shape {value.shape}, {CHECK} has more values. {AGAIN}'
            )
    return compare_outputs(names, [check_values(outputs, positions)], [reference], [exact])


# -- command line


def _targets(images: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where the picture of each image goes."""
    if out is None:
        return [None] * len(images)
    if out.suffix.lower() in PICTURES and not out.is_dir():
        if len(images) > 1:
            raise DeploymentError(f'--out {out} is one picture for {len(images)} images: give a folder.')
        return [out]
    targets = [out / f'{image.name}.png' for image in images]
    twice = sorted({target.name for target in targets if targets.count(target) > 1})
    if twice:
        raise DeploymentError(f'Several images would be drawn to {", ".join(twice)} of {out}: give them one by one.')
    return targets


def _check(folder: Path, threads: int | None) -> None:
    """Compare and print.

    Raises:
        DeploymentError: The engine computes something else here.
    """
    network, times = open_network(folder, threads=threads), []

    def timed(images: np.ndarray) -> list[np.ndarray]:
        for _ in range(CHECK_RUNS):
            start = time.perf_counter()
            outputs = network(images)
            times.append(1000 * (time.perf_counter() - start))
        return outputs

    outputs = check_deployment(folder, timed)
    print(describe_outputs(outputs))
    engine, wrong = network.description['engine'], [output.name for output in outputs if not output.passed]
    if wrong:
        cause = f' {OVERFLOW}' if may_overflow(network.description) else ''
        raise DeploymentError(
            f'{engine} does not compute on this machine what was deployed: {len(wrong)} of {len(outputs)} outputs '
            f'deviate, the first is {wrong[0]}.{cause}'
        )
    print(
        f'{engine} computes on this machine what was deployed; the network takes '
        f'{sorted(times)[len(times) // 2]:.1f} ms.'
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict image files; returns the exit status."""
    parser = argparse.ArgumentParser(description='Predict images with the deployment of this folder.')
    parser.add_argument('images', nargs='*', type=Path, metavar='IMAGE')
    parser.add_argument(
        '--check', action='store_true', help='compare with what was deployed: does the engine compute it here, too?'
    )
    parser.add_argument('--out', type=Path, help='picture, or folder of pictures, with what was found')
    parser.add_argument('--json', type=Path, metavar='FILE', help='what was found, as data')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a detection (default 0.3)')
    parser.add_argument('--threads', type=int, help="threads of one run (default: the engine's choice)")
    parser.add_argument('--folder', type=Path, default=Path(__file__).resolve().parent, help='another deployment')
    args = parser.parse_args(arguments)
    if not args.images and not args.check:
        parser.error('expected images, or --check')
    entries = []
    try:
        if args.check:
            _check(args.folder, args.threads)
        if not args.images:
            return 0
        targets = _targets(args.images, args.out)
        predictor = Predictor(args.folder, args.threads, args.score_thr)
        for path, target in zip(args.images, targets, strict=True):
            image = read_image(path)
            start = time.perf_counter()
            result = predictor.predict(image)
            seconds = time.perf_counter() - start
            found = dict(image=str(path), height=image.shape[0], width=image.shape[1]) | result.to_dict()
            entries.append(found)
            count = f'{len(found["detections"])} detections' if 'detections' in found else f'{found["pixels"]}'
            print(f'{path}: {count} ({1000 * seconds:.1f} ms)')
            if target is not None:
                write_image(target, predictor.draw(image, result))
    except (DeploymentError, ImageError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(entries, indent=1) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
