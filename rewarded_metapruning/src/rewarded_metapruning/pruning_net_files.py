"""Save and read PruningNets, and save networks under the original code's file names."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.atomic import write_bytes
from common.checkpoint import load_tensors, read_checkpoint, read_state_dict, save_model
from common.data import DataBundle
from common.errors import UserError
from rewarded_metapruning.pruning_net import ARCH, PruningNet, recorded_arguments
from rewarded_metapruning.scale import FULL
from rewarded_metapruning.settings import BEST, CHECKPOINT
from rewarded_metapruning.space import NEV, SearchSpace

SCALES = "scales"  # key of the scale range: tensor (2,) int64 in checkpoint.pth.tar, list in model.safetensors' header


@dataclass(frozen=True)
class SavedPruningNet:
    """A PruningNet read from a file, in eval mode.

    ``scale_range``: smallest and largest entry of the vectors that it was trained on; None if an older file does not record it.
    """

    net: PruningNet
    scale_range: tuple[int, int] | None
    path: Path

    def require_trained_on(self, scale_range: tuple[int, int]) -> None:
        """Raise UserError if ``scale_range`` includes entries that the PruningNet was not trained on."""
        if self.scale_range is None:
            return
        (low, high), (wanted_low, wanted_high) = self.scale_range, scale_range
        if wanted_low < low or wanted_high > high:
            raise UserError(
                f"--scale-range {wanted_low} {wanted_high}: {self.path} was trained on entries {low} to {high} only;"
                " leave --scale-range out, or train another PruningNet"
            )

    def untrained_entries(self, nev: NEV) -> list[int]:
        """Return the entries of a vector that the PruningNet was not trained on."""
        low, high = self.scale_range or (0, FULL)
        return [entry for entry in nev if not low <= entry <= high]


def save_pruning_net(path: Path, net: PruningNet, data: DataBundle, scale_range: tuple[int, int]) -> None:
    """Save model.safetensors with the images' normalization and the scale range of the training vectors.

    The PruningNet of a custom network is saved without architecture name, so reading it requires its search space.
    """
    space = net.space
    arch, arguments = (None, None) if space.custom else (ARCH, recorded_arguments(space))
    save_model(
        path,
        net,
        arch,
        arguments,
        **data.record(),
        extra={SCALES: list(scale_range), "network": space.arch},
    )


def save_original_pruning_net(folder: Path, net: PruningNet, scale_range: tuple[int, int]) -> None:
    """Save a PruningNet under the original code's file names, with its scale range as an additional tensor."""
    save_original_format(folder, {**net.state_dict(), SCALES: torch.tensor(scale_range)})


def save_original_format(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Save checkpoint.pth.tar (tensors only) and, under the names of the best epoch, the same file: no epoch is selected."""
    content = io.BytesIO()  # torch.save writes the file's name into the file, and the name of a temporary file varies
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, content)
    write_bytes(folder / CHECKPOINT, content.getvalue())
    for best in (folder / name for name in BEST):
        best.unlink(missing_ok=True)
        try:
            os.link(folder / CHECKPOINT, best)
        except OSError:  # a file system without hard links
            write_bytes(best, content.getvalue())


def read_pruning_net(path: Path, space: SearchSpace) -> SavedPruningNet:
    """Read a PruningNet of this search space from model.safetensors or checkpoint.pth.tar.

    Raises:
        UserError: If the file is missing or damaged, or holds the PruningNet of another network.
    """
    with torch.device("meta"):
        net = PruningNet(space)
    if path.suffix == ".safetensors":
        header, tensors = read_checkpoint(path)
        extra = header.get("extra")
        extra = extra if isinstance(extra, dict) else {}
        _check_header(path, header, extra, space)
        scale_range = extra.get(SCALES)
    else:
        state = read_state_dict(path)
        kept = state.tensors.pop(SCALES, None)
        tensors = state.fitted(net.state_dict()).tensors
        scale_range = None if kept is None else kept.tolist()
    load_tensors(net, tensors, path, assign=True)
    return SavedPruningNet(net.eval(), _check_scale_range(path, scale_range), path)


def _check_header(path: Path, header: Mapping, extra: Mapping, space: SearchSpace) -> None:
    arguments = header["args"]
    if header["arch"] != ARCH and not (header["arch"] is None and "network" in extra):
        raise UserError(f"{path}: the file holds a network, not a PruningNet; train a PruningNet with train.py")
    named = extra.get("network", arguments.get("network"))
    if named != space.arch:
        raise UserError(
            f"{path}: the PruningNet generates {named}, not {space.arch}; give the PruningNet of {space.arch}"
        )
    wanted = recorded_arguments(space)
    if not space.custom and arguments != wanted:
        raise UserError(
            f"{path}: the PruningNet generates {named} for {arguments.get('num_classes')} classes and images of"
            f" {arguments.get('image_size')} pixels, not for {space.num_classes} classes and {wanted['image_size']} pixels;"
            " train one on this data set"
        )


def _check_scale_range(path: Path, scale_range: Any) -> tuple[int, int] | None:
    if scale_range is None:
        return None
    good = (
        isinstance(scale_range, list) and len(scale_range) == 2 and all(isinstance(entry, int) for entry in scale_range)
    )
    if not good or not 0 <= scale_range[0] <= scale_range[1] <= FULL:
        raise UserError(f"{path} is damaged: its scale range is {scale_range}; train the PruningNet again")
    return scale_range[0], scale_range[1]
