"""Check a download of Cityscapes and make the labelTrainIds that training needs.

python tools/prepare_cityscapes.py data/cityscapes --strict        # a download that should be whole
python tools/prepare_cityscapes.py data/cityscapes --fast          # headers only: seconds
"""

import argparse

import _path  # noqa: F401

from frostnet_mm.cli import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check a download of Cityscapes and make labelTrainIds.')
    parser.add_argument('root', help='folder with leftImg8bit and gtFine')
    parser.add_argument(
        '--fast', action='store_true', help='do not decode images, nor labels whose train ids are there'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='make train ids that differ from their label ids again'
    )
    parser.add_argument(
        '--from-polygons',
        action='store_true',
        help='make labelIds from polygons where there are none (pip install cityscapesscripts)',
    )
    parser.add_argument(
        '--strict', action='store_true', help='fail on every unreadable image, as of a download to be whole'
    )
    parser.add_argument('--workers', type=int, default=0, help='processes; 0: this one (default: %(default)s)')
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f'--workers must be at least 0, got {args.workers}')
    return args


def main() -> int:
    args = parse_args()
    from frostnet_mm.data.cityscapes_checks import check_cityscapes

    report = check_cityscapes(args.root, args.fast, args.overwrite, args.from_polygons, args.workers, args.strict)
    print(f'{args.root}\n{report.text()}')
    return 1 if report.problems else 0


if __name__ == '__main__':
    run_tool(main)
