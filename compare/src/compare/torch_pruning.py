"""The library torch-pruning, used through its public API: group Taylor importance, global ranking, small steps.

Fang et al. 2023, arXiv 2301.12900. The library cannot trace the option-A shortcut of CIFAR ResNets; it is given the pruner
that :mod:`common.channels` registers for its own trace, extended by the pruning itself.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence, Set

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

from common.channels.example import one_line
from common.channels.resize import output_rows
from common.channels.shortcut_node import ShortcutPruner, show_shortcuts_as_nodes
from common.channels.trace import trace
from common.cost import layer_macs
from common.data import DataBundle
from common.errors import UserError
from common.methods import Decision, Method
from common.models import PadShortcut
from common.outputs import class_scores
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel

GRADIENT_IMAGES = 256  # labeled training images from which the gradients are computed
UPDATE_EVERY = 0.1  # fraction of the MACs after whose removal the gradients are recomputed
STEPS = 400  # number of pruning steps to remove everything, as in the library's benchmark
MIN_FRACTION = 0.1  # fraction of a layer's channels that is always kept: without it a layer could vanish


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Prune the network with the library. Raises UserError if no network of the library meets the target."""
    assert target is not None
    allowed = start.limits.layer_widths(start.model, start.all_groups) if start.limits else {}
    try:
        model = _pruned(
            copy.deepcopy(start.model).cpu(),
            start.data,
            target,
            stage.seed,
            allowed=allowed,
            round_to=start.limits.round_to,
        )
    except RuntimeError as error:
        raise UserError(
            f"torch-pruning: this network does not run after a step of pruning: {one_line(error)}; leave the method out"
        ) from error
    model.zero_grad(set_to_none=True)
    _check_training_mode(model, start.data.input_shape)
    return Decision(model=model)


