"""CIFAR's two archive layouts: Python batches (pickles, read without running what they say) and binary records.

Learning Multiple Layers of Features from Tiny Images, A. Krizhevsky, 2009.
"""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarLayout:
    """Where a variant keeps its files and what they call things."""

    python_folder: str
    binary_folder: str
    train_files: tuple[str, ...]  # of the Python layout
    test_file: str
    label_key: str
    names_file: str
    names_key: str
    binary_train_files: tuple[str, ...]
    binary_test_file: str
    binary_names_file: str
    label_bytes: int  # in front of a binary record; the last one is the label
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
    """Training pictures (N, 3, 32, 32) uint8, labels (N,) int64, the same of the test part, class names."""
    train = [read_python_batch(folder / name, layout) for name in layout.train_files]
    test = read_python_batch(folder / layout.test_file, layout)
    return *_joined(train), *test, _python_names(folder / layout.names_file, layout)


def read_binary_layout(folder: Path, layout: CifarLayout) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """As :func:`read_python_layout`, from binary records (label bytes, then 3072 pixels)."""
    train = [read_binary_batch(folder / name, layout) for name in layout.binary_train_files]
    test = read_binary_batch(folder / layout.binary_test_file, layout)
    names_path = folder / layout.binary_names_file
    names = _existing(names_path).read_text().split()
    return *_joined(train), *test, _checked_names(names, names_path, layout.num_classes)


def read_python_batch(path: Path, layout: CifarLayout) -> tuple[Tensor, Tensor]:
    """One pickled batch: pictures (N, 3, 32, 32) uint8 and labels (N,) int64. Raises UserError naming the file."""
    content = load_plain_pickle(path)
    pixels = content.get("data") if isinstance(content, dict) else None
    labels = content.get(layout.label_key) if isinstance(content, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        raise UserError(f"{path}: holds no array 'data' of bytes (N, {PIXELS}); it is not a CIFAR batch")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise UserError(f"{path}: holds no list '{layout.label_key}' with a label for each of {len(pixels)} pictures")
    if not all(isinstance(label, int) for label in labels):
        raise UserError(f"{path}: '{layout.label_key}' are not all integers")
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return images, _checked_labels(np.array(labels, dtype=np.int64), path, layout.num_classes)


def read_binary_batch(path: Path, layout: CifarLayout) -> tuple[Tensor, Tensor]:
    """One binary batch, as :func:`read_python_batch`."""
    raw = np.frombuffer(_existing(path).read_bytes(), dtype=np.uint8)
    record = layout.label_bytes + PIXELS
    if raw.size == 0 or raw.size % record:
        raise UserError(f"{path}: {raw.size} bytes are not a whole number of {record}-byte records; fetch it again")
    rows = raw.reshape(-1, record)
    labels = _checked_labels(rows[:, layout.label_bytes - 1].astype(np.int64), path, layout.num_classes)
    return torch.from_numpy(rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32).copy()), labels


# All that a pickled CIFAR batch names: numpy's array, its dtype, the function that joins them, and (in files that
# Python 3 wrote in protocol 2) the one that turns text into bytes.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.zeros(1))[0],
    ("numpy._core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.zeros(1))[0],
}


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, text, bytes, numbers and numpy arrays; names nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def load_plain_pickle(path: Path) -> Any:
    """The content of a pickle of plain values and numpy arrays, with text keys. Never runs code from the file.

    Raises UserError naming the file if it is truncated or asks for anything else.
    """
    raw = _existing(path).read_bytes()
    try:
        content = _PlainUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable CIFAR batch ({reason}); fetch it again") from error
    if isinstance(content, dict):
        content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return content


def _python_names(path: Path, layout: CifarLayout) -> list[str]:
    content = load_plain_pickle(path)
    names = content.get(layout.names_key) if isinstance(content, dict) else None
    if not isinstance(names, list):
        raise UserError(f"{path}: holds no list '{layout.names_key}'; fetch it again")
    texts = [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names]
    return _checked_names(texts, path, layout.num_classes)


def _checked_names(names: list[str], path: Path, num_classes: int) -> list[str]:
    if len(names) != num_classes:
        raise UserError(f"{path}: names {len(names)} classes instead of {num_classes}")
    return names


def _checked_labels(labels: np.ndarray, path: Path, num_classes: int) -> Tensor:
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"{path}: label {worst} is out of range 0 to {num_classes - 1}")
    return torch.from_numpy(labels)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; fetch the data set again")
    return path
