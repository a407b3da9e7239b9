"""A forward pass as a generator: torch.fx runs the network node by node, and the pass is paused before each layer of interest."""

import copy
import math
import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx, nn

from common.models import PadShortcut

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PAUSED = 2.5  # largest layers' worth of numbers that a paused forward pass holds


@dataclass(eq=False)
class LayerCall:
    """A call of a layer. added: what its output is added to, if it enters a sum, in the shape of the output; norms: batch
    norms in between."""

    name: str
    layer: nn.Module
    input: Tensor
    norms: tuple[Norm, ...] = ()
    added: Tensor | None = None

    def output(self) -> Tensor:
        """What the layer gives with its present weight."""
        return self.layer(self.input)

    @property
    def scale(self) -> Tensor:
        """The factor per channel of the norms, (C,); a scalar 1 if there is none."""
        scale = self.input.new_ones(())
        for norm in self.norms:
            std = torch.sqrt(cast(Tensor, norm.running_var) + norm.eps)
            scale = scale * (std.reciprocal() if norm.weight is None else norm.weight / std)
        return scale


class TracedNetwork:
    """A network as a graph whose forward pass can be paused.

    Attributes:
        order: The named layers in the order in which a forward pass pauses at them.
        paused_bytes: What a paused pass holds of one example; infinity if a layer is called several times.

    Raises:
        Exception: Of any type for a network that torch.fx cannot trace, such as one with data-dependent control flow, whose graph
            gives another output for the example, or whose output is no tensor.
    """

    def __init__(self, network: nn.Module, names: Collection[str], example: Tensor) -> None:
        self.network = copy.copy(network)  # constants of the graph become attributes of the copy
        self.graph = _Tracer(names).trace(self.network)
        run = _Example(self.network, graph=self.graph)
        example = as_parameters(example[:1], network)
        if not torch.allclose(run.run(example), network(example), 1e-4, 1e-6, equal_nan=True):
            raise ValueError("the graph gives another output than the network")
        calls = [node for node in self.graph.nodes if node.op == "call_module" and node.target in names]
        called = [node.target for node in calls]
        if set(called) != set(names):
            raise ValueError(f"the graph calls {called}, not all of {names}")
        numbers = max(math.prod(run.shapes[node.all_input_nodes[0]]) + math.prod(run.shapes[node]) for node in calls)
        once = len(called) == len(names)
        self.paused_bytes = PAUSED * numbers * next(network.parameters()).element_size() if once else math.inf
        self.paths = {node: _path_to_sum(node, run) for node in calls}
        for call, path in self.paths.items():
            if path.sum is not None:
                self._run_right_before(path.sum, call, path.nodes)
        self.order = list(dict.fromkeys(node.target for node in self.graph.nodes if node in self.paths))

    def layers_in_order(self, batch: Tensor, wanted: Collection[str]) -> Iterator[LayerCall]:
        """Run a forward pass up to the last wanted layer; pause before each, and run it with the weight that it has then.

        Layers whose output enters a sum run as late as possible: what it is added to is known by then.
        """
        run = fx.Interpreter(self.network, graph=self.graph)
        run.args_iter = iter([as_parameters(batch, self.network)])
        left = sum(call.target in wanted for call in self.paths)
        for node in self.graph.nodes:
            if node in self.paths and node.target in wanted:
                path = self.paths[node]
                layer, x = run.submodules[node.target], run.env[node.all_input_nodes[0]]
                yield LayerCall(node.target, layer, x, path.norms, self._added(run, path))
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
        with self.graph.inserting_before(call):  # a clone: what runs in between may work in place
            call.replace_input_with(x, self.graph.call_method("clone", (x,)))
        for node in nodes:
            due.prepend(node)

    def _added(self, run: fx.Interpreter, path: "_Path") -> Tensor | None:
        """What the output of a layer is about to be added to."""
        if path.other is not None and path.other not in run.env:  # another layer's output, which is due next
            for node in next(one.nodes for one in self.paths.values() if one.nodes[-1] is path.other):
                run.env[node] = run.run_node(node)
        return None if path.other is None else run.env[path.other]


def as_parameters(batch: Tensor, network: nn.Module) -> Tensor:
    """The batch on the device and of the type of the network's parameters."""
    parameter = next(network.parameters())
    return batch.to(parameter.device, parameter.dtype)


class _Tracer(fx.Tracer):
    """Keeps the named layers as calls, whatever they are in, and batch norms and shortcuts of any class."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if any(name.startswith(f"{module_qualified_name}.") for name in self.names):
            return False
        kept = module_qualified_name in self.names or isinstance(m, (PadShortcut, *NORMS))
        return kept or super().is_leaf_module(m, module_qualified_name)


class _Example(fx.Interpreter):
    """Notes the shapes of all values, and which nodes only pass a tensor on, as dropout does in eval mode."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.shapes: dict[fx.Node, Any] = {}
        self.pass_on: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        x = self.env[n.all_input_nodes[0]] if n.all_input_nodes else None
        version = x._version if isinstance(x, Tensor) else None
        value = super().run_node(n)
        self.shapes[n] = getattr(value, "shape", None)
        if value is x and version is not None and x._version == version:
            self.pass_on.add(n)
        return value


@dataclass(frozen=True)
class _Path:
    """nodes: a layer's call and what is between it and the sum; other: what the output is added to; both None without a sum."""

    nodes: list[fx.Node]
    norms: tuple[Norm, ...] = ()
    sum: fx.Node | None = None
    other: fx.Node | None = None


def _path_to_sum(call: fx.Node, run: _Example) -> _Path:
    """The way of a layer's output, which is used nowhere else, through norms to a sum with a tensor of its shape, if any."""
    nodes, norms = [call], list[Norm]()
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        norm = run.submodules[user.target] if user.op == "call_module" else None
        if isinstance(norm, NORMS) or user in run.pass_on:
            norms += [norm] if isinstance(norm, NORMS) else []
            nodes.append(user)
            continue
        others = [node for node in user.all_input_nodes if node is not nodes[-1]]
        is_sum = user.target in ADDITIONS and len(user.args) == 2 and len(others) == 1 and not user.kwargs
        if is_sum and run.shapes[others[0]] == run.shapes[nodes[-1]]:
            return _Path(nodes, tuple(norms), user, others[0])
        break
    return _Path([call])
