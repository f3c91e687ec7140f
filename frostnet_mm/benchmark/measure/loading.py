"""What a measuring process loads: a deployment, a plain ONNX file, or a model of mm in torch. Imports what it needs."""

import contextlib
import copy
import hashlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...device import engines, may_saturate
from ...device.engines.base import DeviceEngine

Stages = tuple[float, float, float]


@dataclass
class Loaded:
    """Something to measure.

    Args:
        call (Callable): Runs the network once.
        batch (int): Images of a call.
        stages (Callable, optional): Runs image to result once; seconds of preprocessing, network and decoding.
        no_stages (str): Why there are none.
        results (dict): What is known of the network: fields of :class:`cells.Result`.
    """

    call: Callable[[], object]
    batch: int
    stages: Callable[[], Stages] | None = None
    no_stages: str = ''
    results: dict = field(default_factory=dict)


def import_engine(spec: dict) -> None:
    """Import the packages that a spec needs: they are no part of the network's memory."""
    if spec['kind'] == 'torch':
        import torch

        importlib.import_module('frostnet_mm.deploy.loaded_model')
        torch.set_num_threads(spec['threads'])
        return
    if spec['kind'] == 'deployment':
        predictor = predictor_of(spec)
        engine = predictor.read_deployment(spec['folder'], verify=False)['engine']
        if hasattr(predictor, 'engines'):
            predictor.engines.find(engine).require()
        else:  # an earlier deployment's
            importlib.import_module(predictor.ENGINES[engine][0])
    else:
        engines.find(spec['engine']).require()
    if spec.get('image') and importlib.util.find_spec('cv2'):
        importlib.import_module('cv2').setNumThreads(spec['threads'])  # preprocessing keeps to the threads of the cell


def register_engine(name: str, file: str) -> None:
    """Make an engine of another package known to this process.

    Args:
        name (str): Its name.
        file (str): Its file, as it is copied into deployments: it defines ``ENGINE``.
    """
    engines.register(_module(f'{engines.__name__}.{name}', Path(file)).ENGINE)


def _module(name: str, file: Path) -> Any:
    """The module of a file, imported once under a name."""
    if name not in sys.modules:
        about = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = module = importlib.util.module_from_spec(about)
        try:
            about.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def load(spec: dict) -> Loaded:
    """Load what a spec names.

    Args:
        spec (dict): ``kind`` ('onnx', 'deployment' or 'torch'), ``precision``, ``threads``, ``batch``, ``shape``
            (height, width; None where the deployment's is fixed), and by kind ``path`` and ``engine``; ``folder``;
            ``config`` and ``checkpoint``. ``image`` is a file for the end-to-end time, None without. With ``installed``
            a deployment is run by the installed package, else by the predictor that lies in its folder.

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
        engine (str): Name of an engine that reads ONNX.
        threads (int): Of the engine.
        precision (str): 'bf16' lets an engine that can compute in it. Default: 'float'.

    Raises:
        ValueError: An engine that reads none.
    """
    run = engines.find(engine).open_onnx(source, threads, precision)
    if run is None:
        from ...deploy.engines import running_engines

        kinds = {name: type(engines.find(name)) for name in running_engines()}
        readers = [name for name, kind in kinds.items() if kind.open_onnx is not DeviceEngine.open_onnx]
        raise ValueError(f'engine={engine!r} was given, expected {" or ".join(readers)} for an ONNX file.')
    return run


def _load_onnx(spec: dict) -> Loaded:
    import onnx

    run = onnx_session(spec['path'], spec['engine'], spec['threads'], spec['precision'])
    generator = np.random.default_rng(0)
    inputs = {}
    for value in onnx.load(spec['path'], load_external_data=False).graph.input:
        dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        inputs[value.name] = generator.standard_normal([spec['batch'], *dims[1:]], np.float32)
    return Loaded(lambda: run(inputs), spec['batch'], None, 'the file is a network alone')


def predictor_of(spec: dict) -> Any:
    """The module that runs a deployment: the one that it brings, as on a device, or with ``installed`` our own."""
    if spec.get('installed'):
        return importlib.import_module('frostnet_mm.device.predictor')
    file = Path(spec['folder']).resolve() / 'predictor.py'
    return _module(f'deployed_predictor_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}', file)


