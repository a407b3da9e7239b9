"""Trace coupled channels with torch-pruning's dependency graph and convert them to positions per module."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency import DependencyGraph
from torch_pruning.dependency.node import Node
from torch_pruning.pruner.function import BasePruningFunc

from common.channels.example import (
    Inputs,
    call,
    copy_sharing_tensors,
    device_of,
    map_tensors,
    one_line,
    output_tensors,
    shapes_of,
)
from common.channels.resize import NORMALIZATIONS, WEIGHTED, is_depthwise
from common.errors import UserError
from common.models.shortcut import PadShortcut

MIXING = (  # each output depends on several channels: nothing that passes through them can be pruned
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.GLU,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Fold,
    nn.Unfold,
)
MAX_WORK = 1_000_000  # positions followed in one set of coupled channels; the widest networks take a third of it


@dataclass(frozen=True)
class LayerSlice:
    """Channels of a group on one side of a module: ``channels[i]`` of the group is at ``positions[i]`` of that side."""

    module: str
    side: str  # "out" (produces them), "in" (reads and mixes them) or "both" (normalization, depthwise convolution)
    positions: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class CoupledChannels:
    """A set of coupled channels of a network, and the obstacle to pruning it, if there is one."""

    name: str  # the first producer in module order
    size: int
    slices: tuple[LayerSlice, ...]
    reference_layer: str
    reaches_output: bool
    obstacle: str | None  # why these channels cannot be pruned, naming the module or parameter


class ShortcutPruner(BasePruningFunc):
    """Pruner that tells torch-pruning that a PadShortcut has separate input and output sides, like a convolution."""

    TARGET_MODULES = PadShortcut

    def prune_out_channels(self, layer: PadShortcut, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("common.channels.remove removes the channels")

    def prune_in_channels(self, layer: PadShortcut, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("common.channels.remove removes the channels")

    def get_out_channels(self, layer: PadShortcut) -> int:
        return len(layer.source)

    def get_in_channels(self, layer: PadShortcut) -> int:
        return layer.traced_in_channels


class MixingPruner(BasePruningFunc):
    """Pruner that makes layers which mix channels part of the trace: an obstacle to pruning these channels.

    Without it, torch-pruning regards them as elementwise, and a removed channel would change its neighbors.
    """

    TARGET_MODULES = MIXING

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("common.channels removes no channel that passes through this layer")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("common.channels removes no channel that passes through this layer")

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.traced_out_channels  # type: ignore[return-value]

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.traced_in_channels  # type: ignore[return-value]


class _OneNode(torch.autograd.Function):
    """A module's forward pass as a single node of the autograd graph, which torch-pruning traverses."""

    @staticmethod
    def forward(ctx, run: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], *inputs: Tensor):
        return run(inputs)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("traced only")


def trace(model: nn.Module, example_input: Inputs) -> list[CoupledChannels]:
    """Return all sets of coupled channels of a network without wrappers, in module order. Raises UserError, with a reason."""
    if not any(isinstance(module, WEIGHTED) for module in model.modules()):
        return []
    with torch.inference_mode(False):
        example_input = map_tensors(lambda tensor: tensor.to(device_of(model)).clone(), example_input)
        model = _traceable_copy(model)
        graph = _dependency_graph(model, example_input)
    names = {module: name for name, module in model.named_modules()}
    depths = _depths(graph)
    traces: list[CoupledChannels] = []
    seen: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, WEIGHTED) or is_depthwise(module) or name in seen or module not in graph.module2node:
            continue
        found = _translate(graph, module, names, depths)
        seen.update(part.module for part in found.slices if part.side == "out")
        traces.append(found)
    return traces


