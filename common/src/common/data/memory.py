"""Image sets in memory: uint8, augmented and normalized batch by batch on the training device."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.data.augment import apply_affine, crop_flip, pixel_affine, sample_crop_flip, to_channels
from common.data.batches import Batch, epoch_order, rank_parts
from common.errors import UserError
from common.normalization import IMAGENET, check_mean_std, in_channels


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """An image set in memory.

    `augment=True` crops the image after padding it with `padding` black pixels on each side and, if `flip` is true, mirrors
    it at random (not for digits). Raises UserError if images and labels do not match.
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
                f"images: {self.images.dtype} {tuple(self.images.shape)}, expected uint8 (N, C, H, W) on the CPU"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise UserError(
                f"labels: {self.labels.dtype} {tuple(self.labels.shape)}, expected int64 ({len(self.images)},), one for each image"
            )
        mean, std = check_mean_std(self.mean, self.std, self.images.shape[1])
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
        """Return the examples at these positions, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self._with(self.images[chosen], self.labels[chosen], self.mean, self.std)

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "MemoryImages":
        """Return the same images with another normalization; a single value applies to all channels."""
        same = self._with(self.images, self.labels, tuple(mean), tuple(std))
        object.__setattr__(same, "_resident", self._resident)
        return same

    def in_channels(self, channels: int) -> "MemoryImages":
        """Return the same images converted to 1 or 3 channels."""
        return self._with(
            to_channels(self.images, channels), self.labels, *in_channels((self.mean, self.std), channels)
        )

    def is_gray(self) -> bool:
        """Return whether all channels of an image are equal."""
        return bool((self.images == self.images[:, :1]).all())

    def relabeled(self, positions: Tensor) -> "MemoryImages":
        """Return the same images with the label ``positions[c]`` instead of c, for every class c."""
        return self._with(self.images, positions[self.labels], self.mean, self.std)

    def with_labels(self, labels: Tensor) -> "MemoryImages":
        """Return the same images with other labels, (N,) int64."""
        return self._with(self.images, labels, self.mean, self.std)

    def measure_mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of all pixels, scaled to 0..1: exact counts, then float64."""
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in range(self.images.shape[1]):
            histogram = torch.bincount(self.images[:, channel].reshape(-1), minlength=256).to(torch.float64)
            fraction = histogram / histogram.sum()
            mean = float((fraction * values).sum())
            means.append(mean)
            stds.append(float((fraction * (values - mean) ** 2).sum().sqrt()))
        return tuple(means), tuple(stds)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of shape, pixels and labels, in order."""
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
        """Yield this rank's batches of an epoch. `workers` is ignored: computing a batch costs less than transferring it."""
        del workers
        device = torch.device(device)
        order = epoch_order(len(self), shuffle=shuffle, seed=seed, epoch=epoch)
        parts = rank_parts(len(self), batch_size, rank, world_size, min_part)
        images, labels = self._on(device)
        offsets = None
        if augment:
            offsets = sample_crop_flip(order, self.padding, self.flip, seed, epoch).to(device, non_blocking=True)
        order = order.to(images.device, non_blocking=True)  # on the images' device, so that indexing needs no transfer
        affine = pixel_affine(self.mean, self.std, device)
        for start, end, global_size in parts:
            chosen = order[start:end]
            picked = images.index_select(0, chosen).to(device, non_blocking=True)
            if offsets is not None:
                picked = crop_flip(picked, offsets[:, start:end], self.padding)
            targets = labels.index_select(0, chosen).to(device, non_blocking=True)
            indices = chosen.to(device, non_blocking=True)
            yield Batch(apply_affine(picked, affine, channels_last), targets, indices, global_size)

    def _with(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> "MemoryImages":
        return MemoryImages(images, labels, mean, std, self.padding, self.flip)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images and labels, kept on the device unless they would use over a quarter of its free memory."""
        if device.type != "cuda":
            return self.images, self.labels
        if device not in self._resident:
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if self.images.nbytes > free_bytes / 4:
                return self.images, self.labels
            self._resident[device] = (self.images.to(device), self.labels.to(device))
        return self._resident[device]
