"""Inputs for the fuzzer: command lines of the tools."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

from _fuzz_data import Kind
from _fuzz_models import GOLDEN
from _fuzz_mutations import Generator, chance, pick, spoil_bytes

TOOLS = Path(__file__).resolve().parent.parent
CONFIG, CHECKPOINT, COCO = GOLDEN / 'detector.py', GOLDEN / 'qat.pth', GOLDEN / 'coco'
_ANNOTATED = [
    f'{part}_dataloader.dataset.{key}'
    for part in ('train', 'val', 'test')
    for key in ('ann_file=annotations/instances_val2017.json', 'data_prefix.img=val2017/')
]
DATA = [f'data_root={COCO}', *_ANNOTATED, 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=12']
DATA += ['train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
#: Sound command lines, by tool; {out} is where it may write.
COMMANDS: dict[str, list[str]] = {
    'train': [str(CONFIG), '--work-dir', '{out}/work', '--cfg-options', *DATA],
    'test': [str(CONFIG), str(CHECKPOINT), '--work-dir', '{out}/work', '--out', '{out}/m.json', '--cfg-options', *DATA],
    'infer': [str(CONFIG), str(CHECKPOINT), str(COCO / 'val2017/000000.png'), '--out', '{out}/r', '--score-thr', '0.3'],
    'deploy': [str(CONFIG), str(CHECKPOINT), '--engine', 'onnxruntime', '--out', '{out}/d', '--num-images', '1'],
    'calibrate': [str(CONFIG), str(CHECKPOINT), '--out', '{out}/c.pth', '--num-images', '2', '--cfg-options', *DATA],
    'analyze_quant': [str(CONFIG), str(CHECKPOINT), '--num-images', '1', '--out', '{out}/a', '--cfg-options', *DATA],
    'allocate_bits': [str(CONFIG), str(CHECKPOINT), '--budget', '6', '--out', '{out}/b.py', '--num-images', '1'],
    'convert_frostnet_weights': [str(CHECKPOINT), '{out}/w.pth'],
    'draw_segmentation': [str(CONFIG), str(CHECKPOINT), '--out', '{out}/s.png', '--num-images', '1'],
    'plot_curves': ['{out}', '--out', '{out}/p.png'],
    'prepare_coco': [str(COCO), '--out', '{out}/coco', '--fast'],
    'prepare_cityscapes': ['{out}', '--fast'],
    'make_mini_data': ['coco', '--out', '{out}/mini', '--train', '2', '--val', '1'],
    'search': [str(CONFIG), '--out', '{out}/search', '--trials', '1', '--epochs', '1', '--cfg-options', *DATA],
    'swap_backbone': ['mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', '--out', '{out}/x.py'],
    'benchmark': [str(CONFIG), '--engines', 'onnxruntime', '--rounds', '1', '--seconds', '0.1', '--out', '{out}/bench'],
    'demo': ['--work-dir', '{out}/demo', '--data', '{out}/data', '--epochs', '1'],
}
#: Tools that run long with sound arguments: they always get one that is not.
LONG = ('search', 'demo', 'benchmark', 'make_mini_data')
WORDS = (
    '', ' ', '-', '--', '-1', '0', '1e9', '1e400', 'nan', 'inf', '-inf', '99999999999999999999', '0.5', 'none', 'None',
    'x', 'true', '../x', '/', '.', '/dev/null', '/etc/passwd', '/nonexistent/x', '~', '*', '{}', '[]', "'", '"', '%s',
    'a' * 5000, 'ä', '\udcff', '--help', '-h', '--version', '--x', '--out', '--cfg-options', '--device', 'cuda:9',
    'a=b', 'a.b.c=1', 'model=1', 'model.backbone=None', 'model.backbone.arch=x', 'train_cfg=[]', 'data_root=', '=',
    '=1',
    'a=',
    'model.bbox_head.num_classes=-1', 'model.backbone.widen_factor=nan', 'optim_wrapper.optimizer.lr=x', 'a=[1,', 'a={',
    'train_dataloader=None', 'default_hooks=None', 'train_cfg.max_epochs=0', 'test_dataloader.batch_size=0', 'resume=1',
    'train_dataloader.batch_size=-1', 'load_from=/etc/passwd', 'custom_imports=x', 'default_scope=x', '_base_=x',
)  # fmt: skip
_OPTIONS = (
    '--out', '--work-dir', '--float', '--simulated', '--converted', '--compare', '--engine', '--shape', '--dynamic',
    '--batch', '--bake', '--with-decode', '--images', '--num-images', '--no-verify', '--weight-bits', '--classes',
    '--example-shape', '--device', '--resume', '--amp', '--auto-scale-lr', '--launcher', '--local_rank',
    '--score-thr', '--method', '--percentile', '--numerics', '--quantize-outputs', '--float-modules', '--split',
    '--budget', '--show-dir', '--overwrite', '--choices', '--weights', '--fast', '--strict', '--workers', '--arch',
    '--width', '--threads', '--stage', '--output-stride', '--out-indices', '--checkpoint', '--seed', '--trials',
    '--epochs', '--iterations', '--target-ms',
)  # fmt: skip


def spoil_command(rng: Generator, words: list[str], files: list[str]) -> list[str]:
    """A command line with one to three words left out, replaced, added, exchanged or cut off."""
    words = list(words)
    for _ in range(int(rng.integers(1, 4))):
        place, way = int(rng.integers(len(words) + 1)), int(rng.integers(8))
        new = pick(rng, files) if chance(rng, 0.3) else pick(rng, WORDS)
        if way == 0 and words:
            del words[min(place, len(words) - 1)]
        elif way in (1, 2) and words:
            words[min(place, len(words) - 1)] = new
        elif way == 3:
            words.insert(place, new)
        elif way == 4:
            words += [pick(rng, _OPTIONS), *([new] if chance(rng, 0.7) else [])]
        elif way == 5 and words:
            other = int(rng.integers(len(words)))
            place = min(place, len(words) - 1)
            words[place], words[other] = words[other], words[place]
        elif way == 6 and words:
            place = min(place, len(words) - 1)
            words[place] = words[place][: int(rng.integers(len(words[place]) + 1))]
        else:
            words.insert(0, pick(rng, _OPTIONS))
    return words


class CommandLines(Kind):
    """Command lines of every tool, each in a process of its own."""

    name, share, alone = 'command-lines', 0.05, True

    def load(self, base: Path) -> None:
        """See the base class."""
        import frostnet_mm.apis.inference
        import frostnet_mm.data.cityscapes_checks
        import frostnet_mm.data.coco_download
        import frostnet_mm.deploy.deploy
        import frostnet_mm.engine.runner  # noqa: F401

    def write(self, rng: Generator, folder: Path) -> str:
        """See the base class."""
        tool, out = pick(rng, list(COMMANDS)), folder / 'out'
        content = CONFIG.read_text()
        spoilt = dict(
            json='{"images": []}', py='model = dict(', txt='', png='x', pth='x', yaml='a: [', md='# x',
            syntax='_base_ = "nothing.py"', loop='_base_ = "loop.py"', code='raise RuntimeError("of the config")',
        )  # fmt: skip
        files = [str(path) for path in (CONFIG, CHECKPOINT, COCO, COCO / 'val2017/000000.png', GOLDEN / 'deployment')]
        for name, text in spoilt.items():
            path = folder / f'{name}.py' if name in ('syntax', 'loop', 'code') else folder / f'file.{name}'
            path.write_text(text)
            files.append(str(path))
        (folder / 'spoilt.py').write_bytes(spoil_bytes(rng, content.encode()))
        (folder / 'spoilt.pth').write_bytes(spoil_bytes(rng, CHECKPOINT.read_bytes()))
        files += [str(folder / 'spoilt.py'), str(folder / 'spoilt.pth'), str(out), str(folder)]
        words = [word.replace('{out}', str(out)) for word in COMMANDS[tool]]
        if chance(rng, 0.97) or tool in LONG:
            words = spoil_command(rng, words, files)
        if tool in LONG:
            words.append(pick(rng, ('--nothing', '--threads=x', 'x')))
        (folder / 'command.json').write_text(json.dumps([tool, *words]))
        return tool

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """See the base class."""
        tool, *words = json.loads((folder / 'command.json').read_text())
        words = [os.fsdecode(os.fsencode(word)) for word in words]
        script = TOOLS / f'{tool}.py'
        sys.argv = [str(script), *words]
        sys.path.insert(0, str(TOOLS))
        os.chdir(out)
        shutil.copyfile(COCO / 'val2017/000000.png', out / 'image.png')
        runpy.run_path(str(script), run_name='__main__')
        return tool
