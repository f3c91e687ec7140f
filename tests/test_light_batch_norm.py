"""What is spared in a capture: batch norms have the form of real ones, graphs are those of torch.export alone."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._decomp import decomposition_table
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from frostnet_mm.quantization.explain import line_of
from frostnet_mm.quantization.light_batch_norm import light_batch_norms
from frostnet_mm.quantization.light_export import light_export

LEGIT = torch.ops.aten._native_batch_norm_legit.default
IMAGES = dict(
    plain=torch.randn(2, 6, 5, 4),
    nhwc=torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last),
    turned=torch.randn(2, 6, 5, 4).transpose(2, 3),
    bfloat16=torch.randn(2, 6, 5, 4).bfloat16(),
    vectors=torch.randn(4, 6),
)


@pytest.fixture(autouse=True)
def without_cache():
    """What was found of an operator before is not taken."""
    FakeTensorMode.cache_clear()
    yield
    FakeTensorMode.cache_clear()


def forms(tensors):
    """Sizes, strides and type of each, of symbolic sizes those of the example."""
    return [(tuple(map(int, t.shape)), tuple(map(int, t.stride())), t.dtype) for t in tensors]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', IMAGES)
def test_forms_are_those_of_real_outputs(name, training):
    images, rest = IMAGES[name], [torch.rand(6) for _ in range(4)]
    real = LEGIT(images, *rest, training, 0.1, 1e-5)
    sizes = [DimDynamic.STATIC if dim == 1 else DimDynamic.DYNAMIC for dim in range(images.dim())]
    with light_batch_norms(), FakeTensorMode(shape_env=ShapeEnv()) as mode:
        own = mode.from_tensor(images, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
        fake = LEGIT(own, *(mode.from_tensor(t, static_shapes=True) for t in rest), training, 0.1, 1e-5)
    assert isinstance(fake[0].shape[0], torch.SymInt)
    assert forms(fake) == forms(real)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4, affine=False)
        )

    def forward(self, x):
        y = self.layers(x)
        return y, y.mean((2, 3)) * y.shape[2]


@pytest.mark.parametrize('training', [True, False])
def test_the_graph_is_the_same(training):
    graphs, lines = [], set()
    for context in (nullcontext, light_batch_norms, light_export):
        FakeTensorMode.cache_clear()
        network = Net().train(training).to(memory_format=torch.channels_last)
        auto, images = torch.export.Dim.AUTO, torch.randn(2, 3, 32, 48)
        with context():
            program = torch.export.export(
                network, (images,), dynamic_shapes=({0: auto, 2: auto, 3: auto},), strict=False
            )
        nodes = [node for node in program.graph.nodes if isinstance(node.meta.get('val'), torch.Tensor)]
        forms = [
            (str(n), str(n.target), n.meta['val'].shape, n.meta['val'].stride(), n.meta['val'].dtype) for n in nodes
        ]
        graphs.append((program.graph_module.code, str(forms)))
        lines.add(str([(line_of(node), node.stack_trace) for node in nodes if node.op == 'call_function']))
    assert graphs[0] == graphs[1] == graphs[2]
    assert len(lines) == 1 and 'return y, y.mean((2, 3)) * y.shape[2]' in lines.pop()
    assert 'batch_norm' in graphs[0][0]


def test_it_ends_with_its_context():
    before = decomposition_table[LEGIT]
    with pytest.raises(ValueError, match='stop'), light_batch_norms():
        assert decomposition_table[LEGIT] is not before
        raise ValueError('stop')
    assert decomposition_table[LEGIT] is before
