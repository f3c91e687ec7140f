"""Search for networks that are fast on an engine and good on your data, around the FrostNet of a config.

python tools/search.py configs/ssdlite_frostnet_custom.py --out work_dirs/search --cfg-options data_root=my/data
python tools/search.py configs/ssdlite_frostnet_custom.py --out work_dirs/search --join       # a further process

It times networks on the engine, trains all of them at once, chooses and evaluates some, and measures the best. Open
report.html in the folder of --out; found/ holds a config of each. The command can be stopped and repeated: it goes on
where it was. What it is asked to do stands in the config, search = dict(engine='openvino', target_ms=4.2); options here
replace that (docs/search.md).
"""

import argparse

import _path  # noqa: F401

from frostnet_mm.cli import add_config_options, run_tool
from frostnet_mm.files import require_config

STAGES = ('latency', 'supernet', 'search', 'report')
SETTINGS = ('engine', 'target_ms', 'trials', 'precision', 'threads', 'epochs', 'val_fraction', 'sampler', 'shape')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Search for networks that are fast on an engine and good on your data.'
    )
    parser.add_argument(
        'config', help='config whose backbone is a FrostNet; tools/swap_backbone.py makes one of others'
    )
    parser.add_argument('--out', required=True, help='folder that keeps the search and what it finds')
    parser.add_argument('--stage', choices=STAGES, help='run one stage; default all, in this order')
    parser.add_argument(
        '--join', action='store_true', help='help a search that has its weights: choose and evaluate networks'
    )
    parser.add_argument('--engine', help='such as openvino, onnxruntime, executorch; default openvino')
    parser.add_argument('--target-ms', type=float, help='what a network may take on the engine; default no limit')
    parser.add_argument('--trials', type=int, help='networks to evaluate; default 150')
    parser.add_argument('--sampler', help='nsga2, or random as a control; default nsga2')
    parser.add_argument('--seed', type=int, help="of the sampler; default the config's")
    parser.add_argument('--precision', help='int8, int8w7 or float; default int8')
    parser.add_argument('--threads', type=int, help='of the engine; default 1')
    parser.add_argument('--epochs', type=int, help='of the training of all networks at once; default 20')
    parser.add_argument('--val-fraction', type=float, help='part of the training images to compare on; default 0.2')
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help="default that of the config's test pipeline"
    )
    parser.add_argument('--allow-busy', action='store_true', help='let times of a busy machine count; they are marked')
    parser.add_argument('--again', action='store_true', help='measure times anew')
    add_config_options(parser)
    args = parser.parse_args()
    if args.join and args.stage not in (None, 'search'):
        parser.error(f'--join --stage {args.stage}: a process that joins runs the stage search only')
    return args


def say(line: str) -> None:
    """Print at once, to a file too."""
    print(line, flush=True)


def main() -> None:
    args = parse_args()
    require_config(args.config)
    from frostnet_mm.nas.search import Search, SearchOptions

    given = {name: getattr(args, name) for name in SETTINGS}
    options = SearchOptions(args.join, args.allow_busy, args.again, args.seed, say)
    search = Search(args.config, args.out, given, args.cfg_options, options)
    search.run((args.stage,) if args.stage else STAGES)


if __name__ == '__main__':
    run_tool(main)
