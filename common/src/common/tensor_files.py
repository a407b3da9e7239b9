"""Read and write files of ``torch.save`` (``.pth``, ``.th``, ``.pt``, ...) as plain data: tensors, numbers, text, containers.

Both layouts are supported: the ZIP archive, and the sequence of pickles that torch wrote before version 1.6. Nothing in
a file is called or imported (:mod:`common.plain_pickle`), and memory is bounded by the file's size. ``torch.load``,
even with ``weights_only``, lets a file of 200 bytes allocate any number of gigabytes.
"""

import math
import mmap
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from common.atomic import atomic_file
from common.errors import UserError
from common.plain_pickle import OPCODE_LIMIT, Constructors, Name, PickleError, PlainPickle, check_key, latin1_encoder

FILE_LIMIT = 8 * 2**30
MAX_DIMENSIONS = 16
FREE_SIZE = 64 * 2**20  # bytes of tensors allowed in any file, in addition to VIEWS times its size
VIEWS = 8  # larger than 1 because tensors may share memory
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
ZIP_START = b"PK\x03\x04"
ENCRYPTED = 1  # bit of a ZIP entry's flags

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()} | {
    name: getattr(torch, name) for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
}
UNTYPED = "UntypedStorage"
QUANTIZED = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")
SAVE_STATE_DICT = "save the network's state dict: torch.save(model.state_dict(), FILE)"


class Versions(dict):
    """Dictionary of an OrderedDict; torch stores the versions of a state dict's modules as one of its attributes."""

    attributes: Any = None

    def set_state(self, state: Any) -> None:
        self.attributes = state

    def __reduce__(self) -> tuple[Any, ...]:
        """Save it as the OrderedDict that it was read from, which ``torch.load`` accepts."""
        return OrderedDict, (), self.attributes, None, iter(self.items())

    @property
    def versions(self) -> dict[str, int]:
        """Versions of the modules of a state dict: {module name: version}."""
        known = self.attributes.get("_metadata") if isinstance(self.attributes, dict) else None
        entries = known.items() if isinstance(known, dict) else ()
        found = {name: entry.get("version") for name, entry in entries if isinstance(entry, dict)}
        return {name: v for name, v in found.items() if isinstance(name, str) and type(v) is int}


def read_tensor_file(path: Path | str, skip: bool = False, values: bool = True) -> Any:
    """Read a file of ``torch.save``: dictionaries, lists, numbers, text and tensors, on the CPU.

    skip: whether objects of other classes (options, optimizers, entire networks) become
    :class:`common.plain_pickle.Unread`; their code is not run either way.
    values: whether to read the tensors' values; otherwise only their types and shapes are defined.

    Raises UserError, naming the file, if it is missing, larger than 8 GiB, damaged, or contains anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > FILE_LIMIT:
        raise UserError(f"{path}: larger than {FILE_LIMIT} bytes, the limit for weights")
    try:
        with open(path, "rb") as file:
            start = file.read(len(ZIP_START))
        if start == ZIP_START:
            return _read_zip(path, skip, values)
        return _read_legacy(path, skip, values)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, OverflowError, RuntimeError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a file of plain tensors, or is damaged: {reason}") from error


def write_tensor_file(path: Path | str, content: Any) -> None:
    """Write plain data with ``torch.save``, atomically."""
    with (
        atomic_file(path) as temporary,
        open(temporary, "wb") as file,
    ):  # a file, not its name: errors keep their number
        torch.save(content, file)


def _read_zip(path: Path, skip: bool, values: bool) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in entries):
            raise PickleError(f"it is a TorchScript program; {SAVE_STATE_DICT}")
        inside = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(inside) != 1:
            raise PickleError("the ZIP archive does not contain exactly one data.pkl")
        folder = inside[0].partition("/")[0]
        reader = _Tensors(path.stat().st_size, skip)

        def content(name: str, size: int | None = None, read: bool = True) -> bytes:
            entry = entries.get(f"{folder}/{name}")
            if entry is None:
                raise PickleError(f"{name} is missing in the archive")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
                raise PickleError(f"{name} is compressed")
            if size is not None and entry.file_size != size:
                raise PickleError(f"{name} has {entry.file_size} bytes instead of {size}")
            if size is None:
                reader.reserve(entry.file_size)
            return archive.read(entry) if read else b""

        if f"{folder}/byteorder" in entries and content("byteorder") != b"little":
            _other_byte_order()

        def fill(key: str, storage: _Storage) -> None:
            found = content(f"data/{key}", len(storage.bytes), values)
            if values:
                storage.fill(found)

        reader.fill = fill
        return PlainPickle(content("data.pkl"), reader.constructors, reader.persistent, skip).load()


def _read_legacy(path: Path, skip: bool, values: bool) -> Any:
    size = path.stat().st_size
    if not size:
        raise PickleError("the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Tensors(size, skip)
        pickles = PlainPickle(data, reader.constructors, reader.persistent, skip)
        magic = pickles.load()
        if magic != LEGACY_MAGIC or pickles.load() != LEGACY_PROTOCOL:
            raise PickleError("the magic number of torch is missing")
        system = pickles.load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            _other_byte_order()
        content = pickles.load()
        keys = pickles.load()
        if not isinstance(keys, list) or {*map(_text, keys)} != {*reader.storages} or len(keys) != len(reader.storages):
            raise PickleError("the list of storages differs from those of the tensors")
        for key in keys:
            storage = reader.storages[_text(key)]
            if int.from_bytes(pickles.read(8), "little") != storage.count:
                raise PickleError("a storage has another size than recorded in its tensors")
            found = pickles.read(len(storage.bytes))
            if values:
                storage.fill(found)
        return content


class _Storage:
    """Memory with one element type, of which tensors are views."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.bytes = torch.empty(count * dtype.itemsize, dtype=torch.uint8)

    def fill(self, data: bytes) -> None:
        if len(data):
            self.bytes.numpy()[:] = np.frombuffer(data, np.uint8)
        if self.dtype is torch.bool and len(data) and int(self.bytes.max()) > 1:
            raise PickleError("a boolean is neither 0 nor 1")


