"""Run a trained detector, segmenter or classifier on images and write pictures and results.json.

python tools/infer.py CONFIG CHECKPOINT photo.jpg --out results
python tools/infer.py CONFIG CHECKPOINT photos --out results      # a folder with its sub-folders
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import add_classes, add_config_options, add_execution_options, add_weight_bits, run_tool
from frostnet_mm.errors import UserError
from frostnet_mm.files import require_checkpoint, require_config, write_text

if TYPE_CHECKING:
    from mmengine.dataset import Compose
    from torch import nn

SAVE_EVERY = 30  # seconds


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run a trained detector, segmenter or classifier on images.')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument(
        'images', nargs='+', help='images, folders that are searched with their sub-folders, or patterns'
    )
    parser.add_argument('--out', required=True, help='folder for the pictures and results.json')
    parser.add_argument('--score-thr', type=float, default=0.3, help='detections below are left out; default 0.3')
    parser.add_argument('--device', help='torch device; default cuda if there is one, else cpu')
    add_execution_options(parser)
    add_weight_bits(parser)
    add_classes(parser)
    add_config_options(parser)
    return parser.parse_args()


class Results:
    """``results.json``, written at the start, now and then, and at the end whatever happens.

    Args:
        folder (Path): Where it goes.
        **head: What it begins with.
    """

    def __init__(self, folder: Path, **head) -> None:
        from frostnet_mm.device.image_search import RESULTS

        self.path = folder / RESULTS
        self.images: dict[str, dict] = {}
        self.failed: dict[str, str] = {}
        self._head = head
        self.save()

    def save(self) -> None:
        """Write what there is so far, atomically.

        Raises:
            UserError: It cannot be written; what an earlier call wrote is still there.
        """
        self._saved = time.monotonic()
        content = json.dumps(dict(self._head, images=self.images, failed=self.failed), indent=1)
        try:
            write_text(self.path, content)
        except OSError as error:
            raise UserError(f'The results cannot be written to {self.path}: {error.strerror or error}.') from error

    def save_now_and_then(self) -> None:
        """Write if that is long ago."""
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def __enter__(self) -> 'Results':
        return self

    def __exit__(self, *error: object) -> None:
        self.save()


def infer_one(
    model: 'nn.Module', pipeline: 'Compose', path: Path, score_thr: float, out: Path, entry: dict, names: dict
) -> None:
    """Predict an image into its entry of the results, and write its picture, and the mask of a segmenter.

    Args:
        model (nn.Module): A model of ``load_model``.
        pipeline (Compose): The pipeline of ``build_pipeline``.
        path (Path): The image.
        score_thr (float): Detections below are left out.
        out (Path): The folder of the results.
        entry (dict): What is found is added here, with the names of the files that were written.
        names (dict): ``picture`` and ``mask``, paths below ``out``.

    Raises:
        UserError: It cannot be read, or not be drawn; the entry has what was found until then.
    """
    from frostnet_mm.apis.inference import describe, draw, plain_result, predict_shown
    from frostnet_mm.device.pictures import write_image
    from frostnet_mm.device.results import LabelMap

    sample, image = predict_shown(model, pipeline, path)
    classes = model.dataset_meta['classes']
    entry |= describe(sample, classes, score_thr)
    result = plain_result(sample, classes, score_thr)
    if isinstance(result, LabelMap):
        write_image(out / names['mask'], result.labels)
        entry['mask'] = str(names['mask'])
    write_image(out / names['picture'], draw(sample, image, model.dataset_meta, score_thr))
    entry['picture'] = str(names['picture'])


def main() -> int:
    args = parse_args()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # file names need not be text in the terminal's encoding
            stream.reconfigure(errors='backslashreplace')
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    from frostnet_mm.device.image_search import find_images, holds_results
    from frostnet_mm.device.pictures import refuse_replacing, result_names

    out = Path(args.out)
    found = find_images(args.images, out)
    pictures, masks = result_names(found.names)
    refuse_replacing([out / name for name in (*pictures.values(), *masks.values())], found.images, holds_results(out))
    for note in found.notes:
        print(note)
    from tqdm import tqdm

    from frostnet_mm.apis.inference import build_pipeline
    from frostnet_mm.apis.model import load_model
    from frostnet_mm.quantization.checkpoint import Checkpoint

    how = (args.execution, args.weight_bits)
    checkpoint = Checkpoint.open(args.checkpoint, args.classes)
    model, cfg = load_model(args.config, checkpoint, args.device, args.cfg_options, *how)
    pipeline = build_pipeline(cfg)
    head = dict(config=args.config, checkpoint=args.checkpoint, score_thr=args.score_thr)
    with Results(out, **head) as results:
        for path, name in zip(tqdm(found.images, unit='image', disable=None), found.names, strict=True):
            entry, names = {}, dict(picture=pictures[name], mask=masks[name])
            try:
                infer_one(model, pipeline, path, args.score_thr, out, entry, names)
            except UserError as error:
                results.failed[name] = str(error)
            if entry:
                results.images[name] = entry
            results.save_now_and_then()
    print(f'{len(results.images)} of {len(found.images)} images done: {results.path}')
    for name, reason in results.failed.items():
        print(f'  failed: {name}: {reason}')
    return 1 if results.failed else 0


if __name__ == '__main__':
    run_tool(main)
