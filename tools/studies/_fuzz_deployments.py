"""Inputs for the fuzzer: deployments whose files are spoilt, exchanged, linked or named otherwise."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from _fuzz_data import Kind
from _fuzz_models import GOLDEN
from _fuzz_mutations import Generator, chance, nested, pick, spoil_bytes, spoil_data

DESCRIPTION = 'deploy.json'
SEGMENTER = GOLDEN.parent.parent / 'configs' / 'examples' / 'espnetv2_frostnet_cityscapes_288.py'


def _digests(folder: Path, description: Any) -> None:
    """Give the description the digests of the files as they are: what a stranger does who means harm."""
    files = description.get('files') if isinstance(description, dict) else None
    for name in files if isinstance(files, dict) else ():
        with contextlib.suppress(OSError, ValueError):
            path = folder / name
            if path.is_file() and path.stat().st_size < 1 << 26:
                files[name] = hashlib.sha256(path.read_bytes()).hexdigest()


def _spoilt_array(rng: Generator, value: np.ndarray) -> np.ndarray:
    ways = (
        lambda: value[:0],
        lambda: value.reshape(-1),
        lambda: value[..., None],
        lambda: value.astype(pick(rng, ('float64', 'int8', 'uint8', 'complex64', 'bool', '<U5', 'float16', '>i4'))),
        lambda: np.full_like(value, pick(rng, (0, 1, 100))),
        lambda: np.full(value.shape, pick(rng, (np.nan, np.inf, -np.inf, 1e38)), np.float32),
        lambda: -value.astype(np.int64) if value.dtype.kind in 'iu' else -value,
        lambda: value.astype(np.int64) * 10**9,
        lambda: np.concatenate([value, value]),
        lambda: np.array([dict(a=1)], object),
        lambda: np.asarray(0),
    )
    with np.errstate(all='ignore'):
        return pick(rng, ways)()


def _spoilt_npz(rng: Generator, content: bytes) -> bytes:
    """An archive with arrays of other types, shapes and values, or a header that promises more than there is."""
    with np.load(io.BytesIO(content)) as stored:
        arrays = dict(stored)
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, list(arrays) or ['x'])
        way = int(rng.integers(5))
        if way == 0:
            arrays.pop(name, None)
        elif way == 1:
            arrays[f'{name}x'] = arrays.pop(name, np.zeros(1))
        elif name in arrays:
            arrays[name] = _spoilt_array(rng, arrays[name])
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    data = file.getvalue()
    if chance(rng, 0.15):  # a shape of terabytes
        file = io.BytesIO()
        np.savez(file, **arrays)
        data = re.sub(rb"'shape': \((\d+),", lambda m: m[0].replace(m[1], b'9' * len(m[1])), file.getvalue(), count=3)
    return data


def _spoilt_onnx(rng: Generator, content: bytes, folder: Path) -> bytes:
    """A graph with other attributes, shapes, operators, or with weights in files elsewhere."""
    import onnx
    from onnx import TensorProto

    model = onnx.load_from_string(content)
    graph = model.graph
    for _ in range(int(rng.integers(1, 4))):
        node, weight, way = pick(rng, graph.node), pick(rng, graph.initializer), int(rng.integers(10))
        if way == 0:
            node.op_type = pick(rng, ('Relu', 'Conv', 'Loop', 'If', 'Nothing', 'QuantizeLinear', 'Reshape', 'Resize'))
        elif way == 1 and node.attribute:
            attribute = pick(rng, node.attribute)
            attribute.i = pick(rng, (-1, 0, 2**31, 2**62))
            if attribute.ints:
                attribute.ints[0] = pick(rng, (-1, 0, 2**31, 2**62, 1000))
        elif way == 2 and weight.dims:
            weight.dims[0] = pick(rng, (0, -1, 1, 2**31, 2**62))
        elif way == 3 and weight.raw_data:
            weight.raw_data = pick(
                rng, (spoil_bytes(rng, weight.raw_data), bytes(len(weight.raw_data)), b'\xff' * len(weight.raw_data))
            )
        elif way == 4:
            weight.data_location = TensorProto.EXTERNAL
            location = pick(
                rng, ('../../../../etc/passwd', '/etc/passwd', DESCRIPTION, 'network.onnx', '/dev/zero', 'no')
            )
            weight.external_data.add(key='location', value=location)
            weight.external_data.add(key='length', value=str(pick(rng, (4, 2**40, -1))))
            weight.raw_data = b''
        elif way == 5:
            sizes = pick(rng, (graph.input, graph.output))[0].type.tensor_type.shape.dim
            if len(sizes):
                pick(rng, sizes).dim_value = pick(rng, (0, -1, 1, 2**20, 2**40))
        elif way == 6 and node.input:
            node.input[0] = pick(rng, [other.output[0] for other in graph.node] + ['', 'nothing'])
        elif way == 7:
            del graph.node[int(rng.integers(len(graph.node)))]
        elif way == 8:
            pick(rng, (graph.input, graph.output))[0].name = pick(rng, ('', 'x', node.output[0]))
        else:
            model.opset_import[0].version = pick(rng, (0, -1, 1, 7, 1000))
    return model.SerializeToString()


def _spoilt_xml(rng: Generator, content: bytes) -> bytes:
    """An IR with other numbers and names."""
    numbers = list(re.finditer(rb'"(-?\d+)"|<dim>(\d+)<', content))
    for match in [pick(rng, numbers) for _ in range(int(rng.integers(1, 4)))]:
        group = 1 if match[1] is not None else 2
        value = pick(rng, (b'0', b'-1', b'1', b'4294967295', b'9223372036854775807', b'x', b'')).ljust(
            len(match[group])
        )
        content = content[: match.start(group)] + value[: len(match[group])] + content[match.end(group) :]
    return content


class Deployments(Kind):
    """Deployments: predicted with, checked, and asked on the command line."""

    name, share = 'deployments', 0.1

    def prepare(self, base: Path) -> None:
        """See the base class."""
        from frostnet_mm.deploy.deploy import DeployOptions, deploy

        config, checkpoint = GOLDEN / 'detector.py', GOLDEN / 'qat.pth'
        data = dict(cfg_options={'data_root': str(GOLDEN / 'coco')}, num_images=12)
        shutil.copytree(GOLDEN / 'deployment', base / 'golden', dirs_exist_ok=True)
        deploy(config, checkpoint, 'openvino', base / 'openvino', DeployOptions(**data))
        deploy(config, checkpoint, 'onnxruntime', base / 'boxes', DeployOptions(decode=True, **data))
        deploy(config, checkpoint, 'onnxruntime', base / 'pixels', DeployOptions(bake=True, dynamic=True, **data))
        segmenter = DeployOptions(shape=(64, 96), num_images=0, check=False)
        deploy(SEGMENTER, None, 'onnxruntime', base / 'segmenter', segmenter)
        for folder in base.iterdir():
            shutil.rmtree(folder / 'frostnet_device', ignore_errors=True)

    def load(self, base: Path) -> None:
        """See the base class."""
        import onnx  # noqa: F401

        from frostnet_mm.device import Predictor, check_deployment, command

        self.base, self.predictor, self.check, self.command = base, Predictor, check_deployment, command
        self.names = sorted(path.name for path in base.iterdir())
        self.image = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)

    def write(self, rng: Generator, folder: Path) -> str:
        """See the base class."""
        name, target = pick(rng, self.names), folder / 'deployment'
        shutil.copytree(self.base / name, target)
        description = json.loads((target / DESCRIPTION).read_text())
        way = pick(
            rng, ('json', 'json', 'json', 'json', 'bytes', 'graph', 'graph', 'npz', 'swap', 'links', 'names', 'text')
        )
        honest = chance(rng, 0.15)  # digests of before
        files = [path.name for path in target.iterdir() if path.name in description['files']]
        if way == 'json':
            description, honest = self._spoilt_description(rng, description), True
        elif way == 'bytes':
            path = target / pick(rng, files)
            path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        elif way == 'graph':
            path = target / description['network']
            spoilt = (
                _spoilt_xml(rng, path.read_bytes())
                if path.suffix == '.xml'
                else _spoilt_onnx(rng, path.read_bytes(), target)
            )
            path.write_bytes(spoilt)
        elif way == 'npz' and (target / 'check.npz').is_file():
            (target / 'check.npz').write_bytes(_spoilt_npz(rng, (target / 'check.npz').read_bytes()))
        elif way == 'swap':
            other = self.base / pick(rng, self.names)
            path = pick(rng, [path for path in other.iterdir() if path.is_file()])
            shutil.copyfile(path, target / (pick(rng, files) if chance(rng, 0.3) else path.name))
        elif way == 'links':
            self._link(rng, target / pick(rng, [*files, DESCRIPTION]), folder)
        elif way == 'names':
            self._rename(rng, description, target)
        if not honest:
            _digests(target, description)
        if way != 'links' or not (target / DESCRIPTION).is_symlink() and (target / DESCRIPTION).is_file():
            text = json.dumps(description)
            content = spoil_bytes(rng, text.encode()) if way == 'text' else text.encode('utf-8', 'surrogatepass')
            if way == 'text' and chance(rng, 0.1):
                content = b'{"format": ' + b'[' * 100_000
            if (target / DESCRIPTION).is_file() or not (target / DESCRIPTION).exists():
                (target / DESCRIPTION).write_bytes(content)
        return f'{name}: {way}'

    @staticmethod
    def _spoilt_description(rng: Generator, description: dict) -> Any:
        read = ('preprocessing', 'decoding', 'input', 'outputs', 'files', 'classes', 'palette', 'requires', 'numerics')
        if chance(rng, 0.6):  # what is read, rather than what informs people
            key = pick(rng, [key for key in read if description.get(key)])
            return dict(description, **{key: spoil_data(rng, description[key])})
        if chance(rng, 0.1):
            return dict(description, **{pick(rng, list(description)): nested(500)})
        return spoil_data(rng, description)

    @staticmethod
    def _link(rng: Generator, path: Path, folder: Path) -> None:
        """A file that is a link, a folder, a pipe."""
        outside = folder / 'outside'
        shutil.copyfile(path, outside)
        path.unlink()
        way = int(rng.integers(7))
        if way == 0:
            path.symlink_to(outside)
        elif way == 1:
            path.symlink_to(pick(rng, ('/dev/zero', '/dev/random', '/etc/passwd', '/proc/self/mem', '/dev/stdin')))
        elif way == 2:
            path.symlink_to(path.name)
        elif way == 3:
            path.symlink_to('nothing')
        elif way == 4:
            path.mkdir()
        elif way == 5:
            os.mkfifo(path)
        else:
            path.write_bytes(b'')

    @staticmethod
    def _rename(rng: Generator, description: dict, target: Path) -> None:
        """Names of files that lead elsewhere, or are left out."""
        names = (
            '../outside',
            '/etc/passwd',
            '..',
            '.',
            '',
            'a/../../x',
            './network.onnx',
            'network.onnx/',
            '\0',
            '//x',
            'a' * 300,
        )
        old, new = pick(rng, list(description['files'])), pick(rng, names)
        way = int(rng.integers(4))
        if way == 0:
            description['files'][new] = description['files'].pop(old)
        elif way == 1:
            del description['files'][old]
        elif way == 2:
            description['network'] = new
            description['files'][new] = description['files'][old]
        else:
            description['network'] = pick(rng, list(description['files']))

    def run(self, rng: Generator, folder: Path, out: Path) -> str:
        """See the base class."""
        deployment, way = folder / 'deployment', int(rng.integers(4))
        if way == 0:
            outputs = self.check(deployment)
            return f'checked: {[output.passed for output in outputs]}'
        if way == 1:
            status = self.command.main(['--check', '--folder', str(deployment), '--threads', '1'])
            return f'status {status}'
        predictor = self.predictor(deployment, threads=1)
        found = predictor.predict(self.image)
        picture = predictor.draw(self.image, found)
        assert picture.shape == self.image.shape and picture.dtype == np.uint8
        text = json.dumps(found.to_dict(), allow_nan=False)
        return f'{len(text)} characters'
