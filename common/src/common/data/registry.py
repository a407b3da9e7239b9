"""Registry of data sets, and the folders in which they are searched."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data import cifar, cub200, digits, idx
from common.data.batches import ImageSet
from common.data.bundle import DataBundle
from common.data.cache import cached_pixels
from common.data.decode import MixedSizesError, count_sizes, decode_all, image_size
from common.data.image_folder import CROP, RESIZE, FolderImages, central_crop
from common.data.listing import ImageListing, class_folders, is_utf8, list_and_split, list_train_and_test
from common.data.memory import MemoryImages
from common.downloads import REMOTE_FILES, default_root, fetch_command
from common.errors import UserError
from common.normalization import IMAGENET, MEASURED, MeanStd, in_channels, parse_normalization

if TYPE_CHECKING:
    from common.options import DataOptions, ImageOptions

# Images of one size are kept in memory up to this height and width, and up to this many bytes in total.
MEMORY_PIXELS = 64
MEMORY_BYTES = 2 * 1024**3
CACHED_FROM = 2000  # images; fewer are decoded in half a second
SAMPLED = 16  # images of each part whose sizes are read before the others
CLASSES_BYTES = 4 * 2**20  # of a file with names of classes
FOLDER, NUMERIC_FOLDER = "folder:", "numeric-folder:"  # the latter sorts class folders by number, not as text

PAIRS = (("train", "test"), ("train", "val"))

MNIST_CLASSES = [str(digit) for digit in range(10)]
FASHION_CLASSES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


class LoadedDataset(NamedTuple):
    """Training images, test images and class names, as read from disk."""

    train: ImageSet
    test: ImageSet
    classes: list[str]


@dataclass(frozen=True)
class DatasetSource:
    """A data set's reader and default normalization."""

    load: Callable[[Path], LoadedDataset]
    normalization: MeanStd


def load_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    normalize: str | None = None,
    *,
    split: float | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    channels: int | None = None,
    classes: str | os.PathLike | None = None,
) -> DataBundle:
    """Load a data set by name, or images from `folder:PATH` with PATH/train and PATH/test (or PATH/val), or with class folders.

    Args:
        name: One of DATASETS, `folder:PATH`, or `numeric-folder:PATH`, which sorts class folders 5, 10 by number.
        root: Folder of the data set, or a folder that contains a folder of its name; None: see
            :func:`common.downloads.default_root`.
        normalize: Normalization other than the data set's default: one of NORMALIZATIONS, "dataset" for mean and standard
            deviation measured on its training images, or numbers "MEAN,...:STD,...".
        split: Fraction of each class of a folder without train and test to hold out as test images.
        image_size: Height and width to which the images of a folder are resized and cropped.
        resize: Shorter side before cropping; requires ``image_size``.
        channels: 1 converts images to gray, 3 repeats gray ones.
        classes: File with the names of the network's classes in the order of its outputs.

    Returns:
        Training and test images, class names, input shape (C, H, W) and fingerprint.

    Raises:
        UserError: For an unknown name, and for missing or damaged data.
    """
    size = _image_size(image_size, resize)
    if _is_folder(name):
        numeric = name.startswith(NUMERIC_FOLDER)
        loaded, default = load_image_folder(_folder(name), numeric, split, size), IMAGENET
    elif name in DATASETS:
        source = DATASETS[name]
        if split is not None:
            raise UserError(
                f"--split {split:g}: {name} has test images; leave --split out, or give --dataset folder:PATH"
            )
        loaded = source.load(default_root(name) if root is None else Path(root).expanduser())
        loaded, default = _resized(name, loaded, size), source.normalization
    else:
        raise UserError(
            f"--dataset {name}: unknown data set; known: {', '.join(DATASETS)}, folder:PATH, numeric-folder:PATH"
        )
    for part, images in (("training", loaded.train), ("test", loaded.test)):
        if len(images) == 0:
            remedy = "fetch the data set again" if name in REMOTE_FILES else "add images, or choose another folder"
            raise UserError(f"{name}: no {part} images; {remedy}")
    names = None if classes is None else read_class_names(classes)
    chosen = {"image_size": image_size, "resize": resize, "channels": channels, "classes": names}
    fingerprints = [
        loaded.train.fingerprint(),
        loaded.test.fingerprint(),
        *(["numeric"] * name.startswith(NUMERIC_FOLDER)),
        *(f"{option} {value}" for option, value in chosen.items() if value is not None),
    ]
    digest = hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()
    bundle = DataBundle(name, loaded.train, loaded.test, loaded.classes, loaded.train.image_shape, digest[:16])
    if channels is not None:
        bundle = bundle.in_channels(channels)
    mean, std = _select_normalization(name, normalize, in_channels(default, bundle.input_shape[0]), bundle.train)
    bundle = replace(bundle.with_normalization(mean, std), normalized=normalize is not None)
    return bundle if names is None else bundle.with_classes(names, classes)


