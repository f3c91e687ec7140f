"""ExecuTorch with XNNPACK: phones and other ARM devices."""

import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.fx import GraphModule, Node

from ...device import DeploymentError
from ...files import write_bytes
from ...models.dense import UnsupportedModelError
from ...quantization.quantizer import is_convolution, rectifier_bounds
from ...registry import ENGINES
from ..flat_network import FlatNetwork, Normalization, traceable
from ..onnx.export import exported_program
from .base import Engine, LayerTime, time_whole

FILE = 'network.pte'


@ENGINES.register_module()
class ExecuTorchEngine(Engine):
    """A ``.pte`` file, whose operators XNNPACK runs as far as it can."""

    name = extra = 'executorch'
    presets = ('executorch',)
    formats = ('.pte',)
    dynamic_shapes = False

    def write(
        self,
        network: FlatNetwork,
        example: Tensor,
        folder: Path,
        dynamic: bool = False,
        baked: Normalization | None = None,
    ) -> list[str]:
        """See :meth:`Engine.write`."""
        self.require()
        if dynamic:
            raise DeploymentError('ExecuTorch plans its memory for one size: give --shape instead of --dynamic.')
        import executorch.kernels.quantized  # noqa: F401  its operators must be known before anything is lowered
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        module = traceable(network, baked)
        if isinstance(module, GraphModule):
            float_weights_of_float_outputs(module)
        program = exported_program(module, example, dynamic=False)
        try:
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            content = lowered.to_executorch().buffer
        except Exception as error:  # many types; each is passed on
            raise UnsupportedModelError(f'The network cannot be lowered to ExecuTorch: {error}') from error
        write_bytes(folder / FILE, content)
        return [FILE]

    def profile(self, folder: Path, images: Sequence[np.ndarray], threads: int | None = None) -> list[LayerTime]:
        """The program's instructions: XNNPACK's parts as a whole, as it does not tell its operators apart.

        Args:
            folder (Path): The deployment.
            images (Sequence[ndarray]): Inputs.
            threads (int, optional): Threads of the process.

        Returns:
            list[LayerTime]: The whole program as one entry, then what runs outside of XNNPACK, whose share of the time
            is not known (0).
        """
        precision, milliseconds = time_whole(folder, images, threads)
        delegates, others = instructions((Path(folder) / FILE).read_bytes())
        layers = [LayerTime(f'XNNPACK part {i}', 'XNNPACK', precision, 0.0) for i in range(delegates)]
        layers += [LayerTime(name, name, 'float32', 0.0) for name in others]
        layers[0] = LayerTime(layers[0].name, layers[0].kind, layers[0].precision, milliseconds)
        return layers


def float_weights_of_float_outputs(module: GraphModule) -> None:
    """Store the weights of convolutions that put out floats as floats.

    XNNPACK has no convolution from integers to floats. Given one (ExecuTorch 1.5.1), it takes the operator for a float
    convolution and its INT8 weights for floats: every output of a detector is then wrong by 40 of its 255 steps. The
    values are the same ones that the integers stand for.

    Args:
        module (GraphModule): A converted network; changed in place.
    """
    for index, conv in enumerate([node for node in module.graph.nodes if is_convolution(node)]):
        weight = conv.args[1]
        if 'dequantize_per_channel' not in str(weight.target) or _is_quantized(conv):
            continue
        integers, scale, _, axis = (
            operator.attrgetter(str(a.target))(module) if isinstance(a, Node) else a for a in weight.args[:4]
        )
        shape = [-1 if d == axis else 1 for d in range(integers.dim())]
        name = f'float_weight_{index}'
        module.register_buffer(name, integers.float() * scale.view(shape))
        with module.graph.inserting_before(conv):
            conv.update_arg(1, module.graph.get_attr(name))
        if not weight.users:
            module.graph.erase_node(weight)
    module.recompile()


def _is_quantized(node: Node) -> bool:
    """Whether all that reads a node, behind a rectifier or not, quantizes it."""
    return bool(node.users) and all(
        'quantize_per_tensor' in str(user.target)
        and 'dequantize' not in str(user.target)
        or (rectifier_bounds(user) is not None and _is_quantized(user))
        for user in node.users
    )


def instructions(content: bytes) -> tuple[int, list[str]]:
    """What a program runs.

    Args:
        content (bytes): A ``.pte`` file.

    Returns:
        tuple[int, list[str]]: How many calls of XNNPACK, and the names of the operators that run outside of it.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall, KernelCall

    program = deserialize_pte_binary(content)
    plan = getattr(program, 'program', program).execution_plan[0]
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    delegates = sum(isinstance(call, DelegateCall) for call in calls)
    kernels = [plan.operators[call.op_index].name for call in calls if isinstance(call, KernelCall)]
    return delegates, kernels
