"""Run a trained detector or segmenter on images and write pictures and results.json.

python tools/infer.py CONFIG CHECKPOINT photo.jpg --out results
"""

import argparse
import json
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import add_config_options, add_execution_options, add_weight_bits, run_tool
from frostnet_mm.files import require_checkpoint, require_config, write_text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run a trained detector or segmenter on images.')
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('images', help='an image, or a folder that is searched with its sub-folders')
    parser.add_argument('--out', required=True, help='folder for the pictures and results.json')
    parser.add_argument('--score-thr', type=float, default=0.3, help='detections below are left out; default 0.3')
    parser.add_argument('--device', help='torch device; default cuda if there is one, else cpu')
    add_execution_options(parser)
    add_weight_bits(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    require_config(args.config)
    require_checkpoint(args.checkpoint)
    from tqdm import tqdm

    from frostnet_mm.apis.inference import (
        build_pipeline,
        build_visualizer,
        describe,
        draw,
        list_images,
        predict,
    )
    from frostnet_mm.apis.model import load_model
    from frostnet_mm.data.errors import BadImageError

    images = list_images(args.images)
    how = (args.execution, args.weight_bits)
    model, cfg = load_model(args.config, args.checkpoint, args.device, args.cfg_options, *how)
    pipeline = build_pipeline(cfg)
    visualizer = build_visualizer(cfg, model.dataset_meta)
    root = Path(args.images) if Path(args.images).is_dir() else images[0].parent
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    results, failed = {}, {}
    for path in tqdm(images, unit='image', disable=None):
        name = path.relative_to(root)
        try:
            sample = predict(model, pipeline, [path])[0]
        except BadImageError as error:
            failed[str(name)] = str(error)
            continue
        picture = out / name.with_name(f'{name.name}.png' if path.suffix.lower() != '.png' else name.name)
        image = pipeline.transforms[0](dict(img_path=str(path)))['img'][..., ::-1]  # as the network has seen it
        draw(visualizer, sample, image, picture, args.score_thr)
        results[str(name)] = describe(sample, model.dataset_meta['classes'], args.score_thr)
    write_text(
        out / 'results.json',
        json.dumps(
            dict(
                config=args.config, checkpoint=args.checkpoint, score_thr=args.score_thr, images=results, failed=failed
            ),
            indent=1,
        ),
    )
    print(f'{len(results)} of {len(images)} images done: {out}/results.json')
    for name, reason in failed.items():
        print(f'  not read: {name}: {reason}')
    return 1 if failed else 0


if __name__ == '__main__':
    run_tool(main)
