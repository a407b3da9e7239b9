"""Networks inside wrappers: ``torch.compile``, DataParallel, DistributedDataParallel, AveragedModel.

The names of layers are those inside. TorchScript programs and quantized networks have no layers to prune or to measure.
"""

import copy

import torch
from torch import nn

from common.errors import UserError

OUTER = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
)


def plain_network(model: nn.Module) -> nn.Module:
    """Return the network without wrappers; the given one is not modified, and is returned if it has none.

    Parameters and buffers are those of the given network. Raises UserError, naming the module, for TorchScript programs and
    quantized networks.
    """
    for name, module in model.named_modules():
        _check_plain(module, name)
    return _unwrapped(model, {})


def _check_plain(module: nn.Module, name: str) -> None:
    where = f"module {name}" if name else "the network"
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            f"{where}: a TorchScript program, which cannot be pruned or saved; give the module it was made from"
        )
    if isinstance(module, torch.fx.GraphModule) and "eval" in vars(module):  # torch.export replaces the method
        raise UserError(
            f"{where}: a torch.export program, which cannot be pruned or saved; give the module it was made from"
        )
    kind = type(module)
    if f"{kind.__module__}.".startswith(tuple(f"{package}." for package in QUANTIZED)):
        raise UserError(
            f"{where}: a quantized layer ({kind.__name__}), which cannot be pruned or saved; give the network before quantization"
        )


def _unwrapped(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return a module without wrappers. done: results so far, since a module may occur several times."""
    outer = module
    while (inner := _inside(module)) is not None:
        module = inner
    if module not in done:
        children = {name: None if child is None else _unwrapped(child, done) for name, child in module._modules.items()}
        same = all(children[name] is child for name, child in module._modules.items())
        plain = module
        if not same or module._compiled_call_impl is not None:
            plain = copy.copy(module)
            plain._modules = children
            plain._compiled_call_impl = None
        done[module] = plain
    done[outer] = done[module]
    return done[module]


def _inside(module: nn.Module) -> nn.Module | None:
    """Return the module in a wrapper; None for other modules."""
    if (
        type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules
    ):  # importing its class takes a second
        return module._modules["_orig_mod"]
    return module.module if isinstance(module, OUTER) else None
