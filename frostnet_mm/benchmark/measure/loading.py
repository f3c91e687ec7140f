"""What a measuring process loads: a deployment, a plain ONNX file, or a model of mm in torch. Imports what it needs."""

import contextlib
import copy
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Stages = tuple[float, float, float]


@dataclass
class Loaded:
    """Something to measure.

    Args:
        call (Callable): Runs the network once.
        stages (Callable, optional): Runs image to result once; seconds of preprocessing, network and decoding.
        no_stages (str): Why there are none.
        figures (dict): What is known of the network: fields of :class:`cells.Result`.
    """

    call: Callable[[], object]
    stages: Callable[[], Stages] | None = None
    no_stages: str = ''
    figures: dict = field(default_factory=dict)


def import_engine(spec: dict) -> None:
    """Import the packages that a spec needs: they are no part of the network's memory."""
    if spec['kind'] == 'torch':
        import torch

        import frostnet_mm  # noqa: F401

        torch.set_num_threads(spec['threads'])
        return
    if spec['engine'] in ('onnxruntime', 'openvino'):
        importlib.import_module(spec['engine'])
    if spec['kind'] == 'deployment':
        predictor_of(Path(spec['folder']))
    if importlib.util.find_spec('cv2'):
        importlib.import_module('cv2').setNumThreads(spec['threads'])  # preprocessing keeps to the threads of the cell


def load(spec: dict) -> Loaded:
    """Load what a spec names.

    Args:
        spec (dict): ``kind`` ('onnx', 'deployment' or 'torch'), ``engine``, ``precision``, ``threads``, ``batch``,
            ``shape`` (height, width), and by kind ``path``; ``folder``; ``config`` and ``checkpoint``. ``image`` is a
            file for the end-to-end time.

    Raises:
        ValueError: The kind is unknown.
    """
    loaders = dict(onnx=_load_onnx, deployment=_load_deployment, torch=_load_torch)
    if spec['kind'] not in loaders:
        raise ValueError(f'kind={spec["kind"]!r} was given, expected one of {", ".join(loaders)}.')
    return loaders[spec['kind']](spec)


def onnx_session(source: str | bytes, engine: str, threads: int, precision: str = 'float') -> Callable[[dict], Any]:
    """An ONNX model on an engine as a function of its inputs by name.

    Args:
        source (str | bytes): File or content.
        engine (str): 'onnxruntime' or 'openvino'.
        threads (int): Of the engine.
        precision (str): 'bf16' lets OpenVINO compute in it. Default: 'float'.

    Raises:
        ValueError: Another engine.
    """
    if engine == 'onnxruntime':
        import onnxruntime

        from ...device.predictor import exact_session

        options = exact_session(onnxruntime.SessionOptions())
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])
        return lambda inputs: session.run(None, inputs)
    if engine == 'openvino':
        import openvino

        core = openvino.Core()
        model = core.read_model(source) if isinstance(source, str) else core.read_model(model=source)
        hint = 'bf16' if precision == 'bf16' else 'f32'
        options = dict(INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1, INFERENCE_PRECISION_HINT=hint)
        request = core.compile_model(model, 'CPU', options).create_infer_request()
        return lambda inputs: request.infer(inputs, share_inputs=True, share_outputs=True)
    raise ValueError(f'engine={engine!r} was given, expected onnxruntime or openvino for an ONNX file.')


def _load_onnx(spec: dict) -> Loaded:
    import onnx

    run = onnx_session(spec['path'], spec['engine'], spec['threads'], spec['precision'])
    generator = np.random.default_rng(0)
    inputs = {}
    for value in onnx.load(spec['path'], load_external_data=False).graph.input:
        dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        inputs[value.name] = generator.standard_normal([spec['batch'], *dims[1:]], np.float32)
    return Loaded(lambda: run(inputs), None, 'the file is a network alone')


def predictor_of(folder: Path) -> Any:
    """The predictor module that a deployment brings: what runs on a device, not what is installed."""
    name = 'deployed_predictor'
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, folder / 'predictor.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def deployment_input(description: dict, batch: int, shape: tuple[int, int]) -> np.ndarray:
    """Images such as a deployment's network reads them, of random values.

    Args:
        description (dict): ``deploy.json``.
        batch (int): For a dimension that is open.
        shape (tuple[int, int]): Height and width, likewise.

    Returns:
        np.ndarray: (N, 3, H, W) float32 or, with preprocessing baked in, (N, H, W, 3) uint8.
    """
    about = description['input']
    height, width = shape
    wanted = (batch, height, width, 3) if about['dtype'] == 'uint8' else (batch, 3, height, width)
    size = tuple(own or given for own, given in zip(about['shape'], wanted, strict=True))
    generator = np.random.default_rng(0)
    if about['dtype'] == 'uint8':
        return generator.integers(0, 256, size, np.uint8)
    return generator.standard_normal(size, np.float32)


