"""Molecules as boxes of atoms: ATOM3D's ligand binding affinity from its own files, or a generated set of the same shape.

R. Townshend et al., "ATOM3D: Tasks on Molecules in Three Dimensions" (arXiv 2012.04035): 5 elements, 41^3 voxels of 1 angstrom
around the ligand. The generated set is no chemistry: it is there so that a three-dimensional network can be tried anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

ELEMENTS = ("H", "C", "O", "N", "F")
RESOLUTION = 1.0  # angstrom
PARTS = ("train", "val", "test")
GENERATED = {"train": 192, "val": 80, "test": 96}


@dataclass(frozen=True)
class Molecules:
    """name; by part of :data:`PARTS` the boxes (N, 5, S, S, S) float32 and affinities (N, 1) float32."""

    name: str
    parts: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.parts["train"][0].shape[1:])


def voxels(elements: Sequence[str], positions: np.ndarray, center: np.ndarray, grid: int) -> Tensor:
    """How many atoms of each element lie in each voxel, (5, S, S, S); other elements and what lies outside do not count.

    positions: (atoms, 3) angstrom; center: (3,), the middle of the box.
    """
    box = np.zeros((len(ELEMENTS), grid, grid, grid), dtype=np.float32)
    places = np.rint((np.asarray(positions) - center) / RESOLUTION).astype(int) + grid // 2
    for element, place in zip(elements, places, strict=True):
        if element in ELEMENTS and (place >= 0).all() and (place < grid).all():
            box[(ELEMENTS.index(element), *place)] += 1.0
    return torch.from_numpy(box)


def read_lba(folder: Path | str, grid: int = 41) -> Molecules:
    """ATOM3D's LBA set, split by sequence identity: ``folder/train``, ``val`` and ``test`` are LMDB folders of its own format.

    Needs the package atom3d. Raises UserError where it or a folder is missing.
    """
    try:
        from atom3d.datasets import LMDBDataset
    except ImportError as error:
        raise UserError("reading ATOM3D's files needs the package atom3d: pip install atom3d") from error
    parts = {}
    for part in PARTS:
        if not (Path(folder) / part).is_dir():
            raise UserError(
                f"{Path(folder) / part}: no such folder; ATOM3D's split-by-sequence-identity-30/data holds it"
            )
        boxes, affinities = [], []
        for item in LMDBDataset(str(Path(folder) / part)):
            pocket, ligand = item["atoms_pocket"], item["atoms_ligand"]
            elements = [*pocket["element"], *ligand["element"]]
            ligand_at = np.stack([np.asarray(ligand[axis], float) for axis in "xyz"], 1)
            pocket_at = np.stack([np.asarray(pocket[axis], float) for axis in "xyz"], 1)
            boxes.append(voxels(elements, np.concatenate([pocket_at, ligand_at]), ligand_at.mean(0), grid))
            affinities.append(float(item["scores"]["neglog_aff"]))
        parts[part] = (torch.stack(boxes), torch.tensor(affinities)[:, None])
    return Molecules("ATOM3D LBA", parts)


def generate(grid: int = 17, seed: int = 3, sizes: Mapping[str, int] = GENERATED) -> Molecules:
    """Random atoms around a middle; the "affinity" grows with pairs of O and N that lie close, and with C near the middle."""
    draw = np.random.default_rng(seed)
    parts = {}
    for part in PARTS:
        boxes, affinities = [], []
        for _ in range(sizes[part]):
            kinds = draw.choice(len(ELEMENTS), size=60, p=(0.2, 0.4, 0.15, 0.15, 0.1))
            at = draw.normal(scale=grid / 6, size=(60, 3))
            boxes.append(voxels([ELEMENTS[kind] for kind in kinds], at, np.zeros(3), grid))
            oxygen, nitrogen = at[kinds == 2], at[kinds == 3]
            pairs = np.exp(-((oxygen[:, None] - nitrogen[None]) ** 2).sum(2) / 8).sum()
            middle = np.exp(-(at[kinds == 1] ** 2).sum(1) / (grid / 4) ** 2).sum()
            affinities.append(2 + 0.6 * pairs + 0.25 * middle)
        parts[part] = (torch.stack(boxes), torch.tensor(affinities, dtype=torch.float32)[:, None])
    return Molecules("generated", parts)