def deployment_input(description: dict, batch: int, shape: tuple[int, int] | None) -> np.ndarray:
    """Images such as a deployment's network reads them, of random values.

    Args:
        description (dict): ``deploy.json``.
        batch (int): For a dimension that is open.
        shape (tuple[int, int], optional): Height and width, likewise.

    Returns:
        np.ndarray: (N, 3, H, W) float32 or, with preprocessing baked in, (N, H, W, 3) uint8.

    Raises:
        ValueError: They are open, and none are given.
    """
    about = description['input']
    height, width = shape or (None, None)
    baked = description['preprocessing']['baked'] if 'preprocessing' in description else about['dtype'] == 'uint8'
    wanted = (batch, height, width, 3) if baked else (batch, 3, height, width)
    size = tuple(own or given for own, given in zip(about['shape'], wanted, strict=True))
    if None in size:
        raise ValueError(
            f'The deployment takes images of any size, {about["shape"]}: expected a shape (height, width) for them.'
        )
    generator = np.random.default_rng(0)
    if about['dtype'] == 'uint8':
        return generator.integers(0, 256, size, np.uint8)
    return generator.standard_normal(size, np.float32)


def deployment_results(description: dict, folder: Path, saturates: Callable[[dict], bool] | None = None) -> dict:
    """What a deployment says about its network: fields of :class:`cells.Result`.

    Args:
        description (dict): ``deploy.json``.
        folder (Path): The deployment.
        saturates (Callable, optional): Whether INT8 products may saturate here. Default: as the installed package says.
    """
    model = description.get('model') or {}
    names = [name for name in description['files'] if not name.endswith('.npz')]  # what it is checked with
    if not description['network'].endswith('.onnx'):
        names = [name for name in names if not name.endswith('.onnx')]  # which OpenVINO's own files were made from
    share = description.get('engine_int8_share')
    return dict(
        params=model.get('params'),
        macs=model.get('macs'),
        random_weights=bool(model.get('random_weights')),
        may_saturate=(saturates or may_saturate)(description),
        int8_share=description.get('int8_share') if share is None else share,
        file_bytes=sum((folder / name).stat().st_size for name in names),
        operators=description.get('operators') or {},
    )


def _load_deployment(spec: dict) -> Loaded:
    folder = Path(spec['folder'])
    module = predictor_of(spec)
    description = module.read_deployment(folder)
    options = {}
    if spec['precision'] == 'bf16':
        earlier = dict(precision_hint='bf16')  # of predictors that do not tell
        known = getattr(module, 'engines', None)
        options = known.find(description['engine']).precision_options('bf16') if known else earlier
    network = module.open_network(folder, description, threads=spec['threads'], **options)
    images = deployment_input(description, spec['batch'], spec['shape'])
    saturates = getattr(module, 'may_saturate', None) or module.may_overflow  # its name in earlier deployments
    loaded = Loaded(lambda: network(images), len(images), results=deployment_results(description, folder, saturates))
    if spec['image'] is None:
        loaded.no_stages = 'no image was given'
    elif spec['batch'] != 1:
        loaded.no_stages = 'a predictor takes one image at a time'
    elif description.get('decoding') is None:
        loaded.no_stages = 'this head has no decoding outside mm'
    else:
        image = module.read_image(spec['image'])
        try:
            module.preprocess(image, description)
        except module.DeploymentError as error:
            loaded.no_stages = str(error)
        else:
            loaded.stages = _predictor_stages(module, network, description, image)
    return loaded


def _predictor_stages(module: Any, network: Callable, description: dict, image: np.ndarray) -> Callable[[], Stages]:
    """The times of the three parts of ``Predictor.predict``."""

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
    results = dict(params=source.facts['params'], macs=count_macs(dense, torch.zeros(1, 3, *spec['shape'])))
    results |= dict(random_weights=spec['checkpoint'] is None, int8_share=0.0, file_bytes=weights)
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
        return Loaded(call, spec['batch'], None, 'measured with one image only', results)
    return Loaded(call, spec['batch'], _torch_stages(model, source.cfg, run, spec['image']), '', results)


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
                model(images, batch['data_samples'], mode='predict')
            whole = time.perf_counter() - prepared
        return prepared - started, network.seconds, whole - network.seconds

    return stages
