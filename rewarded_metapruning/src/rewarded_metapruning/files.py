"""Files of a PruningNet and of trained networks under the original's names, and reading a PruningNet from any of its files."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.atomic import write_bytes
from common.checkpoint import load_model, load_weights
from common.errors import UserError
from rewarded_metapruning.options import BEST, CHECKPOINT
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.space import Space


def write_flat(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """checkpoint.pth.tar, tensors only, and model_best.pth.tar, the same file: no epoch is chosen."""
    content = io.BytesIO()  # torch.save puts a file's name into the file: each time another temporary one
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, content)
    write_bytes(folder / CHECKPOINT, content.getvalue())
    best = folder / BEST
    best.unlink(missing_ok=True)
    try:
        os.link(folder / CHECKPOINT, best)
    except OSError:  # a file system without hard links
        write_bytes(best, content.getvalue())


def read_pruning_net(path: Path, space: Space) -> PruningNet:
    """A PruningNet of this space from its model.safetensors or a checkpoint.pth.tar, in eval mode.

    Raises UserError for a file that is missing, damaged, or of another network's PruningNet.
    """
    if path.suffix == ".safetensors":
        net = load_model(path)
        if not isinstance(net, PruningNet):
            raise UserError(f"{path} holds a network, not a PruningNet; train.py makes one")
        found = net.space
        if (found.arch, found.num_classes, found.shape) != (space.arch, space.num_classes, space.shape):
            raise UserError(
                f"{path} generates {found.arch} for {found.num_classes} classes and pictures of {found.shape}, not"
                f" {space.arch} for {space.num_classes} and {space.shape}"
            )
        return net
    net = PruningNet(space)
    load_weights(net, path)
    return net.eval()
