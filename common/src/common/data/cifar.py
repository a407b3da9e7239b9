"""Readers of CIFAR's two archive layouts: Python batches (pickles, read by :mod:`common.plain_pickle`) and binary records.

Learning Multiple Layers of Features from Tiny Images, A. Krizhevsky, 2009.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.array_pickle import PickledArray, array_constructors
from common.errors import UserError
from common.plain_pickle import PickleError, PlainPickle

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarLayout:
    """File names and keys of one variant, CIFAR-10 or CIFAR-100."""

    python_folder: str
    binary_folder: str
    train_files: tuple[str, ...]  # Python layout
    test_file: str
    label_key: str
    names_file: str
    names_key: str
    binary_train_files: tuple[str, ...]
    binary_test_file: str
    binary_names_file: str
    label_bytes: int  # before the pixels of a binary record; the last one is the label
    num_classes: int


LAYOUTS: dict[str, CifarLayout] = {
    "cifar10": CifarLayout(
        python_folder="cifar-10-batches-py",
        binary_folder="cifar-10-batches-bin",
        train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_file="test_batch",
        label_key="labels",
        names_file="batches.meta",
        names_key="label_names",
        binary_train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        binary_test_file="test_batch.bin",
        binary_names_file="batches.meta.txt",
        label_bytes=1,
        num_classes=10,
    ),
    "cifar100": CifarLayout(
        python_folder="cifar-100-python",
        binary_folder="cifar-100-binary",
        train_files=("train",),
        test_file="test",
        label_key="fine_labels",
        names_file="meta",
        names_key="fine_label_names",
        binary_train_files=("train.bin",),
        binary_test_file="test.bin",
        binary_names_file="fine_label_names.txt",
        label_bytes=2,
        num_classes=100,
    ),
}


def read_python_layout(folder: Path, layout: CifarLayout) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """Return training images (N, 3, 32, 32) uint8 and labels (N,) int64, test images and labels, and class names."""
    train = [read_python_batch(folder / name, layout) for name in layout.train_files]
    test = read_python_batch(folder / layout.test_file, layout)
    return *_concatenate(train), *test, _python_names(folder / layout.names_file, layout)


def read_binary_layout(folder: Path, layout: CifarLayout) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """Read binary records (label bytes, then 3072 pixels); the result is that of :func:`read_python_layout`."""
    train = [read_binary_batch(folder / name, layout) for name in layout.binary_train_files]
    test = read_binary_batch(folder / layout.binary_test_file, layout)
    names_path = folder / layout.binary_names_file
    names = _require_file(names_path).read_text().split()
    return *_concatenate(train), *test, _checked_names(names, names_path, layout.num_classes)


def read_python_batch(path: Path, layout: CifarLayout) -> tuple[Tensor, Tensor]:
    """Read one pickled batch: images (N, 3, 32, 32) uint8 and labels (N,) int64. Raises UserError naming the file."""
    content = load_plain_pickle(path)
    pixels = content.get("data") if isinstance(content, dict) else None
    labels = content.get(layout.label_key) if isinstance(content, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (PIXELS,):
        raise UserError(f"{path}: no array 'data' of bytes with shape (N, {PIXELS}); not a CIFAR batch")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise UserError(f"{path}: no list '{layout.label_key}' with a label for each of {len(pixels)} images")
    if not all(type(label) is int for label in labels):
        raise UserError(f"{path}: not all values of '{layout.label_key}' are integers")
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return images, _checked_labels(labels, path, layout.num_classes)


def read_binary_batch(path: Path, layout: CifarLayout) -> tuple[Tensor, Tensor]:
    """Read one binary batch; the result is that of :func:`read_python_batch`."""
    raw = np.frombuffer(_require_file(path).read_bytes(), dtype=np.uint8)
    record = layout.label_bytes + PIXELS
    if raw.size == 0 or raw.size % record:
        raise UserError(f"{path}: {raw.size} bytes are not a multiple of the record size {record}; fetch it again")
    rows = raw.reshape(-1, record)
    labels = _checked_labels(rows[:, layout.label_bytes - 1].tolist(), path, layout.num_classes)
    return torch.from_numpy(rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32).copy()), labels


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain values and arrays of unsigned bytes; keys are returned as text. Nothing is executed or imported.

    Raises UserError naming the file if it is truncated or contains anything else. Other arrays are not read.
    """
    raw = _require_file(path).read_bytes()
    try:
        content = PlainPickle(raw, array_constructors(len(raw))).load()
        if isinstance(content, dict):
            return {_text(key): _value(value) for key, value in content.items()}
    except (PickleError, UnicodeError) as error:
        raise UserError(
            f"{path}: not a readable CIFAR batch ({' '.join(str(error).split())}); fetch it again"
        ) from error
    return content


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _value(value: Any) -> Any:
    return value.array() if isinstance(value, PickledArray) else value


def _python_names(path: Path, layout: CifarLayout) -> list[str]:
    content = load_plain_pickle(path)
    names = content.get(layout.names_key) if isinstance(content, dict) else None
    if not isinstance(names, list):
        raise UserError(f"{path}: no list '{layout.names_key}'; fetch it again")
    texts = [_text(name) for name in names]
    if not all(isinstance(name, str) for name in texts):
        raise UserError(f"{path}: not all values of '{layout.names_key}' are text; fetch it again")
    return _checked_names(texts, path, layout.num_classes)


def _checked_names(names: list[str], path: Path, num_classes: int) -> list[str]:
    if len(names) != num_classes:
        raise UserError(f"{path}: {len(names)} class names, expected {num_classes}; fetch it again")
    return names


def _checked_labels(labels: list[int], path: Path, num_classes: int) -> Tensor:
    for label in (min(labels, default=0), max(labels, default=0)):
        if not 0 <= label < num_classes:
            shown = str(label) if abs(label) < 10**9 else "of many digits"
            raise UserError(f"{path}: label {shown} is out of range 0 to {num_classes - 1}; fetch it again")
    return torch.tensor(labels, dtype=torch.int64)


def _concatenate(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; fetch the data set again")
    return path
