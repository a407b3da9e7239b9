"""The data sets by name, and where each is looked for."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data import cifar, digits, idx
from common.data.batches import ImageSet
from common.data.bundle import DataBundle
from common.data.cache import cached_pixels
from common.data.decode import MixedSizes, decode_all, image_size
from common.data.folder import FolderImages
from common.data.listing import ImageListing, list_train_and_test
from common.data.memory import MemoryImages
from common.data.normalization import IMAGENET, MEASURED, NORMALIZATIONS, Statistics
from common.downloads import ITEMS, default_root
from common.errors import UserError

if TYPE_CHECKING:
    from common.options import DataOptions

MEMORY_PIXELS = 64  # pictures up to this many pixels a side, all of one size ...
MEMORY_BYTES = 2 * 1024**3  # ... and up to this many bytes together are held in memory
CACHED_FROM = 2000  # pictures; fewer are decoded in half a second

MNIST_CLASSES = [str(digit) for digit in range(10)]
FASHION_CLASSES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


class LoadedDataset(NamedTuple):
    """What a reader gives."""

    train: ImageSet
    test: ImageSet
    classes: list[str]


@dataclass(frozen=True)
class DatasetSource:
    """How a data set is read from its folder, and its default normalisation."""

    load: Callable[[Path], LoadedDataset]
    statistics: Statistics


def load_dataset(name: str, root: str | os.PathLike | None = None, normalize: str | None = None) -> DataBundle:
    """A data set by name, or `folder:PATH` with PATH/train and PATH/test (or PATH/val).

    `root` is the folder of the data set (or the one above a folder of its name); None looks in
    :func:`common.downloads.default_root`. `normalize` names a normalisation other than the data set's default: one of
    NORMALIZATIONS, or "dataset" for what was measured on its own training pictures.
    Raises UserError, in one line, for an unknown name and for missing or damaged data.
    """
    if name.startswith("folder:"):
        loaded, default = load_image_folder(Path(name.removeprefix("folder:")).expanduser()), IMAGENET
    elif name in DATASETS:
        source = DATASETS[name]
        loaded = source.load(default_root(name) if root is None else Path(root).expanduser())
        default = source.statistics
    else:
        raise UserError(f"unknown data set '{name}'; known: {', '.join(DATASETS)}, folder:PATH")
    for side, images in (("training", loaded.train), ("test", loaded.test)):
        if len(images) == 0:
            raise UserError(f"{name}: its {side} part has no pictures")
    mean, std = _statistics(name, normalize, default, loaded.train)
    digest = hashlib.sha256(f"{loaded.train.fingerprint()} {loaded.test.fingerprint()}".encode()).hexdigest()
    bundle = DataBundle(name, loaded.train, loaded.test, loaded.classes, loaded.train.image_shape, digest[:16])
    return bundle.with_normalization(mean, std)


def load_data(settings: "DataOptions") -> DataBundle:
    """The data set that a command's options name."""
    return load_dataset(settings.dataset, settings.dataset_dir, normalize=settings.normalize)


def load_image_folder(path: Path) -> LoadedDataset:
    """PATH/train and PATH/test or PATH/val; in memory if the pictures are small and of one size, else streamed.

    With both a test and a val folder it is test, if that has class folders.
    """
    pair = _find_pair(path, (("train", "test"), ("train", "val")))
    if pair is None:
        state = "has no folders train and test (or val)" if path.is_dir() else "no such folder"
        raise UserError(f"{path}: {state}; folder:PATH wants PATH/train/CLASS/*.png and PATH/test/CLASS/*.png")
    sides = list_train_and_test(*pair)
    height, width = image_size(sides[0].path(0))
    if max(height, width) <= MEMORY_PIXELS and sum(map(len, sides)) * 3 * height * width <= MEMORY_BYTES:
        try:
            return _in_memory(sides)
        except MixedSizes:
            return _streamed(sides)
    return _streamed(sides)


def _load_digits(root: Path) -> LoadedDataset:
    del root  # they come with scikit-learn
    train_images, train_labels, test_images, test_labels = digits.read_digits()
    train, test = (
        MemoryImages(train_images, train_labels, flip=False),
        MemoryImages(test_images, test_labels, flip=False),
    )
    return LoadedDataset(train, test, digits.CLASSES)


def _load_mnist(root: Path) -> LoadedDataset:
    return _load_idx(root, "mnist", "MNIST", MNIST_CLASSES, flip=False)


def _load_fashion_mnist(root: Path) -> LoadedDataset:
    return _load_idx(root, "fashion-mnist", "FashionMNIST", FASHION_CLASSES, flip=True)


def _load_idx(root: Path, name: str, folder: str, classes: list[str], flip: bool) -> LoadedDataset:
    for place in _places(root, name, (f"{folder}/raw", "raw", "")):
        files = idx.idx_files(place)
        if files:
            sides = (idx.read_images(files[f"{side} images"], files[f"{side} labels"]) for side in ("train", "test"))
            train, test = (MemoryImages(images, labels, (0.0,), (1.0,), flip=flip) for images, labels in sides)
            return LoadedDataset(train, test, classes)
    raise _missing(root, name, f"train-images-idx3-ubyte(.gz) and the three others, also in {folder}/raw")


