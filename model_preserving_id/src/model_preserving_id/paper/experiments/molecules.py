"""Voxel grids of molecules: ATOM3D's ligand binding affinity (LBA) from its files, or generated data of the same shape.

R. Townshend et al., "ATOM3D: Tasks on Molecules in Three Dimensions" (arXiv 2012.04035): 5 elements, 41^3 voxels of 1 angstrom
around the ligand. The generated data have no chemical meaning; they allow the experiment to run without a download.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from model_preserving_id.paper.experiments.atom3d_files import read_items

ELEMENTS = ("H", "C", "O", "N", "F")
RESOLUTION = 1.0  # angstrom
PARTS = ("train", "val", "test")
GENERATED = {"train": 192, "val": 80, "test": 96}


@dataclass(frozen=True)
class Molecules:
    """A data set: for each part of :data:`PARTS`, voxel grids (N, 5, S, S, S) and affinities (N, 1), both float32."""

    name: str
    parts: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one voxel grid, (5, S, S, S)."""
        return tuple(self.parts["train"][0].shape[1:])


def voxels(elements: Sequence[str], positions: np.ndarray, center: np.ndarray, grid: int) -> Tensor:
    """Count the atoms of each element in each voxel, (5, S, S, S); other elements and atoms outside are ignored.

    positions: (atoms, 3) in angstrom; center: (3,), the center of the grid.
    """
    box = np.zeros((len(ELEMENTS), grid, grid, grid), dtype=np.float32)
    places = np.rint((np.asarray(positions) - center) / RESOLUTION).astype(int) + grid // 2
    for element, place in zip(elements, places, strict=True):
        if element in ELEMENTS and (place >= 0).all() and (place < grid).all():
            box[(ELEMENTS.index(element), *place)] += 1.0
    return torch.from_numpy(box)


def read_lba(folder: Path | str, grid: int = 41) -> Molecules:
    """Read ATOM3D's LBA data set, split by sequence identity, from the LMDB folders ``train``, ``val`` and ``test``.

    Raises UserError if a folder or the package lmdb is missing, or if a file does not contain complexes with an affinity.
    """
    return Molecules("ATOM3D LBA", {part: _read_part(Path(folder) / part, grid) for part in PARTS})


def _read_part(folder: Path, grid: int) -> tuple[Tensor, Tensor]:
    boxes: list[Tensor] = []
    affinities: list[float] = []
    for item in read_items(folder):
        try:
            pocket, ligand = (item[name] for name in ("atoms_pocket", "atoms_ligand"))
            pocket_at, ligand_at = (
                np.stack([np.asarray(of[axis], float) for axis in "xyz"], 1) for of in (pocket, ligand)
            )
            elements = [*pocket["element"], *ligand["element"]]
            affinities.append(float(item["scores"]["neglog_aff"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder}: item {len(boxes)} is not a complex of the LBA data set ({type(error).__name__}: {error});"
                " expected atoms_pocket, atoms_ligand and scores with neglog_aff"
            ) from error
        boxes.append(voxels(elements, np.concatenate([pocket_at, ligand_at]), ligand_at.mean(0), grid))
    return torch.stack(boxes), torch.tensor(affinities)[:, None]


def generate(grid: int = 17, seed: int = 3, sizes: Mapping[str, int] = GENERATED) -> Molecules:
    """Generate random atoms around a center; the "affinity" grows with close pairs of O and N, and with C near the center."""
    rng = np.random.default_rng(seed)
    parts = {}
    for part in PARTS:
        boxes, affinities = [], []
        for _ in range(sizes[part]):
            kinds = rng.choice(len(ELEMENTS), size=60, p=(0.2, 0.4, 0.15, 0.15, 0.1))
            at = rng.normal(scale=grid / 6, size=(60, 3))
            boxes.append(voxels([ELEMENTS[kind] for kind in kinds], at, np.zeros(3), grid))
            oxygen, nitrogen = at[kinds == 2], at[kinds == 3]
            pairs = np.exp(-((oxygen[:, None] - nitrogen[None]) ** 2).sum(2) / 8).sum()
            near_center = np.exp(-(at[kinds == 1] ** 2).sum(1) / (grid / 4) ** 2).sum()
            affinities.append(2 + 0.6 * pairs + 0.25 * near_center)
        parts[part] = (torch.stack(boxes), torch.tensor(affinities, dtype=torch.float32)[:, None])
    return Molecules("generated", parts)
