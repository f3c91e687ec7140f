"""Inputs for the fuzzer: checkpoints, among them pickles that would run code."""

import io
import json
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from _fuzz_data import Kind
from _fuzz_mutations import Generator, chance, pick, spoil_bytes, spoil_data

GOLDEN = Path(__file__).resolve().parent.parent.parent / 'tests' / 'golden'
CANARY = 'canary'  # a folder that code of an input makes
META, NOTE = 'meta', 'quantization'  # what is spoilt here, and read by Checkpoint alone


class Payload:
    """Runs code where it is unpickled."""

    def __init__(self, call: Any, arguments: tuple, state: Any = None) -> None:
        self.reduced = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def _payload(rng: Generator, folder: Path) -> Any:
    import torch

    canary = str(folder / CANARY)
    code = f'import os; os.makedirs({canary!r}, exist_ok=True)'
    ways = (
        lambda: Payload(os.system, (f'mkdir -p {canary}',)),
        lambda: Payload(os.makedirs, (canary,)),
        lambda: Payload(exec, (code,)),
        lambda: Payload(eval, (f'__import__("os").makedirs({canary!r})',)),
        lambda: Payload(subprocess.Popen, (['mkdir', '-p', canary],)),
        lambda: Payload(open, (canary, 'w')),
        lambda: Payload(getattr, (Payload(__import__, ('os',)), 'system')),
        lambda: Payload(getattr, (OrderedDict, '__init__')),
        lambda: Payload(torch.load, (canary,), dict(weights_only=False)),
        lambda: Payload(torch.hub.load, (canary, 'x')),
        lambda: Payload(np.load, (canary,)),
        lambda: Payload(np.array, ([],), Payload(os.makedirs, (canary,))),
        lambda: np.array([Payload(os.makedirs, (canary,))], object),
    )
    return pick(rng, ways)()


def _spoilt_tensor(rng: Generator, value: Any) -> Any:
    import torch

    whole = value.is_floating_point()
    ways = (
        lambda: value[..., :0] if value.dim() else value.reshape(1),
        lambda: value.reshape(-1),
        lambda: value.double(),
        lambda: value.to(torch.complex64),
        lambda: value.to(torch.int32),
        lambda: value.to_sparse() if value.dim() else value,
        lambda: torch.full_like(value, float('nan') if whole else -1),
        lambda: torch.full_like(value, float('inf') if whole else 2**31 - 1),
        lambda: value * 1e30 if whole else -value,
        lambda: torch.zeros(1).expand(1_000_000, 1_000_000),
        lambda: torch.zeros(value.shape, device='meta'),
        lambda: torch.zeros(0),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8),
        lambda: value.numpy(),
        lambda: torch.nn.Parameter(value) if whole else value,
    )
    return pick(rng, ways)()


def spoil_checkpoint(rng: Generator, content: dict, folder: Path) -> tuple[dict, str]:
    """A checkpoint with other content: values, tensors, or objects that would run code."""
    import torch

    weights = content['state_dict']
    meta = {key: value for key, value in content.items() if key != 'state_dict'}
    way = int(rng.integers(5))
    if way == 0:
        changed = dict(weights)
        for _ in range(int(rng.integers(1, 4))):
            key = pick(rng, list(changed))
            changed[key] = _spoilt_tensor(rng, weights[key])
        return dict(meta, state_dict=changed), 'tensors'
    if way == 1:
        if chance(rng, 0.2):  # text that mmengine reads as Python
            text = f'import os\nos.makedirs({str(folder / CANARY)!r}, exist_ok=True)\n'
            return dict(content, meta=dict(content[META], config=text, cfg=text)), 'code in a config'
        names = pick(rng, ('meta', 'message_hub', 'optimizer', 'param_schedulers', 'ema_state_dict', 'state_dict', 'x'))
        value = _payload(rng, folder)
        if names in ('meta', 'optimizer', 'message_hub') and isinstance(content.get(names), dict):
            value = dict(content[names], **{pick(rng, list(content[names])): value})
        return dict(content, **{names: value}), 'code'
    if way == 2:
        changed = spoil_data(rng, dict(meta, state_dict=dict(list(weights.items())[:3])))
        if isinstance(changed, dict) and isinstance(changed.get('state_dict'), dict) and chance(rng, 0.8):
            changed['state_dict'] = weights
        return changed, 'values'
    if way == 3:
        quantized = spoil_data(rng, content[META].get(NOTE) or {})
        return {**content, META: {**content[META], NOTE: quantized}}, 'quantization'
    changed = dict(content)
    for _ in range(int(rng.integers(1, 3))):
        key = pick(rng, ('meta', 'state_dict', 'optimizer', 'param_schedulers', 'message_hub'))
        changed[key] = pick(rng, (None, [], {}, 'x', 1, [1], {'x': 1}, torch.zeros(3), {1: torch.zeros(1)}, (1, 2)))
    return changed, 'sections'


