"""Compressed networks on disk: save, load, and report the size of every part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from common.atomic import write_bytes
from common.checkpoint import build_recorded_model, check_data_fields, image_fields, load_recorded_tensors
from common.errors import UserError
from common.module_state import all_tensors, describe_state
from common.replaced_layers import insert_replaced_layers, replaced_layer_table
from common.wrapped import plain_network
from deep_compression import container
from deep_compression import vgg19 as vgg19  # registers the network of the original code
from deep_compression.elements import count, item_size
from deep_compression.layer import LayerInfo, LayerSettings
from deep_compression.tensors import CODES, from_bits, to_bits


@dataclass(frozen=True)
class TensorSize:
    """Size of one tensor in a compressed file.

    Attributes:
        form: "dense", "sparse", "pruned" (values are not shared), "levels" (integers times a step) or "raw" (not encoded).
        elements: Number of elements.
        nonzero: Number of elements whose bits differ from those of +0.0.
        entries: Stored weights, fillers included.
        codebook: Entries of the codebook.
        weight_bits: Bits of a weight index before entropy coding (of a value, if it is not shared).
        gap_bits: Bits of a position gap before entropy coding; 0 without positions.
        weight_payload_bits: Bits of all weights after entropy coding.
        gap_payload_bits: Bits of all position gaps after entropy coding.
        bytes: Size of the block; of a raw tensor, its uncompressed size; of levels, which share a block, a part of it by entropy.
        by_category: Bytes of the block by category.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    elements: int
    nonzero: int
    entries: int
    codebook: int
    weight_bits: int
    gap_bits: int
    weight_payload_bits: int
    gap_payload_bits: int
    bytes: int
    by_category: dict[str, int]


