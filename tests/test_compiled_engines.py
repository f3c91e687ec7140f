"""ExecuTorch, inductor and networks of open size, on the small network of the quantization tests."""

import warnings

import numpy as np
import pytest
import torch
from test_quantized_network import gather_ranges, images, make
from tiny_segmenter import prepared_segmenter
from torch import nn
from torch.nn import functional

from frostnet_mm.deploy.engines import engine_of
from frostnet_mm.deploy.engines import executorch as executorch_engine
from frostnet_mm.deploy.flat_network import FlatNetwork, _IntegerNetwork, converted_network, traceable
from frostnet_mm.deploy.onnx.export import export_onnx
from frostnet_mm.deploy.verification import verify
from frostnet_mm.device import (
    DeploymentError,
    SaturationWarning,
    compare_outputs,
    may_saturate,
    open_network,
)
from frostnet_mm.models.dense import UnsupportedModelError
from frostnet_mm.quantization import convert


def flat_network(numerics, **options):
    dense, network = make(numerics, list(options.items()))
    gather_ranges(dense, network)
    converted = convert(network)
    return network, FlatNetwork(_IntegerNetwork(converted), converted.layout.for_inference(keep_features=False))


def run_in(engine, flat, x, folder):
    files = engine.write(flat, x, folder)
    description = dict(
        engine=engine.name,
        network=files[0],
        input=dict(name='images', shape=list(x.shape), dtype='float32'),
        outputs=[dict(name=name) for name in flat.names],
    )
    network = open_network(folder, description)
    return [network(x.numpy())], files


def compared(network, flat, x, found):
    with torch.no_grad():
        expected = [[value.numpy() for value in flat(x)]]
        network.simulate(False)
        exact = [[value.numpy() for value in flat.layout.select(network.eval().flat(x))]]
        network.simulate(True)
    return compare_outputs(flat.names, found, expected, exact)


def test_dynamic_export_takes_any_size():
    network, flat = flat_network('onnx')
    model = export_onnx(traceable(flat), flat.names, images(1)[:1], dynamic=True)
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert [type(size) for size in shape] == [str, int, str, str] and shape[1] == 3
    x = images(2, (2, 3, 64, 88))
    found = engine_of('onnxruntime').run_onnx(model.SerializeToString(), x.numpy(), flat.names)
    assert all(output.passed for output in compared(network, flat, x, [found]))
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)  # no paths of this machine


class RunningMaximum(nn.Module):
    """Computes what ONNX has no operator for."""

    def forward(self, x):
        return (torch.cummax(x, 2).values,)


def test_an_operator_without_an_onnx_form_is_named():
    with pytest.raises(UnsupportedModelError) as caught:
        export_onnx(RunningMaximum(), ['map'], torch.rand(1, 3, 8, 8))
    message = str(caught.value)
    assert 'aten.cummax' in message and 'Replace the operator' in message
    assert len(message.splitlines()) == 1 and '\x1b' not in message


def test_executorch_computes_what_was_trained(tmp_path, monkeypatch):
    pytest.importorskip('executorch')
    network, flat = flat_network('executorch')
    x = images(1)[:1]
    found, files = run_in(engine_of('executorch'), flat, x, tmp_path)
    outputs = compared(network, flat, x, found)
    assert all(output.passed for output in outputs)
    delegates, others = executorch_engine.instructions((tmp_path / files[0]).read_bytes())
    assert delegates >= 1 and not [name for name in others if 'conv' in name]
    # Without floats as the weights of float outputs, XNNPACK computes nonsense, and the check says so.
    monkeypatch.setattr(executorch_engine, 'float_weights_of_float_outputs', lambda module: None)
    found, _ = run_in(engine_of('executorch'), flat, x, tmp_path)
    with pytest.raises(DeploymentError, match='executorch does not compute what was trained'):
        verify.require_agreement(compared(network, flat, x, found), [], engine_of('executorch'))


def test_executorch_wants_one_size_and_its_own_numerics(tmp_path):
    pytest.importorskip('executorch')
    _, flat = flat_network('executorch')
    with pytest.raises(DeploymentError, match='give --shape instead of --dynamic'):
        engine_of('executorch').write(flat, images(1), tmp_path, dynamic=True)
    with pytest.raises(DeploymentError, match='epoch_1.pth .*--numerics executorch'):
        engine_of('executorch').check_preset('onnx', 'epoch_1.pth')


def test_inductor_computes_what_was_trained(tmp_path):
    network, flat = flat_network('onnx', float_modules=('head.up',))  # oneDNN has no such transposed convolution
    x = images(1)[:1]
    found, files = run_in(engine_of('inductor'), flat, x, tmp_path)
    assert files == ['network.pt2'] and all(np.isfinite(value).all() for value in found[0])
    assert all(output.passed for output in compared(network, flat, x, found))


class LargeWeights(nn.Module):
    """Convolutions whose products of a pair have one sign and are large, on images near the top of their range."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dense = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.Conv2d(32, 32, 3, 1, 1, bias=False)
        self.last = nn.Conv2d(32, 8, 1, bias=False)
        for layer in (self.stem, self.dense, self.last):
            nn.init.uniform_(layer.weight, 0.5, 1)

    def forward(self, x):
        return (self.last(functional.relu(self.dense(functional.relu(self.stem(x))))),)


@pytest.mark.parametrize('bits', [8, 7])
@pytest.mark.parametrize('name', ['onnxruntime', 'openvino', 'executorch', 'inductor'])
def test_which_engines_saturate_where(name, bits, tmp_path):
    """What ``may_saturate`` says of an engine on this machine is what it does."""
    if name == 'executorch':
        pytest.importorskip('executorch')
    torch.manual_seed(0)
    batches = [torch.rand(2, 3, 32, 48) / 2 + 0.5 for _ in range(3)]
    model, network = prepared_segmenter(LargeWeights, weight_bits=bits, numerics=engine_of(name).preset)
    network.train().observe(True)
    with torch.no_grad():
        for batch in batches:
            network.flat(batch)
        network.simulate(True)
        model.eval()
        flat = converted_network(model, convert(network))
        (expected,) = (value.numpy() for value in flat(batches[0][:1]))
    files = engine_of(name).write(flat, batches[0][:1], tmp_path)
    about = dict(engine=name, precision='int8', numerics=dict(weight_bits=bits), network=files[0])
    about |= dict(input=dict(name='images', shape=[1, 3, 32, 48], dtype='float32'))
    about |= dict(outputs=[dict(name=output) for output in flat.names])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', SaturationWarning)
        (found,) = open_network(tmp_path, about)(batches[0][:1].numpy())
    steps = np.abs(found - expected).max() / (expected.max() - expected.min()) * 255
    assert steps > 10 if may_saturate(about) else steps < 2
