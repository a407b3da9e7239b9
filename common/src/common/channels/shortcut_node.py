"""Option-A shortcuts for the library torch-pruning, which cannot trace them (``compare``)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_pruning.pruner.function import BasePruningFunc

from common.models.shortcut import PadShortcut


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


class _OneNode(torch.autograd.Function):
    """A module's forward pass as a single node of the autograd graph, which torch-pruning traverses."""

    @staticmethod
    def forward(ctx, run: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], *inputs: Tensor):
        return run(inputs)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("traced only")


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
