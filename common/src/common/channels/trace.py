"""Trace coupled channels: run a network with a label at every channel, and read where the labels arrive.

The labels and the operations between layers are in :mod:`common.channels.labels`. Here are the layers: one that mixes all
of its inputs reads its input channels and gives new labels to its outputs, and one that treats channels separately passes
their labels on.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from common.channels.attention import HeadAttention, show_heads
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
from common.channels.labels import Coupling, Following, depth_of, forget_labels, is_constant, labels_of, set_labels
from common.channels.resize import (
    NORMALIZATIONS,
    WEIGHTED,
    channel_dim,
    count_keys,
    is_depthwise,
    own_tensors,
    parameter_side,
    width,
)
from common.errors import UserError
from common.models.shortcut import PadShortcut

MIXING = (  # each output depends on several channels: nothing that passes through them can be pruned
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.MultiheadAttention,
)
MAX_LABELS = 30_000_000  # channels and elements of parameters that are followed
PER_CHANNEL = 1_000_000  # elements of a parameter outside the layers that may belong to channels, at most


@dataclass(frozen=True)
class LayerSlice:
    """Channels of a group on one side of a module: ``channels[i]`` of the group is at ``positions[i]`` of that side."""

    module: str
    # "out" (produces them), "in" (reads and mixes them), "both" (normalization, depthwise convolution), "counts <size>"
    # (records their number), "across <dimension>" (treats them like the images of a batch) or, for a dimension of a parameter, "<name>[<dimension>]"
    side: str
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
    parts: int = 1  # number of equal blocks of consecutive channels that are split from each other, e.g. by torch.chunk


def trace(model: nn.Module, example_input: Inputs) -> list[CoupledChannels]:
    """Return all sets of coupled channels of a network without wrappers, in module order. Raises UserError, with a reason."""
    if not any(isinstance(module, WEIGHTED) for module in model.modules()):
        return []
    with torch.inference_mode(False):
        example_input = map_tensors(lambda tensor: tensor.to(device_of(model)).clone(), example_input)
        traced = show_heads(copy_sharing_tensors(model, requires_grad=False).eval())
        run = _Run(traced)
        outputs = run(example_input)
        return run.coupled(outputs)


class _Run:
    """One forward pass of a network with labels; what each layer reads and passes on, by module name."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = dict(model.named_modules())
        self.of_output: dict[str, Tensor] = {}  # labels of a layer's outputs (C_out,)
        first = 1
        for name, module in self.names.items():
            if isinstance(module, (*WEIGHTED, HeadAttention, PadShortcut)) and not is_depthwise(module):
                outputs = width(module, "out")
                self.of_output[name] = torch.arange(first, first + outputs)
                first += outputs
        self.of_parameter: dict[tuple[str, str], Tensor] = {}
        of_layers = first - 1
        for (name, key), tensor in _other_tensors(self.names).items():
            labels = torch.arange(first, first + tensor.numel()).view(tensor.shape)
            self.of_parameter[name, key] = labels
            set_labels(tensor, labels)
            first += tensor.numel()
        if first > MAX_LABELS:
            raise UserError(f"{type(model).__name__}: {first:,} channels are too many to trace; use a smaller network")
        self.coupling = Coupling(of_layers, first - 1 - of_layers)
        self.following = Following(self.coupling)
        self.read: dict[str, Tensor] = {}  # labels of a layer's inputs (C_in,), 0 for those of no layer
        self.passed: dict[str, Tensor] = {}  # labels of the channels that pass through a layer
        self.across: dict[tuple[str, str], Tensor] = {}  # labels along other dimensions than that of the weights
        self.depths: dict[str, int] = {}
        self.obstacles: list[tuple[Tensor, str]] = []
        self.gradients = False
        self.layers_run = False

    def __call__(self, example_input: Inputs) -> list[Tensor]:
        """Run the network and return its outputs. Raises UserError, with a reason."""
        for name, module in self.names.items():
            if isinstance(module, HeadAttention):
                self._watch(name, module, "project", self._project)
            elif isinstance(module, (*WEIGHTED, PadShortcut)) and not is_depthwise(module):
                self._watch(name, module, "forward", self._layer)
            elif isinstance(module, NORMALIZATIONS) or is_depthwise(module):
                self._watch(name, module, "forward", self._pass_through)
            elif isinstance(module, MIXING):
                self._watch(name, module, "forward", self._mix)
        try:
            with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]), self.following:
                warnings.simplefilter("ignore")
                outputs = output_tensors(call(self.model, example_input))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the network does not accept an example input of {shapes_of(example_input)}: {one_line(error)}"
            ) from error
        finally:
            for module in self.names.values():
                module.__dict__.pop("forward", None)
                module.__dict__.pop("project", None)
                forget_labels(own_tensors(module).values())
        if not any(tensor.is_floating_point() for tensor in outputs) or (self.layers_run and not self.gradients):
            raise UserError(
                f"{type(self.model).__name__}: its output is not connected to its weights, so its channels cannot be traced:"
                " its forward pass runs under torch.no_grad or torch.inference_mode, or returns no floating-point"
                " tensor; change the network's code"
            )
        return outputs

    def _watch(self, name: str, module: nn.Module, method: str, see: Callable[..., Any]) -> None:
        original = getattr(module, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            following = self.following
            if following.paused:
                return original(*args, **kwargs)
            inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            seen = [(labels_of(x), depth_of(x)) for x in inputs]  # before the layer may write to its input
            self.layers_run = True
            self.gradients |= torch.is_grad_enabled()
            following.paused += 1
            try:
                with _disable_current_modes():
                    out = original(*args, **kwargs)
                    see(name, module, inputs, seen, out)
            finally:
                following.paused -= 1
            return out

        module.__dict__[method] = watched

    def _layer(self, name: str, module: nn.Module, inputs: list[Tensor], seen: list[Any], out: Any) -> None:
        """Note which channels a layer reads, and give its outputs their own labels."""
        x, (labels, depth) = inputs[0], seen[0]
        if isinstance(module, nn.Linear) and labels is not None and is_constant(labels, -1):
            # a linear layer that mixes positions (MLP-Mixer) treats the channels separately, like the images of a batch
            self._pass_across(name, labels)
            return set_labels(out, labels.narrow(-1, 0, 1).expand(out.shape), depth + 1)
        dim = channel_dim(module, x)
        inputs_of_layer = x.shape[dim] if isinstance(module, PadShortcut) else width(module, "in")
        self._read(name, self._of_positions(labels, dim, inputs_of_layer), depth, module)
        if isinstance(out, Tensor):
            dim = channel_dim(module, out)
            of_output = self.of_output[name]
            shape = [len(of_output) if d == dim else 1 for d in range(out.dim())]
            set_labels(out, of_output.view(shape).expand(out.shape), self.depths[name])
        if isinstance(module, WEIGHTED) and "weight" not in module._parameters:
            reason = f"the weight of {name} is computed from other tensors (parametrization, weight norm, pruning mask)"
            self.obstacles += [(self.of_output[name], reason), (self.read[name], reason)]

    def _pass_across(self, name: str, labels: Tensor) -> None:
        """Note the dimension of a layer's input and output, which is not that of its weights, that has the channels."""
        varying = [d for d in range(labels.dim()) if not is_constant(labels, d) and labels.shape[d] > 1]
        for d in varying if len(varying) == 1 else ():
            self.across[name, f"across {d}"] = self._of_positions(labels, d, labels.shape[d])

    def _project(self, name: str, module: HeadAttention, inputs: list[Tensor], seen: list[Any], out: Any) -> None:
        """Note which channels an attention reads; its queries, keys and values are its outputs."""
        for x, (labels, depth) in zip(inputs, seen, strict=True):
            self._read(name, self._of_positions(labels, x.dim() - 1, module.embed_dim), depth, module)
        for part, labels in zip(out, self.of_output[name].chunk(3), strict=True):
            set_labels(part, labels.expand(part.shape), self.depths[name])

    def _read(self, name: str, labels: Tensor, depth: int, module: nn.Module) -> None:
        before = self.read.get(name)
        if before is not None and len(before) == len(labels):
            self.coupling.join(before, labels)
            labels = torch.where(before != 0, before, labels)
        self.read[name] = labels
        self.depths[name] = max(self.depths.get(name, 0), depth + isinstance(module, WEIGHTED))

    def _pass_through(self, name: str, module: nn.Module, inputs: list[Tensor], seen: list[Any], out: Any) -> None:
        """Note which channels pass through a layer, and keep their labels."""
        x, (labels, depth) = inputs[0], seen[0]
        depth += isinstance(module, WEIGHTED)
        if labels is None or not isinstance(out, Tensor):
            return set_labels(out, None, depth)
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:  # one slope for all channels
            return set_labels(out, labels, depth)
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            reason = f"{name} is a {type(module).__name__}, which normalizes across positions"
            self.obstacles.append((self.coupling.of(labels).unique(), reason))
            return set_labels(out, labels, depth)
        dim, channels = channel_dim(module, x), width(module, "out")
        of_channel = self._of_positions(labels, dim, channels)
        if isinstance(module, nn.GroupNorm) and channels % module.num_groups == 0:
            self.coupling.join_along(of_channel.view(module.num_groups, -1), [1])
        before = self.passed.get(name)
        if before is not None and len(before) == len(of_channel):
            self.coupling.join(before, of_channel)
        self.passed[name] = of_channel
        shape = [channels if d == dim else 1 for d in range(out.dim())]
        set_labels(out, of_channel.view(shape).expand(out.shape), depth)

    def _mix(self, name: str, module: nn.Module, inputs: list[Tensor], seen: list[Any], out: Any) -> None:
        for labels, _ in seen:
            if labels is not None:
                reason = f"{name} is a {type(module).__name__}, which common.channels cannot prune"
                self.obstacles.append((self.coupling.of(labels).unique(), reason))

    def _of_positions(self, labels: Tensor | None, dim: int, size: int) -> Tensor:
        """Return the label of each position along a dimension, (size,); all labels at a position become one."""
        if labels is None or labels.shape[dim] != size:
            return torch.zeros(size, dtype=torch.int64)
        others = [d for d in range(labels.dim()) if d != dim % labels.dim()]
        return self.coupling.join_along(labels, others).flatten().clone() if others else self.coupling.of(labels)

    def coupled(self, outputs: list[Tensor]) -> list[CoupledChannels]:
        """Collect the channels that became one, by the first layer that produces them."""
        coupling = self.coupling
        coupling.settle()
        in_output = np.zeros(len(coupling.root), dtype=bool)
        for tensor in outputs:
            labels = labels_of(tensor)
            if labels is not None:
                in_output[coupling.of(labels).unique().numpy()] = True
        obstacle: dict[int, str] = {}
        for labels, reason in self.obstacles:
            for label in coupling.of(labels).unique().tolist():
                obstacle.setdefault(label, reason)
        owner = np.full(len(coupling.root), -1)  # by representative: the index of its set
        channel = np.zeros(len(coupling.root), dtype=np.int64)  # and its place there
        sets: list[str] = []
        sizes: list[int] = []
        for name, labels in self.of_output.items():
            if isinstance(self.names[name], PadShortcut) or name not in self.read:
                continue
            for label in coupling.root[labels.numpy()].tolist():
                if owner[label] < 0:
                    if not sets or sets[-1] != name:
                        sets.append(name)
                        sizes.append(0)
                    owner[label], channel[label] = len(sets) - 1, sizes[-1]
                    sizes[-1] += 1
        slices: list[list[LayerSlice]] = [[] for _ in sets]
        reasons: list[str | None] = [None] * len(sets)

        def add(module: str, side: str, labels: np.ndarray) -> None:
            roots = np.where(labels > 0, coupling.root[labels], 0)
            owners = np.where(roots > 0, owner[roots], -1)
            for one in np.unique(owners[owners >= 0]).tolist():
                positions = np.flatnonzero(owners == one)
                places = (tuple(positions.tolist()), tuple(channel[roots[positions]].tolist()))
                slices[one].append(LayerSlice(module, side, *places))

        for name, module in self.names.items():
            if name in self.passed:
                add(name, "both", self.passed[name].numpy())
            if name in self.read:
                add(name, "in", self.read[name].numpy())
                add(name, "out", self.of_output[name].numpy())
            for (across, side), labels in self.across.items():
                if across == name:
                    add(name, side, labels.numpy())
            for key in own_tensors(module):
                if (name, key) in self.of_parameter:
                    self._add_parameter(name, key, owner, add, reasons)
        for label, reason in obstacle.items():
            if owner[label] >= 0:
                reasons[owner[label]] = reasons[owner[label]] or reason
        parts = [1] * len(sets)
        for labels, count in coupling.split:
            roots = coupling.root[labels.numpy()]
            owners = np.unique(owner[roots])
            if len(owners) == 1 and owners[0] >= 0 and np.array_equal(channel[roots], np.arange(sizes[owners[0]])):
                parts[owners[0]] = math.lcm(parts[owners[0]], count)
        for labels, operation in coupling.lost:
            for one in np.unique(owner[coupling.root[labels.numpy()]]).tolist():
                if one >= 0 and not any(part.side == "in" for part in slices[one]):
                    reasons[one] = reasons[one] or f"the operation {operation} combines these channels"
        for one, name in enumerate(sets):
            if sizes[one] == 1 < len(self.of_output[name]):
                reasons[one] = (
                    reasons[one] or f"all outputs of {name} depend on each other, so that none can be removed alone"
                )
        reaching = set(owner[np.flatnonzero(in_output)].tolist())
        return [
            CoupledChannels(
                name,
                size,
                tuple(self._with_counts(found, size)),
                self._reference(found),
                i in reaching,
                reasons[i],
                parts[i],
            )
            for i, (name, size, found) in enumerate(zip(sets, sizes, slices, strict=True))
        ]

    def _add_parameter(
        self, name: str, key: str, owner: np.ndarray, add: Callable[..., None], reasons: list[str | None]
    ) -> None:
        """Add the dimension of a parameter that has the channels; an obstacle if there is none."""
        roots = self.coupling.root[self.of_parameter[name, key].numpy()]
        owners = np.unique(owner[roots])
        if (owners < 0).all():
            return
        for dim in range(roots.ndim):
            rows = np.moveaxis(roots, dim, 0).reshape(roots.shape[dim], -1)
            if (rows == rows[:, :1]).all():
                add(name, parameter_side(key, dim), rows[:, 0])
                return
        full = f"{name}.{key}" if name else key
        for one in owners[owners >= 0].tolist():
            reasons[one] = f"parameter {full} depends on these channels"

    def _with_counts(self, found: list[LayerSlice], size: int) -> list[LayerSlice]:
        """Add the modules that record the number of heads or channels of a set: those around its producers."""
        owners = dict.fromkeys(part.module.rpartition(".")[0] for part in found if part.side == "out")
        every = tuple(range(size))
        return found + [
            LayerSlice(owner, f"counts {size}", every, every) for owner in owners if count_keys(self.names[owner], size)
        ]

    def _reference(self, found: list[LayerSlice]) -> str:
        order = {name: i for i, name in enumerate(self.names)}
        producers = [p.module for p in found if p.side == "out" and not isinstance(self.names[p.module], PadShortcut)]
        return min(producers, key=lambda name: (self.depths[name], order[name]))


def _other_tensors(modules: Mapping[str, nn.Module]) -> dict[tuple[str, str], Tensor]:
    """Return the floating-point parameters and buffers of modules that are not layers of known types."""
    found, seen = {}, set()
    for name, module in modules.items():
        if isinstance(module, (*WEIGHTED, *NORMALIZATIONS, *MIXING, HeadAttention, nn.Embedding)):
            continue
        for key, tensor in own_tensors(module).items():
            if tensor.is_floating_point() and tensor.dim() and tensor.numel() <= PER_CHANNEL and id(tensor) not in seen:
                seen.add(id(tensor))
                found[name, key] = tensor
    return found
