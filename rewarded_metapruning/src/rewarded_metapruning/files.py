"""Files of a PruningNet and of trained networks under the original's names, and reading a PruningNet from any of its files."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.atomic import write_bytes
from common.checkpoint import load_tensors, read_checkpoint, read_tensors, save_model
from common.data import DataBundle
from common.errors import UserError
from rewarded_metapruning.pruning_net import ARCH, PruningNet, recorded_arguments
from rewarded_metapruning.scale import FULL
from rewarded_metapruning.settings import BEST, CHECKPOINT
from rewarded_metapruning.space import NEV, SearchSpace

SCALES = "scales"  # tensor (2,) int64 in checkpoint.pth.tar, and list in the header of model.safetensors


@dataclass(frozen=True)
class SavedNet:
    """A PruningNet from a file, in eval mode; limits: least and largest entry of the vectors that it was trained on, None in a
    file of a time when they were not written down.
    """

    net: PruningNet
    limits: tuple[int, int] | None
    path: Path

    def require_trained_on(self, limits: tuple[int, int]) -> None:
        """Raises UserError if vectors with entries within ``limits`` could have entries that it never drew."""
        if self.limits is None:
            return
        (low, high), (wanted_low, wanted_high) = self.limits, limits
        if wanted_low < low or wanted_high > high:
            raise UserError(
                f"{self.path} was trained on entries {low} to {high}, --scales {wanted_low} {wanted_high} asks for others;"
                " leave --scales out, or train another PruningNet"
            )

    def untrained_entries(self, nev: NEV) -> list[int]:
        """Entries of a vector that it was not trained on."""
        low, high = self.limits or (0, FULL)
        return [entry for entry in nev if not low <= entry <= high]


def save_pruning_net(path: Path, net: PruningNet, data: DataBundle, limits: tuple[int, int]) -> None:
    """model.safetensors with the pictures' normalisation and the limits of the vectors that it was trained on.

    A user's own network is not named where names are built from: reading needs its space.
    """
    space = net.space
    arch, arguments = (None, None) if space.own else (ARCH, recorded_arguments(space))
    save_model(
        path,
        net,
        arch,
        arguments,
        normalize=(data.mean, data.std),
        dataset=data.name,
        classes=data.classes,
        extra={SCALES: list(limits), "network": space.arch},
    )


def write_pruning_net(folder: Path, net: PruningNet, limits: tuple[int, int]) -> None:
    """The PruningNet under the original's names, its limits as one more tensor."""
    write_flat(folder, {**net.state_dict(), SCALES: torch.tensor(limits)})


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


def read_pruning_net(path: Path, space: SearchSpace) -> SavedNet:
    """A PruningNet of this space from its model.safetensors or a checkpoint.pth.tar.

    Raises UserError for a file that is missing, damaged, or of another network's PruningNet.
    """
    if path.suffix == ".safetensors":
        header, tensors = read_checkpoint(path)
        extra = header.get("extra")
        extra = extra if isinstance(extra, dict) else {}
        _require_same(path, header, extra, space)
        limits = extra.get(SCALES)
    else:
        tensors = read_tensors(path)
        kept = tensors.pop(SCALES, None)
        limits = None if kept is None else kept.tolist()
    with torch.device("meta"):
        net = PruningNet(space)
    load_tensors(net, tensors, path, assign=True)
    return SavedNet(net.eval(), _limits(path, limits), path)


def _require_same(path: Path, header: Mapping, extra: Mapping, space: SearchSpace) -> None:
    arguments = header["args"]
    if header["arch"] != ARCH and not (header["arch"] is None and "network" in extra):
        raise UserError(f"{path} holds a network, not a PruningNet; train.py makes one")
    named = extra.get("network", arguments.get("network"))
    if named != space.arch:
        raise UserError(f"{path} generates {named}, not {space.arch}")
    wanted = recorded_arguments(space)
    if not space.own and arguments != wanted:
        raise UserError(
            f"{path} generates {named} for {arguments.get('num_classes')} classes and pictures of"
            f" {arguments.get('image_size')} pixels, not for {space.num_classes} and {wanted['image_size']}"
        )


def _limits(path: Path, limits: Any) -> tuple[int, int] | None:
    if limits is None:
        return None
    good = isinstance(limits, list) and len(limits) == 2 and all(isinstance(entry, int) for entry in limits)
    if not good or not 0 <= limits[0] <= limits[1] <= FULL:
        raise UserError(f"{path} is damaged: the entries that it was trained on are {limits}")
    return limits[0], limits[1]
