"""From an image to what is in it."""

import os
from collections.abc import Callable, Sequence

import numpy as np

from .decoding import decode
from .description import read_deployment
from .drawing import draw
from .errors import DeploymentError
from .image_files import as_bgr, read_image
from .images import channels_of, preprocess, with_channels
from .network import open_network
from .resizing import require_method
from .results import ClassScores, Detections, LabelMap, geometry_values


class Predictor:
    """Predicts images with a deployment; calls from several threads are safe.

    Args:
        folder (str | PathLike): The deployment.
        threads (int, optional): Threads of one run of the network. Default: the engine's own choice.
        score_threshold (float, optional): Detections of lower scores are left out. Default: the deployment's, which is
            that of the model's test_cfg.
        network (Callable, optional): What to run in place of the deployment's network.
        engine_options: As for :func:`~.network.open_network`.

    Raises:
        DeploymentError: The deployment cannot be used, no decoding is known for its head, or images are resized by a
            library that is not installed.
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
        require_method(self.description['preprocessing']['resize'])
        self.score_threshold = score_threshold
        self.network = network or open_network(folder, self.description, threads, **engine_options)

    @property
    def ignore_orientation(self) -> bool:
        """Whether images are taken as they are stored, without EXIF orientation, as the model was trained."""
        return self.description['preprocessing'].get('ignore_orientation', False)

    def predict(self, image: str | os.PathLike | np.ndarray) -> Detections | LabelMap | ClassScores:
        """Predict an image.

        Args:
            image (str | PathLike | np.ndarray): A file, or an array as :func:`~.image_files.as_bgr` takes it.

        Returns:
            Detections | LabelMap | ClassScores: In pixels of the image.

        Raises:
            ImageError: The image cannot be used.
            DeploymentError: It does not fit the network.
        """
        return self.predict_all([image])[0]

    def predict_all(
        self, images: Sequence[str | os.PathLike | np.ndarray]
    ) -> list[Detections | LabelMap | ClassScores]:
        """Predict several images, in batches as large as those that the network was written for.

        A batch that is not full is filled with copies of its last image.

        Args:
            images (Sequence[str | PathLike | np.ndarray]): Each as for :meth:`predict`.

        Returns:
            list[Detections | LabelMap | ClassScores]: One for each image, in pixels of it.

        Raises:
            ImageError: An image cannot be used.
            DeploymentError: It does not fit the network.
        """
        batch, results = self.description['input']['shape'][0] or 1, []
        for start in range(0, len(images), batch):
            read = [with_channels(self._read(image), self._channels) for image in images[start : start + batch]]
            inputs = [preprocess(image, self.description) for image in read]
            arrays = [array for array, _ in inputs]
            arrays += [arrays[-1]] * (batch - len(arrays))
            values = [np.concatenate(arrays) if batch > 1 else arrays[0]]
            if 'geometry_input' in self.description:  # a network that decodes is one for a single image
                values.append(geometry_values(inputs[0][1]))
            outputs = self.network(*values)
            for index, (_, geometry) in enumerate(inputs):
                own = [value[index : index + 1] for value in outputs] if batch > 1 else outputs
                results.append(decode(own, self.description, geometry, self.score_threshold))
        return results

    @property
    def _channels(self) -> int:
        return channels_of(self.description)

    def _read(self, image: str | os.PathLike | np.ndarray) -> np.ndarray:
        if not isinstance(image, (str, os.PathLike)):
            return image if self._channels not in (1, 3) else as_bgr(image)
        return read_image(image, self.ignore_orientation)

    def draw(self, image: str | os.PathLike | np.ndarray, result: Detections | LabelMap | ClassScores) -> np.ndarray:
        """Draw a prediction on a copy of its image; uint8 BGR of shape (H, W, 3)."""
        image = as_bgr(self._read(image))
        return draw(image, result, len(self.description['classes']), self.description['palette'])
