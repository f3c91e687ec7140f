"""Make an image folder of CIFAR-10 or CIFAR-100 as it is released: a folder a class.

python tools/prepare_cifar.py cifar-10-python.tar.gz --out data/cifar10
python tools/train.py configs/frostnet_cifar.py --cfg-options data_root=data/cifar10
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import run_tool
from frostnet_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the images of CIFAR-10 or CIFAR-100, a folder a class.')
    parser.add_argument('source', help='cifar-10-python.tar.gz, cifar-100-python.tar.gz, or the folder in it')
    parser.add_argument('--out', required=True, help='new folder of the images')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not Path(args.source).exists():
        raise UserError(f"'{args.source}' does not exist: expected cifar-10-python.tar.gz or cifar-100-python.tar.gz.")
    from tqdm import tqdm

    from frostnet_mm.data.cifar import IMAGES, write_cifar

    counts = write_cifar(args.source, args.out, lambda images, n: tqdm(images, total=n, unit='image', disable=None))
    for split, own in counts.items():
        total = sum(own.values())
        more = '' if total == IMAGES[split] else f'; the release has {IMAGES[split]}'
        print(f'{args.out}/{split}: {total} images of {len(own)} classes{more}')
    print(f'Train: python tools/train.py configs/frostnet_cifar.py --cfg-options data_root={args.out}')


if __name__ == '__main__':
    run_tool(main)
