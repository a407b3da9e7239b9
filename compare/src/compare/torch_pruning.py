"""The library torch-pruning as its user would call it: group Taylor importance, ranked over the whole network, in steps.

Fang et al. 2023, arXiv 2301.12900. Its trace does not know the option-A shortcut of CIFAR ResNets; there it is given the
pruner that :mod:`common.channels` registers for its own trace, with the cut itself filled in.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence, Set

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

from common.channels.trace import ShortcutPruner, show_shortcuts_as_nodes
from common.cost import layer_macs
from common.data import DataBundle
from common.errors import UserError
from common.layers import weight_of
from common.methods import Decision, Method
from common.models import PadShortcut
from common.runs import Stage
from common.target import TOLERANCE, Target
from common.trained_model import TrainedModel

PICTURES = 256  # labelled training pictures behind the gradients
REFRESH = 0.1  # of the MACs: the gradients are measured anew whenever so many have gone
STEPS = 400  # the library's benchmark prunes in so many steps until the budget is met
KEEP = 0.1  # of a layer's channels, at least: without it a layer could vanish


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """The network that the library prunes. Raises UserError where it cannot go so far."""
    assert target is not None
    model = _pruned(copy.deepcopy(start.model).cpu(), start.data, target.fraction, stage.seed)
    model.zero_grad(set_to_none=True)
    return Decision(model=model)


def _pruned(model: nn.Module, data: DataBundle, target: float, seed: int) -> nn.Module:
    """Group after group, the least important first, until the budget is met; a group that is too wide for it stays."""
    per_weight = _macs_per_weight(model, data.input_shape)
    dense = macs = measured_at = _macs(model, per_weight)
    budget, largest = target * dense, 0
    spared: set[str] = set()
    _gradients(model, data, seed)
    while True:
        for group in _groups(_pruner(model, data.input_shape, spared)):
            risky = macs - 2 * largest < (1 - TOLERANCE) * budget
            before, macs_before = copy.deepcopy(model) if risky else None, macs
            touched = {item.dep.target.module for item in group}
            names = {name for name, module in model.named_modules() if module in touched} if risky else set()
            group.prune()
            macs = _macs(model, per_weight)
            largest = max(largest, macs_before - macs)
            if macs < (1 - TOLERANCE) * budget and before is not None and not names <= spared:
                model, macs = before, macs_before
                spared |= names
                _gradients(model, data, seed)  # a copy has none
                break
            if macs <= budget:
                return model
            if measured_at - macs > REFRESH * dense:
                _gradients(model, data, seed)
                measured_at = macs
        else:
            raise UserError(f"torch-pruning stops at {macs / dense:.4f} of the MACs, short of {target:g}")


def _macs_per_weight(model: nn.Module, shape: Sequence[int]) -> dict[str, float]:
    """How often each layer uses a weight for one example: that does not change when channels go."""
    return {
        name: macs / weight_of(model.get_submodule(name)).numel() for name, macs in layer_macs(model, shape).items()
    }


def _macs(model: nn.Module, per_weight: Mapping[str, float]) -> int:
    return round(sum(often * weight_of(model.get_submodule(name)).numel() for name, often in per_weight.items()))


def _groups(pruner: tp.pruner.BasePruner) -> Iterator[tp.dependency.Group]:
    for _ in range(STEPS):
        yield from pruner.step(interactive=True)


def _pruner(model: nn.Module, shape: Sequence[int], spared: Set[str]) -> tp.pruner.BasePruner:
    example = torch.zeros(1, *shape)
    ignored = [*_last_layers(model), *(module for name, module in model.named_modules() if name in spared)]
    shortcuts = show_shortcuts_as_nodes(model)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=1 - KEEP,
        iterative_steps=STEPS,
        ignored_layers=ignored,
        customized_pruners={PadShortcut: CuttingShortcutPruner()},
    )
    for shortcut in shortcuts:  # traced once and for all: gradients flow again
        del shortcut.forward
    return pruner


class CuttingShortcutPruner(ShortcutPruner):
    """What torch-pruning calls when a stream beside an option-A shortcut loses channels."""

    def prune_out_channels(self, layer: PadShortcut, idxs: Sequence[int]) -> nn.Module:
        layer.keep_outputs(_others(len(layer.source), idxs))
        return layer

    def prune_in_channels(self, layer: PadShortcut, idxs: Sequence[int]) -> nn.Module:
        kept = _others(layer.traced_in_channels, idxs)
        layer.keep_inputs(kept, layer.traced_in_channels)
        layer.traced_in_channels = len(kept)
        return layer


def _others(width: int, gone: Sequence[int]) -> torch.Tensor:
    return torch.tensor(sorted(set(range(width)) - set(gone)), dtype=torch.int64)


def _last_layers(model: nn.Module) -> list[nn.Linear]:
    """The classifier: the last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]


def _gradients(model: nn.Module, data: DataBundle, seed: int) -> None:
    """Gradients of the cross-entropy on a part of the training pictures; weights and statistics stay as they are."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:PICTURES]
    model.eval()
    model.zero_grad(set_to_none=True)
    for batch in data.train.subset(order).batches(128):
        F.cross_entropy(model(batch.images), batch.labels, reduction="sum").div(len(order)).backward()


TORCH_PRUNING = Method("torch-pruning", decide)