def _traceable_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode in which all parameters require gradients and each shortcut is one node.

    Its tensors share memory with those of the given network, and are not written.
    """
    model = copy_sharing_tensors(model, requires_grad=True).eval()
    show_shortcuts_as_nodes(model)
    for module in model.modules():
        if isinstance(module, MIXING):
            module.forward = _one_node_forward(module)  # type: ignore[method-assign]
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an in-place activation hides the preceding node
    return model


def show_shortcuts_as_nodes(model: nn.Module) -> list[PadShortcut]:
    """Make every option-A shortcut one node of the autograd graph, in place, and return the shortcuts.

    ``del shortcut.forward`` restores a shortcut; until then no gradient flows through it.
    """
    shortcuts = [module for module in model.modules() if isinstance(module, PadShortcut)]
    for module in shortcuts:
        module.forward = _one_node_forward(module)  # type: ignore[method-assign]
    return shortcuts


def _one_node_forward(module: nn.Module):
    """Return a forward function of the module, of any signature, that is one node of the autograd graph."""

    def forward(*args, **kwargs):
        leaves, structure = pytree.tree_flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        out_structure: Any = None

        def run(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            nonlocal out_structure
            for i, tensor in zip(places, tensors, strict=True):
                leaves[i] = tensor
            args, kwargs = pytree.tree_unflatten(leaves, structure)
            outputs, out_structure = pytree.tree_flatten(type(module).forward(module, *args, **kwargs))
            return tuple(outputs)

        outputs = _OneNode.apply(run, *[leaves[i] for i in places])
        for side, tensors in (("in", [leaves[i] for i in places]), ("out", outputs)):
            shape = tensors[0].shape
            setattr(module, f"traced_{side}_channels", shape[1] if len(shape) != 3 and len(shape) > 1 else shape[-1])
        return pytree.tree_unflatten(list(outputs), out_structure)

    return forward


def _dependency_graph(model: nn.Module, example_input: Inputs) -> DependencyGraph:
    pruners: list[tuple[Any, BasePruningFunc]] = [(PadShortcut, ShortcutPruner()), (MIXING, MixingPruner())]

    def run(model: nn.Module, example_input: Inputs) -> list[Tensor]:
        try:
            outputs = output_tensors(call(model, example_input))
        except Exception as error:
            raise UserError(
                f"the network does not accept an example input of {shapes_of(example_input)}: {one_line(error)}"
            ) from error
        if not any(tensor.requires_grad for tensor in outputs):
            raise UserError(
                f"{type(model).__name__}: its output is not connected to its weights, so its channels cannot be traced:"
                " its forward pass runs under torch.no_grad or torch.inference_mode, or returns no floating-point"
                " tensor; change the network's code"
            )
        # an operation outside all layers, so that the graph ends in nodes of type 'output'
        return [tensor * 1 for tensor in outputs if tensor.requires_grad]

    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return DependencyGraph().build_dependency(
                model,
                example_input,
                forward_fn=run,
                customized_pruners={
                    type(module): pruner
                    for module in model.modules()
                    for kind, pruner in pruners
                    if isinstance(module, kind)
                },
                verbose=False,
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"torch-pruning cannot trace {type(model).__name__}: {type(error).__name__}: {one_line(error)}"
            ) from error


@dataclass
class _Touched:
    """Part of the graph that a set of channels reaches: (position, channel) pairs at one side of a node."""

    node: Node
    handler: Any  # the pruner's function for this side of the node
    pairs: list[Any]


def _reached(
    graph: DependencyGraph, root: nn.Module, names: Mapping[nn.Module, str]
) -> tuple[list[_Touched], str | None]:
    """Return all that the output channels of a module reach, in the order of ``DependencyGraph.get_pruning_group``.

    torch-pruning follows its index mappings until nothing new appears. Where a mapping is wrong (a reshape that is not a
    flatten), positions multiply or move at every round, and this takes forever. Here a position outside the layer, or
    more than MAX_WORK steps, ends the search, with a reason that names the last layer.
    """
    width = graph.get_out_channels(root)
    pruner = graph.get_pruner_of_module(root)
    start = (
        graph.module2node[root],
        pruner.prune_out_channels,
        [_HybridIndex(i, i) for i in range(width)],
        names[root],
    )
    merged: dict[tuple[Node, Any], _Touched] = {}
    found: set[tuple[Node, Any, tuple[Any, ...]]] = set()
    stack, work, obstacle = [start], 0, None

    def add(node: Node, handler: Any, pairs: list[Any]) -> None:
        entry = merged.setdefault((node, handler), _Touched(node, handler, []))
        known = {pair.idx for pair in entry.pairs}
        for pair in pairs:
            if pair.idx not in known:
                known.add(pair.idx)
                entry.pairs.append(pair)

    add(*start[:3])
    while stack:
        node, handler, pairs, last = stack.pop()
        last = names.get(node.module, last)
        for step in node.dependencies:
            if not step.is_triggered_by(handler):
                continue
            moved = pairs
            for mapping in step.index_mapping:
                work += len(moved) * (1 if getattr(mapping, "reverse", True) else getattr(mapping, "_stride", 1))
                if work > MAX_WORK:
                    return list(merged.values()), f"the positions of these channels cannot be followed after {last}"
                moved = moved if mapping is None else mapping(moved)
            if not moved:
                continue
            key = (step.target, step.handler, tuple(moved))
            if key in found:
                continue
            found.add(key)
            if _outside(graph, step.target, step.handler, moved):
                obstacle = f"these channels are rearranged after {last} in a way that cannot be traced"
                moved = []
            add(step.target, step.handler, moved)
            if moved:
                stack.append((step.target, step.handler, moved, last))
    return list(merged.values()), obstacle


def _outside(graph: DependencyGraph, node: Node, handler: Any, pairs: list[Any]) -> bool:
    """Return whether positions are outside a layer, so that an index mapping is wrong."""
    if not isinstance(node.module, (*WEIGHTED, *NORMALIZATIONS)):
        return False
    produces = graph.is_out_channel_pruning_fn(handler)
    width = graph.get_out_channels(node) if produces else graph.get_in_channels(node)
    return width is not None and width > 1 and any(not 0 <= pair.idx < width for pair in pairs)


def _translate(
    graph: DependencyGraph, root: nn.Module, names: dict[nn.Module, str], depths: dict[Node, int]
) -> CoupledChannels:
    """Convert what a module's output channels reach to slices of layers, with the obstacle to pruning them."""
    try:
        reached, obstacle = _reached(graph, root, names)
    except Exception as error:  # torch-pruning's index mappings fail for operations that it does not know
        name, width = names[root], graph.get_out_channels(root)
        alone = LayerSlice(name, "out", tuple(range(width)), tuple(range(width)))
        return CoupledChannels(
            name, width, (alone,), name, False, f"torch-pruning cannot follow them: {one_line(error)}"
        )
    slices: list[LayerSlice] = []
    reaches_output = False
    producers: list[tuple[int, int, str]] = []
    order = {name: i for i, name in enumerate(names.values())}
    for item in reached:
        node, module = item.node, item.node.module
        if node.type == tp.ops.OPTYPE.OUTPUT:
            reaches_output = True
        if isinstance(module, nn.Parameter):
            obstacle = f"parameter {graph._param_to_name.get(module, 'outside any layer')} depends on these channels"
        if module not in names:
            continue
        name, reads_only = names[module], not graph.is_out_channel_pruning_fn(item.handler)
        positions = tuple(pair.idx for pair in item.pairs)
        channels = tuple(pair.root_idx for pair in item.pairs)
        side = "in" if reads_only else "out"
        if isinstance(module, NORMALIZATIONS) or is_depthwise(module):
            side = "both"
            across = isinstance(module, nn.LayerNorm) or getattr(module, "num_groups", len(positions)) < len(positions)
            if across:
                obstacle = f"{name} is a {type(module).__name__}, which normalizes across these channels"
        elif not isinstance(module, (*WEIGHTED, PadShortcut)):
            obstacle = f"{name} is a {type(module).__name__}, which common.channels cannot prune"
        elif isinstance(module, WEIGHTED) and "weight" not in module._parameters:
            obstacle = (
                f"the weight of {name} is computed from other tensors (parametrization, weight norm, pruning mask)"
            )
        if side == "out" and isinstance(module, WEIGHTED):
            producers.append((depths.get(node, 0), order[name], name))
        slices.append(LayerSlice(name, side, positions, channels))
    slices.sort(key=lambda part: order[part.module])
    first, reference_layer = min(producers, key=lambda p: p[1])[2], min(producers)[2]
    width = graph.get_out_channels(root)
    return CoupledChannels(first, width, tuple(slices), reference_layer, reaches_output, obstacle)


def _depths(graph: DependencyGraph) -> dict[Node, int]:
    """Return, for each node, the largest number of convolutions and linear layers on a path from the input to it."""
    depths: dict[Node, int] = {}
    for end in graph.module2node.values():
        stack = [end]
        entered: set[Node] = set()
        while stack:
            node = stack[-1]
            waiting = [n for n in node.inputs if n not in depths and n not in entered]
            if node not in depths and waiting:
                entered.add(node)
                stack.extend(waiting)
                continue
            stack.pop()
            if node not in depths:
                before = max((depths.get(n, 0) for n in node.inputs), default=0)
                depths[node] = before + isinstance(node.module, WEIGHTED)
    return depths
