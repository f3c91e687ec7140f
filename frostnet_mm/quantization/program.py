"""What a quantized network computes, in each of its modes."""

from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule

from .captured import CapturedNetwork, set_mode
from .drop_path import DROPPING
from .fake_quantize import ActivationFakeQuantize
from .folding import fold_norms
from .graph_forms import erase_unread


class Program:
    """The graph of a network: what to compute, without the tensors. Copies of a network share it."""

    def __init__(self, captured: CapturedNetwork, prepared: GraphModule, fingerprint: str) -> None:
        self.graph = prepared.graph
        self.meta = prepared.meta  # by which torchao knows a prepared graph
        self.layout = captured.layout
        self.training_layout = captured.training_layout or captured.layout
        self.for_evaluation, self.for_training = captured.for_evaluation, captured.for_training
        self.fixed_size = captured.fixed_size
        self.size_divisor = captured.size_divisor
        self.fingerprint = fingerprint
        self._forwards: dict[tuple[bool, ...], Any] = {}

    def __deepcopy__(self, memo: dict) -> 'Program':
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each output of evaluation."""
        return self.layout.names

    def forward(self, root: nn.Module, training: bool, update_norms: bool, folded: bool, every: bool) -> Any:
        """The graph as a function of (root, images), for a mode; generated once.

        It returns the outputs of both modes, or without ``every`` those of evaluation alone.
        """
        key = (training, update_norms, folded, every)
        if key not in self._forwards:
            graph = self.copy_graph(evaluation=not every)
            set_mode(graph, training, update_norms)
            if training:
                _pass_dropped(graph, root)
            if folded:
                fold_norms(graph, root)
            _drop_rectifiers(graph, root)
            self._forwards[key] = type(GraphModule(root, graph)).forward
        return self._forwards[key]

    def copy_graph(self, evaluation: bool = False, training: bool = False) -> Graph:
        """A copy of the graph, to be changed; or of the part that evaluation or training puts out."""
        graph = Graph()
        outputs = graph.graph_copy(self.graph, {})
        if self.training_layout is self.layout or not (evaluation or training):
            graph.output(outputs)
        else:
            graph.output(tuple((self.for_evaluation if evaluation else self.for_training)(outputs)))
            erase_unread(graph)
        return graph


def _pass_dropped(graph: Graph, root: nn.Module) -> None:
    """Do not round behind a dropout: what it leaves are rounded values, times 1 / (1 - p).

    The quantizer there is that of its input, whose range would have to hold these too: half of it for nothing in
    evaluation at p = 0.5, as in front of AlexNet's classifier. One of its own, behind an input that stays in float,
    remains: nothing else observes its range.
    """
    for node in list(graph.nodes):
        if node.op == 'call_module' and getattr(node.args[0], 'target', None) in DROPPING:
            source = node.args[0]
            while source.target in DROPPING:
                source = source.args[0]
            quantizer = root.get_submodule(str(node.target))
            is_own = source.op != 'call_module' or root.get_submodule(str(source.target)) is not quantizer
            if isinstance(quantizer, ActivationFakeQuantize) and not is_own:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)


def _drop_rectifiers(graph: Graph, root: nn.Module) -> None:
    """Remove the rectifiers that quantizers do themselves."""
    for node in list(graph.nodes):
        if node.op == 'call_module':
            module = root.get_submodule(str(node.target))
            if isinstance(module, ActivationFakeQuantize) and module.rectified:
                rectifier = node.args[0]
                node.args = (rectifier.args[0],)
                graph.erase_node(rectifier)
