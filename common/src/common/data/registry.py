"""Registry of data sets, and the folders in which they are searched."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data import cifar, cub200, digits, idx
from common.data.batches import ImageSet
from common.data.bundle import DataBundle
from common.data.cache import cached_pixels
from common.data.decode import MixedSizesError, count_sizes, decode_all, image_size
from common.data.image_folder import FolderImages
from common.data.image_memory import KeptImages, Room, memory_limit
from common.data.labels import CLASSES_LIMIT, read_labels
from common.data.listing import ImageListing, class_folders, is_utf8, list_and_split, list_train_and_test
from common.data.memory import MemoryImages
from common.data.prepare import central_crop
from common.downloads import REMOTE_FILES, default_root, fetch_command
from common.errors import UserError
from common.normalization import IMAGENET, MEASURED, MeanStd, in_channels, parse_normalization
from common.preprocessing import CROP, MEMORY_IMAGES, Preprocessing, chosen_preprocessing

if TYPE_CHECKING:
    from common.options import DataOptions, ImageOptions

# Images of one size are read into memory up to this height and width, and up to this many bytes in total.
MEMORY_PIXELS = MEMORY_IMAGES
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
    """Training images, test images and class names, as read from disk.

    listings: Image files that can be prepared in any way; None for a data set whose images have one size.
    preprocessing: How they were prepared; None if they were not resized.
    """

    train: ImageSet
    test: ImageSet
    classes: list[str]
    listings: tuple[ImageListing, ImageListing] | None = None
    preprocessing: Preprocessing | None = None


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
    interpolation: str | None = None,
    channels: int | None = None,
    classes: str | os.PathLike | None = None,
    image_memory: float | None = None,
    preprocessing: Preprocessing | None = None,
    labels: str | os.PathLike | None = None,
    label_columns: Sequence[str] = (),
    swap_split: bool = False,
    test_only: bool = False,
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
        interpolation: Interpolation of resized images, one of INTERPOLATIONS; default: bilinear.
        channels: 1 converts images to gray, 3 repeats gray ones.
        classes: File with the names of the network's classes in the order of its outputs, or their number.
        image_memory: GiB of memory for decoded images of a folder; default: 2, but at most a quarter of the available memory.
        preprocessing: What the network expects; the arguments above come first.
        labels: CSV file with the classes of the images of a folder without class folders: see :mod:`common.data.labels`.
        label_columns: Names of its columns with the files and with the classes.
        swap_split: Exchange the training and the test images of ``split``.
        test_only: Whether data without training images are accepted.

    Returns:
        Training and test images, class names, input shape (C, H, W) and fingerprint.

    Raises:
        UserError: For an unknown name, and for missing or damaged data.
    """
    chosen_preprocessing(preprocessing, image_size, resize, interpolation)  # checked before the images are listed
    _check_parts(name, split, labels, label_columns, swap_split)
    numbered = False
    if labels is not None:
        labeled = read_labels(_folder(name), os.fspath(labels), label_columns)
        loaded, default, numbered = _files(labeled.parts(split)), IMAGENET, labeled.numbered
    elif _is_folder(name):
        listings = _list_folder(_folder(name), name.startswith(NUMERIC_FOLDER), split)
        loaded, default = _files(listings), IMAGENET
    elif name in DATASETS:
        source = DATASETS[name]
        if split is not None:
            raise UserError(
                f"--split {split:g}: {name} has test images; leave --split out, or give --dataset folder:PATH"
            )
        loaded = source.load(default_root(name) if root is None else Path(root).expanduser())
        default = source.normalization
    else:
        raise UserError(
            f"--dataset {name}: unknown data set; known: {', '.join(DATASETS)}, folder:PATH, numeric-folder:PATH"
        )
    names = None if classes is None else read_class_names(classes)
    parts = PartChoice(labels, split, swap_split, test_only, numbered)
    choice = ImageChoice(image_size, resize, interpolation, channels, names, classes, image_memory, normalize, parts)
    return _prepared(name, loaded, default, choice, preprocessing)


class PartChoice(NamedTuple):
    """Which images are for training and for testing. numbered: whether labels are numbers of a network's outputs."""

    labels: str | os.PathLike | None
    split: float | None
    swap_split: bool
    test_only: bool
    numbered: bool

    def apply(self, found: LoadedDataset) -> LoadedDataset:
        """Return the parts: without ``split``, all images that a CSV file lists are for testing. Raises UserError if one is missing."""
        if self.labels is not None and self.split is None:
            found = found._replace(train=found.train.subset([]))
        if self.swap_split:
            found = found._replace(train=found.test, test=found.train)
        if self.labels is not None and not len(found.train) and not self.test_only:
            raise UserError(
                f"--labels {self.labels}: all images are test images; add --split 0.5, so that the others are used for statistics or training"
            )
        return found


class ImageChoice(NamedTuple):
    """The user's choices among the arguments of :func:`load_dataset`, which come before what a network expects."""

    image_size: int | None
    resize: int | None
    interpolation: str | None
    channels: int | None
    names: list[str] | None
    classes: str | os.PathLike | None
    image_memory: float | None
    normalize: str | None
    parts: PartChoice


