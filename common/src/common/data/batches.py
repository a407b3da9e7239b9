"""Assignment of examples to batches and ranks: the same for every device, number of workers and number of processes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.data.counter_rng import hash_key
from common.errors import UserError


class Batch(NamedTuple):
    """One rank's part of a global batch."""

    images: Tensor  # (B, C, H, W) float32, normalized, on the device
    labels: Tensor  # (B,) int64, on the device
    indices: Tensor  # (B,) int64, on the device: positions in the image set
    global_size: int  # examples in the batch of all ranks together


class ImageSet(Protocol):
    """Labeled images, implemented by :class:`~common.data.MemoryImages` and :class:`~common.data.FolderImages`."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor: ...  # (N,) int64

    @property
    def mean(self) -> tuple[float, ...]: ...  # per channel, of pixels scaled to 0..1

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # (C, H, W) of a batch's images

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "ImageSet": ...

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "ImageSet": ...

    def in_channels(self, channels: int) -> "ImageSet": ...  # converted to 1 or 3 channels

    def is_gray(self) -> bool: ...

    def relabeled(self, positions: Tensor) -> "ImageSet": ...  # the label of class c becomes positions[c]

    def with_labels(self, labels: Tensor) -> "ImageSet": ...

    def fingerprint(self) -> str: ...

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
    ) -> Iterator[Batch]: ...


def epoch_order(size: int, *, shuffle: bool, seed: int = 0, epoch: int = 0) -> Tensor:
    """Return the order (size,) int64 of the examples in an epoch; if shuffled, it depends only on (seed, epoch)."""
    if not shuffle:
        return torch.arange(size)
    generator = torch.Generator().manual_seed(hash_key(seed, epoch) >> 1)  # 63 bits
    return torch.randperm(size, generator=generator)


def batch_bounds(size: int, batch_size: int, world_size: int = 1, min_part: int = 1) -> list[tuple[int, int]]:
    """Return the start and end of each global batch of an epoch: [(0, batch_size), ...].

    No example is dropped. A short last batch is kept unless it is too small to give every rank `min_part` examples; then it
    is merged into the previous batch. (`min_part=2` suits batch norm, which cannot train on one example.)

    Raises:
        UserError: If one batch of all examples, or a full batch, is too small for the ranks.
    """
    if batch_size < 1 or world_size < 1:
        raise UserError(f"batch size {batch_size}, {world_size} processes: both must be at least 1")
    least = world_size * min_part
    if size == 0:
        return []
    if min(size, batch_size) < least:
        raise UserError(
            f"{size} examples in batches of {batch_size}: too few for {world_size} processes with at least {min_part} each; "
            "use a larger batch size or fewer processes"
        )
    starts = list(range(0, size, batch_size))
    if size - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))


def batch_count(size: int, batch_size: int, world_size: int = 1, min_part: int = 1) -> int:
    """Return the number of batches of every rank in an epoch."""
    return len(batch_bounds(size, batch_size, world_size, min_part))


class Part(NamedTuple):
    """Positions start .. end - 1 in the epoch's order, and the size of their global batch."""

    start: int
    end: int
    global_size: int


def rank_parts(size: int, batch_size: int, rank: int = 0, world_size: int = 1, min_part: int = 1) -> list[Part]:
    """Return this rank's part of each global batch.

    A global batch is split into `world_size` contiguous parts (as by `torch.tensor_split`): concatenated in rank order, they
    are the batch of a single process.
    """
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size} processes: expected 0 to {world_size - 1}")
    parts = []
    for start, end in batch_bounds(size, batch_size, world_size, min_part):
        part, larger = divmod(end - start, world_size)  # the first `larger` parts have one example more
        first = start + rank * part + min(rank, larger)
        parts.append(Part(first, first + part + (rank < larger), end - start))
    return parts


def take_images(batches: Iterable[Tensor], count: int) -> list[Tensor]:
    """Return the first ``count`` images, in the given batches."""
    chosen: list[Tensor] = []
    left = count
    for batch in batches:
        chosen.append(batch[:left])
        left -= len(chosen[-1])
        if left <= 0:
            break
    return chosen
