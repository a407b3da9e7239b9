"""Which examples form which batch of which rank: the same for every device, worker count and number of processes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.data.counter_rng import mixed_key
from common.errors import UserError


class Batch(NamedTuple):
    """One rank's part of a global batch."""

    images: Tensor  # (B, C, H, W) float32, normalised, on the device
    labels: Tensor  # (B,) int64, on the device
    indices: Tensor  # (B,) int64, on the device: positions in the image set
    global_size: int  # examples in the batch of all ranks together


class ImageSet(Protocol):
    """Pictures with labels. Two kinds: :class:`~common.data.MemoryImages` and :class:`~common.data.FolderImages`."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor: ...  # (N,) int64

    @property
    def mean(self) -> tuple[float, ...]: ...  # per channel, of pixels scaled to 0..1

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # (C, H, W) of a batch's pictures

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "ImageSet": ...

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "ImageSet": ...

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
    """The order (size,) int64 in which an epoch visits the examples: a permutation drawn from (seed, epoch)."""
    if not shuffle:
        return torch.arange(size)
    generator = torch.Generator().manual_seed(mixed_key(seed, epoch) >> 1)  # 63 bits
    return torch.randperm(size, generator=generator)


def batch_bounds(size: int, batch_size: int, world_size: int = 1, min_part: int = 1) -> list[tuple[int, int]]:
    """Where the global batches of an epoch begin and end: [(0, batch_size), ...].

    No example is dropped. A short last batch is kept, unless it is too small to give every rank `min_part` examples:
    then it joins the batch before it. (`min_part=2` suits batch norm, which cannot train on one example.)
    Raises UserError if even one batch of all examples, or a full batch, is too small for the ranks.
    """
    if batch_size < 1 or world_size < 1:
        raise UserError(f"batch size {batch_size} on {world_size} processes: both must be at least 1")
    least = world_size * min_part
    if size == 0:
        return []
    if min(size, batch_size) < least:
        raise UserError(
            f"{size} examples in batches of {batch_size} are too few for {world_size} processes with at least "
            f"{min_part} each; use a larger batch size or fewer processes"
        )
    starts = list(range(0, size, batch_size))
    if size - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))


def batch_count(size: int, batch_size: int, world_size: int = 1, min_part: int = 1) -> int:
    """Number of batches that every rank gets in an epoch."""
    return len(batch_bounds(size, batch_size, world_size, min_part))


class Part(NamedTuple):
    """Positions start .. end - 1 of the epoch's order, and the size of the global batch that they belong to."""

    start: int
    end: int
    global_size: int


def rank_parts(size: int, batch_size: int, rank: int = 0, world_size: int = 1, min_part: int = 1) -> list[Part]:
    """This rank's part of each global batch.

    A global batch is cut into `world_size` contiguous parts (as `torch.tensor_split` does): joined in the order of the
    ranks they are the batch of a single process.
    """
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size} processes: expected 0 to {world_size - 1}")
    parts = []
    for start, end in batch_bounds(size, batch_size, world_size, min_part):
        share, larger = divmod(end - start, world_size)  # the first `larger` parts have one more
        first = start + rank * share + min(rank, larger)
        parts.append(Part(first, first + share + (rank < larger), end - start))
    return parts
