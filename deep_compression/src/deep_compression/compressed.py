"""Compressed networks on disk: save, load, and the exact account of every byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from common.atomic import write_bytes
from common.channels.resize import fit_shapes
from common.checkpoint import build_recorded, check_facts, load_tensors
from common.errors import UserError
from common.replaced_layers import build_replaced, replaced_layers
from deep_compression import container
from deep_compression import vgg19 as vgg19  # registers the network of the original code
from deep_compression.layer import LayerInfo, LayerSettings
from deep_compression.tensors import CODES, count, from_bits, item_size, to_bits


@dataclass(frozen=True)
class TensorAccount:
    """One tensor of a file.

    form: dense, sparse, pruned (values not shared) or raw; entries: stored weights, fillers included; nonzero: elements whose
    bits are not those of +0.0; codebook: its entries; weight_bits, gap_bits: of an index before entropy coding;
    weight_payload_bits, gap_payload_bits: of all entries after it; bytes: of the block (of a raw tensor: its own);
    by_category: what the block's bytes are.
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
class Account:
    """Where the bytes of a file go; by_category sums to `bytes`, the size of the file."""

    bytes: int
    by_category: dict[str, int]
    tensors: list[TensorAccount]
    about: dict[str, Any]

    @property
    def dense_bytes(self) -> int:
        """The same tensors without compression."""
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
) -> Account:
    """Write a network (or state dict) without loss, atomically; returns the account of the file's bytes.

    What has been pruned and shared becomes small; everything else is kept bit for bit. index_bits: bits of a position gap,
    for all tensors or by tensor name; by default what makes the file smallest. order: rows, columns, or auto. coder:
    huffman, fixed, ans (needs constriction), or auto. arch, arch_args, normalize, dataset, classes: as in
    `common.checkpoint.save_model`, and found in the same places where they are not given. Layers that are not as the
    registry, or `factory`, builds them (`common.replaced_layers`) are listed in the header. limit: bytes the file may decode to,
    needed where that is more than 64 MiB + 1024 x its size, here and when it is read.
    Raises ValueError for what cannot be stored, OSError where the file cannot be written.
    """
    tensors = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: only named tensors can be stored, not {type(tensor).__name__}")
    rows = [(name, _code(t, name), tuple(t.shape), to_bits(t, name)) for name, t in tensors.items()]
    _check_settings(index_bits, order, tensors)
    about = _about(model, arch, arch_args, normalize, dataset, classes, extra, factory)
    data = container.pack(rows, about, lambda name: LayerSettings(_bits_of(index_bits, name), order, coder))
    found = _account(data, limit, [bits for *_, bits in rows])  # also refuses now what could not be read later
    write_bytes(path, data)
    return found


def load_compressed(path: Path | str, *, limit: int | None = None) -> dict[str, Tensor]:
    """The state dict, equal bit for bit to the one that was saved. Needs neither the network's code nor ours for training.

    Raises ValueError for a file that is damaged or not ours, OSError where it cannot be read, and nothing else. A file that
    decodes to more than 64 MiB + 1024 x its size is refused unless `limit`, in bytes, allows it.
    """
    return _tensors(_open(path, limit))


def load_compressed_model(
    path: Path | str, factory: Callable[[], nn.Module] | None = None, *, limit: int | None = None
) -> nn.Module:
    """The network in eval mode. The file's architecture must be in the registry, or else `factory` builds it.

    Every module gets the shapes that its tensors have, so channel-pruned networks come back too, and so do layers that a
    method has put in another's place (a factored one: `common.replaced_layers`). What the file says about
    itself (normalisation, data set, classes) is at `model.checkpoint_header`. Raises ValueError or OSError.
    """
    import deep_compression.vgg19  # noqa: F401  (registers it)

    opened = _open(path, limit)
    about = header_of(opened.about)
    try:
        check_facts(about, path)
        shapes = {entry.name: entry.shape for entry in opened.entries}
        model = build_recorded(about["arch"], about["args"], shapes, path, factory)
        build_replaced(model, about["layers"], path)
        tensors = _tensors(opened)
        fit_shapes(model, tensors, path)
        load_tensors(model, tensors, path, assign=True)
    except UserError as problem:
        raise ValueError(str(problem)) from None
    model.checkpoint_header = about  # type: ignore[assignment]
    return model.eval()


