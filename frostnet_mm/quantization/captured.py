"""A captured network: its graph, its outputs in training and in evaluation, and the two modes of the graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule

from ..models.dense import OutputLayout
from .drop_path import DROPPING
from .graph_forms import counts_batches
from .quantizer import BATCH_NORM, has_statistics


@dataclass
class CapturedNetwork:
    """A dense network as a graph.

    Args:
        module (GraphModule): One input, the images; a flat tuple of tensors as output.
        layout (OutputLayout): How the outputs of evaluation nest, and their names.
        fixed_size (tuple[int | None, ...]): The sizes of N, C, H and W that the graph is bound to; None for any.
        size_divisor (int): What H and W must be multiples of.
        constants (dict[str, Tensor]): Tensors that the network computes with, but that are neither parameter nor
        buffer.
        training_layout (OutputLayout, optional): How the outputs of training nest, where they are others (auxiliary
            heads, a last step of evaluation alone). They are the first outputs of the graph.
        selected (tuple[int, ...], optional): Which outputs of the graph evaluation puts out.
    """

    module: GraphModule
    layout: OutputLayout
    fixed_size: tuple[int | None, ...]
    constants: dict[str, Tensor]
    size_divisor: int = 1
    training_layout: OutputLayout | None = None
    selected: tuple[int, ...] | None = None

    def for_evaluation(self, values: Sequence[Any]) -> Sequence[Any]:
        """Those of something that there is for each output of the graph that belong to evaluation."""
        return values if self.selected is None else tuple(values[index] for index in self.selected)

    def for_training(self, values: Sequence[Any]) -> Sequence[Any]:
        """Those that belong to training."""
        return values if self.training_layout is None else values[: len(self.training_layout.all_names)]


def evaluation_copy(module: GraphModule) -> GraphModule:
    """A graph with the same state in evaluation mode: batch norms with running statistics, no dropout."""
    graph = Graph()
    output = graph.graph_copy(module.graph, {})
    graph.output(output)
    copied = GraphModule(module, graph)
    set_mode(copied.graph, training=False, update_norms=False)
    copied.recompile()
    return copied


def set_mode(graph: Graph, training: bool, update_norms: bool) -> None:
    """Set dropout and batch norms of a captured training graph; norms that were captured frozen stay so.

    Args:
        graph (torch.fx.Graph): Changed in place.
        training (bool): Whether dropout drops.
        update_norms (bool): Whether batch norms normalize by the batch and update their statistics.
    """
    for node in reversed(list(graph.nodes)):  # a norm that is called several times counts in a chain
        if node.target in BATCH_NORM and not update_norms and has_statistics(node):
            node.args = (*node.args[:5], False, *node.args[6:])
        elif node.target in DROPPING and not training:
            node.args = (*node.args[:2], False)
        elif counts_batches(node) and not update_norms:
            counter = node.args[0]
            graph.erase_node(node)
            if counter.op == 'get_attr' and not counter.users:
                graph.erase_node(counter)
