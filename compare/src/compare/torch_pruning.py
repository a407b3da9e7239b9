"""The library torch-pruning as its user would call it: group Taylor importance, ranked over the whole network, in steps.

Fang et al. 2023, arXiv 2301.12900. Its trace does not know the option-A shortcut of CIFAR ResNets; there it is given the
pruner that :mod:`common.channels` registers for its own trace, with the cut itself filled in.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

from common.channels.trace import ShortcutPruner, show_shortcuts_as_nodes
from common.checkpoint import save_model
from common.cost import count_cost
from common.data import DataBundle
from common.errors import UserError
from common.formats import load_network
from common.methods import Method, Task
from common.models import PadShortcut
from common.runs import MODEL
from common.trained import normalized_as

PICTURES = 256  # labelled training pictures behind the gradients
REFRESH = 0.1  # of the MACs: the gradients are measured anew whenever so many have gone
STEPS = 400  # the library's benchmark prunes in so many steps until the budget is met
KEEP = 0.1  # of a layer's channels, at least: without it a layer could vanish


def compress(task: Task) -> Path:
    """The pruned network's file. What is finished is skipped. Raises UserError where the library cannot go so far."""
    file = task.folder / MODEL
    if file.is_file():
        return file
    model = load_network(task.baseline)
    data = normalized_as(model, task.data)
    example = torch.zeros(1, *data.input_shape)
    dense = macs = measured_at = count_cost(model, data.input_shape).macs
    pruner = _pruner(model, example)
    _gradients(model, data, task.seed)
    for _ in range(STEPS):
        pruner.step()
        macs = count_cost(model, data.input_shape).macs
        if macs <= task.target * dense:
            break
        if measured_at - macs > REFRESH * dense:
            _gradients(model, data, task.seed)
            measured_at = macs
    else:
        raise UserError(f"torch-pruning stops at {macs / dense:.4f} of the MACs, short of {task.target:g}")
    model.zero_grad(set_to_none=True)
    save_model(file, model)
    return file


def _pruner(model: nn.Module, example: torch.Tensor) -> tp.pruner.BasePruner:
    shortcuts = show_shortcuts_as_nodes(model)
    pruner = tp.pruner.BasePruner(
        model, example, importance=tp.importance.GroupTaylorImportance(), global_pruning=True, pruning_ratio=1.0,
        max_pruning_ratio=1 - KEEP, iterative_steps=STEPS, ignored_layers=_last_layers(model),
        customized_pruners={PadShortcut: CuttingShortcutPruner()},
    )  # fmt: skip
    for shortcut in shortcuts:  # traced once and for all: gradients flow again
        del shortcut.forward
    return pruner


class CuttingShortcutPruner(ShortcutPruner):
    """What torch-pruning calls when a stream beside an option-A shortcut loses channels."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        layer.keep_outputs(_others(len(layer.source), idxs))
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        kept = _others(layer.traced_in_channels, idxs)
        layer.keep_inputs(kept, layer.traced_in_channels)
        layer.traced_in_channels = len(kept)
        return layer


def _others(width: int, gone: Sequence[int]) -> torch.Tensor:
    return torch.tensor(sorted(set(range(width)) - set(gone)), dtype=torch.int64)


def _last_layers(model: nn.Module) -> list[nn.Module]:
    """The classifier: the last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]


def _gradients(model: nn.Module, data: DataBundle, seed: int) -> None:
    """Gradients of the cross-entropy on a part of the training pictures; weights and statistics stay as they are."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:PICTURES]
    model.eval()
    model.zero_grad(set_to_none=True)
    for batch in data.train.subset(order).batches(128):
        F.cross_entropy(model(batch.images), batch.labels, reduction="sum").div(len(order)).backward()


TORCH_PRUNING = Method("torch-pruning", compress)
