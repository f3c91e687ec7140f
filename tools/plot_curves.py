"""Draw the loss and metric curves of a training, over all its resumed runs.

python tools/plot_curves.py work_dirs/ssdlite_frostnet_coco
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.apis.visualization.scalars import read_scalars
from frostnet_mm.cli import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description='Draw the loss and metric curves of a training.')
    parser.add_argument('work_dir')
    parser.add_argument('--out', help='PNG to write; default curves.png in the work dir')
    args = parser.parse_args()
    read_scalars(args.work_dir)  # a wrong path is said before anything heavy is imported
    from frostnet_mm.apis.visualization.training_plots import draw_curves

    out = args.out or str(Path(args.work_dir) / 'curves.png')
    draw_curves(args.work_dir, out, title=Path(args.work_dir).resolve().name)
    print(out)


if __name__ == '__main__':
    run_tool(main)