def _load_cifar10(root: Path) -> LoadedDataset:
    return _load_cifar(root, "cifar10")


def _load_cifar100(root: Path) -> LoadedDataset:
    return _load_cifar(root, "cifar100")


def _load_cifar(root: Path, name: str) -> LoadedDataset:
    layout = cifar.LAYOUTS[name]
    readers = (
        (layout.python_folder, layout.test_file, cifar.read_python_layout),
        (layout.binary_folder, layout.binary_test_file, cifar.read_binary_layout),
    )
    for place in _places(root, name):
        for folder, witness, read in readers:
            for inside in (place / folder, place):
                if (inside / witness).is_file():
                    images, labels, test_images, test_labels, classes = read(inside, layout)
                    return LoadedDataset(MemoryImages(images, labels), MemoryImages(test_images, test_labels), classes)
        pair = _find_pair(place, (("train", "test"), ("train", "val")))
        if pair:
            sides = list_train_and_test(*pair)
            size, classes = image_size(sides[0].path(0)), sides[0].classes
            if len(classes) != layout.num_classes or size != (32, 32):
                raise UserError(
                    f"{place}: {len(classes)} class folders of {size[1]} x {size[0]} pictures are not {name} "
                    f"({layout.num_classes} of 32 x 32); --dataset folder:{place} reads any pictures"
                )
            return _in_memory(sides)
    raise _missing(root, name, f"{layout.python_folder}, {layout.binary_folder}, or train and test with class folders")


def _load_imagenet(root: Path) -> LoadedDataset:
    pairs = (("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val"))
    for place in _places(root, "imagenet"):
        pair = _find_pair(place, pairs)
        if pair:
            return _streamed(list_train_and_test(*pair))
    raise _missing(root, "imagenet", "train and val, or ILSVRC2012_img_train and _val, with class folders")


# Every data set, in the order in which messages list them.
DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource(_load_digits, MEASURED["digits"]),
    "mnist": DatasetSource(_load_mnist, MEASURED["mnist"]),
    "fashion-mnist": DatasetSource(_load_fashion_mnist, MEASURED["fashion-mnist"]),
    "cifar10": DatasetSource(_load_cifar10, IMAGENET),
    "cifar100": DatasetSource(_load_cifar100, MEASURED["cifar100"]),
    "imagenet": DatasetSource(_load_imagenet, IMAGENET),
}


def _statistics(name: str, normalize: str | None, default: Statistics, train: ImageSet) -> Statistics:
    """The normalisation that was asked for by name."""
    if normalize is None:
        return default
    if normalize in NORMALIZATIONS:
        return NORMALIZATIONS[normalize]
    if normalize != "dataset":
        raise UserError(f"unknown normalisation '{normalize}'; known: {', '.join(NORMALIZATIONS)}, dataset")
    if name in MEASURED:
        return MEASURED[name]
    if isinstance(train, MemoryImages):
        return train.measured_statistics()
    raise UserError(f"{name}: too large to measure its mean and deviation; use --normalize imagenet")


def _in_memory(sides: tuple[ImageListing, ImageListing]) -> LoadedDataset:
    """Both sides decoded, or from the cache. Raises MixedSizes."""
    train, test = (MemoryImages(_pixels(side), torch.from_numpy(side.labels)) for side in sides)
    if train.image_shape != test.image_shape:
        raise MixedSizes(
            f"{sides[0].folder} and {sides[1].folder}: pictures of different sizes, {train.image_shape} and "
            f"{test.image_shape}; this data set needs pictures of one size"
        )
    return LoadedDataset(train, test, sides[0].classes)


def _pixels(side: ImageListing) -> Tensor:
    """The pictures (N, 3, H, W) uint8 of a listing."""
    if len(side) < CACHED_FROM:
        return torch.from_numpy(decode_all(side))
    return cached_pixels(side.cache_key(), partial(decode_all, side))


def _streamed(sides: tuple[ImageListing, ImageListing]) -> LoadedDataset:
    train, test = (FolderImages(side, np.arange(len(side))) for side in sides)
    return LoadedDataset(train, test, sides[0].classes)


def _places(root: Path, name: str, inner: tuple[str, ...] = ("",)) -> list[Path]:
    """Where to look: in the folder itself, then in a folder of the data set's name in it."""
    return [base / part for base in (root, root / name) for part in inner]


def _find_pair(place: Path, pairs: tuple[tuple[str, str], ...]) -> tuple[Path, Path] | None:
    """The first pair of folders that is there; one whose second has folders in it comes first."""
    there = [(place / a, place / b) for a, b in pairs if (place / a).is_dir() and (place / b).is_dir()]
    filled = [pair for pair in there if any(entry.is_dir() for entry in pair[1].iterdir())]
    return next(iter(filled + there), None)


def _missing(root: Path, name: str, wanted: str) -> UserError:
    """What to do about data that are not there."""
    ways = f"`python -m common.fetch {name} --to {root}` gets it" if name in ITEMS else "its owners give it out"
    archives = sorted(path.name for path in root.glob("*") if path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")))
    if archives:
        ways = f"unpack what lies there ({', '.join(archives[:5])}), or {ways}"
    return UserError(
        f"{name} is not in {root.absolute()} (looked for {wanted}); {ways}, --dataset-dir names another folder"
    )
