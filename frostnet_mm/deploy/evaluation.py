"""mm's evaluators with an engine at the seam."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import Runner

from ..apis.evaluation import qat_hook, timed_metrics
from ..device.predictor import Network, open_network
from ..models.dense import OutputLayout, attached
from ..quantization.checkpoint import Checkpoint
from .deploy import DeployOptions, deploy_model, engine_of
from .engine_network import EngineNetwork
from .loaded_model import load_for_deployment


def evaluate_engines(
    runner: Runner,
    config: str,
    checkpoint: Checkpoint,
    engines: Sequence[str],
    precision: str,
    cfg_options: dict | None = None,
    weight_bits: int | None = None,
    check: bool = True,
) -> Iterator[tuple[str, dict]]:
    """Evaluate a checkpoint in engines: deployed, verified, and run on the test data.

    Whenever it yields, the Runner is as it was before: its model runs its own network.

    Args:
        runner (Runner): For evaluation, with its work_dir; the deployments go into ``deploy/`` there.
        config (str): The config.
        checkpoint (Checkpoint): The checkpoint.
        engines (Sequence[str]): Names of engines.
        precision (str): 'int8' or 'float'.
        cfg_options (dict, optional): Values that replace those of the config.
        weight_bits (int, optional): 8 or 7. Default: as the checkpoint was made.
        check (bool): Verify the deployments. Default: True.

    Yields:
        tuple[str, dict]: The engine, and the metrics with 'evaluation s' and, if verified, 'rms steps', the largest
        difference of an output to the reference in steps of that output's range / 255.

    Raises:
        DeploymentError: An engine is missing, or does not compute what was trained.
    """
    for name in engines:
        engine_of(name).require_running('evaluated')
        engine_of(name).require()
    loaded = load_for_deployment(config, checkpoint, precision, cfg_options, weight_bits=weight_bits)
    for name in engines:
        engine = engine_of(name)
        folder = Path(runner.work_dir) / 'deploy' / f'{name}_{precision}'
        options = DeployOptions(precision=precision, dynamic=not loaded.has_fixed_size, check=check)
        print_log(f'Deploying to {name} ({precision}) …', logger='current')
        description = deploy_model(loaded, engine, folder, options)
        with _running(runner, open_network(folder, description), loaded.network.layout):
            print_log(f'Evaluation: {name} ({precision}), {folder}.', logger='current')
            metrics = timed_metrics(runner, runner.test_loop.run)
        if check:
            metrics['rms steps'] = max(output['rms_steps'] for output in description['verification']['outputs'])
        yield name, metrics


@contextmanager
def _running(runner: Runner, network: Network, layout: OutputLayout) -> Iterator[None]:
    """Have a Runner's model run its dense network in an engine while the context is open."""
    hook = qat_hook(runner)
    # QATHook would put its own network at the seam again whenever an evaluation begins.
    with (
        nullcontext() if hook is None else hook.standing_aside(),
        attached(runner.model, EngineNetwork(network, layout)),
    ):
        yield
