"""All that a deployment is verified with, in one place: its network, what surrounds it, and decoding in it."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from ...device import DeploymentError, compare_outputs, open_network, read_deployment
from ..engines import Engine
from ..flat_network import Normalization, traceable
from ..heads.onnx_decoding import GEOMETRY, NAMES, OUTPUTS, image_size, passing_on, with_decoding
from ..loaded_model import LoadedModel
from ..onnx.export import read_onnx
from . import predictions, verify
from .images import VerificationImage, require_equal_inputs

FEW_POSITIONS = 1000  # of all images; the values of one position have their deviations in common


@torch.no_grad()
def verify_network(
    source: LoadedModel,
    engine: Engine,
    folder: Path,
    images: Sequence[VerificationImage],
    baked: Normalization | None,
    kind: str,
    more: Callable[[], Sequence[VerificationImage]] | None = None,
) -> tuple[dict, dict[str, list[np.ndarray]]]:
    """Run a deployment's network on images and compare its outputs, and each of its layers.

    An output of few values, such as that of a map of one position, is not judged by some images: where one deviates,
    it is compared on more.

    Args:
        source (LoadedModel): The model.
        engine (Engine): The engine.
        folder (Path): The deployment.
        images (Sequence[VerificationImage]): What to run it on.
        baked (Normalization, optional): The normalization that the network has in front.
        kind (str): What the images are, for ``deploy.json``: 'images' or 'noise'.
        more (Callable, optional): Gives more images. Default: there are none.

    Returns:
        tuple[dict, dict[str, list[ndarray]]]: What ``deploy.json`` says of it; and for the first image the outputs
        that are compared with on other machines (``write_check``).

    Raises:
        DeploymentError: It deviates beyond the bounds.
    """
    pixels = baked is not None and source.precision == 'float'  # its padding is rounded to half a grey level
    runs = [traceable(run, baked) if pixels else run for run in (source.network, source.float_network)]

    def outputs_for(images: Sequence[VerificationImage]) -> list[list[list[np.ndarray]]]:
        """By image, of the engine, of the reference and of the float network."""
        network = open_network(folder, read_deployment(folder))
        found = [network(image.raw) for image in images]
        network.close()
        inputs = [torch.from_numpy(image.raw if pixels else image.normalized) for image in images]
        return [found, *([[value.numpy() for value in run(each)] for each in inputs] for run in runs)]

    values = found, expected, in_float = outputs_for(images)
    outputs = compare_outputs(source.network.names, *values)
    again = [index for index, own in enumerate(outputs) if not own.passed]
    if again and more and all(_positions(expected, index) < FEW_POSITIONS for index in again):
        images = more()
        names = [source.network.names[index] for index in again]
        print(f'{", ".join(names)}: of few values, compared on {len(images)} images.')
        few = [[[image[index] for index in again] for image in run] for run in outputs_for(images)]
        for index, own in zip(again, compare_outputs(names, *few), strict=True):
            outputs[index] = own
    model = read_onnx(folder)
    layers = []
    if model is not None:
        layers = verify.check_layers(engine, model, traceable(source.network, baked), images[0].raw)
    print(verify.describe(outputs, layers))
    verify.require_agreement(outputs, layers, engine, source.weight_bits, source.preset)
    compared = dict(reference=expected[0], exact=in_float[0])
    if source.precision != 'float':
        compared['deployed'] = found[0]
    return verify.summarize(outputs, layers, len(images), kind), compared


def _positions(by_image: Sequence[Sequence[np.ndarray]], index: int) -> int:
    """Places of an output (N, C, ...) in all images."""
    return sum(image[index].size // max((1, *image[index].shape[1:2])) for image in by_image)


def verify_surroundings(
    source: LoadedModel, description: dict, images: Sequence[VerificationImage], size: tuple[int, int] | None
) -> dict[str, float | None]:
    """What surrounds the network against mm's own pipeline, on an image in several sizes.

    The inputs are compared by themselves; the boxes or label maps around the same network, as torch computes it, for
    the same inputs.

    Args:
        source (LoadedModel): The model.
        description (dict): Of the deployment.
        images (Sequence[VerificationImage]): Of which the first is taken.
        size (tuple[int, int], optional): Height and width of the network's input; None for any.

    Returns:
        dict[str, float | None]: For ``deploy.json``; empty where no decoding is known.

    Raises:
        DeploymentError: The inputs, the boxes or the label maps are others.
    """
    pixels = predictions.other_sizes(images[0].pixels)
    for image in pixels:
        require_equal_inputs(source, image, description, size)
    if description['decoding'] is None:
        return {}
    share = predictions.require_equal(
        predictions.predictor_of(predictions.torch_network(source), _of_torch(description)),
        predictions.mm_predictor(source, size),
        pixels,
        predictions.SHARE,
        'predictor.py',
        "mm's own pipeline",
    )
    return dict(predicted_share=share)


def _of_torch(description: dict) -> dict:
    """A description for the network as torch computes it: of one normalized image."""
    settings, shape = description['preprocessing'], description['input']['shape']
    shape = [1, len(settings['mean']), *(shape[1:3] if settings['baked'] else shape[2:])]
    return description | dict(
        input=dict(name='images', shape=shape, dtype='float32'), preprocessing=settings | dict(baked=False)
    )


def append_decoding(
    source: LoadedModel, description: dict, engine: Engine, folder: Path, images: Sequence[VerificationImage]
) -> dict:
    """Replace the network of a verified deployment by one that decodes, and compare the boxes.

    Decoding is compared by itself, for outputs without ties; and where the weights are trained, the whole network.

    Args:
        source (LoadedModel): The model.
        description (dict): Of the deployment.
        engine (Engine): The engine.
        folder (Path): The deployment; its files are replaced.
        images (Sequence[VerificationImage]): Of which the first is predicted, in several sizes.

    Returns:
        dict: The description's entries that become others.

    Raises:
        DeploymentError: The engine or the head has no such form, or finds other boxes.
    """
    decoding = description['decoding']
    if decoding is None:
        raise DeploymentError(f'{description["no_decoding"]}: leave --with-decode out.')
    size = image_size(description['preprocessing'], decoding) if decoding['kind'] in ('anchors', 'points') else None
    decoded = with_decoding((folder / 'network.onnx').read_bytes(), decoding, size)
    pixels = predictions.other_sizes(images[0].pixels)
    share = _verify_decoding(source, description, engine, size, pixels)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name in description['files']:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(scratch) / name)
        plain = open_network(scratch, description)
        files = engine.write_onnx(decoded, folder)
        digests = {name: sha256((folder / name).read_bytes()).hexdigest() for name in files}
        changed = _decoding_description(description, size) | dict(files=digests)
        network = open_network(folder, changed)
        if not source.facts['random_weights']:  # whose boxes may be endless and scores all 1
            predictions.require_equal(
                predictions.predictor_of(network, changed),
                predictions.predictor_of(plain, description),
                pixels,
                predictions.WHOLE_SHARE,
                f'{engine.name} with decoding',
                'NumPy',
            )
        for opened in (network, plain):
            opened.close()
    changed['verification'] = dict(description.get('verification', {}), decoded_share=share)
    return changed


def _decoding_description(description: dict, size: tuple[int, int] | None) -> dict:
    changed = description | dict(
        outputs=[dict(name=name) for name in NAMES],
        decoding=dict(kind='boxes', outputs=OUTPUTS, score_threshold=description['decoding']['score_threshold']),
    )
    return changed if size is not None else changed | dict(geometry_input=GEOMETRY)


def _verify_decoding(
    source: LoadedModel,
    description: dict,
    engine: Engine,
    size: tuple[int, int] | None,
    pixels: Sequence[np.ndarray],
) -> float:
    """What an engine decodes of outputs that torch has computed, against NumPy.

    Raises:
        DeploymentError: The boxes are others.
    """
    network = predictions.torch_network(source)
    shape = (1, len(description['preprocessing']['mean']), *_of_torch(description)['input']['shape'][2:])
    shapes = [output.shape for output in network(np.zeros(shape, np.float32))]
    names = [output['name'] for output in description['outputs']]
    content, inputs = passing_on(names, shapes)
    run = engine.device.open_onnx(with_decoding(content, description['decoding'], size), 1)

    def decoder(images: np.ndarray, *geometry: np.ndarray) -> list[np.ndarray]:
        found = run(dict(zip((*inputs, GEOMETRY), (*network(images), *geometry), strict=False)))
        return [np.array(value) for value in (found if isinstance(found, list) else map(found.__getitem__, NAMES))]

    own = _of_torch(description)
    return predictions.require_equal(
        predictions.predictor_of(decoder, _decoding_description(own, size)),
        predictions.predictor_of(network, own),
        pixels,
        predictions.DECODED_SHARE,
        f'{engine.name}, decoding,',
        'NumPy',
    )
