"""Write a config for data of your own: looks at them, and says why for everything that it sets.

python tools/new_config.py my.py --data path/to/data --task detection --backbone small --size 320 --qat
python tools/new_config.py my_seg.py --data path/to/data --task segmentation
python tools/new_config.py my_cls.py --data path/to/data --task classification

Detection: a folder with annotations in COCO's format (COCO, Roboflow, CVAT, Label Studio) and images, wherever they lie
in it. Segmentation: images and labels in folders of their own, in Cityscapes' layout or another. Classification: a
folder a class.
"""

import argparse
import sys
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import run_tool, tool_command
from frostnet_mm.files import write_text

TASKS = ('detection', 'segmentation', 'classification')
LEAST = dict(detection=96, segmentation=96, classification=32)  # sides of the input


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write a config for data of your own.')
    parser.add_argument('config', type=Path, help='the config to write, such as my.py')
    parser.add_argument('--data', type=Path, required=True, help='folder of the data')
    parser.add_argument('--task', choices=TASKS, required=True)
    parser.add_argument('--backbone', default='small', help='FrostNet small, base, large, engine-s, -m or -l')
    parser.add_argument('--size', type=int, help='sides of the input; default 320, of others by the images')
    parser.add_argument('--qat', action='store_true', help='train in simulated INT8')
    parser.add_argument('--epochs', type=int, help='default by the number of images')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='default: those of the annotations')
    parser.add_argument('--val-share', type=float, metavar='SHARE', help='set apart, where no part is for validation')
    for part in ('train', 'val'):
        parser.add_argument(f'--{part}-labels', type=Path, metavar='PATH', help='annotation file, or folder of labels')
        parser.add_argument(f'--{part}-images', type=Path, metavar='FOLDER')
    parser.add_argument('--overwrite', action='store_true', help='replace a config that is there')
    args = parser.parse_args()
    if args.config.suffix != '.py':
        parser.error(f'{args.config}: expected a name that ends in .py')
    if args.config.exists() and not args.overwrite:
        parser.error(f'{args.config} exists; --overwrite replaces it')
    if args.epochs is not None and args.epochs < 1:
        parser.error(f'--epochs {args.epochs}: expected at least 1')
    if args.val_share is not None and args.task == 'segmentation':
        parser.error('--val-share is for the others; of segmentation, --val-images and --val-labels name the folders')
    if args.task == 'classification' and (args.train_labels or args.val_labels):
        parser.error('classification has no labels beside its folders; --train-images and --val-images name those')
    return args


def main() -> None:
    args = parse_args()
    from frostnet_mm.apis.own_data.classification import classification_config
    from frostnet_mm.apis.own_data.detection import detection_config
    from frostnet_mm.apis.own_data.segmentation import segmentation_config
    from frostnet_mm.apis.own_data.wishes import Wishes

    wishes = Wishes(
        args.config,
        args.data,
        args.backbone,
        args.size,
        args.qat,
        args.epochs,
        tuple(args.classes) if args.classes else None,
        (args.train_labels, args.val_labels),
        (args.train_images, args.val_images),
        args.val_share,
        tool_command('new_config', *sys.argv[1:]),
    )
    wishes.check(LEAST[args.task])
    writers = dict(detection=detection_config, segmentation=segmentation_config, classification=classification_config)
    text, notes = writers[args.task](wishes)
    write_text(args.config, text)
    print(text)
    for note in notes:
        print(f'note: {note}')
    print(f'{args.config} is written. Train: {tool_command("train", args.config)}')


if __name__ == '__main__':
    run_tool(main)
