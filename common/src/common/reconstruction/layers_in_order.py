"""A forward pass as a generator: torch.fx runs the network node by node and pauses before each requested layer."""

import copy
import math
import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx, nn

from common.models import PadShortcut
from common.models.same_padding import SamePad2d

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PAUSED = 2.5  # values held by a paused forward pass, in units of the largest layer's inputs and outputs


@dataclass(eq=False)
class LayerCall:
    """A call of a layer.

    Attributes:
        batch_norms: Batch norms between the layer and the sum that its output enters.
        added: The other summand, in the shape of the output; None without a sum.
    """

    name: str
    layer: nn.Module
    input: Tensor
    batch_norms: tuple[BatchNorm, ...] = ()
    added: Tensor | None = None

    def output(self) -> Tensor:
        """Compute the layer's output with its current weight."""
        return self.layer(self.input)

    @property
    def scale(self) -> Tensor:
        """Factor per channel of the batch norms, (C,); a scalar 1 if there are none."""
        scale = self.input.new_ones(())
        for batch_norm in self.batch_norms:
            std = torch.sqrt(cast(Tensor, batch_norm.running_var) + batch_norm.eps)
            scale = scale * (std.reciprocal() if batch_norm.weight is None else batch_norm.weight / std)
        return scale


class TracedNetwork:
    """A network as a graph whose forward pass can be paused.

    Attributes:
        order: The named layers, in the order in which a forward pass pauses at them.

    Raises:
        Exception: Of any type, if torch.fx cannot trace the network (data-dependent control flow, for example), the graph's output
            for the example differs, or the output is not a tensor.
    """

    def __init__(self, network: nn.Module, names: Collection[str], example: Tensor) -> None:
        self.network = copy.copy(network)  # constants of the graph become attributes of the copy
        self.graph = _Tracer(names).trace(self.network)
        run = _ExampleRun(self.network, graph=self.graph)
        example = match_parameters(example[:1], network)
        if not torch.allclose(run.run(example), network(example), 1e-4, 1e-6, equal_nan=True):
            raise ValueError("the graph's output differs from the network's output")
        calls = [node for node in self.graph.nodes if node.op == "call_module" and node.target in names]
        called = [node.target for node in calls]
        if set(called) != set(names):
            raise ValueError(f"the graph calls {called}, not all of {names}")
        item = next(network.parameters()).element_size()
        self._bytes = {
            node.target: item * (math.prod(run.shapes[node.all_input_nodes[0]]) + math.prod(run.shapes[node]))
            for node in calls
        }
        self._calls_each_layer_once = len(called) == len(names)
        self.paths = {node: _find_path_to_sum(node, run) for node in calls}
        for call, path in self.paths.items():
            if path.sum is not None:
                self._run_right_before(path.sum, call, path.nodes)
        self.order = list(dict.fromkeys(node.target for node in self.graph.nodes if node in self.paths))

    def paused_bytes(self, names: Collection[str]) -> float:
        """Return the memory per example of a pass that pauses at these layers; infinity if a layer is called several times."""
        return PAUSED * max(self._bytes[name] for name in names) if self._calls_each_layer_once else math.inf

    def layers_in_order(self, batch: Tensor, names: Collection[str]) -> Iterator[LayerCall]:
        """Run a forward pass up to the last named layer. It pauses before each, and then runs the layer with its current weight.

        A layer whose output enters a sum runs as late as possible, so that the other summand is known.
        """
        run = fx.Interpreter(self.network, graph=self.graph)
        run.args_iter = iter([match_parameters(batch, self.network)])
        left = sum(call.target in names for call in self.paths)
        for node in self.graph.nodes:
            if node in self.paths and node.target in names:
                path = self.paths[node]
                layer, x = run.submodules[node.target], run.env[node.all_input_nodes[0]]
                yield LayerCall(node.target, layer, x, path.batch_norms, self._added(run, path))
                del x
                left -= 1
                if not left:
                    return
            run.env[node] = run.run_node(node)
            unused = [] if node.users else [node]
            for value in run.user_to_last_uses.get(node, []) + unused:
                del run.env[value]

    def _run_right_before(self, due: fx.Node, call: fx.Node, nodes: list[fx.Node]) -> None:
        x = call.all_input_nodes[0]
        with self.graph.inserting_before(call):  # cloned, since layers in between may work in place
            call.replace_input_with(x, self.graph.call_method("clone", (x,)))
        for node in nodes:
            due.prepend(node)

    def _added(self, run: fx.Interpreter, path: "_Path") -> Tensor | None:
        """Return the tensor that a layer's output will be added to."""
        if path.other is not None and path.other not in run.env:  # the output of another layer that runs next
            for node in next(one.nodes for one in self.paths.values() if one.nodes[-1] is path.other):
                run.env[node] = run.run_node(node)
        return None if path.other is None else run.env[path.other]


def match_parameters(batch: Tensor, network: nn.Module) -> Tensor:
    """Move a batch to the device and type of the network's parameters."""
    parameter = next(network.parameters())
    return batch.to(parameter.device, parameter.dtype)


class _Tracer(fx.Tracer):
    """Keeps calls of the named layers, wherever they are nested, of batch norms, and of modules that compute with sizes."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if any(name.startswith(f"{module_qualified_name}.") for name in self.names):
            return False
        kept = module_qualified_name in self.names or isinstance(m, (PadShortcut, SamePad2d, *BATCH_NORMS))
        return kept or super().is_leaf_module(m, module_qualified_name)


class _ExampleRun(fx.Interpreter):
    """Records the shapes of all values, and the nodes that return their input, such as dropout in eval mode."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.shapes: dict[fx.Node, Any] = {}
        self.identities: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        x = self.env[n.all_input_nodes[0]] if n.all_input_nodes else None
        version = x._version if isinstance(x, Tensor) else None
        value = super().run_node(n)
        self.shapes[n] = getattr(value, "shape", None)
        if value is x and version is not None and x._version == version:
            self.identities.add(n)
        return value


@dataclass(frozen=True)
class _Path:
    """Path of a layer's output to a sum.

    Attributes:
        nodes: The layer's call and the nodes between it and the sum.
        other: The other summand; ``sum`` and ``other`` are None without a sum.
    """

    nodes: list[fx.Node]
    batch_norms: tuple[BatchNorm, ...] = ()
    sum: fx.Node | None = None
    other: fx.Node | None = None


def _find_path_to_sum(call: fx.Node, run: _ExampleRun) -> _Path:
    """Find the path of a layer's output through batch norms to a sum with a tensor of its shape, used nowhere else."""
    nodes, batch_norms = [call], list[BatchNorm]()
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        batch_norm = run.submodules[user.target] if user.op == "call_module" else None
        if isinstance(batch_norm, BATCH_NORMS) or user in run.identities:
            batch_norms += [batch_norm] if isinstance(batch_norm, BATCH_NORMS) else []
            nodes.append(user)
            continue
        others = [node for node in user.all_input_nodes if node is not nodes[-1]]
        is_sum = user.target in ADDITIONS and len(user.args) == 2 and len(others) == 1 and not user.kwargs
        if is_sum and run.shapes[others[0]] == run.shapes[nodes[-1]]:
            return _Path(nodes, tuple(batch_norms), user, others[0])
        break
    return _Path([call])
