"""Check a download of COCO 2017, or any data in its layout.

python tools/prepare_coco.py data/coco --workers 4
python tools/prepare_coco.py data/coco --fast          # headers of the images only
"""

import argparse

import _path  # noqa: F401

from frostnet_mm.cli import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check a download of COCO 2017.')
    parser.add_argument('root', help='folder with annotations, train2017 and val2017')
    parser.add_argument('--fast', action='store_true', help='read only the headers of the images')
    parser.add_argument('--workers', type=int, default=0, help='processes; 0: this one (default: %(default)s)')
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f'--workers must be at least 0, got {args.workers}')
    return args


def main() -> int:
    args = parse_args()
    from frostnet_mm.data.coco_download import check_coco

    report = check_coco(args.root, args.fast, args.workers)
    print(f'{args.root}\n{report.text()}')
    return 1 if report.problems else 0


if __name__ == '__main__':
    run_tool(main)
