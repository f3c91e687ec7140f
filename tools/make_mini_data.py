"""Write small generated data sets, so that everything can be tried without a download.

python tools/make_mini_data.py coco --out data/mini_coco --preview mini_coco.png
"""

import argparse
import json
import sys
from pathlib import Path

import _path  # noqa: F401
import cv2
import numpy as np

from frostnet_mm.data.mini_coco import generate_mini_coco

_TILE = 320  # pixels, side of one picture on the contact sheet
_COLUMNS = 6
_COLORS = (
    (60, 60, 255),
    (80, 220, 80),
    (255, 140, 60),
    (40, 220, 255),
    (255, 90, 220),
    (235, 235, 60),
)  # BGR, by category


def _draw_tile(image, annotations, categories):
    """Enlarge an image and draw its boxes; crowds get a white box.

    Args:
        image (np.ndarray): uint8 (H, W, 3), BGR.
        annotations (list[dict]): Its COCO annotations.
        categories (list[dict]): COCO's categories.

    Returns:
        np.ndarray: uint8 (_TILE, _TILE, 3).
    """
    scale = _TILE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    order = {c['id']: number for number, c in enumerate(categories)}
    for annotation in annotations:
        number = order[annotation['category_id']]
        color = (255, 255, 255) if annotation['iscrowd'] else _COLORS[number % len(_COLORS)]
        x, y, w, h = (np.array(annotation['bbox']) * scale).round().astype(int).tolist()
        cv2.rectangle(image, (x, y), (x + w, y + h), color, 1)
        text = categories[number]['name'] + (' crowd' if annotation['iscrowd'] else '')
        origin = (min(max(x, 0), _TILE - 40), y - 3 if y > 12 else y + h + 10)
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.35, color, 1, cv2.LINE_AA)
    tile = np.full((_TILE, _TILE, 3), 24, np.uint8)
    tile[: image.shape[0], : image.shape[1]] = image[:_TILE, :_TILE]
    return tile


def write_preview(root, path, number=30):
    """Contact sheet of the first training images with their boxes.

    Args:
        root (Path): Folder of a data set in COCO's layout.
        path (Path): PNG to write.
        number (int): Images on the sheet.
    """
    coco = json.loads((root / 'annotations' / 'instances_train2017.json').read_text())
    tiles = []
    for entry in coco['images'][:number]:
        image = cv2.imread(str(root / 'train2017' / entry['file_name']))
        own = [a for a in coco['annotations'] if a['image_id'] == entry['id']]
        tiles.append(_draw_tile(image, own, coco['categories']))
    tiles += [np.full_like(tiles[0], 24)] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode('.png', np.vstack(rows))
    if not done:
        raise RuntimeError('OpenCV could not encode the preview as PNG')
    path.write_bytes(data.tobytes())


def parse_args(argv=None):
    """Read the command line; `argv` as in `main`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest='kind', required=True)
    coco = kinds.add_parser('coco', help="detection, COCO's layout and json")
    coco.add_argument(
        '--out', type=Path, default=Path('data/mini_coco'), help='folder of the data set (default: %(default)s)'
    )
    coco.add_argument('--train', type=int, default=800, metavar='N', help='training images (default: %(default)s)')
    coco.add_argument('--val', type=int, default=200, metavar='N', help='validation images (default: %(default)s)')
    coco.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    coco.add_argument('--overwrite', action='store_true', help='replace a generated data set that has other parameters')
    coco.add_argument('--preview', type=Path, metavar='PNG', help='also write a contact sheet with the boxes drawn')
    args = parser.parse_args(argv)
    if args.train < 1 or args.val < 1 or args.seed < 0:
        coco.error(
            f'--train and --val must be at least 1 and --seed at least 0, got {args.train}, {args.val} and {args.seed}'
        )
    return args


def main(argv=None):
    """Run the command.

    Args:
        argv (list[str] | None): Arguments; those of the process if None.

    Returns:
        int | str: What `sys.exit` takes: 0, or the message of an error.
    """
    args = parse_args(argv)
    try:
        counts = generate_mini_coco(args.out, args.train, args.val, args.seed, args.overwrite)
        if args.preview:
            write_preview(args.out, args.preview)
    except KeyboardInterrupt:
        return 'make_mini_data.py: interrupted: the same command takes it up again'
    except (OSError, ValueError) as error:  # OSError: no permission, disk full, exists, is a file
        return f'make_mini_data.py: error: {error}'
    print(f'{args.out}: synthetic data, seed {args.seed}')
    for split, figures in counts.items():
        print(
            f'  {split}: {figures["images"]} images ({figures["empty"]} without objects), '
            f'{figures["objects"]} objects ({figures["small"]} small, {figures["medium"]} medium, '
            f'{figures["large"]} large), {figures["crowds"]} crowds'
        )
    if args.preview:
        print(f'  preview: {args.preview}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
