"""The data set that commands use: training images, test images and class names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.data.batches import ImageSet
from common.data.split import held_out_count, stratified_split


@dataclass(frozen=True)
class DataBundle:
    """Training and test images of one data set, with the same normalization."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: list[str]
    input_shape: tuple[int, int, int]  # (C, H, W)
    fingerprint: str  # the first 16 hex digits of a SHA-256 of the data

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def mean(self) -> tuple[float, ...]:
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.train.std

    def holdout(self, fraction: float = 0.1, seed: int = 0) -> "DataBundle":
        """Split the *training* images into two stratified parts: `.train`, and `.test` for choosing hyperparameters.

        The test set is not used. The new fingerprint depends on fraction and seed.
        """
        kept, held = stratified_split(self.train.labels, held_out_count(len(self.train), fraction), seed)
        fingerprint = hashlib.sha256(f"{self.fingerprint} holdout {fraction} {seed}".encode()).hexdigest()[:16]
        return replace(self, train=self.train.subset(kept), test=self.train.subset(held), fingerprint=fingerprint)

    def with_normalization(self, mean: Sequence[float], std: Sequence[float]) -> "DataBundle":
        """Return the same images with another normalization; a single value applies to all channels."""
        return replace(self, train=self.train.normalized(mean, std), test=self.test.normalized(mean, std))