def load_data(settings: "DataOptions") -> DataBundle:
    """Load the data set selected by a command's options."""
    chosen = image_choices(settings.images)
    return load_dataset(settings.dataset, settings.dataset_dir, settings.normalize, **chosen)


def image_choices(images: "ImageOptions") -> dict[str, Any]:
    """Return the arguments of :func:`load_dataset` that a command's options on images determine."""
    return {
        "split": images.split,
        "image_size": images.image_size,
        "resize": images.resize,
        "channels": None if images.channels is None else int(images.channels),
        "classes": images.classes,
    }


def read_class_names(file: str | os.PathLike) -> list[str]:
    """Read names of classes, one per line; empty lines do not count.

    Raises UserError for a missing or unsuitable file, and for fewer than two names or one that occurs twice.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"--classes {file}: no such file; give a text file with the name of one class per line")
    if path.stat().st_size > CLASSES_BYTES:
        raise UserError(
            f"--classes {file}: larger than {CLASSES_BYTES:,} bytes; give a text file with one name per line"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--classes {file}: not a text file in UTF-8; give one with one name per line") from error
    names = [line.strip() for line in lines if line.strip()]
    if len(names) < 2:
        raise UserError(f"--classes {file}: {len(names)} names; give the name of every class in a line of its own")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"--classes {file}: {repeated[0]!r} occurs twice; give every class another name")
    return names


def _is_folder(name: str) -> bool:
    return name.startswith((FOLDER, NUMERIC_FOLDER))


def _folder(name: str) -> Path:
    """Return the PATH of folder:PATH."""
    return Path(name.partition(":")[2]).expanduser()


def find_test_folder(name: str) -> Path | None:
    """Return the folder of the test images of folder:PATH; None if there is none. PATH for other data sets, which have them."""
    if not _is_folder(name):
        return _folder(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = _find_pair(_folder(name), PAIRS)
    return pair[1] if pair else None


def _image_size(image_size: int | None, resize: int | None) -> tuple[int, int] | None:
    """Return (shorter side before cropping, side after it) of an image; None to choose by the images."""
    if image_size is None and resize is not None:
        raise UserError(f"--resize {resize}: requires the size after cropping; add --image-size {CROP}")
    if image_size is None:
        return None
    if resize is None:
        resize = image_size if image_size <= MEMORY_PIXELS else round(image_size * RESIZE / CROP)
    if resize < image_size:
        raise UserError(f"--resize {resize}: smaller than --image-size {image_size}; give at least {image_size}")
    return resize, image_size


def _resized(name: str, loaded: LoadedDataset, size: tuple[int, int] | None) -> LoadedDataset:
    """Return images of another size. Raises UserError for a data set in memory, whose images have one."""
    if size is None:
        return loaded
    if not isinstance(loaded.train, FolderImages) or not isinstance(loaded.test, FolderImages):
        _, height, width = loaded.train.image_shape
        raise UserError(
            f"--image-size {size[1]}: {name} has images of {width} x {height}; only those of folder:PATH, imagenet and cub200 "
            "are resized"
        )
    train, test = (replace(part, resize=size[0], crop=size[1]) for part in (loaded.train, loaded.test))
    return LoadedDataset(train, test, loaded.classes)


def load_image_folder(
    path: Path, numeric: bool = False, split: float | None = None, size: tuple[int, int] | None = None
) -> LoadedDataset:
    """Load PATH/train and PATH/test or PATH/val: in memory if the images are small and of one size, else streamed.

    If both test and val exist, the first of them whose class folders are those of train is used.

    Args:
        numeric: Sort class folders by number, not as text.
        split: Fraction of each class to hold out, if the class folders are in PATH itself.
        size: Shorter side before, and side after cropping the images; None: see above.

    Raises:
        UserError: For missing or inconsistent folders, and for small images of which a minority has another size.
    """
    listings = _list_folder(path, numeric, split)
    if size is not None:
        resize, side = size
        if side > MEMORY_PIXELS or sum(map(len, listings)) * 3 * side * side > MEMORY_BYTES:
            return _streamed(listings, resize, side)
        return _in_memory(listings, partial(central_crop, resize=resize, crop=side), f"{resize} {side}")
    height, width = _typical_size(listings)
    if max(height, width) > MEMORY_PIXELS:
        return _streamed(listings)
    if sum(map(len, listings)) * 3 * height * width > MEMORY_BYTES:
        warnings.warn(
            f"{path}: {sum(map(len, listings)):,} images of {width} x {height} pixels do not fit in memory; they are "
            f"resized to {CROP} x {CROP}, which multiplies the cost of a network",
            stacklevel=2,
        )
        return _streamed(listings)
    try:
        return _in_memory(listings)
    except MixedSizesError:
        _report_mixed_sizes(path, listings)
        return _streamed(listings)


def _list_folder(path: Path, numeric: bool, split: float | None) -> tuple[ImageListing, ImageListing]:
    """List the training and test images of a folder. Raises UserError if there are none, or ``split`` is missing or not used."""
    if not is_utf8(str(path)):
        raise UserError(f"{str(path)!a}: the name is not UTF-8; rename the folder")
    pair = _find_pair(path, PAIRS)
    if pair and split is not None:
        raise UserError(f"--split {split:g}: {path} has test images, in {pair[1].name}; leave --split out")
    if pair:
        return list_train_and_test(*pair, numeric=numeric)
    classes = class_folders(path) if path.is_dir() else []
    if "train" in classes and class_folders(path / "train"):
        raise UserError(
            f"{path}: a folder train, but no folder test (or val); add one, or hold out a part of train with "
            f"--dataset folder:{path / 'train'} --split 0.2"
        )
    if not classes:
        problem = "no folders train and test (or val)" if path.is_dir() else "no such folder"
        raise UserError(
            f"{path}: {problem}; folder:PATH expects PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or PATH/CLASS/*.png and "
            "--split 0.2"
        )
    if split is None:
        raise UserError(
            f"{path}: no folders train and test (or val), but {len(classes)} class folders ({', '.join(classes[:3])}"
            f"{', ...' * (len(classes) > 3)}); add --split 0.2 to hold out a fifth of each class for testing"
        )
    return list_and_split(path, split, numeric)


def _typical_size(listings: tuple[ImageListing, ImageListing]) -> tuple[int, int]:
    """Return the most frequent (height, width) of some images from all over the listings."""
    sizes: Counter[tuple[int, int]] = Counter()
    for listing in listings:
        sizes += count_sizes(listing, np.linspace(0, len(listing) - 1, min(SAMPLED, len(listing))).astype(int).tolist())
    return sizes.most_common(1)[0][0]


def _report_mixed_sizes(path: Path, listings: tuple[ImageListing, ImageListing]) -> None:
    """Raise UserError if most of these images have one small size; warn if they have many sizes."""
    sizes = count_sizes(listings[0]) + count_sizes(listings[1])
    ((height, width), count), total = sizes.most_common(1)[0], sizes.total()
    if 2 * count > total and max(height, width) <= MEMORY_PIXELS:
        odd = next(
            listing.path(i)
            for listing in listings
            for i in range(len(listing))
            if image_size(listing.path(i)) != (height, width)
        )
        raise UserError(
            f"{path}: {total - count} of {total} images are not {width} x {height} pixels, e.g. {odd}; resize or remove "
            "them: images of one size are not resized"
        )
    warnings.warn(
        f"{path}: images of {len(sizes)} sizes, e.g. {width} x {height} pixels ({count} of {total}); all are resized to "
        f"{CROP} x {CROP}, or to --image-size",
        stacklevel=3,
    )


def _load_digits(root: Path) -> LoadedDataset:
    del root  # the file is part of scikit-learn
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
    for place in _candidate_folders(root, name, (f"{folder}/raw", "raw", "")):
        files = idx.find_idx_files(place)
        if files:
            arrays = (idx.read_idx_images(files[f"{part} images"], files[f"{part} labels"]) for part in idx.SPLITS)
            train, test = (MemoryImages(images, labels, (0.0,), (1.0,), flip=flip) for images, labels in arrays)
            return LoadedDataset(train, test, classes)
    raise _missing(root, name, f"train-images-idx3-ubyte(.gz) and the three other idx files, also in {folder}/raw")


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
    for place in _candidate_folders(root, name):
        for folder, test_file, read in readers:
            for inside in (place / folder, place):
                if (inside / test_file).is_file():
                    images, labels, test_images, test_labels, classes = read(inside, layout)
                    return LoadedDataset(MemoryImages(images, labels), MemoryImages(test_images, test_labels), classes)
        pair = _find_pair(place, PAIRS)
        if pair:
            listings = list_train_and_test(*pair)
            size, classes = image_size(listings[0].path(0)), listings[0].classes
            if len(classes) != layout.num_classes or size != (32, 32):
                raise UserError(
                    f"{place}: {len(classes)} class folders with {size[1]} x {size[0]} images, but {name} has "
                    f"{layout.num_classes} with 32 x 32; --dataset folder:{place} reads any images"
                )
            return _in_memory(listings)
    raise _missing(root, name, f"{layout.python_folder}, {layout.binary_folder}, or train and test with class folders")


def _load_imagenet(root: Path) -> LoadedDataset:
    pairs = (("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val"))
    for place in _candidate_folders(root, "imagenet"):
        pair = _find_pair(place, pairs)
        if pair:
            return _streamed(list_train_and_test(*pair))
    raise _missing(root, "imagenet", "train and val, or ILSVRC2012_img_train and _val, with class folders")


def _load_cub200(root: Path) -> LoadedDataset:
    for place in _candidate_folders(root, "cub200", ("", cub200.FOLDER)):
        if cub200.is_cub200(place):
            return _streamed(cub200.read_cub200(place))
    raise _missing(root, "cub200", f"{cub200.FOLDER} with {', '.join(cub200.LISTS)} and images")


# In the order in which messages list them.
DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource(_load_digits, MEASURED["digits"]),
    "mnist": DatasetSource(_load_mnist, MEASURED["mnist"]),
    "fashion-mnist": DatasetSource(_load_fashion_mnist, MEASURED["fashion-mnist"]),
    "cifar10": DatasetSource(_load_cifar10, IMAGENET),
    "cifar100": DatasetSource(_load_cifar100, MEASURED["cifar100"]),
    "imagenet": DatasetSource(_load_imagenet, IMAGENET),
    "cub200": DatasetSource(_load_cub200, IMAGENET),
}


def _select_normalization(name: str, normalize: str | None, default: MeanStd, train: ImageSet) -> MeanStd:
    """Return the normalization selected by name."""
    if normalize is None:
        return default
    given = parse_normalization(normalize)
    if given is not None:
        return given
    if name in MEASURED:
        return in_channels(MEASURED[name], train.image_shape[0])
    if isinstance(train, MemoryImages):
        return train.measure_mean_std()
    raise UserError(
        f"--normalize dataset: {name} is too large to measure its mean and standard deviation; use --normalize imagenet"
    )


def _in_memory(
    listings: tuple[ImageListing, ImageListing],
    prepare: Callable[[Image.Image], Image.Image] | None = None,
    about: str = "",
) -> LoadedDataset:
    """Decode all images, or read them from the cache. Raises MixedSizesError.

    prepare: Function that resizes and crops every image. about: text that identifies it.
    """
    train, test = (
        MemoryImages(_pixels(listing, prepare, about), torch.from_numpy(listing.labels)) for listing in listings
    )
    if train.image_shape != test.image_shape:
        raise MixedSizesError(
            f"{listings[0].folder} and {listings[1].folder}: images of different sizes, {train.image_shape} and "
            f"{test.image_shape}; this data set requires images of one size"
        )
    return LoadedDataset(train, test, listings[0].classes)


def _pixels(listing: ImageListing, prepare: Callable[[Image.Image], Image.Image] | None, about: str) -> Tensor:
    """Return the images (N, 3, H, W) uint8 of a listing."""
    decode = partial(decode_all, listing) if prepare is None else partial(decode_all, listing, prepare)
    if len(listing) < CACHED_FROM and prepare is None:
        return torch.from_numpy(decode())
    key = listing.cache_key()
    return cached_pixels(hashlib.sha256(f"{key} {about}".encode()).hexdigest() if about else key, decode)


def _streamed(listings: tuple[ImageListing, ImageListing], resize: int = RESIZE, crop: int = CROP) -> LoadedDataset:
    train, test = (FolderImages(listing, np.arange(len(listing)), resize=resize, crop=crop) for listing in listings)
    return LoadedDataset(train, test, listings[0].classes)


def _candidate_folders(root: Path, name: str, inner: tuple[str, ...] = ("",)) -> list[Path]:
    """Return the folders to search: the folder itself, then a folder of the data set's name in it."""
    return [base / part for base in (root, root / name) for part in inner]


