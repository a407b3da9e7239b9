"""The data set that commands use: training images, test images and class names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from common.data.batches import ImageSet
from common.data.split import held_out_count, stratified_split
from common.errors import UserError
from common.normalization import check_mean_std


@dataclass(frozen=True)
class DataBundle:
    """Training and test images of one data set, with the same normalization."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: list[str]
    input_shape: tuple[int, int, int]  # (C, H, W)
    fingerprint: str  # the first 16 hex digits of a SHA-256 of the data
    labeled: bool = True  # otherwise the labels are a network's predictions
    prepared: bool = False  # the user's code normalizes the images: none is applied or recorded here
    normalized: bool = False  # by the user's choice, which that of a checkpoint does not replace

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

    def with_classes(self, classes: Sequence[str], source: object) -> "DataBundle":
        """Return the same images with labels that are positions in ``classes``, matched by name.

        Args:
            classes: Names of a network's classes; those without images are allowed.
            source: File of the network, for messages.

        Raises:
            UserError: If a class of the data set is not one of them, or its name occurs twice.
        """
        if list(classes) == self.classes:
            return self
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            missing = [name for name in classes if name not in self.classes]
            raise UserError(
                f"{source}: {len(unknown)} of the {len(self.classes)} classes of {self.name} are not classes of the network: "
                f"{_quote(unknown)}; {len(missing)} of the network's {len(classes)} classes are not in the data: "
                f"{_quote(missing)}; rename the class folders as the network's classes"
            )
        if any(classes.count(name) > 1 for name in self.classes):
            raise UserError(
                f"{source}: its list of classes contains a name twice, so that labels cannot be matched by name"
            )
        positions = torch.tensor([classes.index(name) for name in self.classes])
        train, test = (part.relabeled(positions) for part in (self.train, self.test))
        return replace(self, train=train, test=test, classes=list(classes))

    def in_channels(self, channels: int) -> "DataBundle":
        """Return the same images converted to gray (1) or, if they are gray, to three equal channels."""
        train, test = (part.in_channels(channels) for part in (self.train, self.test))
        return replace(self, train=train, test=test, input_shape=train.image_shape)

    def is_gray(self) -> bool:
        """Return whether all images are gray: those in memory by their pixels, others by their files' headers."""
        return self.test.is_gray() and self.train.is_gray()

    def with_normalization(self, mean: Sequence[float], std: Sequence[float]) -> "DataBundle":
        """Return the same images with another normalization; a single value applies to all channels.

        Prepared images are returned as they are.
        """
        if self.prepared:
            return self
        mean, std = check_mean_std(mean, std, self.input_shape[0])
        return replace(self, train=self.train.normalized(mean, std), test=self.test.normalized(mean, std))


def _quote(names: Sequence[str], count: int = 3) -> str:
    """Quote the first names of a list, for a message."""
    return ", ".join(f"'{name}'" for name in names[:count]) + ", ..." * (len(names) > count) or "none"
