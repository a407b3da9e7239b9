"""The data set that commands use: training images, test images and class names."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from common.data.batches import ImageSet
from common.data.split import held_out_count, stratified_split
from common.errors import UserError
from common.normalization import check_mean_std
from common.preprocessing import Preprocessing

ILSVRC = 1000  # classes
SYNSET = re.compile(r"n\d{8}")  # name of a class of ImageNet


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
    class_ids: list[str] | None = None  # other names of the classes, by which folders may be called, such as n01440764
    preprocessing: Preprocessing | None = None  # of image files; None for images that were not resized
    expected: Preprocessing | None = None  # what the network expects, as far as it is known
    prepare: Callable[[Preprocessing | None], "DataBundle"] | None = None  # the same files for another network
    numbered: bool = (
        False  # the labels are numbers of a network's outputs, which may have more classes than are counted here
    )

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
        train, test = self.train.subset(kept), self.train.subset(held)
        prepare = self._prepare_then("holdout", fraction, seed)
        return replace(self, train=train, test=test, fingerprint=fingerprint, prepare=prepare)

    def with_preprocessing(self, how: Preprocessing) -> "DataBundle":
        """Return the same images as a network expects them, unless the user has chosen otherwise.

        Only image files are resized; images in memory are normalized.
        """
        if self.prepared or how == self.expected:
            return self
        if self.prepare is not None and not self._is_arranged(how):
            return self.prepare(how)
        same = self if self.normalized else self.with_normalization(how.mean, how.std)
        return replace(same, expected=how)

    def _is_arranged(self, how: Preprocessing) -> bool:
        """Return whether the images have already been resized and cropped like this, or need not be."""
        if self.preprocessing is not None:
            return (
                self.preprocessing.geometry == how.geometry and how.fit != "longer"
            )  # whose padding has the mean color
        return self.input_shape[1:] == (how.resize, how.resize) == (how.crop, how.crop)

    def record(self) -> dict[str, Any]:
        """Return what the file of a network for these images records: arguments of :func:`common.checkpoint.save_model`."""
        return {
            "normalize": None if self.prepared else (self.mean, self.std),
            "dataset": self.name,
            "classes": self.classes or None,
            "class_ids": self.class_ids,
            "preprocessing": None if self.preprocessing is None else self.preprocessing.geometry,
        }

    def _prepare_then(self, method: str, *arguments: Any) -> Callable[[Preprocessing | None], "DataBundle"] | None:
        """Return :attr:`prepare`, followed by a method."""
        return None if self.prepare is None else partial(_prepare_then, self.prepare, method, arguments)

    def with_classes(self, classes: Sequence[str], source: object, ids: Sequence[str] | None = None) -> "DataBundle":
        """Return the same images with labels that are positions in ``classes``, matched by name.

        Labels that are numbers of outputs remain what they are, and so do those of ILSVRC's 1,000 folders (n01440764, ...), which
        are sorted in the order of its classes, if the network's 1,000 classes have other names.

        Args:
            classes: Names of a network's classes; those without images are allowed.
            source: File of the network, for messages.
            ids: Other names of the classes, by which the data set may call them.

        Raises:
            UserError: If a class of the data set is not one of them, or its name occurs twice.
        """
        if list(classes) == self.classes:
            return self if ids is None else replace(self, class_ids=list(ids))
        if ids is not None and set(self.classes) <= set(ids):
            named = self.with_classes(ids, source)
            prepare = self._prepare_then("with_classes", list(classes), source, list(ids))
            return replace(named, classes=list(classes), class_ids=list(ids), prepare=prepare)
        if self.numbered and len(self.classes) > len(classes):
            raise UserError(
                f"{source}: the network has {len(classes)} classes, but {self.name} has the label {len(self.classes) - 1}; labels "
                "are numbers from 0"
            )
        if self.numbered or (_is_ilsvrc(self.classes) and len(classes) == ILSVRC and not any(map(_is_synset, classes))):
            prepare = self._prepare_then("with_classes", list(classes), source, ids)
            ids = None if ids is None else list(ids)
            return replace(self, classes=list(classes), class_ids=ids, prepare=prepare)
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
        prepare = self._prepare_then("with_classes", list(classes), source, ids)
        ids = None if ids is None else list(ids)
        return replace(self, train=train, test=test, classes=list(classes), class_ids=ids, prepare=prepare)

    def in_channels(self, channels: int) -> "DataBundle":
        """Return the same images converted to gray (1) or, if they are gray, to three equal channels."""
        train, test = (part.in_channels(channels) for part in (self.train, self.test))
        prepare = self._prepare_then("in_channels", channels)
        return replace(self, train=train, test=test, input_shape=train.image_shape, prepare=prepare)

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


def _prepare_then(
    prepare: Callable[[Preprocessing | None], DataBundle],
    method: str,
    arguments: Sequence[Any],
    how: Preprocessing | None,
) -> DataBundle:
    return getattr(prepare(how), method)(*arguments)


def _is_synset(name: str) -> bool:
    return SYNSET.fullmatch(name) is not None


def _is_ilsvrc(classes: Sequence[str]) -> bool:
    return len(classes) == ILSVRC and all(map(_is_synset, classes))


def _quote(names: Sequence[str], count: int = 3) -> str:
    """Quote the first names of a list, for a message."""
    return ", ".join(f"'{name}'" for name in names[:count]) + ", ..." * (len(names) > count) or "none"
