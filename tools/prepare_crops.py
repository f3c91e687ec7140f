"""Make a classification data set out of a detection data set: its objects cut out, a folder a class.

python tools/prepare_crops.py data/coco --out data/crops
python tools/train.py configs/frostnet_custom_cls.py --cfg-options data_root=data/crops
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Cut the objects of data in COCO format out of their images.')
    parser.add_argument('root', help='folder with annotations, train2017 and val2017')
    parser.add_argument('--out', required=True, help='new folder of the crops')
    parser.add_argument('--margin', type=float, default=0.1, help='part of a box added at each side; default 0.1')
    parser.add_argument('--min-size', type=int, default=12, help='shortest side of a box in pixels; default 12')
    parser.add_argument('--most', type=int, help='crops of a class and split; default all')
    parser.add_argument('--seed', type=int, default=0, help='of the choice of --most; default 0')
    parser.add_argument(
        '--ignore-orientation', action='store_true', help='the boxes were made on pixels as stored, without EXIF'
    )
    args = parser.parse_args()
    if not 0 <= args.margin <= 10 or args.min_size < 1 or (args.most is not None and args.most < 1):
        parser.error('expected --margin from 0 to 10, --min-size and --most of at least 1')
    return args


def _folder(name: str, folder: str) -> str:
    return '' if name == folder else f' (folder {folder})'


def main() -> None:
    args = parse_args()
    if not Path(args.root).is_dir():
        raise UserError(f"The folder '{args.root}' does not exist.")
    from tqdm import tqdm

    from frostnet_mm.data.crops import CropOptions, folder_names, write_crops

    options = CropOptions(args.margin, args.min_size, args.most, args.seed, args.ignore_orientation)
    counts = write_crops(
        args.root, args.out, options, lambda images, total: tqdm(images, total=total, unit='image', disable=None)
    )
    for split, own in counts.items():
        folders = folder_names(tuple(own))
        made = (f'{count} {name}{_folder(name, folders[name])}' for name, count in own.items())
        print(f'{args.out}/{split}: {sum(own.values())} crops, {", ".join(made)}')
    if len(counts['train']) < 2:
        print(f'One class, {next(iter(counts["train"]))}: a classifier needs a second, such as a folder of background.')
        return
    print(f'Train on it: python tools/train.py configs/frostnet_custom_cls.py --cfg-options data_root={args.out}')


if __name__ == '__main__':
    run_tool(main)
