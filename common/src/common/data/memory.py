"""Pictures that fit in memory: uint8, augmented and normalised by the batch on the device that trains."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.data.augment import apply_affine, crop_flip, crop_flip_draws, pixel_affine
from common.data.batches import Batch, epoch_order, rank_parts
from common.data.normalization import IMAGENET, checked_statistics
from common.errors import UserError


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """An image set held in memory.

    `padding` and `flip` say what `augment=True` does: a crop of the picture padded by so many black pixels, and whether
    mirroring is allowed (not for digits). Raises UserError for labels that do not fit.
    """

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    padding: int = 4
    flip: bool = True
    _resident: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.device.type != "cpu":
            raise ValueError(
                f"expected uint8 (N, C, H, W) on the CPU, got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise UserError(f"{len(self.images)} pictures with {tuple(self.labels.shape)} labels do not fit together")
        mean, std = checked_statistics(self.mean, self.std, self.images.shape[1])
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "MemoryImages":
        """The examples at these positions, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self._with(self.images[chosen], self.labels[chosen], self.mean, self.std)

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "MemoryImages":
        """The same pictures with another normalisation; one value serves all channels."""
        same = self._with(self.images, self.labels, tuple(mean), tuple(std))
        object.__setattr__(same, "_resident", self._resident)
        return same

    def measured_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel over all pixels, of pixels scaled to 0..1; exact counts, then float64."""
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in range(self.images.shape[1]):
            histogram = torch.bincount(self.images[:, channel].reshape(-1), minlength=256).to(torch.float64)
            share = histogram / histogram.sum()
            mean = float((share * values).sum())
            means.append(mean)
            deviations.append(float((share * (values - mean) ** 2).sum().sqrt()))
        return tuple(means), tuple(deviations)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over shape, pixels and labels, in order."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def batches(
        self,
        batch_size: int,
        *,
        augment: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        channels_last: bool = False,
        min_part: int = 1,
    ) -> Iterator[Batch]:
        """This rank's batches of an epoch. `workers` is ignored: a batch costs less than handing it over would."""
        del workers
        device = torch.device(device)
        order = epoch_order(len(self), shuffle=shuffle, seed=seed, epoch=epoch)
        parts = rank_parts(len(self), batch_size, rank, world_size, min_part)
        images, labels = self._on(device)
        draws = None
        if augment:
            draws = crop_flip_draws(order, self.padding, self.flip, seed, epoch).to(device, non_blocking=True)
        order = order.to(images.device, non_blocking=True)  # where the images are, so that an index costs no transfer
        affine = pixel_affine(self.mean, self.std, device)
        for start, end, global_size in parts:
            chosen = order[start:end]
            picked = images.index_select(0, chosen).to(device, non_blocking=True)
            if draws is not None:
                picked = crop_flip(picked, draws[:, start:end], self.padding)
            targets = labels.index_select(0, chosen).to(device, non_blocking=True)
            indices = chosen.to(device, non_blocking=True)
            yield Batch(apply_affine(picked, affine, channels_last), targets, indices, global_size)

    def _with(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> "MemoryImages":
        return MemoryImages(images, labels, mean, std, self.padding, self.flip)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pictures and labels on the device, kept there; on the CPU if they would take over a quarter of its memory."""
        if device.type != "cuda":
            return self.images, self.labels
        if device not in self._resident:
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if self.images.nbytes > free_bytes / 4:
                return self.images, self.labels
            self._resident[device] = (self.images.to(device), self.labels.to(device))
        return self._resident[device]