def _prepared(
    name: str, loaded: LoadedDataset, default: MeanStd, choice: ImageChoice, known: Preprocessing | None
) -> DataBundle:
    """Return the images of a data set as the user has chosen, or as the network expects them (``known``)."""
    how = chosen_preprocessing(known, choice.image_size, choice.resize, choice.interpolation)
    parts = choice.parts
    found = parts.apply(_resized(name, loaded, how, choice))
    for part, images in (("training", found.train), ("test", found.test)):
        if len(images) == 0 and not (parts.labels is not None and parts.test_only):
            remedy = "fetch the data set again" if name in REMOTE_FILES else "add images, or choose another folder"
            raise UserError(f"{name}: no {part} images; {remedy}")
    geometry = found.preprocessing.geometry if loaded.listings and found.preprocessing else None
    sizes = () if geometry else ("image_size", "resize", "interpolation")
    given: dict[str, Any] = {
        **{field: getattr(choice, field) for field in (*sizes, "channels")},
        "classes": choice.names,
        "preprocessing": geometry,  # what is done to the images, whoever has chosen it
        "labels": None if parts.labels is None else [_digest(part.labels) for part in (found.train, found.test)],
        "numbered": parts.numbered or None,
    }
    fingerprints = [
        found.train.fingerprint(),
        found.test.fingerprint(),
        *(["numeric"] * name.startswith(NUMERIC_FOLDER)),
        *(f"{option} {value}" for option, value in given.items() if value is not None),
    ]
    digest = hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()
    shape = found.test.image_shape
    bundle = DataBundle(name, found.train, found.test, found.classes, shape, digest[:16], numbered=parts.numbered)
    if choice.channels is not None:
        bundle = bundle.in_channels(choice.channels)
    default = default if known is None else (known.mean, known.std)
    default = in_channels(default, bundle.input_shape[0])
    mean, std = _select_normalization(name, choice.normalize, default, bundle.train)
    bundle = bundle.with_normalization(mean, std)
    if choice.names is not None:
        bundle = bundle.with_classes(choice.names, choice.classes)
    prepare = partial(_prepared, name, loaded, default, choice) if loaded.listings else None
    return replace(
        bundle,
        normalized=choice.normalize is not None,
        preprocessing=found.preprocessing,
        expected=known,
        prepare=prepare,
    )


def load_data(settings: "DataOptions", test_only: bool = False) -> DataBundle:
    """Load the data set selected by a command's options. test_only: whether data without training images are accepted."""
    chosen = image_choices(settings.images)
    return load_dataset(settings.dataset, settings.dataset_dir, settings.normalize, **chosen, test_only=test_only)


def image_choices(images: "ImageOptions") -> dict[str, Any]:
    """Return the arguments of :func:`load_dataset` that a command's options on images determine."""
    return {
        "split": images.split,
        "image_size": images.image_size,
        "resize": images.resize,
        "interpolation": images.interpolation,
        "channels": None if images.channels is None else int(images.channels),
        "classes": images.classes,
        "image_memory": images.image_memory,
        "labels": images.labels,
        "label_columns": images.label_columns,
        "swap_split": images.swap_split,
    }


def _check_parts(
    name: str, split: float | None, labels: object, label_columns: Sequence[str], swap_split: bool
) -> None:
    """Raise UserError for options on parts and labels of a folder without what they apply to."""
    if labels is not None and not name.startswith(FOLDER):
        raise UserError(f"--labels {labels}: requires the folder of the images; give --dataset folder:PATH")
    if label_columns and labels is None:
        raise UserError(f"--label-columns {' '.join(label_columns)}: names columns of a file; add --labels FILE.csv")
    if label_columns and len(label_columns) != 2:
        raise UserError(
            f"--label-columns {' '.join(label_columns)}: {len(label_columns)} names; give that of the files and that of the classes"
        )
    if swap_split and split is None:
        raise UserError("--swap-split: exchanges the parts of --split; add --split 0.5")


def _digest(labels: Tensor) -> str:
    return hashlib.sha256(labels.numpy().astype("<i8").tobytes()).hexdigest()


def read_class_names(file: str | os.PathLike) -> list[str]:
    """Read names of classes, one per line; empty lines do not count. A number N in place of a file: the names 0 to N - 1.

    Raises UserError for a missing or unsuitable file, and for fewer than two names or one that occurs twice.
    """
    path = Path(file).expanduser()
    if str(file).isascii() and str(file).isdigit() and not path.exists():
        if not 2 <= int(str(file)[:10]) <= CLASSES_LIMIT:
            raise UserError(f"--classes {file}: a number of classes is from 2 to {CLASSES_LIMIT:,}")
        return [str(number) for number in range(int(str(file)))]
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


