"""Calibration images (the paper's *pruning set*): training images, selected at random by a seed, without their labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.data import DataBundle, ImageSet
from common.errors import UserError

DEFAULT_IMAGES = 5000  # as in the original README
MEMORY_PIXELS = 250 * 32 * 32  # default number of pixels that go through the network at once


@dataclass(frozen=True)
class CalibrationImages:
    """Batches of images (B, C, H, W) that can be read several times."""

    image_set: ImageSet
    batch_size: int
    device: torch.device | str = "cpu"
    workers: int = 2

    def __len__(self) -> int:
        return -(-len(self.image_set) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        batches = self.image_set.batches(self.batch_size, device=self.device, workers=self.workers, channels_last=True)
        for batch in batches:
            yield batch.images


def calibration_images(
    data: DataBundle,
    count: int | None,
    seed: int = 2,
    *,
    default: int = DEFAULT_IMAGES,
    without_class: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    workers: int = 2,
) -> CalibrationImages:
    """Select the first ``count`` training images of a permutation by ``numpy.random.default_rng(seed)``.

    Args:
        count: None: ``default`` images, or all if there are fewer.
        without_class: Class whose images are then left out, for the one experiment that uses labels.
        batch_size: Images that go through the network at once; by default as many as 250 images of 32x32 pixels have pixels.

    Raises:
        UserError: If there are fewer than ``count`` images, or none is left.
    """
    count = min(default, len(data.train)) if count is None else count
    if not 1 <= count <= len(data.train):
        raise UserError(
            f"--prune-batch-size {count}: {data.name} has {len(data.train)} training images; use 1 to {len(data.train)}"
        )
    if without_class is not None and not 0 <= without_class < len(data.classes):
        raise UserError(f"--without-class {without_class}: {data.name} has classes 0 to {len(data.classes) - 1}")
    order = np.random.default_rng(seed).permutation(len(data.train))[:count]
    if without_class is not None:
        order = order[data.train.labels.numpy()[order] != without_class]
        if not len(order):
            raise UserError(
                f"--without-class {without_class}: all {count} calibration images are of that class;"
                " use a larger --prune-batch-size"
            )
    _, height, width = data.input_shape
    size = batch_size or max(1, MEMORY_PIXELS // (height * width))
    return CalibrationImages(data.train.subset(torch.from_numpy(order)), min(size, len(order)), device, workers)