@dataclass(frozen=True)
class SizeReport:
    """Size of a compressed file, in total and by tensor.

    Attributes:
        bytes: Size of the file.
        by_category: Bytes by category (header, codebooks, payload of weights, ...), which sum to ``bytes``.
        tensors: Size of each tensor, in the order of the state dict.
        about: Architecture, normalization and so on, as recorded in the file.
    """

    bytes: int
    by_category: dict[str, int]
    tensors: list[TensorSize]
    about: dict[str, Any]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the same tensors without compression."""
        return sum(t.elements * item_size(t.dtype) for t in self.tensors)


def save_compressed(
    path: Path | str,
    model: nn.Module | Mapping[str, Tensor],
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    *,
    normalize=None,
    dataset: str | None = None,
    classes=None,
    extra: Mapping[str, Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
    index_bits: int | Mapping[str, int] | None = None,
    order: str = "auto",
    coder: str = "huffman",
    limit: int | None = None,
) -> SizeReport:
    """Write a network or a state dict to a compressed file, losslessly and atomically.

    Pruned weights and shared weights are compressed (sections 2 to 4); all tensors are restored bit-identically. Layers
    that differ from those of the registry or of ``factory`` (:mod:`common.replaced_layers`) are listed in the header.

    Args:
        path: File to write, usually ``*.dcz``.
        model: Network, or its state dict.
        arch: Name in the registry; by default, as recorded by ``create_model``.
        arch_args: Constructor arguments of ``arch``.
        normalize: Mean and standard deviation of each channel, as in :func:`common.checkpoint.save_model`.
        dataset: Name of the data set.
        classes: Names of the classes.
        extra: Further values for the header, as JSON.
        factory: Builds the network if its architecture is not in the registry.
        index_bits: Bits of a position gap (1 to 16) for all tensors or by tensor name; by default, the bits that give the
            smallest file.
        order: Order of positions: ``"rows"``, ``"columns"`` or ``"auto"`` (smallest).
        coder: Entropy coder: ``"huffman"``, ``"fixed"``, ``"ans"`` (requires constriction), ``"auto"`` (smallest of these), or
            ``"adaptive"`` (requires constriction): one adaptive range code for all tensors of integers times a step, as
            :func:`deep_compression.rate_distortion.quantize_network` returns them, and Huffman for others.
        limit: Largest decoded size in bytes; required if it exceeds 64 MiB + 1024 x the file's size, both here and when
            the file is loaded.

    Returns:
        The size of the file and of its parts.

    Raises:
        ValueError: If a tensor or an argument is not supported.
        OSError: If the file cannot be written.
    """
    if isinstance(model, nn.Module):
        model = plain_network(model)
    tensors = all_tensors(model) if isinstance(model, nn.Module) else dict(model)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: the value is a {type(tensor).__name__}; only named tensors can be stored")
    rows = [(name, _code(t, name), tuple(t.shape), to_bits(t, name)) for name, t in tensors.items()]
    _check_settings(index_bits, order, tensors)
    about = _about(model, arch, arch_args, normalize, dataset, classes, extra, factory)
    data = container.pack(rows, about, lambda name: LayerSettings(_bits_of(index_bits, name), order, coder))
    found = _build_report(data, limit, [bits for *_, bits in rows])  # raises if the file could not be loaded
    write_bytes(path, data)
    return found


def load_compressed(path: Path | str, *, limit: int | None = None) -> dict[str, Tensor]:
    """Load the state dict of a compressed file, bit-identical to the saved one. The network's code is not needed.

    Args:
        path: Compressed file.
        limit: Largest decoded size in bytes; by default 64 MiB + 1024 x the file's size.

    Raises:
        ValueError: If the file is damaged, is not a compressed file or exceeds the limit.
        OSError: If the file cannot be read.
    """
    return _tensors(_open(path, limit))


def load_compressed_model(
    path: Path | str, factory: Callable[[], nn.Module] | None = None, *, limit: int | None = None
) -> nn.Module:
    """Load the network of a compressed file, in eval mode.

    Modules are resized to the shapes of their tensors, so networks with pruned channels are supported, and so are layers
    that a method has replaced, such as factored ones (:mod:`common.replaced_layers`). The file's description
    (normalization, data set, classes) is in ``model.checkpoint_header``.

    Args:
        path: Compressed file.
        factory: Builds the network if the file's architecture is not in the registry.
        limit: Largest decoded size in bytes; by default 64 MiB + 1024 x the file's size.

    Raises:
        ValueError: If the file is damaged or describes another network.
        OSError: If the file cannot be read.
    """

    opened = _open(path, limit)
    about = to_checkpoint_header(opened.about)
    try:
        check_data_fields(about, path)
        shapes = {entry.name: entry.shape for entry in opened.entries}
        model = build_recorded_model(about["arch"], about["args"], shapes, path, factory)
        insert_replaced_layers(model, about["layers"], path)
        tensors = _tensors(opened)
        load_recorded_tensors(model, tensors, about, path)
    except UserError as problem:
        raise ValueError(str(problem)) from None
    model.checkpoint_header = about  # type: ignore[assignment]
    return model.eval()


def size_report(path: Path | str, *, limit: int | None = None) -> SizeReport:
    """Report the size of a compressed file by category and by tensor.

    Args:
        path: Compressed file.
        limit: Largest decoded size in bytes; by default 64 MiB + 1024 x the file's size.

    Raises:
        ValueError: If the file is damaged.
        OSError: If the file cannot be read.
    """
    return _build_report(_read(path), limit, None)


def _build_report(data: bytes, limit: int | None, written: list[np.ndarray] | None) -> SizeReport:
    """Build the report from a file's bytes; `written` are the bit patterns that it must decode to. Raises ValueError."""
    opened = container.open_bytes(data, limit)
    rows, total = container.describe(opened)
    nonzero, entropies = [], dict[int, tuple[float, int]]()
    for i, (entry, bits) in enumerate(container.unpack(opened)):
        if written is not None and not np.array_equal(bits, written[i]):
            raise ValueError(
                f"{entry.name}: the encoded tensor does not decode to the original; please report this bug of deep_compression"
            )
        nonzero.append(int(np.count_nonzero(bits)))
        if entry.on_grid:
            entropies[i] = _entropy(bits)
    unit = 8 * len(opened.levels) / max(1.0, sum(bits for bits, _ in entropies.values()))
    tensors = []
    for i, (entry, info, used) in enumerate(rows):
        if i in entropies:
            payload, distinct = entropies[i]
            tensors.append(_levels_size(entry, nonzero[i], distinct, round(payload * unit)))
        else:
            tensors.append(_tensor_size(entry, info, used, nonzero[i]))
    return SizeReport(len(data), dict(sorted(total.items())), tensors, opened.about)


def _entropy(bits: np.ndarray) -> tuple[float, int]:
    """Return the entropy of all values together, in bits, and the number of distinct ones."""
    _, counts = np.unique(bits, return_counts=True)
    return float((counts * np.log2(bits.size / counts)).sum()), len(counts)


