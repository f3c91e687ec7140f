"""The dense network with simulated INT8 arithmetic: trained like the network itself, converted at the end."""

import copy
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torchao.quantization.pt2e.prepare import prepare

from ..models.dense import DenseNetwork
from .capture import capture
from .captured import set_mode
from .constants import value_of
from .errors import QuantizationError, RangeError
from .fake_quantize import ActivationFakeQuantize, WeightFakeQuantize
from .folding import affine_of
from .program import Program
from .quantizer import (
    ADDS,
    BATCH_NORM,
    DenseQuantizer,
    batch_norm_of,
    is_convolution,
    is_quantized_norm,
    module_paths,
    rectifier_bounds,
)
from .settings import EXAMPLE_SHAPE


class QuantizedNetwork(nn.Module):
    """Stands in for a model's dense network and simulates INT8 in it.

    It reads parameters and batch norm statistics from the network itself: nothing is copied, so optimizers, averages of
    weights and distributed wrappers keep working, and its own state is the activation ranges alone.

    Args:
        dense (DenseNetwork): The network.
        quantizer (DenseQuantizer): Which tensors are quantized, and how.
        example_shape (tuple[int, int, int, int]): Shape of the images that it is captured with.

    Raises:
        UnsupportedModelError: The network cannot be captured.
    """

    def __init__(
        self,
        dense: DenseNetwork,
        quantizer: DenseQuantizer,
        example_shape: tuple[int, int, int, int] = EXAMPLE_SHAPE,
    ) -> None:
        super().__init__()
        captured = capture(dense, example_shape)
        quantizer.annotate(captured.module)
        quantized = prepare(captured.module, {}, is_qat=True)
        names = _name_quantizers(quantized)
        for name, value in captured.constants.items():
            self.register_buffer(f'constant_{name.replace(".", "_")}', value, persistent=False)
            for node in quantized.graph.nodes:
                if node.op == 'get_attr' and node.target == name:
                    node.target = f'quantization.constant_{name.replace(".", "_")}'
        root = nn.Module()
        for name, child in dense.named_children():
            root.add_module(name, child)
        root.add_module('quantization', self)
        for name, module in names.items():
            _add_nested(self, name, module)
        # Not registered as a child: its modules belong to the model, and it contains this one.
        self.__dict__['root'] = root
        self.program = Program(captured, quantized, _fingerprint(quantized.graph, root, quantizer))
        self.scheme = quantizer.scheme
        self.freeze_norms = False
        for module in self.activations():
            module.shared = _calls(quantized.graph, f'quantization.{module.name}') > 1
        self._fuse_rectifiers()
        if self.scheme.weight_granularity == 'tensor':
            self._link_norms()
        if quantizer.learned_scales:
            self._make_weights_learnable()
            self._observe_tail()
        self.to(next(dense.parameters()).device)

    # -- the quantizers

    def activations(self) -> Iterator[ActivationFakeQuantize]:
        """The quantizers of activations, in the order of the graph."""
        return (module for module in self.modules() if isinstance(module, ActivationFakeQuantize))

    def weights(self) -> Iterator[WeightFakeQuantize]:
        """The quantizers of weights, in the order of the graph."""
        return (module for module in self.modules() if isinstance(module, WeightFakeQuantize))

    def simulate(self, enabled: bool) -> None:
        """Round activations and weights from now on, or compute in float."""
        for module in (*self.activations(), *self.weights()):
            module.simulating = enabled

    def observe(self, enabled: bool, in_evaluation: bool = False, learned: bool = True) -> None:
        """Follow the ranges of activations during training (and in evaluation mode, for calibration), or keep them.

        Args:
            enabled (bool): Whether to follow them.
            in_evaluation (bool): Whether to do so in evaluation mode too.
            learned (bool): Whether to do so where the scale is to be trained.
        """
        for module in self.activations():
            module.observing = enabled and (learned or module.log_scale is None)
            module.observing_in_evaluation = in_evaluation

    @property
    def simulating(self) -> bool:
        """Whether INT8 is simulated."""
        return any(module.simulating for module in self.activations())

    @property
    def observed(self) -> bool:
        """Whether the range of any activation was observed, loaded or learned."""
        return any(module.initialized for module in self.activations())

    def start_learning(self) -> bool:
        """Begin to train the scales from the ranges observed so far (LSQ); return whether that is new."""
        new = [module for module in self.activations() if module.log_scale is not None and not module.learning]
        for module in new:
            module.start_learning()
        for module, weight in self.weight_nodes():
            if module.log_scale is not None:
                module.start_learning(weight)
        return bool(new)

    def weight_nodes(self, evaluation: bool = False) -> Iterator[tuple[WeightFakeQuantize, Tensor]]:
        """Each quantizer of a weight with the weight; or those alone that evaluation needs."""
        graph = self.program.copy_graph(evaluation=evaluation)
        set_mode(graph, training=False, update_norms=False)
        for node in graph.nodes:
            module = self._module_of(node)
            if isinstance(module, WeightFakeQuantize):
                yield module, value_of(self.__dict__['root'], node.args[0])

    def check_ranges(self) -> None:
        """Raise an error that names each layer without a usable range.

        Raises:
            RangeError: Some range is missing, empty or not finite.
        """
        messages = []
        for module in self.activations():
            try:
                module.check_range()
            except RangeError as error:
                messages.append(str(error))
        if messages:
            more = f'\n… and {len(messages) - 5} more layers.' if len(messages) > 5 else ''
            raise RangeError('\n'.join(messages[:5]) + more)
        dead = [module.name for module in self.activations() if module.dead]
        if dead:
            print_log(
                f'{len(dead)} layers put out nothing but zeros so far: {", ".join(dead[:5])}'
                f'{f" and {len(dead) - 5} more" if len(dead) > 5 else ""}. That is in order right after an '
                'initialization with zeros; after training, their weights or batch norms have died.',
                logger='current',
                level=logging.WARNING,
            )

    # -- running

    def forward(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        """Run the network.

        Args:
            images (Tensor): Preprocessed images of shape (N, 3, H, W).

        Returns:
            tuple: As :meth:`frostnet_mm.DenseNetwork.forward`.
        """
        layout = self.program.training_layout if self.training else self.program.layout
        return layout.nest(self.flat(images))

    def flat(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network; the outputs as a flat tuple in the order of ``program.names``, or all those of training."""
        self._check_size(images)
        for module in self.activations():
            module.begin_pass()
        root = self.__dict__['root']
        # Evaluation computes what the converted network does, to the last digit; training needs the norms themselves.
        folded = self.simulating and not self.training
        every = self.training or any(module.observing_in_evaluation for module in self.activations())
        update_norms = self.training and not self.freeze_norms
        values = self.program.forward(root, self.training, update_norms, folded, every)(root, images)
        if self.training:
            return self.program.for_training(values)
        return self.program.for_evaluation(values) if every else values

    def _check_size(self, images: Tensor) -> None:
        expected, found = self.program.fixed_size, tuple(images.shape)
        if expected[1] not in (None, found[1]):
            raise QuantizationError(
                f'Images of shape {found} were given, of {found[1]} channels, and this network reads {expected[1]}: '
                f'give the backbone in_channels={found[1]}, or it images of {expected[1]} (of grey ones, 1: '
                "LoadImageFromFile with color_type='grayscale', and one mean and std)."
            )
        if any(size is not None and size != own for size, own in zip(expected, found, strict=True)):
            shown = tuple(size or 'any' for size in expected)
            raise QuantizationError(
                f'Images of shape {found} were given, but this network was captured for {shown}: something in it '
                'depends on the size of the image. Have the pipeline resize (and pad) the images to it, or capture '
                f'the network for theirs: QATHook(example_shape=(2, 3, {found[2]}, {found[3]})) in training, '
                f'--example-shape {found[2]} {found[3]} of tools/calibrate.py, and of tools/deploy.py with random '
                'weights.'
            )
        divisor = self.program.size_divisor
        if any(size % divisor for size in found[2:]):
            raise QuantizationError(
                f'Images of shape {found} were given, but this network was captured for heights and widths that are '
                f'multiples of {divisor}: set pad_size_divisor={divisor} of the data preprocessor.'
            )

    # -- building

    def _module_of(self, node: Node) -> nn.Module | None:
        if node.op != 'call_module':
            return None
        return self.get_submodule(str(node.target).removeprefix('quantization.'))

    def _fuse_rectifiers(self) -> None:
        """Let each quantizer do the ReLU before it, where nothing else reads that."""
        for node in self.program.graph.nodes:
            module = self._module_of(node)
            bounds = rectifier_bounds(node.args[0]) if isinstance(module, ActivationFakeQuantize) else None
            if bounds and len(node.args[0].users) == 1 and _calls(self.program.graph, node.target) == 1:
                source = node.args[0].args[0]
                # These do not need their result for the backward pass.
                fresh = is_convolution(source) or source.target in BATCH_NORM | ADDS
                module.rectify(*bounds, inplace=fresh and len(source.users) == 1)

    def _link_norms(self) -> None:
        """Tell each quantizer of a weight what the batch norm behind its convolution multiplies by."""
        root = self.__dict__['root']
        for node in self.program.graph.nodes:
            norm = batch_norm_of(node) if is_convolution(node) else None
            quantizer = self._module_of(node.args[1]) if norm is not None else None
            if isinstance(quantizer, WeightFakeQuantize):
                quantizer.norm_factor = _NormFactor(root, norm)

    def _observe_tail(self) -> None:
        """What evaluation alone computes gets no gradient: scales follow the ranges there, instead of being learned."""
        trained = self.program.copy_graph(training=True)
        names = {str(node.target) for node in trained.nodes if node.op == 'call_module'}
        for module in self.activations():
            if f'quantization.{module.name}' not in names:
                module.log_scale = None

    def _make_weights_learnable(self) -> None:
        for module, weight in self.weight_nodes():
            if module.learned_scales and module.log_scale is None:
                module.make_learnable(weight)


class _NormFactor:
    """What a batch norm multiplies by at present; copied with the network that it belongs to.

    Args:
        root (nn.Module): What the graph reads.
        norm (Node): The batch norm in the graph, which copies of a network share.
    """

    def __init__(self, root: nn.Module, norm: Node) -> None:
        self.root, self.norm = root, norm

    def __deepcopy__(self, memo: dict) -> '_NormFactor':
        return _NormFactor(copy.deepcopy(self.root, memo), self.norm)

    def __call__(self) -> Tensor:
        values = (None if node is None else value_of(self.root, node) for node in self.norm.args[1:5])
        return affine_of(*values, self.norm.args[7])[0].detach()


def _calls(graph: Graph, target: Any) -> int:
    return sum(node.op == 'call_module' and node.target == target for node in graph.nodes)


def _add_nested(parent: nn.Module, name: str, module: nn.Module) -> None:
    *path, leaf = name.split('.')
    for part in path:
        if part not in parent._modules:
            parent.add_module(part, nn.Module())
        parent = parent._modules[part]
    parent.add_module(leaf, module)


def _name_quantizers(model: GraphModule) -> dict[str, nn.Module]:
    """Name each quantizer after the layer that makes its tensor, in place of a running number.

    The names are part of the checkpoint; they do not depend on versions of torch or torchao.

    Args:
        model (GraphModule): A prepared graph; its calls are changed to ``quantization.<name>``.

    Returns:
        dict[str, nn.Module]: The quantizers by name, in the order of the graph.
    """
    modules = dict(model.named_modules(remove_duplicate=False))  # a scale shared by several calls has several names
    names: dict[str, nn.Module] = {}
    given: dict[int, str] = {}
    calls = [node for node in model.graph.nodes if node.op == 'call_module']
    bases = {node: _tensor_name(node.args[0], modules) for node in calls}
    above = {base[:place] for base in bases.values() for place, sign in enumerate(base) if sign == '.'}
    for node in calls:
        module = modules[str(node.target)]
        if id(module) not in given:
            base = bases[node]
            base = f'{base}_output' if base in above else base  # of torch.cat beside a module called cat
            name, count = base, 1
            while name in names:
                count += 1
                name = f'{base}_{count}'
            given[id(module)] = name
            names[name] = module
            module.name = name
        node.target = f'quantization.{given[id(module)]}'
    return names


def _tensor_name(node: Node, modules: dict[str, nn.Module]) -> str:
    """A name for the tensor that a node makes: ``<module>.<what>``."""
    if node.op == 'placeholder':
        return 'images'
    if node.op == 'get_attr':
        return str(node.target)
    if node.op == 'call_module':  # a second quantizer behind a first: another scale for some reader
        return f'{_tensor_name(node.args[0], modules)}_rescaled'
    source = node
    while source.target in BATCH_NORM or rectifier_bounds(source) is not None:
        if is_quantized_norm(source):
            return f'{str(source.args[3].target).rpartition(".")[0]}.output'
        source = source.args[0]
        if not isinstance(source, Node) or source.op != 'call_function':
            break
    else:
        if is_convolution(source) and _conv_weight_name(source):
            return f'{_conv_weight_name(source).rpartition(".")[0]}.output'
    paths = module_paths(node)
    operator = str(node.target).split('.')[1] if '.' in str(node.target) else str(node.target)
    leaf = operator.strip('_')
    return '.'.join([*(paths[-1:]), f'{leaf}_output' if hasattr(nn.Module, leaf) else leaf])  # such as .to()


def _conv_weight_name(conv: Node) -> str | None:
    weight = conv.args[1]
    if isinstance(weight, Node) and weight.op == 'call_module':
        weight = weight.args[0]
    return str(weight.target) if isinstance(weight, Node) and weight.op == 'get_attr' else None


def _fingerprint(graph: Graph, root: nn.Module, quantizer: DenseQuantizer) -> str:
    """A digest of what is computed: operators, their order and constants, and the places of the quantizers."""
    index = {node: str(number) for number, node in enumerate(graph.nodes)}

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return index[value]
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return repr(value)

    lines = [quantizer.scheme.identity]
    for node in graph.nodes:
        name = '' if node.op == 'call_function' else str(node.target) if node.op != 'placeholder' else 'images'
        lines.append(f'{node.op} {name or node.target} {plain(node.args)} {sorted(node.kwargs)}')
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]
