"""Fold batch norm into the layers in front of it: a network that is only run needs no batch norm of its own there."""

from collections import Counter
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from common.channels.example import copy_network

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode with the same outputs, without the batch norms that directly follow a convolution or linear layer.

    A batch norm is folded if the layer in front of it is called once and read by nothing else. A network that torch.fx cannot trace is
    returned as it is: runtimes fold what they find in its graph.
    """
    model = copy_network(model).eval()
    modules = dict(model.named_modules())
    for layer, norm in foldable_pairs(model):
        fuse = fuse_conv_bn_eval if isinstance(modules[layer], CONVOLUTIONS) else fuse_linear_bn_eval
        model.set_submodule(layer, fuse(modules[layer], modules[norm]))  # type: ignore[arg-type, type-var]
        model.set_submodule(norm, nn.Identity())
    return model


@torch.no_grad()
def simplify_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode with the same outputs, up to rounding, whose batch norms only add a shift, where they can be folded.

    The layers stay: mean 0, variance 1 - eps and scale 1 take nearly no bytes in a compressed file.
    """
    model = copy_network(model).eval()
    for layer, norm in foldable_pairs(model):
        before, after = cast(nn.Conv2d, model.get_submodule(layer)), cast(nn.BatchNorm2d, model.get_submodule(norm))
        if after.affine:  # it has a shift of its own
            _move_scale(before, after)
    return model


def _move_scale(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Move a batch norm's scale into the layer in front of it, and the layer's bias into the batch norm's shift."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    offset = mean.double() - (0 if layer.bias is None else layer.bias.double())
    norm.bias.copy_(norm.bias.double() - scale * offset)
    layer.weight.copy_(layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.zero_()
    norm.weight.fill_(1.0)
    mean.zero_()
    variance.fill_(1.0 - norm.eps)


def foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names (layer, batch norm) of what can be folded; none if the network cannot be traced."""
    modules = dict(model.named_modules())
    try:
        nodes = list(fx.symbolic_trace(model).graph.nodes)
    except Exception:  # of the network's own code, which reads values of tensors or other types
        return []
    called = Counter(node.target for node in nodes if node.op == "call_module")
    found = []
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        if called[node.target] == called[before.target] == 1 and _fits(
            modules[str(before.target)], modules[str(node.target)]
        ):
            found.append((str(before.target), str(node.target)))
    return found


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    """Return whether a batch norm can be folded into a layer, with one output per channel of the norm."""
    if type(norm) is not NORMS.get(type(layer)) or norm.running_mean is None:
        return False
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return norm.num_features == outputs and (bool(norm.affine) or not isinstance(layer, nn.Linear))