def account(path: Path | str, *, limit: int | None = None) -> Account:
    """Where the bytes of a file go. Raises ValueError or OSError."""
    return _account(_read(path), limit, None)


def _account(data: bytes, limit: int | None, written: list[np.ndarray] | None) -> Account:
    """The account of a file's bytes; `written`: the bit patterns that it must decode to. Raises ValueError."""
    opened = container.open_bytes(data, limit)
    rows, total = container.describe(opened)
    tensors = []
    for i, ((entry, info, used), (_, bits)) in enumerate(zip(rows, container.unpack(opened), strict=True)):
        if written is not None and not np.array_equal(bits, written[i]):
            raise ValueError(f"{entry.name} does not decode to what was encoded; this is an error of deep_compression")
        tensors.append(_tensor_account(entry, info, used, int(np.count_nonzero(bits))))
    return Account(len(data), dict(sorted(total.items())), tensors, opened.about)


def _tensor_account(
    entry: container.Entry, info: LayerInfo | None, used: Mapping[str, int], nonzero: int
) -> TensorAccount:
    elements, item = count(entry.shape), item_size(entry.code)
    common = (entry.name, entry.shape, entry.code)
    if info is None:
        return TensorAccount(*common, "raw", elements, nonzero, elements, 0, 8 * item, 0, 0, 0, elements * item, {})
    width = 8 * item if info.form == "pruned" else max(1, (info.codebook - 1).bit_length())
    return TensorAccount(
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


def header_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says about its network, in the form of `common.checkpoint`'s header. Raises ValueError."""
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
        raise ValueError("the file's architecture is damaged")
    return header


def _open(path, limit) -> container.Opened:
    return container.open_bytes(_read(path), limit)


def _read(path: Path | str) -> bytes:
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")
    return path.read_bytes()


def _tensors(opened: container.Opened) -> dict[str, Tensor]:
    try:
        return {entry.name: from_bits(bits, entry.code, entry.shape) for entry, bits in container.unpack(opened)}
    except MemoryError:
        raise ValueError("the file wants more memory than there is") from None


def _about(model, arch, arch_args, normalize, dataset, classes, extra, factory) -> dict[str, Any]:
    """Only what is known: every word of it takes room in the file."""
    record = getattr(model, "architecture", None) or {"arch": None, "args": {}}
    known = getattr(model, "checkpoint_header", {})
    if normalize is not None and not isinstance(normalize, Mapping):
        normalize = {"mean": [float(v) for v in normalize[0]], "std": [float(v) for v in normalize[1]]}
    arch, arch_args = (arch, dict(arch_args or {})) if arch else (record["arch"], dict(record["args"]))
    found = {
        "arch": arch,
        "args": arch_args,
        "layers": replaced_layers(model, arch, arch_args, factory) if isinstance(model, nn.Module) else {},
        "normalize": normalize or known.get("normalize"),
        "dataset": dataset or known.get("dataset"),
        "classes": list(classes) if classes is not None else known.get("classes"),
        "extra": dict(extra or {}),
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
        raise ValueError(f"index bits for tensors that the network does not have: {', '.join(sorted(unknown))}")
    given = index_bits.values() if isinstance(index_bits, Mapping) else [index_bits]
    for bits in given:
        if bits is not None and (not isinstance(bits, int) or not 1 <= bits <= 16):
            raise ValueError(f"index bits must be 1 to 16, not {bits!r}")


def _bits_of(index_bits, name: str) -> int | None:
    return index_bits.get(name) if isinstance(index_bits, Mapping) else index_bits