def _find_pair(place: Path, pairs: tuple[tuple[str, str], ...]) -> tuple[Path, Path] | None:
    """Return the first existing pair of folders with the same class folders, else the first with any, else the first.

    A warning names a folder that is passed over, such as test/images without labels.
    """
    existing = [(place / a, place / b) for a, b in pairs if (place / a).is_dir() and (place / b).is_dir()]
    if len(existing) < 2:
        return next(iter(existing), None)
    names = {pair: [set(class_folders(folder)) for folder in pair] for pair in existing}
    same = [pair for pair, (train, test) in names.items() if train == test]
    filled = [pair for pair, (_, test) in names.items() if test]
    first, chosen = existing[0], [*same, *filled, *existing][0]
    if chosen != first:
        train, test = names[first]
        warnings.warn(
            f"{first[1]}: {len(train & test)} of the {len(train)} classes of {first[0]} have a folder there; {chosen[1]} is "
            "used instead",
            stacklevel=3,
        )
    return chosen


def _missing(root: Path, name: str, wanted: str) -> UserError:
    """Describe how to get missing data."""
    remedy = fetch_command(name, root) if name in REMOTE_FILES else "get it from its owners"
    archives = sorted(path.name for path in root.glob("*") if path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")))
    if archives:
        remedy = f"unpack the archives there ({', '.join(archives[:5])}), or {remedy}"
    return UserError(
        f"{name}: not in {os.path.abspath(root)} (searched for {wanted}); {remedy}, or give another folder with --dataset-dir"
    )
