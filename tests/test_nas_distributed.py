"""Two processes that train all networks at once do what one process does."""

from types import SimpleNamespace

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from test_nas_supernet import Model, Points

from frostnet_mm.nas.supernet_hook import SupernetHook, network_at


def losses_of(model, points, iteration, part):
    """The loss of a half of an iteration's eight images."""
    start = 8 * (iteration % 2) + 4 * part
    return dict(inputs=points.images[start : start + 4], target=points.targets[start : start + 4], mode='loss')


def train_rank(rank, store, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{store}', rank=rank, world_size=2)
    wrapped, points = MMDistributedDataParallel(Model().train()), Points()
    wrapper = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=0.5), accumulative_counts=4)
    hook, runner = SupernetHook(), SimpleNamespace(model=wrapped, optim_wrapper=wrapper, train_loop=None)
    for iteration in range(8):
        runner.iter = iteration
        hook.before_train_iter(runner, 0)
        with wrapper.optim_context(wrapped):
            loss = wrapped(**losses_of(wrapped, points, iteration, rank))['loss']
        wrapper.update_params(loss)
    torch.save(wrapped.module.state_dict(), f'{out}/{rank}.pth')
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    """Two updates of two ranks, each with a half of the images, against one process that adds up all gradients."""
    context = torch.multiprocessing.spawn(train_rank, (tmp_path / 'store', tmp_path), nprocs=2, join=False)
    model, points = Model().train(), Points()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for update in range(2):
        optimizer.zero_grad()
        for iteration in range(4 * update, 4 * update + 4):
            model.backbone.choose(network_at(model.backbone.space, 0, iteration))
            for part in range(2):
                (model(**losses_of(model, points, iteration, part))['loss'] / 8).backward()
        optimizer.step()
    while not context.join():
        pass
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    for name, value in model.named_parameters():
        torch.testing.assert_close(ranks[0][name], value.detach(), rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(ranks[0][name], ranks[1][name]), name
