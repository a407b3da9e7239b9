"""Fold batch norm into the convolutions before it, as deployed networks have it."""

from typing import cast

from torch import nn

from common.errors import UserError, one_line


def fold_batch_norm(name: str, model: nn.Module) -> nn.Module:
    """Return a copy of a network in eval mode whose batch norms directly after convolutions are part of their weights.

    Raises UserError, with the name, if torch.fx cannot follow the network's forward pass.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        return cast(nn.Module, fuse(model.eval())).eval()
    except Exception as error:  # torch.fx runs the network's code with objects that are not tensors
        raise UserError(f"--fold-batch-norm: torch.fx cannot follow the network {name}: {one_line(error)}") from error
