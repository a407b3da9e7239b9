"""Fold batch norm into the layers in front of it: a network that is only run needs no batch norm of its own there."""

from collections import Counter
from collections.abc import Mapping

from torch import fx, nn
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
    for layer, norm in _pairs(model, modules):
        fuse = fuse_conv_bn_eval if isinstance(modules[layer], CONVOLUTIONS) else fuse_linear_bn_eval
        model.set_submodule(layer, fuse(modules[layer], modules[norm]))  # type: ignore[arg-type, type-var]
        model.set_submodule(norm, nn.Identity())
    return model


def _pairs(model: nn.Module, modules: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Return the names (layer, batch norm) of what can be folded; none if the network cannot be traced."""
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
