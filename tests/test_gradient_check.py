"""What trains in float trains in the quantized network, with gradient checkpointing too."""

import pytest
import torch
import torch.utils.checkpoint
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tiny_segmenter import images, prepared_segmenter, segmenter
from torch import nn
from torch.nn import functional

from frostnet_mm.models.dense import detached
from frostnet_mm.quantization import QuantizationError
from frostnet_mm.quantization.gradient_check import GradientCheck


class Checkpointed(nn.Module):
    """A checkpointed convolution between two others, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.unused = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        return (self.last(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=True)),)


def batch():
    labels = torch.randint(0, 2, (2, 1, 32, 48), generator=torch.Generator().manual_seed(1))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(32, 48), ori_shape=(32, 48), pad_shape=(32, 48)))
    return images(), samples


def step(model):
    """A training step that is looked at; returns the names of the parameters with a gradient."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    check = GradientCheck(model, optimizer)
    losses = model(*batch(), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    found = {name for name, value in model.named_parameters() if value.grad is not None}
    optimizer.step()
    check.close()
    return found


def test_a_checkpointed_region_and_what_lies_before_it_is_trained():
    model, _ = prepared_segmenter(Checkpointed)
    found = step(model.train())
    with detached(model):
        in_float = step(segmenter(Checkpointed).train())
    assert found == in_float and 'backbone.stem.weight' in found and 'backbone.unused.weight' not in found


def test_lost_gradients_are_named_and_the_model_is_left_as_it_is():
    model, network = prepared_segmenter(Checkpointed)
    graph = network.program.graph
    (norm,) = (
        node
        for node in graph.nodes
        if node.target is torch.ops.aten.batch_norm.default and 'backbone' in str(node.args[1].target)
    )
    with graph.inserting_after(norm):
        cut = graph.call_function(torch.ops.aten.detach.default, (norm,))
    norm.replace_all_uses_with(cut, delete_user_cb=lambda user: user is not cut)
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
    check = GradientCheck(model, optimizer)
    losses = model(*batch(), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    with pytest.raises(QuantizationError, match=r'^4 of \d+ parameters .* none .*: backbone.stem.weight') as error:
        optimizer.step()
    check.close()
    after = model.state_dict()
    assert 'backbone.norm.bias' in str(error.value) and 'backbone.unused' not in str(error.value)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), random_state)
