"""Write small generated data sets, so that everything can be tried without a download.

python tools/make_mini_data.py coco --out data/mini_coco --preview mini_coco.png
python tools/make_mini_data.py cityscapes --out data/mini_cityscapes --preview mini_cityscapes.png
"""

import argparse
import json
import sys
from pathlib import Path

import _path  # noqa: F401
import cv2
import numpy as np

from frostnet_mm.data.cityscapes import COLOR_SUFFIX, IMAGE_SUFFIX, NUM_CLASSES, label_path
from frostnet_mm.data.generated.mini_cityscapes import DEFAULT_SIZE, generate_mini_cityscapes
from frostnet_mm.data.generated.mini_coco import generate_mini_coco

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
    _write_png(path, np.vstack(rows))


def write_street_preview(root, path, number=12):
    """Contact sheet of the first training images, each beside its labels in Cityscapes' colours.

    Args:
        root (Path): Folder of a data set in Cityscapes' layout.
        path (Path): PNG to write.
        number (int): Images on the sheet.
    """
    images = sorted((root / 'leftImg8bit' / 'train').rglob(f'*{IMAGE_SUFFIX}'))[:number]
    pairs = [
        np.hstack([cv2.imread(str(file)), cv2.imread(str(label_path(root, file, COLOR_SUFFIX)))]) for file in images
    ]
    pairs += [np.full_like(pairs[0], 24)] * (-len(pairs) % 2)
    _write_png(path, np.vstack([np.hstack(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]))


def _write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode('.png', image)
    if not done:
        raise RuntimeError('OpenCV could not encode the preview as PNG')
    path.write_bytes(data.tobytes())


def write_coco(args):
    """Write the detection data as told, and say what it holds."""
    counts = generate_mini_coco(args.out, args.train, args.val, args.seed, args.overwrite)
    if args.preview:
        write_preview(args.out, args.preview)
    for split, count in counts.items():
        yield (
            f'{split}: {count["images"]} images ({count["empty"]} without objects), '
            f'{count["objects"]} objects ({count["small"]} small, {count["medium"]} medium, '
            f'{count["large"]} large), {count["crowds"]} crowds'
        )


def write_cityscapes(args):
    """Write the segmentation data as told, and say what it holds."""
    counts = generate_mini_cityscapes(args.out, args.train, args.val, args.seed, tuple(args.size), args.overwrite)
    if args.preview:
        write_street_preview(args.out, args.preview)
    for split, count in counts.items():
        occurring = [name for name, pixels in count['pixels'].items() if pixels and name != 'void']
        void = count['pixels']['void'] / sum(count['pixels'].values())
        yield (
            f'{split}: {count["images"]} images, {len(occurring)} of {NUM_CLASSES} classes, {void:.1%} of pixels void'
        )


def parse_args(argv=None):
    """Read the command line; `argv` as in `main`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest='kind', required=True)
    coco = kinds.add_parser('coco', help="detection, COCO's layout and json")
    _add_options(coco, Path('data/mini_coco'), train=800, val=200)
    coco.set_defaults(write=write_coco)
    streets = kinds.add_parser('cityscapes', help="semantic segmentation, Cityscapes' layout and label ids")
    _add_options(streets, Path('data/mini_cityscapes'), train=300, val=60)
    streets.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=DEFAULT_SIZE,
        metavar=('HEIGHT', 'WIDTH'),
        help=f'of the images in pixels (default: {DEFAULT_SIZE[0]} {DEFAULT_SIZE[1]})',
    )
    streets.set_defaults(write=write_cityscapes)
    args = parser.parse_args(argv)
    if args.train < 1 or args.val < 1 or args.seed < 0:
        kinds.choices[args.kind].error(
            f'--train and --val must be at least 1 and --seed at least 0, got {args.train}, {args.val} and {args.seed}'
        )
    return args


def _add_options(parser, out, train, val):
    """Add the options that all kinds of data have."""
    parser.add_argument('--out', type=Path, default=out, help='folder of the data set (default: %(default)s)')
    parser.add_argument('--train', type=int, default=train, metavar='N', help='training images (default: %(default)s)')
    parser.add_argument('--val', type=int, default=val, metavar='N', help='validation images (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a generated data set that has other parameters'
    )
    parser.add_argument(
        '--preview', type=Path, metavar='PNG', help='also write a contact sheet with the annotations drawn'
    )


def main(argv=None):
    """Run the command.

    Args:
        argv (list[str] | None): Arguments; those of the process if None.

    Returns:
        int | str: What `sys.exit` takes: 0, or the message of an error.
    """
    args = parse_args(argv)
    try:
        lines = list(args.write(args))
    except KeyboardInterrupt:
        return 'make_mini_data.py: interrupted: the same command takes it up again'
    except (OSError, ValueError) as error:  # OSError: no permission, disk full, exists, is a file
        return f'make_mini_data.py: error: {error}'
    print(f'{args.out}: synthetic data, seed {args.seed}')
    for line in lines:
        print(f'  {line}')
    if args.preview:
        print(f'  preview: {args.preview}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
