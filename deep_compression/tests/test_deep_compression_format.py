"""FORMAT.md is complete: a reader written from it, without code of the package, decodes compressed files."""

import hashlib
import json
import math
import zlib
from pathlib import Path

import pytest
import torch

from deep_compression import save_compressed
from deep_compression.tensors import to_bits

SIZES = {"f8": 8, "f4": 4, "f2": 2, "b2": 2, "i8": 8, "i4": 4, "i2": 2, "i1": 1, "u1": 1, "?": 1, "c8": 8}


class Reader:
    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n : self.at]

    def u4(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def bits(self, n: int) -> str:
        return "".join(f"{byte:08b}" for byte in self.take((n + 7) // 8))[:n]

    def fixed(self, count: int, width: int) -> list[int]:
        bits = self.bits(count * width)
        return [int(bits[i * width : (i + 1) * width], 2) for i in range(count)]

    def checked(self, n: int) -> "Reader":
        block = self.take(n)
        assert zlib.crc32(block) == self.u4()
        return Reader(block)


def read_file(data: bytes) -> dict[str, list[int]]:
    """Read the elements of each tensor as unsigned integers, by name."""
    assert data[:8] == b"\x8fDCOMPR\x01"
    assert hashlib.blake2b(data[:-16], digest_size=16).digest() == data[-16:]
    file = Reader(data[8:-16])
    deflated, plain = file.u4(), file.u4()
    header = json.loads(zlib.decompress(file.checked(deflated).data))
    found = {}
    for name, code, shape, size in header["tensors"]:
        found[name] = read_block(file.checked(size), shape, SIZES[code]) if size else None
    if header["raw"]:
        plain = [(name, math.prod(shape), SIZES[code]) for name, code, shape, size in header["tensors"] if not size]
        found |= zip([n for n, *_ in plain], read_raw(file.checked(header["raw"]), [p[1:] for p in plain]), strict=True)
    assert file.at == len(file.data)
    return {name: [] if elements is None else elements for name, elements in found.items()}


def read_block(block: Reader, shape: list[int], item: int) -> list[int]:
    form, size = block.take(1)[0], math.prod(shape)
    if form == 0:
        book = read_codebook(block, item)
        return [book[i] for i in read_stream(block)]
    order, b = block.take(2)
    if form == 1:
        book = [0, *read_codebook(block, item)]
        values = [book[i] for i in read_stream(block)]
        gaps = read_stream(block)
    else:
        gaps = read_stream(block)
        (values,) = read_raw(block, [(len(gaps), item)])
    assert len(gaps) == len(values) and len(gaps) <= size < (len(gaps) + 1) << b
    elements, position = [0] * size, -1
    for value, gap in zip(values, gaps, strict=True):
        position += gap + 1
        place = position
        if order == 1:
            place = position % shape[0] * (size // shape[0]) + position // shape[0]
        elements[place] = value
    return elements


def read_codebook(block: Reader, item: int) -> list[int]:
    number, z = block.varint(), block.take(1)[0]
    return [int.from_bytes(block.take(item - z), "little") << 8 * z for _ in range(number)]


def read_stream(block: Reader) -> list[int]:
    coder, count = block.take(1)[0], block.varint()
    if count == 0:
        return []
    if coder == 0:
        return block.fixed(count, block.take(1)[0])
    assert coder == 1
    m, k = block.varint(), block.varint()
    lengths = list(zlib.decompress(block.take(k), -15)) if k else block.fixed(m, 5)
    payload_bits = block.varint()
    if count > 32768:
        _, width, chunks = block.varint(), block.take(1)[0], -(-count // 1024) - 1
        block.fixed(chunks, width)
    codes, code, before = {}, 0, 0
    for length, number in sorted((length, i) for i, length in enumerate(lengths) if length):
        code <<= length - before
        codes[f"{code:0{length}b}"] = number
        code, before = code + 1, length
    out, word = [], ""
    for bit in block.bits(payload_bits):
        word += bit
        if word in codes:
            out.append(codes[word])
            word = ""
    assert len(out) == count and not word
    return out


def read_raw(block: Reader, sizes: list[tuple[int, int]]) -> list[list[int]]:
    method, data = block.take(1)[0], block.take(len(block.data) - block.at)
    data = zlib.decompress(data) if method else data
    if method < 2:
        rest = Reader(data)
        return [[int.from_bytes(rest.take(item), "little") for _ in range(n)] for n, item in sizes]
    out, planes = [[0] * n for n, _ in sizes], Reader(data)
    for item in (1, 2, 4, 8):
        for plane in range(item):
            for elements, (n, own) in zip(out, sizes, strict=True):
                if own == item:
                    for i, byte in enumerate(planes.take(n)):
                        elements[i] |= byte << 8 * plane
    return out


def tensors() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(200, 300, generator=g).mul(3).round().div(2)
    shared[torch.rand(200, 300, generator=g) < 0.3] = 0.0
    sparse = torch.where(torch.rand(40, 50, 3, generator=g) < 0.05, torch.ones(()), torch.zeros(()))
    pruned = torch.randn(40, 20, generator=g)
    pruned[torch.rand(40, 20, generator=g) < 0.9] = 0.0
    return {
        "chunked": shared,
        "sparse": sparse,
        "few": torch.randn(12, 12, generator=g).round(),
        "pruned": pruned,
        "half": torch.randn(30, 30, generator=g).round().half(),
        "rounded": torch.randn(2000, generator=g).bfloat16().float(),
        "bias": torch.randn(30, generator=g),
        "minus zero": -torch.zeros(3),
        "empty": torch.zeros(0, 4),
        "counter": torch.tensor(3),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize(
    "options", [{}, {"order": "columns", "index_bits": 3}, {"order": "rows", "coder": "fixed"}], ids=str
)
def test_reader_written_from_specification_decodes_files(tmp_path, options):
    found = save_compressed(tmp_path / "a.dcz", tensors(), arch="lenet5", **options)
    forms = {
        "sparse",
        "pruned",
        "raw",
    }  # with a number of index bits, all shared weights have positions, as in the paper
    assert {t.form for t in found.tensors} == forms | (set() if "index_bits" in options else {"dense"})
    decoded = read_file((tmp_path / "a.dcz").read_bytes())
    assert list(decoded) == list(tensors())
    for name, tensor in tensors().items():
        assert decoded[name] == to_bits(tensor).tolist(), name


def test_specification_has_limits_of_code():
    page = (Path(__file__).parents[1] / "FORMAT.md").read_text()
    for number in ("16,385", "32,768", "65,536", "1024", "64 MiB", "2^48"):
        assert number in page