def _zipped(rng: Generator, content: bytes) -> bytes:
    """The zip of torch.save written anew: packed, with spoilt members, others' names, members twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        names = old.namelist()
        spoilt = pick(rng, [name for name in names if name.endswith(('data.pkl', 'byteorder', 'version'))] + names[:3])
        packed = zipfile.ZIP_DEFLATED if chance(rng, 0.2) else zipfile.ZIP_STORED
        for name in names:
            data = old.read(name)
            data = spoil_bytes(rng, data) if name == spoilt and chance(rng, 0.8) else data
            if name == spoilt and chance(rng, 0.1):
                data, packed = bytes(1 << 28), zipfile.ZIP_DEFLATED  # 256 MiB out of 256 KiB
            new.writestr(name.replace('data', 'dat') if chance(rng, 0.003) else name, data, packed)
    return file.getvalue()


def _safetensors(rng: Generator, weights: dict) -> bytes:
    kinds = {'torch.float32': 'F32', 'torch.int64': 'I64', 'torch.uint8': 'U8'}
    header, parts, end = {}, [], 0
    for name, value in weights.items():
        data = value.numpy().tobytes()
        header[name] = dict(
            dtype=kinds.get(str(value.dtype), 'F32'), shape=list(value.shape), data_offsets=[end, end + len(data)]
        )
        parts.append(data)
        end += len(data)
    header = spoil_data(rng, header, int(rng.integers(1, 4)))
    text = json.dumps(header).encode('utf-8', 'surrogatepass')
    return len(text).to_bytes(8, 'little') + text + b''.join(parts)


class Checkpoints(Kind):
    """Checkpoints: opened, asked, loaded into a model, resumed from."""

    name, share = 'checkpoints', 0.1

    def load(self, base: Path) -> None:
        """See the base class."""
        import torch
        from mmengine.registry import MODELS, init_default_scope

        from frostnet_mm import FrostNet, load_pretrained
        from frostnet_mm.engine.config import load_config
        from frostnet_mm.engine.runner import build_runner
        from frostnet_mm.models.checkpoints import epoch_length_of
        from frostnet_mm.quantization.checkpoint import Checkpoint

        torch.set_num_threads(1)
        self.open, self.epoch_length, self.pretrained = Checkpoint.open, epoch_length_of, load_pretrained
        self.content = torch.load(GOLDEN / 'qat.pth', weights_only=False)
        options = {'data_root': str(GOLDEN / 'coco')}
        for part in ('train', 'val', 'test'):
            options[f'{part}_dataloader.dataset.ann_file'] = 'annotations/instances_val2017.json'
            options[f'{part}_dataloader.dataset.data_prefix.img'] = 'val2017/'
        cfg = load_config(GOLDEN / 'detector.py', options)
        cfg.work_dir, cfg.log_level = str(base / 'work'), 'ERROR'
        init_default_scope('mmdet')
        self.config = cfg
        self.model, self.backbone = MODELS.build(cfg.model), FrostNet('small', 0.35, out_indices=(1, 2))
        self.runner = build_runner(cfg)
        self.runner._train_loop = self.runner.build_train_loop(self.runner._train_loop)
        self.runner.optim_wrapper = self.runner.build_optim_wrapper(self.runner.optim_wrapper)
        self.runner.param_schedulers = self.runner.build_param_scheduler(self.runner.param_schedulers)
        self.runner.call_hook('before_run')
        self.keys = {key: value for key, value in self.content['state_dict'].items() if not key.startswith('quantiz')}

    def write(self, rng: Generator, folder: Path) -> str:
        """See the base class."""
        import torch

        content, what = dict(self.content), 'bytes'
        if chance(rng, 0.3):
            content['state_dict'] = self.keys
            content[META] = {key: value for key, value in content[META].items() if key != NOTE}
        if chance(rng, 0.08):
            few = dict(list(self.keys.items())[:40])
            (folder / 'x.safetensors').write_bytes(_safetensors(rng, few if chance(rng, 0.5) else self.keys))
            return 'safetensors'
        if chance(rng, 0.65):
            content, what = spoil_checkpoint(rng, content, folder)
        file, legacy = io.BytesIO(), chance(rng, 0.15)
        try:
            if chance(rng, 0.05):
                pickle.dump(content, file, protocol=pick(rng, (0, 2, 4)))
                what += ', plain pickle'
            else:
                torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        except (RuntimeError, NotImplementedError, TypeError, AttributeError, pickle.PicklingError) as error:
            file, what = io.BytesIO(b'\x80\x02}q\x00.' + str(error).encode()), 'nothing that can be written'
        data = file.getvalue()
        if what == 'bytes' and not legacy and chance(rng, 0.5):
            data, what = _zipped(rng, data), 'zip'
        elif what == 'bytes' or chance(rng, 0.05):
            data = spoil_bytes(rng, data)
        (
            folder / f'x.{pick(rng, ("pth", "pth", "pt", "tar", "safetensors") if chance(rng, 0.1) else ("pth",))}'
        ).write_bytes(data)
        return what + (', legacy' if legacy else '')

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """See the base class."""
        path = str(next(folder.glob('x.*')))
        way = int(rng.integers(4))
        if way == 0:
            self.pretrained(self.backbone, path, 'backbone')
            return 'pretrained'
        if way == 1:
            self.runner.opened.clear()
            self.runner.resume(path)
            return 'resumed'
        checkpoint = self.open(path)
        checkpoint.classes, checkpoint.settings, checkpoint.reached, checkpoint.points, checkpoint.teacher  # noqa: B018
        checkpoint.dataset_meta_for(self.config)
        self.epoch_length(checkpoint.content)
        if checkpoint.settings is not None and way == 2:
            checkpoint.settings_with(7)
            checkpoint.check(self.runner.model.quantization, checkpoint.settings)
            checkpoint.load_into(self.runner.model)
        else:
            checkpoint.load_into(self.model)
        return f'{len(checkpoint.state_dict)} weights'