def _check_training_mode(model: nn.Module, shape: Sequence[int]) -> None:
    """Raise UserError if the network fails in training mode: the library does not see modules that run only there."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(model).train()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"torch-pruning: the pruned network does not run in training mode ({reason}); remove auxiliary heads"
        ) from error


def _pruned(
    unpruned: nn.Module,
    data: DataBundle,
    target: Target,
    seed: int,
    largest: int = 0,
    *,
    allowed: Mapping[str, Sequence[int]],
    round_to: int,
) -> nn.Module:
    """Prune the least important group until the target is met; a group whose removal would overshoot is kept.

    allowed: {layer: allowed widths}; other layers have no limits. round_to: number that the library rounds widths to.
    largest: Largest number of MACs removed by a step so far. The network is copied before steps that may overshoot; if one that
    is larger than twice that number does, the network is pruned again from the beginning, with this step's number.
    """
    model = copy.deepcopy(unpruned)
    per_weight = _macs_per_weight(model, data.input_shape)
    dense = macs = measured_at = _macs(model, per_weight)
    low, high = target.min_fraction * dense, target.fraction * dense
    kept_layers = _output_layers(model, torch.zeros(1, *data.input_shape))
    kept_layers |= {name for name, widths in allowed.items() if len(widths) == 1}
    _compute_gradients(model, data, seed)
    while True:
        pruner = _pruner(model, data.input_shape, kept_layers, round_to)
        for proposed in _groups(pruner):
            group = _within_limits(pruner, proposed, model, allowed)
            if group is None:
                continue
            may_overshoot = macs - 2 * largest < low
            before, macs_before = copy.deepcopy(model) if may_overshoot else None, macs
            affected = {
                item.dep.target.module
                for item in group  # coarse steps overshoot often: then the layers that read the group remain prunable
                if not allowed or pruner.DG.is_out_channel_pruning_fn(item.dep.handler)
            }
            names = {name for name, module in model.named_modules() if module in affected} if may_overshoot else set()
            group.prune()
            macs = _macs(model, per_weight)
            largest = max(largest, macs_before - macs)
            if macs < low:
                if before is None:
                    return _pruned(unpruned, data, target, seed, largest, allowed=allowed, round_to=round_to)
                if names <= kept_layers:
                    target.raise_unreachable("no network of torch-pruning", [macs / dense, macs_before / dense])
                model, macs = before, macs_before
                kept_layers |= names
                _compute_gradients(model, data, seed)  # a copy has none
                break
            if macs <= high:
                return model
            if measured_at - macs > UPDATE_EVERY * dense:
                _compute_gradients(model, data, seed)
                measured_at = macs
        else:
            target.raise_unreachable("no network of torch-pruning", [macs / dense])


def _within_limits(
    pruner: tp.pruner.BasePruner, group: tp.dependency.Group, model: nn.Module, allowed: Mapping[str, Sequence[int]]
) -> tp.dependency.Group | None:
    """Return a group, with fewer of its channels if its layers may not lose all of them; None if they may not lose any."""
    if not allowed or not group[0].idxs:  # the library also proposes to remove nothing
        return group
    names = {module: name for name, module in model.named_modules() if name in allowed}
    count = len(group[0].idxs)
    for dependency, indices in group:
        module = dependency.target.module
        if module in names and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
            now = pruner.DG.get_out_channels(module)
            wanted = now - len(indices)
            reached = min((width for width in allowed[names[module]] if width >= wanted), default=now)
            each = max(1, len(indices) // len(group[0].idxs))
            count = min(count, max(now - reached, 0) // each)
    if count == len(group[0].idxs):
        return group
    if not count or pruner._get_channel_groups(group) > 1:
        return None
    order = pruner.estimate_importance(group).argsort()[:count].tolist()
    first = group[0]
    fewer = [first.idxs[i] for i in order]
    return pruner.DG.get_pruning_group(first.dep.target.module, first.dep.handler, fewer)


def _macs_per_weight(model: nn.Module, shape: Sequence[int]) -> dict[str, float]:
    """Return how often each layer uses a weight for one example; pruning does not change this number."""
    return {
        name: macs / output_rows(model.get_submodule(name)).numel() for name, macs in layer_macs(model, shape).items()
    }


def _macs(model: nn.Module, per_weight: Mapping[str, float]) -> int:
    return round(sum(uses * output_rows(model.get_submodule(name)).numel() for name, uses in per_weight.items()))


def _groups(pruner: tp.pruner.BasePruner) -> Iterator[tp.dependency.Group]:
    for _ in range(STEPS):
        yield from pruner.step(interactive=True)


def _pruner(model: nn.Module, shape: Sequence[int], kept_layers: Set[str], round_to: int) -> tp.pruner.BasePruner:
    example = torch.zeros(1, *shape)
    ignored = [module for name, module in model.named_modules() if name in kept_layers]
    shortcuts = show_shortcuts_as_nodes(model)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=1 - MIN_FRACTION,
        iterative_steps=STEPS,
        ignored_layers=ignored,
        round_to=round_to if round_to > 1 else None,
        customized_pruners={PadShortcut: InPlaceShortcutPruner()},
    )
    for shortcut in shortcuts:  # the trace is complete: gradients flow again
        del shortcut.forward
    return pruner


class InPlaceShortcutPruner(ShortcutPruner):
    """Prune an option-A shortcut when torch-pruning removes channels of a residual stream next to it."""

    def prune_out_channels(self, layer: PadShortcut, idxs: Sequence[int]) -> nn.Module:
        layer.keep_outputs(_others(len(layer.source), idxs))
        return layer

    def prune_in_channels(self, layer: PadShortcut, idxs: Sequence[int]) -> nn.Module:
        kept = _others(layer.traced_in_channels, idxs)
        layer.keep_inputs(kept, layer.traced_in_channels)
        layer.traced_in_channels = len(kept)
        return layer


def _others(width: int, removed: Sequence[int]) -> torch.Tensor:
    return torch.tensor(sorted(set(range(width)) - set(removed)), dtype=torch.int64)


def _output_layers(model: nn.Module, example: torch.Tensor) -> set[str]:
    """Return the layers whose channels are the network's outputs, such as the classes; the library would prune them as well."""
    coupled = (channels for channels in trace(model, example) if channels.reaches_output)
    return {part.module for channels in coupled for part in channels.slices if part.side == "out"}


def _compute_gradients(model: nn.Module, data: DataBundle, seed: int) -> None:
    """Compute the gradients of the cross-entropy on some training images; weights and statistics do not change."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:GRADIENT_IMAGES]
    model.eval()
    model.zero_grad(set_to_none=True)
    for batch in data.train.subset(order).batches(128):
        F.cross_entropy(class_scores(model(batch.images)), batch.labels, reduction="sum").div(len(order)).backward()
    for parameter in model.parameters():
        if parameter.grad is None:  # of another output than the first
            parameter.grad = torch.zeros_like(parameter)


TORCH_PRUNING = Method(
    "torch-pruning",
    decide,
    note=f"uses labels: Taylor importance from the gradients of {GRADIENT_IMAGES} labeled training images; prunes all channel groups, "
    "including residual streams; weights are not re-solved",
    examples=lambda recipe, images, layers: 8 * GRADIENT_IMAGES,
)