class _Tensors:
    """Constructors that a pickle of torch may call, and the storages that it refers to. size: file size in bytes."""

    def __init__(self, size: int, skip: bool) -> None:
        self.skip, self.unread, self.items = skip, size, OPCODE_LIMIT
        self.views = FREE_SIZE + VIEWS * size
        self.storages: dict[str, _Storage] = {}
        self.fill: Callable[[str, _Storage], None] = lambda key, storage: None
        self.constructors: Constructors = {
            ("collections", "OrderedDict"): self.ordered,
            ("torch._utils", "_rebuild_tensor"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self.tensor_v3,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
            ("_codecs", "encode"): latin1_encoder(size),
            ("torch", "Size"): lambda sizes=(): tuple(_integers(sizes)),
            ("torch", "device"): lambda *where: str(where[0]) if where and isinstance(where[0], str) else "cpu",
            ("builtins", "set"): self.set,
            ("__builtin__", "set"): self.set,
            **{("torch", name): None for name in (*STORAGES, *DTYPES)},
            ("torch.storage", UNTYPED): None,
        }

    def reserve(self, count: int) -> None:
        """Count bytes that are about to be read; each byte of the file may be read once."""
        self.unread -= count
        if self.unread < 0:
            raise PickleError("the file is truncated: its tensors are larger than the file")

    def copy(self, values: Any) -> list[Any]:
        """Copy a list; all copies together may have at most ``OPCODE_LIMIT`` elements."""
        if not isinstance(values, list | tuple):
            raise PickleError("expected a list")
        self.items -= len(values)
        if self.items < 0:
            raise PickleError("it allocates more elements than the file holds")
        return [*values]

    def ordered(self, pairs: Any = ()) -> Versions:
        """Build the dictionary of an OrderedDict by Python 2; Python 3 calls it without arguments."""
        found = self.copy(pairs)
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in found):
            raise PickleError("an OrderedDict is not a list of pairs")
        return Versions((check_key(key), value) for key, value in found)

    def set(self, values: Any = ()) -> set[Any]:
        return {check_key(value) for value in self.copy(values)}

    def persistent(self, identity: Any) -> _Storage | Name:
        """Return the storage of ('storage', type, key, location, number of elements, parent storage in old files).

        Old files of entire networks also refer to ('module', class, its file, its code): the class is returned.
        """
        if self.skip and isinstance(identity, tuple) and len(identity) == 4 and type(identity[1]) is Name:
            return identity[1]
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or _text(identity[0]) != "storage":
            raise PickleError("a persistent ID is not a storage")
        kind, key, count = identity[1], _text(identity[2]), identity[4]
        if type(kind) is Name and kind.name in QUANTIZED:
            raise PickleError(f"it holds quantized tensors ({kind.name}); {SAVE_STATE_DICT} before it is quantized")
        if len(identity) == 6 and identity[5] is not None:
            raise PickleError("a storage is part of another storage")
        if type(kind) is not Name or kind.name not in (*STORAGES, UNTYPED) or type(count) is not int or count < 0:
            raise PickleError("a storage has an unknown type")
        dtype = STORAGES.get(kind.name, torch.uint8)
        known = self.storages.get(key)
        if known is None:
            self.reserve(count * dtype.itemsize)
            known = self.storages[key] = _Storage(dtype, count)
            self.fill(key, known)
        if known.dtype is not dtype or known.count != count:
            raise PickleError("a storage has two types")
        return known

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        if type(storage) is not _Storage:
            raise PickleError("a tensor has no storage")
        return self._view(storage.bytes.view(storage.dtype), offset, size, stride)

    def tensor_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
    ) -> Tensor:
        if type(storage) is not _Storage or type(dtype) is not Name or dtype.name not in DTYPES:
            raise PickleError("a tensor has an unknown type")
        kind = DTYPES[dtype.name]
        if len(storage.bytes) % kind.itemsize:
            raise PickleError("the size of a storage is not a multiple of the element size")
        return self._view(storage.bytes.view(kind), offset, size, stride)

    def _view(self, flat: Tensor, offset: Any, size: Any, stride: Any) -> Tensor:
        sizes, strides = _integers(size), _integers(stride)
        (start,) = _integers((offset,))
        count = math.prod(sizes)
        last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if (count and last >= flat.numel()) or start > flat.numel():  # the same element may occur many times (expand)
            raise PickleError("a tensor is larger than its storage")
        self.views -= count * flat.element_size()
        if self.views < 0:
            raise PickleError("the tensors are many times larger than the file")
        return flat.as_strided(sizes, strides, start)


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS:
        raise PickleError("a shape is not a tuple, or has too many dimensions")
    if not all(type(value) is int and 0 <= value <= sys.maxsize for value in values):
        raise PickleError("a dimension, stride or offset is out of range")
    return values


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise PickleError("expected text")
    return value


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise PickleError("a parameter is not a tensor")
    return data


def _other_byte_order() -> NoReturn:
    raise PickleError("it was written on a machine with another byte order")
