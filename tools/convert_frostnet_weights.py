"""Convert a checkpoint of the authors' FrostNet release to a clean mm checkpoint.

    python tools/convert_frostnet_weights.py frostnet_small.tar frostnet_small_imagenet.pth

The result holds the weights of FrostNetClassifier (backbone., conv_head., classifier.) on the CPU and nothing else.
"""

import argparse
import io
from pathlib import Path

import _path  # noqa: F401

from frostnet_mm.cli import run_tool
from frostnet_mm.files import require_checkpoint, write_bytes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert a checkpoint of the authors' FrostNet release.")
    parser.add_argument('source', help="file of the authors' release (.tar, .pth)")
    parser.add_argument('out', help='mm checkpoint to write (.pth)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    require_checkpoint(args.source)
    import torch

    from frostnet_mm.models.checkpoints import (
        CheckpointError,
        convert_release_state_dict,
        describe_frostnet,
        is_release_state_dict,
        read_checkpoint,
        state_dict_of,
    )

    if Path(args.out).exists() and not args.overwrite:
        raise CheckpointError(f'{args.out} exists already; give --overwrite to replace it.')
    state_dict = state_dict_of(read_checkpoint(args.source), args.source)
    if not is_release_state_dict(state_dict):
        raise CheckpointError(
            f"{args.source} is not in the authors' format (conv1.conv.0.weight, layer1.0.conv2...): "
            f'its keys begin with {", ".join(list(state_dict)[:3])}.'
        )
    converted = convert_release_state_dict(state_dict, args.source)
    buffer = io.BytesIO()
    torch.save(dict(meta=dict(source=Path(args.source).name), state_dict=converted), buffer)
    write_bytes(args.out, buffer.getvalue())
    params = sum(
        v.numel()
        for k, v in converted.items()
        if not k.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    )
    print(
        f'{args.out}: {describe_frostnet(converted)}, {params:,} parameters, {len(converted)} entries.\n'
        f"Use it with init_cfg=dict(type='Pretrained', checkpoint='{args.out}')."
    )


if __name__ == '__main__':
    run_tool(main)