def _levels_size(entry: container.Entry, nonzero: int, distinct: int, payload: int) -> TensorSize:
    size, width = count(entry.shape), max(1, (distinct - 1).bit_length())
    used = {"payload of weights": payload // 8}
    return TensorSize(
        entry.name,
        entry.shape,
        entry.code,
        "levels",
        size,
        nonzero,
        size,
        distinct,
        width,
        0,
        payload,
        0,
        payload // 8,
        used,
    )


def _tensor_size(entry: container.Entry, info: LayerInfo | None, used: Mapping[str, int], nonzero: int) -> TensorSize:
    elements, item = count(entry.shape), item_size(entry.code)
    common = (entry.name, entry.shape, entry.code)
    if info is None:
        return TensorSize(*common, "raw", elements, nonzero, elements, 0, 8 * item, 0, 0, 0, elements * item, {})
    width = 8 * item if info.form == "pruned" else max(1, (info.codebook - 1).bit_length())
    return TensorSize(
        *common,
        info.form,
        elements,
        nonzero,
        info.entries,
        info.codebook,
        width,
        info.index_bits,
        info.weight_payload_bits,
        info.gap_payload_bits,
        entry.block,
        dict(used),
    )


def to_checkpoint_header(about: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a file's description of its network to a header of :mod:`common.checkpoint`. Raises ValueError."""
    empty: dict[str, Any] = {
        "arch": None,
        "args": {},
        "layers": {},
        "normalize": None,
        "dataset": None,
        "classes": None,
        "extra": {},
    }
    header = empty | dict(about)
    if not (header["arch"] is None or isinstance(header["arch"], str)) or not isinstance(header["args"], dict):
        raise ValueError("the file is damaged: invalid architecture")
    return header


def _open(path, limit) -> container.OpenedFile:
    return container.open_bytes(_read(path), limit)


def _read(path: Path | str) -> bytes:
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a file")
    return path.read_bytes()


def _tensors(opened: container.OpenedFile) -> dict[str, Tensor]:
    try:
        return {entry.name: from_bits(bits, entry.code, entry.shape) for entry, bits in container.unpack(opened)}
    except MemoryError:
        raise ValueError("the file does not fit in memory") from None


def _about(model, arch, arch_args, normalize, dataset, classes, extra, factory) -> dict[str, Any]:
    """Collect the known properties of a network; unknown ones are omitted, to keep the file small."""
    record = getattr(model, "architecture", None) or {"arch": None, "args": {}}
    known = getattr(model, "checkpoint_header", {})
    if normalize is not None and not isinstance(normalize, Mapping):
        normalize = {"mean": [float(v) for v in normalize[0]], "std": [float(v) for v in normalize[1]]}
    arch, arch_args = (arch, dict(arch_args or {})) if arch else (record["arch"], dict(record["args"]))
    found = {
        "arch": arch,
        "args": arch_args,
        "layers": replaced_layer_table(model, arch, arch_args, factory) if isinstance(model, nn.Module) else {},
        "normalize": normalize or known.get("normalize"),
        "dataset": dataset or known.get("dataset"),
        "classes": list(classes) if classes is not None else known.get("classes"),
        **image_fields(known),
        "extra": dict(extra or {}),
        **(describe_state(model) if isinstance(model, nn.Module) else {}),
    }
    return {name: value for name, value in found.items() if value}


def _code(tensor: Tensor, name: str) -> str:
    if tensor.dtype not in CODES:
        raise ValueError(f"{name}: {tensor.dtype} is not supported")
    return CODES[tensor.dtype]


def _check_settings(index_bits, order, tensors) -> None:
    if order not in ("auto", "rows", "columns"):
        raise ValueError(f"unknown order {order!r}; known: auto, rows, columns")
    if isinstance(index_bits, Mapping) and (unknown := set(index_bits) - set(tensors)):
        raise ValueError(f"index_bits: the network has no tensors {', '.join(sorted(unknown))}")
    given = index_bits.values() if isinstance(index_bits, Mapping) else [index_bits]
    for bits in given:
        if bits is not None and (not isinstance(bits, int) or not 1 <= bits <= 16):
            raise ValueError(f"index_bits must be in 1..16, not {bits!r}")


def _bits_of(index_bits, name: str) -> int | None:
    return index_bits.get(name) if isinstance(index_bits, Mapping) else index_bits