def deployment_figures(description: dict, folder: Path) -> dict:
    """What a deployment says about its network: fields of :class:`cells.Result`."""
    from ...device.predictor import may_overflow

    model = description.get('model') or {}
    names = [name for name in description['files'] if not name.endswith('.npz')]  # what it is checked with
    if not description['network'].endswith('.onnx'):
        names = [name for name in names if not name.endswith('.onnx')]  # which OpenVINO's own files were made from
    share = description.get('engine_int8_share')
    return dict(
        params=model.get('params'),
        macs=model.get('macs'),
        random_weights=bool(model.get('random_weights')),
        may_overflow=may_overflow(description),
        int8_share=description.get('int8_share') if share is None else share,
        file_bytes=sum((folder / name).stat().st_size for name in names),
        operators=description.get('operators') or {},
    )


def _load_deployment(spec: dict) -> Loaded:
    folder = Path(spec['folder'])
    module = predictor_of(folder)
    description = module.read_deployment(folder)
    options = dict(precision_hint='bf16') if spec['precision'] == 'bf16' else {}
    network = module.open_network(folder, description, threads=spec['threads'], **options)
    images = deployment_input(description, spec['batch'], spec['shape'])
    loaded = Loaded(lambda: network(images), figures=deployment_figures(description, folder))
    if spec['batch'] != 1:
        loaded.no_stages = 'a predictor takes one image at a time'
    elif description.get('decoding') is None:
        loaded.no_stages = 'this head has no decoding outside mm'
    else:
        loaded.stages = _predictor_stages(module, network, description, spec['image'])
    return loaded


def _predictor_stages(module: Any, network: Callable, description: dict, path: str) -> Callable[[], Stages]:
    """The times of the three parts of ``Predictor.predict``."""
    image = module.read_image(path)

    def stages() -> Stages:
        started = time.perf_counter()
        images, geometry = module.preprocess(image, description)
        prepared = time.perf_counter()
        outputs = network(images)
        computed = time.perf_counter()
        module.decode(outputs, description, geometry, None)
        return prepared - started, computed - prepared, time.perf_counter() - computed

    return stages


class _Timed:
    """Stands in for a network and adds up the seconds spent in it."""

    def __init__(self, call: Callable) -> None:
        self.call = call
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = self.call(*args, **kwargs)
        self.seconds += time.perf_counter() - started
        return result


def _load_torch(spec: dict) -> Loaded:
    import torch

    from frostnet_mm.deploy.cost import count_macs
    from frostnet_mm.deploy.loaded_model import load_for_deployment
    from frostnet_mm.models.dense import DenseNetwork

    source = load_for_deployment(spec['config'], spec['checkpoint'], 'float', size=tuple(spec['shape']))
    model = source.model.to(memory_format=torch.channels_last)
    dense = DenseNetwork(model).eval()
    weights = sum(value.numel() * value.element_size() for value in dense.state_dict().values())
    figures = dict(params=source.facts['params'], macs=count_macs(dense, torch.zeros(1, 3, *spec['shape'])))
    figures |= dict(random_weights=spec['checkpoint'] is None, int8_share=0.0, file_bytes=weights)
    bf16 = spec['precision'] == 'bf16'

    def run(function: Callable, *args: Any) -> Any:
        with torch.autocast('cpu', torch.bfloat16) if bf16 else contextlib.nullcontext():
            return function(*args)

    images = torch.randn(spec['batch'], 3, *spec['shape'], generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            run(dense, images)

    if spec['batch'] != 1:
        return Loaded(call, None, 'measured with one image only', figures)
    return Loaded(call, _torch_stages(model, source.cfg, run, spec['image']), '', figures)


def _torch_stages(model: Any, cfg: Any, run: Callable, path: str) -> Callable[[], Stages]:
    """The time of mm's own test pipeline, network and decoding, from a decoded image on; ``run`` calls a function."""
    import torch
    from mmengine.dataset import pseudo_collate
    from torch.utils._pytree import tree_map

    from frostnet_mm.apis.inference import build_pipeline
    from frostnet_mm.models.dense import DenseNetwork, attached, detached

    first, *rest = build_pipeline(cfg).transforms
    image = first(dict(img_path=path, img_id=0))
    dense = DenseNetwork(model)

    def compute(images: Any) -> Any:
        with detached(model):
            return tree_map(lambda value: value.float(), run(dense, images))

    network = _Timed(compute)

    def stages() -> Stages:
        with attached(model, network):
            started = time.perf_counter()
            data = copy.deepcopy(image)
            for transform in rest:
                data = transform(data)
            with torch.inference_mode():
                batch = model.data_preprocessor(pseudo_collate([data]), False)
                images = batch['inputs'].contiguous(memory_format=torch.channels_last)
                prepared, network.seconds = time.perf_counter(), 0.0
                model.predict(images, batch['data_samples'])
            whole = time.perf_counter() - prepared
        return prepared - started, network.seconds, whole - network.seconds

    return stages
