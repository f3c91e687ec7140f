"""Draw a segmenter's predictions beside image and truth, and its IoU by class.

python tools/draw_segmentation.py configs/espnetv2_frostnet_cityscapes.py CHECKPOINT --num-images 6 --out sheet.png
python tools/draw_segmentation.py CONFIG CHECKPOINT --iou iou.png     # evaluates all test data; .txt and .json too
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from frostnet_mm.cli import add_config_options, add_execution_options, run_tool
from frostnet_mm.engine.config import ConfigError
from frostnet_mm.files import require_checkpoint, require_config, write_text

if TYPE_CHECKING:
    from mmengine.dataset import BaseDataset
    from torch import nn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw a segmenter's predictions beside image and truth.")
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='segmentation.png', help='the sheet (default: %(default)s)')
    parser.add_argument('--num-images', type=int, default=6, help='spread over the test data (default: %(default)s)')
    parser.add_argument('--title', default='')
    parser.add_argument(
        '--iou',
        metavar='FILE',
        help='evaluate all test data; print the IoU by class and write it as .png (bars), .json or .txt',
    )
    parser.add_argument('--device', help="a torch device; default 'cuda' if there is one, else 'cpu'")
    add_execution_options(parser)
    add_config_options(parser)
    args = parser.parse_args()
    if args.num_images < 1:
        parser.error(f'--num-images must be at least 1, got {args.num_images}')
    if args.iou and Path(args.iou).suffix not in ('.png', '.json', '.txt'):
        parser.error(f'--iou {args.iou}: expected a name ending in .png, .json or .txt')
    return args


def evaluate(model: 'nn.Module', dataset: 'BaseDataset') -> dict[str, float]:
    """Metrics of a segmenter over a data set, by ``frostnet_mm.IoUMetric``."""
    from mmengine.dataset import pseudo_collate
    from torch import no_grad
    from tqdm import tqdm

    from frostnet_mm.apis.iou_metric import IoUMetric

    metric = IoUMetric()
    metric.dataset_meta = model.dataset_meta
    for index in tqdm(range(len(dataset)), unit='image', desc='evaluating', disable=None):
        with no_grad():
            samples = model.test_step(pseudo_collate([dataset[index]]))
        metric.process({}, [sample.to_dict() for sample in samples])
    return metric.evaluate(len(dataset))


def main() -> None:
    args = parse_args()
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    from mmengine.registry import DATASETS

    from frostnet_mm.apis.class_scores import class_table
    from frostnet_mm.apis.iou_metric import scores_by_class
    from frostnet_mm.apis.model import load_model
    from frostnet_mm.apis.visualization.segmentation_plots import draw_class_iou, draw_segmentation_sheet
    from frostnet_mm.models.dense import family_of

    model, cfg = load_model(args.config, args.checkpoint, args.device, args.cfg_options, args.execution)
    if 'palette' not in model.dataset_meta or family_of(model).task != 'segmentation':
        raise ConfigError(f'{args.config} is no segmenter of mmseg: expected a model with a decode_head.')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    count = min(args.num_images, len(dataset))
    indices = [index * len(dataset) // count for index in range(count)]
    draw_segmentation_sheet(model, dataset, indices, args.out, args.title)
    print(f'{args.out}: {count} of {len(dataset)} images, truth and prediction')
    if not args.iou:
        return
    metrics = evaluate(model, dataset)
    classes = model.dataset_meta['classes']
    scores = scores_by_class(metrics)
    table = class_table(dict(IoU=scores), classes)
    table += f'\nmIoU {metrics["mIoU"]:.2f} over {len(scores)} of {len(classes)} classes, aAcc {metrics["aAcc"]:.2f}'
    print(table)
    if args.iou.endswith('.png'):
        draw_class_iou(metrics, classes, model.dataset_meta['palette'], args.iou, args.title)
    else:
        write_text(args.iou, json.dumps(metrics, indent=1) if args.iou.endswith('.json') else table + '\n')


if __name__ == '__main__':
    run_tool(main)