def _resized(name: str, loaded: LoadedDataset, how: Preprocessing | None, choice: ImageChoice) -> LoadedDataset:
    """Return the images resized and cropped. Raises UserError if the user's choice does not apply to a data set in memory.

    how: None to decide by the images.
    """
    listings = loaded.listings
    room = Room(memory_limit(choice.image_memory))
    if listings is None:
        _, height, width = loaded.train.image_shape
        if choice.image_size is not None or choice.interpolation is not None:
            given = f"image-size {choice.image_size}" if choice.image_size else f"interpolation {choice.interpolation}"
            raise UserError(
                f"--{given}: {name} has images of {width} x {height}; only those of folder:PATH, imagenet and cub200 "
                "are resized"
            )
        if how is not None and (height, width) != (how.crop, how.crop):
            warnings.warn(
                f"{name}: its images have {width} x {height} pixels, and the network expects {how.crop} x {how.crop}; they are used "
                "as they are",
                stacklevel=4,
            )
        return loaded
    if not _is_folder(name):
        return _streamed(listings, room, how or Preprocessing(interpolation=choice.interpolation or "bilinear"))
    return arrange_folder(_folder(name), listings, room, how, choice.interpolation)


def arrange_folder(
    path: Path,
    listings: tuple[ImageListing, ImageListing],
    room: Room,
    how: Preprocessing | None = None,
    interpolation: str | None = None,
) -> LoadedDataset:
    """Arrange the images of a folder: in memory if they are small and of one size, else decoded while they are used.

    Args:
        room: Memory for images that are decoded while they are used.
        how: Resizing and cropping of the images; None: small images of one size are used as they are, others become 224 x 224.
        interpolation: The user's choice.

    Raises:
        UserError: For small images of which a minority has another size, and for an interpolation of images that are not resized.
    """
    default = how or Preprocessing(interpolation=interpolation or "bilinear")
    if how is not None:
        side = how.crop
        if side > MEMORY_PIXELS or sum(map(len, listings)) * 3 * side * side > MEMORY_BYTES:
            return _streamed(listings, room, how)
        return _in_memory(listings, how)
    height, width = _typical_size(listings)
    if max(height, width) > MEMORY_PIXELS:
        return _streamed(listings, room, default)
    if sum(map(len, listings)) * 3 * height * width > MEMORY_BYTES:
        warnings.warn(
            f"{path}: {sum(map(len, listings)):,} images of {width} x {height} pixels do not fit in memory; they are "
            f"resized to {CROP} x {CROP}, which multiplies the cost of a network",
            stacklevel=2,
        )
        return _streamed(listings, room, default)
    try:
        found = _in_memory(listings)
    except MixedSizesError:
        _report_mixed_sizes(path, listings)
        return _streamed(listings, room, default)
    if interpolation is not None:
        raise UserError(
            f"--interpolation {interpolation}: the images of {path} are not resized; add --image-size N, or leave it out"
        )
    return found


def _files(listings: tuple[ImageListing, ImageListing]) -> LoadedDataset:
    """Return image files that are prepared later."""
    train, test = (FolderImages(listing, np.arange(len(listing))) for listing in listings)
    return LoadedDataset(train, test, listings[0].classes, listings)


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
            return _files(list_train_and_test(*pair))
    raise _missing(root, "imagenet", "train and val, or ILSVRC2012_img_train and _val, with class folders")


def _load_cub200(root: Path) -> LoadedDataset:
    for place in _candidate_folders(root, "cub200", ("", cub200.FOLDER)):
        if cub200.is_cub200(place):
            return _files(cub200.read_cub200(place))
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


def _in_memory(listings: tuple[ImageListing, ImageListing], how: Preprocessing | None = None) -> LoadedDataset:
    """Decode all images, or read them from the cache. Raises MixedSizesError.

    how: Resizing and cropping of every image; None: as they are.
    """
    train, test = (MemoryImages(_pixels(listing, how), torch.from_numpy(listing.labels)) for listing in listings)
    if train.image_shape != test.image_shape:
        raise MixedSizesError(
            f"{listings[0].folder} and {listings[1].folder}: images of different sizes, {train.image_shape} and "
            f"{test.image_shape}; this data set requires images of one size"
        )
    return LoadedDataset(train, test, listings[0].classes, preprocessing=how)


def _pixels(listing: ImageListing, how: Preprocessing | None) -> Tensor:
    """Return the images (N, 3, H, W) uint8 of a listing."""
    if how is None:
        decode = partial(decode_all, listing)
        return torch.from_numpy(decode()) if len(listing) < CACHED_FROM else cached_pixels(listing.cache_key(), decode)
    plain = how.geometry == Preprocessing(how.resize, how.crop).geometry
    about = f"{how.resize} {how.crop}" + ("" if plain else f" {how}") + (f" {how.mean}" if how.fit == "longer" else "")
    key = hashlib.sha256(f"{listing.cache_key()} {about}".encode()).hexdigest()
    return cached_pixels(key, partial(decode_all, listing, partial(central_crop, how=how)))


def _streamed(listings: tuple[ImageListing, ImageListing], room: Room, how: Preprocessing) -> LoadedDataset:
    train, test = (FolderImages(listing, np.arange(len(listing)), how, kept=KeptImages(room)) for listing in listings)
    return LoadedDataset(train, test, listings[0].classes, preprocessing=how)


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
