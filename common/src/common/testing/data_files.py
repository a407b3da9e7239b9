"""Small files in the formats of public data sets: MNIST's idx files and CIFAR's Python archives."""

import gzip
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cifar import CIFAR10_CLASSES, LAYOUTS

Pixels = NDArray[np.uint8]


def idx_bytes(array: Pixels) -> bytes:
    """Return the content of an idx file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_set(
    folder: Path, packed: bool = False, labels: int = 10, train: int = 40, test: int = 20
) -> dict[str, Pixels]:
    """Write MNIST's four files, plain or gzipped, and return their arrays by name.

    Images are noise around one gray level per class; classes alternate.
    """
    random, arrays = np.random.default_rng(0), {}
    for prefix, count in (("train", train), ("t10k", test)):
        classes = np.arange(count) % labels
        images = random.integers(0, 100, (count, 28, 28)) + 15 * classes[:, None, None]
        arrays[f"{prefix}-images-idx3-ubyte"] = images.astype(np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = classes.astype(np.uint8)
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        raw = idx_bytes(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
    return arrays


def python2_pickle(content: Mapping[bytes, object]) -> bytes:
    """Pickle a dictionary like Python 2 (the official archives): text as byte strings, numpy's old module names."""

    def value(item: object) -> bytes:
        if isinstance(item, bytes):
            return b"T" + struct.pack("<i", len(item)) + item
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, list):
            return b"](" + b"".join(map(value, item)) + b"e"
        assert isinstance(item, np.ndarray)
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
        shape = b"(" + b"".join(map(value, item.shape)) + b"t"
        return array + b"(K\x01" + shape + kind + b"\x89" + value(item.tobytes()) + b"tb"

    return b"\x80\x02}(" + b"".join(value(key) + value(item) for key, item in content.items()) + b"u."


def write_cifar_python(
    root: Path,
    name: str = "cifar10",
    pickled: Callable[[dict[bytes, Any]], bytes] = python2_pickle,
    count: int = 20,
    test: int | None = None,
) -> list[Pixels]:
    """Write the unpacked Python archive of CIFAR, with ``count`` images per file, and return the files' pixels.

    Images are noise around one gray level per class; classes alternate. test: Number of images in the test file, if another.
    """
    layout, random = LAYOUTS[name], np.random.default_rng(0)
    folder = root / layout.python_folder
    folder.mkdir(parents=True)
    arrays = []
    for file in (*layout.train_files, layout.test_file):
        images = test if test is not None and file == layout.test_file else count
        labels = [number % layout.num_classes for number in range(images)]
        levels = np.array(labels)[:, None] * 150 // layout.num_classes
        pixels = (random.integers(0, 100, (images, 3072)) + levels).astype(np.uint8)
        (folder / file).write_bytes(pickled({b"data": pixels, layout.label_key.encode(): labels, b"batch_label": b"x"}))
        arrays.append(pixels)
    names = CIFAR10_CLASSES if name == "cifar10" else [f"class{number}" for number in range(layout.num_classes)]
    (folder / layout.names_file).write_bytes(pickled({layout.names_key.encode(): [name.encode() for name in names]}))
    return arrays
