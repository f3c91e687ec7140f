"""Check ImageNet (ILSVRC 2012), and give its validation images a folder a class.

python tools/prepare_imagenet.py data/imagenet --devkit ILSVRC2012_devkit_t12
python tools/train.py configs/frostnet_imagenet.py --cfg-options val_images=val_by_class
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check ImageNet, and sort its validation images by class, as links.')
    parser.add_argument('root', help='folder with train and val')
    parser.add_argument('--devkit', help='folder of the development kit; for validation images in one folder')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not Path(args.root).is_dir():
        raise UserError(f"The folder '{args.root}' does not exist.")
    from frostnet_mm.data.imagenet import prepare_imagenet

    report = prepare_imagenet(args.root, args.devkit)
    print(report.text())
    more = '' if report.val.name == 'val' else f' val_images={report.val.name}'
    print(f'Train: tools/dist_train.sh configs/frostnet_imagenet.py 8 --cfg-options data_root={args.root}{more}')


if __name__ == '__main__':
    run_tool(main)
