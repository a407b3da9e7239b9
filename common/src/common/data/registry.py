"""The data sets by name, and where each is looked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.data import cifar, digits, idx
from common.data.batches import ImageSet
from common.data.bundle import DataBundle
from common.data.cache import cached_pixels
from common.data.decode import MixedSizes, decode_all, picture_size
from common.data.folder import FolderImages
from common.data.listing import Listing, list_train_and_test
from common.data.memory import MemoryImages
from common.data.normalization import IMAGENET, MEASURED, NORMALIZATIONS, Statistics
from common.errors import UserError

MEMORY_PIXELS = 64  # pictures up to this many pixels a side, all of one size ...
MEMORY_BYTES = 2 * 1024**3  # ... and up to this many bytes together are held in memory

Loaded = tuple[ImageSet, ImageSet, list[str]]  # training part, test part, class names
MNIST_CLASSES = [str(digit) for digit in range(10)]
FASHION_CLASSES = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot".split("|")


@dataclass(frozen=True)
class Source:
    """How a data set is read from its folder, and its default normalisation."""

    load: Callable[[Path], Loaded]
    statistics: Statistics
    fetched_by: str | None = None  # the name that `python -m common.fetch` knows


def load_dataset(name: str, root: str | os.PathLike | None = None, normalize: str | None = None) -> DataBundle:
    """A data set by name, or `folder:PATH` with PATH/train and PATH/test (or PATH/val).

    `root` is the folder of the data set (or the one above a folder of its name); None looks in :func:`default_root`.
    `normalize` names another normalisation than the data set's default: "imagenet", "cifar10", "half", "none", or
    "dataset" for the data set's own. Raises UserError, in one line, if the name is unknown or the data are missing or damaged.
    """
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser()
        train, test, classes = load_picture_folder(path)
        default = IMAGENET
    elif name in DATASETS:
        train, test, classes = DATASETS[name].load(_root_of(name, root))
        default = DATASETS[name].statistics
    else:
        raise UserError(f"unknown data set '{name}'; known: {', '.join(DATASETS)}, folder:PATH")
    for part, images in (("training", train), ("test", test)):
        if len(images) == 0:
            raise UserError(f"{name}: its {part} part has no pictures")
    mean, std = _statistics(name, normalize, default, train)
    # In memory both sides were read whole; of folders the listing is enough.
    fingerprint = _joint_fingerprint(train, test)
    return DataBundle(
        name, train.normalized(mean, std), test.normalized(mean, std), classes, train.image_shape, fingerprint
    )


def default_root(name: str) -> Path:
    """Where a data set is looked for (and fetched to) without a folder: $COMPRESSION_PAPERS_DATA/NAME or data/NAME."""
    return Path(os.environ.get("COMPRESSION_PAPERS_DATA") or "data") / name


def load_picture_folder(path: Path) -> Loaded:
    """PATH/train and PATH/test or PATH/val; in memory if the pictures are small and of one size, else streamed."""
    train, test = _first_pair(path, (("train", "test"), ("train", "val")))
    sides = list_train_and_test(train, test)
    sizes = {picture_size(side.path(0)) for side in sides}
    total = sum(len(side) for side in sides) * 3 * np.prod(sorted(sizes)[0])
    if len(sizes) == 1 and max(sizes.copy().pop()) <= MEMORY_PIXELS and total <= MEMORY_BYTES:
        try:
            return _in_memory(sides)
        except MixedSizes:
            pass
    return _streamed(sides)


def _load_digits(root: Path) -> Loaded:
    del root  # they come with scikit-learn
    train_images, train_labels, test_images, test_labels = digits.read_digits()
    train = MemoryImages(train_images, train_labels, flip=False)
    return train, MemoryImages(test_images, test_labels, flip=False), digits.CLASSES


def _load_mnist(root: Path) -> Loaded:
    return _load_idx(root, "mnist", "MNIST", MNIST_CLASSES, flip=False)


def _load_fashion_mnist(root: Path) -> Loaded:
    return _load_idx(root, "fashion-mnist", "FashionMNIST", FASHION_CLASSES, flip=True)


def _load_idx(root: Path, name: str, folder: str, classes: list[str], flip: bool) -> Loaded:
    for place in _places(root, name, (f"{folder}/raw", "raw", "")):
        files = idx.idx_files(place)
        if files:
            sides = (idx.read_pictures(files[f"{side} images"], files[f"{side} labels"]) for side in ("train", "test"))
            train, test = (MemoryImages(images, labels, (0.0,), (1.0,), flip=flip) for images, labels in sides)
            return train, test, classes
    raise _missing(root, name, f"train-images-idx3-ubyte(.gz) and the three others, also in {folder}/raw")


def _load_cifar10(root: Path) -> Loaded:
    return _load_cifar(root, "cifar10")


def _load_cifar100(root: Path) -> Loaded:
    return _load_cifar(root, "cifar100")


def _load_cifar(root: Path, name: str) -> Loaded:
    layout = cifar.LAYOUTS[name]
    readers = (
        (layout.python_folder, layout.test_file, cifar.read_python_layout),
        (layout.binary_folder, layout.binary_test_file, cifar.read_binary_layout),
    )
    for place in _places(root, name, ("",)):
        for folder, witness, read in readers:
            for inside in (place / folder, place):
                if (inside / witness).is_file():
                    *arrays, classes = read(inside, layout)
                    return MemoryImages(*arrays[:2]), MemoryImages(*arrays[2:]), classes
        pair = _find_pair(place, (("train", "test"), ("train", "val")))
        if pair:
            train, test, classes = _in_memory(list_train_and_test(*pair))
            if len(classes) != layout.num_classes or train.image_shape != (3, 32, 32):
                raise UserError(
                    f"{place}: {len(classes)} class folders of pictures {train.image_shape} are not {name} "
                    f"({layout.num_classes} of (3, 32, 32)); --dataset folder:{place} reads any pictures"
                )
            return train, test, classes
    raise _missing(root, name, f"{layout.python_folder}, {layout.binary_folder}, or train and test with class folders")


def _load_imagenet(root: Path) -> Loaded:
    pairs = (("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val"))
    for place in _places(root, "imagenet", ("",)):
        pair = _find_pair(place, pairs)
        if pair:
            return _streamed(list_train_and_test(*pair))
    raise _missing(
        root, "imagenet", "train and val (or ILSVRC2012_img_train and ILSVRC2012_img_val) with class folders"
    )


# Every data set, in the order in which messages list them.
DATASETS: dict[str, Source] = {
    "digits": Source(_load_digits, MEASURED["digits"]),
    "mnist": Source(_load_mnist, MEASURED["mnist"], "mnist"),
    "fashion-mnist": Source(_load_fashion_mnist, MEASURED["fashion-mnist"], "fashion-mnist"),
    "cifar10": Source(_load_cifar10, IMAGENET, "cifar10"),
    "cifar100": Source(_load_cifar100, MEASURED["cifar100"], "cifar100"),
    "imagenet": Source(_load_imagenet, IMAGENET),
}


def _statistics(name: str, normalize: str | None, default: Statistics, train: ImageSet) -> Statistics:
    """The normalisation that was asked for by name."""
    if normalize is None:
        return default
    if normalize in NORMALIZATIONS:
        return NORMALIZATIONS[normalize]
    if normalize == "dataset":
        if name in MEASURED:
            return MEASURED[name]
        if isinstance(train, MemoryImages):
            return train.measured_statistics()
        raise UserError(f"{name}: too large to measure its mean and deviation; use --normalize imagenet")
    raise UserError(f"unknown normalisation '{normalize}'; known: {', '.join(NORMALIZATIONS)}, dataset")


def _joint_fingerprint(train: ImageSet, test: ImageSet) -> str:
    import hashlib

    return hashlib.sha256(f"{train.fingerprint()} {test.fingerprint()}".encode()).hexdigest()[:16]


def _in_memory(sides: tuple[Listing, Listing]) -> Loaded:
    """Both sides decoded (or from the cache). Raises MixedSizes."""
    sets = []
    for side in sides:
        pixels = cached_pixels(side.cache_key(), lambda side=side: decode_all(side))
        sets.append(MemoryImages(pixels, torch.from_numpy(side.labels)))
    if sets[0].image_shape != sets[1].image_shape:
        shapes = " and ".join(str(part.image_shape) for part in sets)
        raise MixedSizes(f"{sides[0].folder} and {sides[1].folder}: pictures of different sizes, {shapes}")
    return sets[0], sets[1], sides[0].classes


def _streamed(sides: tuple[Listing, Listing]) -> Loaded:
    train, test = (FolderImages(side, np.arange(len(side))) for side in sides)
    return train, test, sides[0].classes


def _root_of(name: str, root: str | os.PathLike | None) -> Path:
    return default_root(name) if root is None else Path(root).expanduser()


def _places(root: Path, name: str, inner: tuple[str, ...]) -> list[Path]:
    """Where to look: the folder itself and a folder of the data set's name in it."""
    return [base / part for base in (root, root / name) for part in inner]


def _find_pair(place: Path, pairs: tuple[tuple[str, str], ...]) -> tuple[Path, Path] | None:
    """The first pair of folders that is there."""
    for train, test in pairs:
        if (place / train).is_dir() and (place / test).is_dir():
            return place / train, place / test
    return None


def _first_pair(path: Path, pairs: tuple[tuple[str, str], ...]) -> tuple[Path, Path]:
    """As :func:`_find_pair`. Raises UserError naming the folder."""
    pair = _find_pair(path, pairs)
    if pair is None:
        state = "has no folders train and test (or val)" if path.is_dir() else "no such folder"
        raise UserError(
            f"{path}: {state}; --dataset folder:PATH wants PATH/train/CLASS/*.png and PATH/test/CLASS/*.png"
        )
    return pair


def _missing(root: Path, name: str, wanted: str) -> UserError:
    """What to do about data that are not there."""
    fetched = DATASETS[name].fetched_by
    ways = f"get it with `python -m common.fetch {fetched} --to {root}` or" if fetched else "get it from its owners and"
    return UserError(
        f"{name} is not in {root.absolute()} (looked for {wanted}); {ways} name its folder with --dataset-dir"
    )
