"""FORMAT.md is complete for files with levels (version 2): a reader written from it, without code of the package, decodes them."""

import hashlib
import json
import math
import zlib

import numpy as np
import pytest
import torch
from test_deep_compression_format import Reader, read_raw

from deep_compression import save_compressed

constriction = pytest.importorskip("constriction")


def read_file(data: bytes) -> dict[str, np.ndarray]:
    """Read the float32 tensors of a file without codebooks, flat, by name."""
    assert data[:8] == b"\x8fDCOMPR\x02"
    assert hashlib.blake2b(data[:-16], digest_size=16).digest() == data[-16:]
    file = Reader(data[8:-16])
    deflated, _ = file.u4(), file.u4()
    header = json.loads(zlib.decompress(file.checked(deflated).data))
    size, numbers = header["levels"]
    plain = [(name, math.prod(shape)) for i, (name, _, shape, _) in enumerate(header["tensors"]) if i not in numbers]
    found = {}
    if header["raw"]:
        read = read_raw(file.checked(header["raw"]), [(number, 4) for _, number in plain])
        found = {name: np.array(one, np.uint32).view(np.float32) for (name, _), one in zip(plain, read, strict=True)}
    shapes = [header["tensors"][i][2] for i in numbers]
    read = read_levels(file.checked(size), shapes)
    assert file.at == len(file.data)
    return {name: found.get(name) for name, *_ in header["tensors"]} | {
        header["tensors"][i][0]: one for i, one in zip(numbers, read, strict=True)
    }


def read_levels(block: Reader, shapes: list[list[int]]) -> list[np.ndarray]:
    means = sorted({round(2 ** (i / 16)) for i in range(256)})
    heads = []
    for _ in shapes:
        step = np.frombuffer(block.take(4), "<f4")[0]
        code, b = block.take(2)
        heads.append((step, means[min(code, len(means) - 1)], b))
    excesses = [block.varint() for _ in range(block.varint())]
    words = np.frombuffer(block.take(4 * block.varint()), "<u4").astype(np.uint32)
    checksum = block.u4()
    decoder = constriction.stream.queue.RangeDecoder(words)
    symbols = read_symbols(decoder, shapes, [mean for _, mean, _ in heads])
    tensors, check = [], 0
    for shape, one, (_, _, b) in zip(shapes, symbols, heads, strict=True):
        lows = np.zeros(math.prod(shape), int)
        if b:
            lows = decoder.decode(constriction.stream.model.Uniform(1 << b), len(lows))
        levels = []
        for s, low in zip(one, lows, strict=True):
            high = s if abs(s) < 15 else (1 if s > 0 else -1) * (15 + excesses.pop(0))
            levels.append((high << b) + int(low))
        check = zlib.crc32(np.array(levels, "<i4").tobytes(), check)
        tensors.append(levels)
    assert not excesses and check == checksum
    return [np.array(one, np.float32) * step for one, (step, _, _) in zip(tensors, heads, strict=True)]


def read_symbols(decoder, shapes: list[list[int]], means: list[int]) -> list[list[int]]:
    """Return the symbols of each tensor, in its order of elements."""
    frequencies = []
    for context in range(20):
        e = 2 ** ((360 + 50 * (context + 0.5)) / 160) / 64
        q = e / (1 + math.sqrt(1 + e**2))
        total = sum(q ** abs(s) for s in range(-15, 16))
        frequencies.append([1 + math.floor(256 * q ** abs(s) / total) for s in range(-15, 16)])
    matrices = [(*shape[:2], math.prod(shape[2:])) if len(shape) > 1 else (1, math.prod(shape), 1) for shape in shapes]
    found = {}  # {(tensor, output, input, position): symbol}
    for matrix in dict.fromkeys(matrices):
        outputs, inputs, positions = matrix
        members = [t for t, other in enumerate(matrices) if other == matrix]
        kernel = dict.fromkeys(((t, o, i) for t in members for o in range(outputs) for i in range(inputs)), 0)
        for p, position in enumerate(order_of(positions)):
            of_input = dict.fromkeys(((t, i) for t in members for i in range(inputs)), 0)
            row = {(t, o): sum(kernel[t, o, i] for i in range(inputs)) for t in members for o in range(outputs)}
            start = 0
            while start < outputs:
                most = max(1, (1 << 20) // (len(members) * inputs))
                stop = min(outputs, start + min(max(8, start), most))
                places: dict[int, list] = {}
                for t in members:
                    for o in range(start, stop):
                        for i in range(inputs):
                            x = (64 * kernel[t, o, i] + means[t]) // (p + 1)
                            y = (64 * of_input[t, i] + 2 * means[t]) // (start + 2)
                            z = (64 * row[t, o] + 2 * means[t]) // (p * inputs + 2)
                            x, y, z = (round(16 * math.log2(min(v, 65534) + 1)) for v in (x, y, z))
                            context = min(19, max(0, (4 * x + 3 * y + 3 * z - 360) // 50))
                            places.setdefault(context, []).append((t, o, i))
                for context in sorted(places):
                    counts = np.array(frequencies[context], np.float32)
                    model = constriction.stream.model.Categorical(counts / counts.sum(dtype=np.float32), perfect=False)
                    decoded = [int(s) - 15 for s in decoder.decode(model, len(places[context]))]
                    for s, (t, o, i) in zip(decoded, places[context], strict=True):
                        found[t, o, i, position] = s
                        frequencies[context][s + 15] += 32
                    while sum(frequencies[context]) > 262_144:
                        frequencies[context] = [(f + 1) // 2 for f in frequencies[context]]
                for t in members:
                    for o in range(start, stop):
                        for i in range(inputs):
                            magnitude = abs(found[t, o, i, position])
                            kernel[t, o, i] += magnitude
                            of_input[t, i] += magnitude
                start = stop
    return [
        [found[t, o, i, p] for o in range(m[0]) for i in range(m[1]) for p in range(m[2])]
        for t, m in enumerate(matrices)
    ]


def order_of(positions: int) -> list[int]:
    side = math.isqrt(positions)
    if side**2 != positions:
        return list(range(positions))
    middle = (side - 1) / 2
    return sorted(range(positions), key=lambda p: ((p // side - middle) ** 2 + (p % side - middle) ** 2, p))


def test_reader_written_from_specification_decodes_levels(tmp_path):
    g = torch.Generator().manual_seed(0)

    def levels(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=g).mul(scale).round() * 0.0078125 + 0.0

    tensors = {
        "first": levels(20, 3, 3, 3, scale=2.0),
        "second": levels(24, 20, 3, 3, scale=0.7),
        "like the first": levels(20, 3, 3, 3, scale=6.0),
        "matrix": levels(40, 30, scale=1.0),
        "shift": levels(24, scale=300.0),
        "wide kernel": levels(10, 4, 1, 7, scale=1.0),
        "free": torch.randn(50, generator=g),
    }
    save_compressed(tmp_path / "a.dcz", tensors, coder="adaptive")
    found = read_file((tmp_path / "a.dcz").read_bytes())
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(found[name], tensor.reshape(-1).numpy()), name
