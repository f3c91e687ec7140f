"""Check data in COCO format as training and evaluation would, and mend the annotations.

python tools/prepare_coco.py data/coco --workers 4 --strict    # a download that should be whole
python tools/prepare_coco.py data/coco --fast                  # headers of the images only
python tools/prepare_coco.py data/own --out data/own_mended    # writes mended copies of the annotation files
python tools/prepare_coco.py own.json --images photos --out mended.json
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check data in COCO format, and mend the annotations.')
    parser.add_argument('root', help='folder with annotations, train2017 and val2017, or an annotation file')
    parser.add_argument('--images', help='folder of the images of an annotation file (default: its own)')
    parser.add_argument('--out', help='folder for mended annotation files, or the name of one; never an original')
    parser.add_argument('--fast', action='store_true', help='read only the headers of the images')
    parser.add_argument(
        '--strict', action='store_true', help='fail on every missing or unreadable file, as of a download to be whole'
    )
    parser.add_argument('--workers', type=int, default=0, help='processes; 0: this one (default: %(default)s)')
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f'--workers must be at least 0, got {args.workers}')
    args.is_file = Path(args.root).is_file()
    if args.images and not args.is_file:
        parser.error(f'--images belongs to an annotation file; {args.root} is none')
    return args


def main() -> int:
    args = parse_args()
    from frostnet_mm.data.coco_download import check_coco, check_file

    if args.is_file:
        images = args.images or str(Path(args.root).parent)
        report = check_file(args.root, images, args.fast, args.workers, args.out, args.strict)
    else:
        report = check_coco(args.root, args.fast, args.workers, args.out, args.strict)
    print(f'{args.root}\n{report.text()}')
    return 1 if report.problems else 0


if __name__ == '__main__':
    run_tool(main)
