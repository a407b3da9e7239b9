"""The pruning set: unlabelled pictures of the training part, drawn by seed; labels are never handed on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.data import DataBundle, ImageSet
from common.errors import UserError

MEMORY_PIXELS = 250 * 32 * 32  # pixels that go through the network at once, if not said otherwise


@dataclass(frozen=True)
class Pictures:
    """Inputs (B, C, H, W) in batches, as often as wanted."""

    images: ImageSet
    batch_size: int
    device: torch.device | str = "cpu"
    workers: int = 2

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.images.batches(self.batch_size, device=self.device, workers=self.workers, channels_last=True):
            yield batch.images


def pruning_pictures(
    data: DataBundle,
    count: int,
    seed: int = 2,
    *,
    without_class: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    workers: int = 2,
) -> Pictures:
    """The first ``count`` of a shuffle of the training pictures by ``numpy.random.default_rng(seed)``.

    without_class: none of this class is among them (fewer than ``count`` then): the one experiment that looks at labels.
    Raises UserError if there are fewer pictures than wanted.
    """
    if not 1 <= count <= len(data.train):
        raise UserError(f"--prune-batch-size {count}: {data.name} has {len(data.train)} training pictures")
    if without_class is not None and not 0 <= without_class < len(data.classes):
        raise UserError(f"--without-class {without_class}: {data.name} has classes 0 to {len(data.classes) - 1}")
    order = np.random.default_rng(seed).permutation(len(data.train))[:count]
    if without_class is not None:
        order = order[data.train.labels.numpy()[order] != without_class]
        if not len(order):
            raise UserError(
                f"--without-class {without_class}: all {count} pruning pictures are of that class; take more"
            )
    _, height, width = data.input_shape
    size = batch_size or max(1, MEMORY_PIXELS // (height * width))
    return Pictures(data.train.subset(torch.from_numpy(order)), min(size, len(order)), device, workers)
