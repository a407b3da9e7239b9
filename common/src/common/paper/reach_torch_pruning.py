"""Prune a network with torch-pruning alone and measure the result (:mod:`common.paper.reach`)."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch_pruning as tp
from torch import nn
from torchvision.models import VisionTransformer

from common.paper.limited_process import Report
from common.paper.reach_networks import count_macs, difference, forward, images, mask_of

CLASSES = 1000


def measure_torch_pruning(model: nn.Module, shape: Sequence[int], report: Report, limit: Callable[[], Any]) -> None:
    """Prune half of the channels with torch-pruning alone, as its documentation shows, and report the result."""
    example, dense, unpruned = images(shape), count_macs(model, shape), copy.deepcopy(model)
    attention = attention_of_timm(model)
    kept: dict[str, list[int]] = {}
    names = {module: name for name, module in model.named_modules()}
    with limit():
        start = time.process_time()
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[*classifiers(model)],
            num_heads={module.qkv: module.num_heads for module in attention},
            in_channel_groups={},
            out_channel_groups={},
        )
        for group in pruner.step(interactive=True):
            record_inputs(pruner.DG, group, names, kept)
            group.prune()
        for module in attention:
            module.num_heads = pruner.num_heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            if hasattr(module, "attn_dim"):  # a newer attribute than the examples, which replace the forward function
                module.attn_dim = module.qkv.out_features // 3
        if isinstance(model, VisionTransformer):
            model.hidden_dim = model.conv_proj.out_channels
        report(seconds=time.process_time() - start)
    report(macs_removed=1 - count_macs(model, shape) / dense, difference=None)
    with masked_inputs(unpruned, kept):
        expected = forward(unpruned, example)
    report(difference=difference(expected, forward(model, example)))


def attention_of_timm(model: nn.Module) -> list[Any]:
    """Return the attention layers of timm, whose heads torch-pruning must be told."""
    return [m for m in model.modules() if hasattr(m, "num_heads") and isinstance(getattr(m, "qkv", None), nn.Linear)]


def classifiers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that torch-pruning must be told not to prune: those with as many outputs as classes."""
    for module in model.modules():
        if CLASSES in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0)):
            yield module
        elif isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
            yield module  # of torch's multi-head attention


def record_inputs(graph: Any, group: Any, names: Mapping[nn.Module, str], kept: dict[str, list[int]]) -> None:
    """Update the input channels that each convolution and linear layer keeps, before a group is removed."""
    for dependency, positions in group:
        layer = dependency.target.module
        if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) or graph.is_out_channel_pruning_fn(
            dependency.handler
        ):
            continue
        width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        before = kept.get(names[layer], list(range(width)))
        gone = set(positions)
        kept[names[layer]] = [channel for i, channel in enumerate(before) if i not in gone]


@contextmanager
def masked_inputs(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Set the other input channels of these layers to zero, within this context."""

    def hook(channels: Sequence[int]) -> Callable[..., Any]:
        def multiply(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            dim = args[0].dim() - 1 if isinstance(module, nn.Linear) else 1
            shape = [1] * args[0].dim()
            shape[dim] = args[0].shape[dim]
            return (args[0] * mask_of(shape[dim], channels).view(shape), *args[1:])

        return multiply

    with ExitStack() as stack:
        for name, channels in kept.items():
            stack.callback(model.get_submodule(name).register_forward_pre_hook(hook(channels)).remove)
        yield
