"""Trace coupled channels with torch-pruning's dependency graph and convert them to positions per module."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.dependency import DependencyGraph
from torch_pruning.dependency.node import Node
from torch_pruning.pruner.function import BasePruningFunc

from common.channels.resize import NORMALIZATIONS, WEIGHTED, is_depthwise
from common.errors import UserError
from common.models.shortcut import PadShortcut

MIXING = (nn.LocalResponseNorm, nn.CrossMapLRN2d)  # without weights; each output depends on neighboring channels


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
    """Pruner that makes layers which mix neighboring channels part of the trace: an obstacle to pruning these channels.

    Without it, torch-pruning regards them as elementwise, and a removed channel would change its neighbors.
    """

    TARGET_MODULES = MIXING

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("common.channels removes no channel that passes through this layer")

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.traced_in_channels  # type: ignore[return-value]

    get_in_channels = get_out_channels


class _OneNode(torch.autograd.Function):
    """A module's forward pass as a single node of the autograd graph, which torch-pruning traverses."""

    @staticmethod
    def forward(ctx, x: Tensor, module: nn.Module) -> Tensor:
        return type(module).forward(module, x)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("traced only")


def trace(model: nn.Module, example_input: Tensor) -> list[CoupledChannels]:
    """Return all sets of coupled channels, in module order. Raises UserError, with a reason, if tracing fails."""
    _reject_scripted(model)
    with torch.inference_mode(False):
        model = _traceable_copy(model)
        example_input = example_input.to(_device(model))
        graph = _dependency_graph(model, example_input.clone())
    names = {module: name for name, module in model.named_modules()}
    depths = _depths(graph)
    traces: list[CoupledChannels] = []
    seen: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, WEIGHTED) or is_depthwise(module) or name in seen or module not in graph.module2node:
            continue
        width = graph.get_out_channels(module)
        group = graph.get_pruning_group(
            module, graph.get_pruner_of_module(module).prune_out_channels, list(range(width))
        )
        found = _translate(graph, group, names, width, depths)
        seen.update(part.module for part in found.slices if part.side == "out")
        traces.append(found)
    return traces


def _reject_scripted(model: nn.Module) -> None:
    """Raise UserError, naming it, for a module that hides its layers from autograd hooks."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{name or type(model).__name__}: a TorchScript module, whose channels cannot be traced; use the Python "
                "network that it was made from"
            )


def _traceable_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode in which all parameters require gradients and each shortcut is one node.

    Its tensors share memory with those of the given network, and are not written.
    """
    shared: dict[int, Tensor] = {id(one): nn.Parameter(_usable(one.detach())) for one in model.parameters()}
    shared |= {id(buffer): _usable(buffer) for buffer in model.buffers()}
    model = copy.deepcopy(model, shared).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    show_shortcuts_as_nodes(model)
    for module in model.modules():
        if isinstance(module, MIXING):
            module.forward = _one_node_forward(module)  # type: ignore[method-assign]
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an in-place activation hides the preceding node
    return model


def _usable(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd accepts: a copy of one that was created under ``torch.inference_mode``."""
    return tensor.clone() if tensor.is_inference() else tensor


def show_shortcuts_as_nodes(model: nn.Module) -> list[PadShortcut]:
    """Make every option-A shortcut one node of the autograd graph, in place, and return the shortcuts.

    ``del shortcut.forward`` restores a shortcut; until then no gradient flows through it.
    """
    shortcuts = [module for module in model.modules() if isinstance(module, PadShortcut)]
    for module in shortcuts:
        module.forward = _one_node_forward(module)  # type: ignore[method-assign]
    return shortcuts


def _one_node_forward(module: nn.Module):
    def forward(x: Tensor) -> Tensor:
        module.traced_in_channels = x.shape[1]  # type: ignore[assignment]
        return _OneNode.apply(x, module)

    return forward


def _dependency_graph(model: nn.Module, example_input: Tensor) -> DependencyGraph:
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outputs = model(example_input)
        except Exception as error:
            shape = tuple(example_input.shape)
            raise UserError(f"the network does not accept an example input of shape {shape}: {error}") from error
        tensors = [tensor for tensor in tp.utils.flatten_as_list(outputs) if isinstance(tensor, Tensor)]
        if tensors and not any(tensor.requires_grad for tensor in tensors) and any(True for _ in model.parameters()):
            raise UserError(
                f"{type(model).__name__}: its channels cannot be traced, because its outputs have no gradients: forward runs "
                "under torch.no_grad or torch.inference_mode, or detaches them; remove that"
            )
        try:
            return DependencyGraph().build_dependency(
                model,
                example_input,
                customized_pruners={PadShortcut: ShortcutPruner()} | {kind: MixingPruner() for kind in MIXING},
                output_transform=_mark_outputs,
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"torch-pruning cannot trace {type(model).__name__}: {error}") from error


def _mark_outputs(outputs) -> list[Tensor]:
    """Pass the outputs through an operation outside all layers, so that the graph ends in nodes of type 'output'."""
    return [tensor * 1 for tensor in tp.utils.flatten_as_list(outputs) if isinstance(tensor, Tensor)]


def _translate(
    graph: DependencyGraph, group, names: dict[nn.Module, str], width: int, depths: dict[Node, int]
) -> CoupledChannels:
    slices: list[LayerSlice] = []
    reaches_output, obstacle = False, None
    producers: list[tuple[int, int, str]] = []
    order = {name: i for i, name in enumerate(names.values())}
    for item in group:
        node, handler, module = item.dep.target, item.dep.handler, item.dep.target.module
        if node.type == tp.ops.OPTYPE.OUTPUT:
            reaches_output = True
        if isinstance(module, nn.Parameter):
            obstacle = f"parameter {graph._param_to_name.get(module, 'outside any layer')} depends on these channels"
        if module not in names:
            continue
        name, reads_only = names[module], not graph.is_out_channel_pruning_fn(handler)
        positions, channels = tuple(item.idxs), tuple(item.root_idxs)
        if len(set(positions)) != len(positions):
            obstacle = f"{name} reads several of these channels at one position"
        side = "in" if reads_only else "out"
        if isinstance(module, NORMALIZATIONS) or is_depthwise(module):
            side = "both"
        elif not isinstance(module, (*WEIGHTED, PadShortcut)):
            obstacle = f"{name} is a {type(module).__name__}, which common.channels cannot prune"
        if side == "out" and isinstance(module, WEIGHTED):
            producers.append((depths.get(node, 0), order[name], name))
        slices.append(LayerSlice(name, side, positions, channels))
    slices.sort(key=lambda part: order[part.module])
    first, reference_layer = min(producers, key=lambda p: p[1])[2], min(producers)[2]
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


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
