"""Encoding of tensors whose values are integers times a step, all of a file in one adaptive range code (not in the paper).

The code of a level depends on the magnitude that is expected of it: the mean magnitude of what is already known of its kernel, its output,
its input, and its position in the kernel. There is a distribution for each of 20 expected magnitudes; it begins as a two-sided geometric one
and follows the frequencies of what was coded. No tables are stored. Tensors of one shape are coded together, position by position of the
kernel, in parts whose number of outputs doubles: a part's contexts depend on earlier parts only, and are computed in integers.

Layout: for each tensor, step (float32), mean magnitude (1 byte), low bits (1 byte); number of excesses (varint) and excesses (varints);
number of words (varint); words of the range code (uint32); CRC-32 of all levels. The levels' ``low bits`` are coded with equal
probabilities, and magnitudes above 15 of the rest as 15 and an excess.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deep_compression.cursor import Cursor, Parts, varint

Levels = NDArray[np.integer]
MOST_LEVEL = 1 << 20  # magnitude
SMALLEST_LEVEL, FEW = 255, 4096  # largest smallest magnitude that is found in a tensor of few magnitudes; else 4
LARGEST = 15  # magnitude with a symbol of its own
SYMBOLS = 2 * LARGEST + 1
CONTEXTS = 20
UNIT = 64  # of expected magnitudes
OCTAVE = 16  # logarithms of expected magnitudes are multiples of 1/16
FIRST_OUTPUTS = 8  # in the first part of a tensor
PART = 1 << 20  # levels in a part, at most
COUNT = 32  # added to the frequency of a level
PRIOR = 8 * COUNT  # total of the first frequencies of a context
MOST_COUNTS = 8192 * COUNT  # total at which frequencies are halved
WEIGHTS = (4, 3, 3)  # of the logarithms: kernel, input, output
LOWEST, WIDTH = 10 * 36, 10 * 5  # of the weighted logarithms of contexts
LOGARITHMS = np.rint(OCTAVE * np.log2(np.arange(1, 1 << 16))).astype(np.int32)  # of 1, 2, ...; none is close to a half


@dataclass(frozen=True)
class GridTensor:
    """Integers times a step.

    Attributes:
        shape: (outputs, inputs, ...) of weights, or (n,).
        levels: Flat integers of at most 2^20.
        step: Exactly a float32.
    """

    shape: tuple[int, ...]
    levels: Levels
    step: float

    @property
    def values(self) -> NDArray[np.float32]:
        """The tensor's values, flat."""
        return self.levels.astype(np.float32) * np.float32(self.step)


def find_grid(values: NDArray[np.float32], shape: tuple[int, ...]) -> GridTensor | None:
    """Return integers and a step whose products are exactly these float32 values; None if there are none. +0.0 is the only zero."""
    magnitudes = np.unique(np.abs(values))
    if not np.isfinite(magnitudes).all() or np.signbit(values[values == 0]).any():
        return None
    if not magnitudes.any():
        return GridTensor(shape, np.zeros(values.size, np.int32), 1.0)
    smallest = magnitudes[magnitudes > 0][0]
    unit = np.spacing(smallest)  # of which all are multiples
    whole = magnitudes.astype(np.float64) / unit
    if whole[-1] < 1 << 53:
        step = np.gcd.reduce(whole.astype(np.int64)) * np.float64(unit)  # exact, unless products were rounded
        if np.finfo(np.float32).tiny < step == np.float32(step) and magnitudes[-1] <= MOST_LEVEL * step:
            return GridTensor(shape, np.rint(values.astype(np.float64) / step).astype(np.int32), float(step))
    for part in range(1, SMALLEST_LEVEL + 1 if len(magnitudes) < FEW else 5):
        step = np.float32(smallest / np.float32(part))
        if step <= np.finfo(np.float32).tiny or magnitudes[-1] > MOST_LEVEL * float(step):
            return None
        if np.array_equal(np.rint(magnitudes.astype(np.float64) / float(step)).astype(np.float32) * step, magnitudes):
            return GridTensor(shape, np.rint(values.astype(np.float64) / float(step)).astype(np.int32), float(step))
    return None


def encode_levels(tensors: Sequence[GridTensor]) -> Parts:
    """Encode tensors; they are decoded with the same shapes in the same order."""
    streams = [_Stream.of(tensor) for tensor in tensors]
    head = b"".join(stream.head() for stream in streams)
    excesses = np.concatenate([stream.excesses for stream in streams])
    encoder = _entropy_coding().queue.RangeEncoder()

    def code(symbols: Levels, model: Any) -> Levels:
        encoder.encode(symbols.astype(np.int32, copy=False), model)
        return symbols

    _code_all(streams, code)
    words = np.asarray(encoder.get_compressed(), "<u4")
    listed = varint(len(excesses)) + b"".join(varint(int(excess)) for excess in excesses)
    return [
        ("codebooks", head),
        ("payload of weights", listed),
        ("block fields", varint(len(words))),
        ("payload of weights", words.tobytes()),
        ("checksums", _checksum([tensor.levels for tensor in tensors])),
    ]


def decode_levels(cursor: Cursor, shapes: Sequence[tuple[int, ...]]) -> list[GridTensor]:
    """Decode tensors of these shapes. Raises ValueError if the data is damaged."""
    streams = [_Stream.read(cursor, shape) for shape in shapes]
    total = sum(math.prod(shape) for shape in shapes)
    excesses = [
        cursor.varint("payload of weights") for _ in range(_at_most(cursor.varint("payload of weights"), total))
    ]
    if any(excess > MOST_LEVEL for excess in excesses):
        raise ValueError("the file is damaged: a level is too large")
    words = cursor.take(4 * cursor.varint("block fields"), "payload of weights")
    checksum = bytes(cursor.take(4, "checksums"))
    cursor.finish()
    decoder = _entropy_coding().queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def code(symbols: Levels, model: Any) -> Levels:
        try:
            return np.asarray(decoder.decode(model, len(symbols)), np.int32)
        except AssertionError:  # of constriction
            raise ValueError("the file is damaged: levels cannot be decoded") from None

    _code_all(streams, code)
    left: Levels = np.array(excesses, np.int32)
    found = []
    for stream in streams:
        levels, left = stream.levels(left)
        found.append(GridTensor(stream.shape, levels, stream.step))
    if len(left) or _checksum([tensor.levels for tensor in found]) != checksum:
        raise ValueError("the file is damaged: levels do not decode to those that were encoded")
    return found


def _entropy_coding() -> Any:
    from constriction import stream  # here, so that other files can be read without it

    return stream


def _at_most(number: int, most: int) -> int:
    if number > most:
        raise ValueError(f"the file is damaged: {number} entries where at most {most} fit")
    return number


def _checksum(levels: Sequence[Levels]) -> bytes:
    check = 0
    for one in levels:
        check = zlib.crc32(one.astype("<i4").tobytes(), check)
    return check.to_bytes(4, "little")


@dataclass(frozen=True, eq=False)
class _Stream:
    """A tensor as it is coded: symbols -15 .. 15, and the low bits of the levels, (outputs, inputs, positions of the kernel).

    mean: code of the mean magnitude of the symbols.
    """

    shape: tuple[int, ...]
    step: float
    mean: int
    low_bits: int
    symbols: NDArray[np.int8]
    lows: Levels  # flat; empty without low bits
    excesses: Levels

    @classmethod
    def of(cls, tensor: GridTensor) -> _Stream:
        levels = tensor.levels.reshape(_matrix(tensor.shape))
        mean = float(np.abs(levels).sum()) / max(1, levels.size)
        low_bits = max(0, math.ceil(math.log2(mean / 3))) if mean > 3 else 0
        high = levels >> low_bits
        symbols = np.clip(high, -LARGEST, LARGEST)
        beyond = np.abs(high) >= LARGEST
        code = int(np.searchsorted(_MEANS, round(UNIT * float(np.abs(symbols).sum()) / max(1, levels.size))))
        excesses = (np.abs(high) - LARGEST)[beyond]
        lows = (levels - (high << low_bits)).reshape(-1) if low_bits else levels[:0].reshape(-1)
        return cls(tensor.shape, tensor.step, min(code, 255), low_bits, symbols.astype(np.int8), lows, excesses)

    @classmethod
    def read(cls, cursor: Cursor, shape: tuple[int, ...]) -> _Stream:
        step = float(np.frombuffer(cursor.take(4, "codebooks"), "<f4")[0])
        mean, low_bits = cursor.byte("codebooks"), cursor.byte("codebooks")
        if not 0 < step < math.inf or low_bits > 20:
            raise ValueError("the file is damaged: the step or the low bits of a tensor are out of range")
        symbols, none = np.zeros(_matrix(shape), np.int8), np.zeros(0, np.int32)
        return cls(shape, step, mean, low_bits, symbols, np.zeros(symbols.size, np.int32) if low_bits else none, none)

    def head(self) -> bytes:
        return np.array(self.step, "<f4").tobytes() + bytes([self.mean, self.low_bits])

    def levels(self, excesses: Levels) -> tuple[Levels, Levels]:
        """Return the tensor's levels, and the excesses that are left."""
        high, beyond = self.symbols.astype(np.int32), np.abs(self.symbols) >= LARGEST
        count = int(beyond.sum())
        if count > len(excesses):
            raise ValueError("the file is damaged: fewer excesses than levels that need one")
        high[beyond] += np.sign(high[beyond]) * excesses[:count]
        levels = high.reshape(-1) << self.low_bits
        return levels + self.lows if self.low_bits else levels, excesses[count:]


def _matrix(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (outputs, inputs, positions of the kernel) of a tensor's shape."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return shape[0], shape[1], math.prod(shape[2:])


_MEANS = np.unique(np.rint(2 ** (np.arange(256) / 16)).astype(np.int64))  # in units of 1 / UNIT


def _code_all(streams: Sequence[_Stream], code: Callable[[Levels, Any], Levels]) -> None:
    """Code all symbols, in place: ``code`` returns those that it is given, or the decoded ones."""
    frequencies = _first_frequencies()
    together: dict[tuple[int, int, int], list[_Stream]] = {}
    for stream in streams:
        if stream.symbols.size:
            together.setdefault(stream.symbols.shape, []).append(stream)
    for shape, group in together.items():
        symbols = np.stack([stream.symbols for stream in group])
        means = _MEANS[np.minimum([stream.mean for stream in group], len(_MEANS) - 1)]
        _code_group(symbols, means, shape, frequencies, code)
        for stream, coded in zip(group, symbols, strict=True):
            stream.symbols[:] = coded
    for stream in streams:
        if len(stream.lows):
            stream.lows[:] = code(stream.lows, _entropy_coding().model.Uniform(1 << stream.low_bits))


def _code_group(
    symbols: Levels,
    means: Levels,
    shape: tuple[int, int, int],
    frequencies: Levels,
    code: Callable[[Levels, Any], Levels],
) -> None:
    """Code the symbols (tensors, outputs, inputs, positions) of tensors of one shape, in place."""
    outputs, inputs, positions = shape
    order = _from_the_center(positions)
    mean = means[:, None, None]
    kernel = np.zeros((len(symbols), outputs, inputs), np.int32)  # sums of magnitudes of the positions so far
    for number, position in enumerate(order):
        known = np.zeros((len(symbols), 1, inputs), np.int64)  # of this position, of outputs so far
        for start, stop in _parts(outputs, len(symbols) * inputs):
            of_kernel = (UNIT * kernel[:, start:stop].astype(np.int64) + mean) // (number + 1)
            of_input = (UNIT * known + 2 * mean) // (start + 2)
            rows = kernel[:, start:stop].sum(2, keepdims=True, dtype=np.int64)
            of_output = (UNIT * rows + 2 * mean) // (number * inputs + 2)
            context = _contexts(of_kernel, of_input, of_output)
            part = symbols[:, start:stop, :, position]
            part[...] = _code_part(part, context, frequencies, code)
            magnitudes = np.abs(part)
            known += magnitudes.sum(1, keepdims=True, dtype=np.int64)
            kernel[:, start:stop] += magnitudes


def _contexts(*expected: Levels) -> Levels:
    total = sum(
        weight * LOGARITHMS[np.minimum(one, len(LOGARITHMS) - 1)] for weight, one in zip(WEIGHTS, expected, strict=True)
    )
    return np.clip((total - LOWEST) // WIDTH, 0, CONTEXTS - 1).astype(np.uint8)  # sorted much faster


def _code_part(part: Levels, context: Levels, frequencies: Levels, code: Callable[[Levels, Any], Levels]) -> Levels:
    """Code a part's symbols, context by context, and count them; return them."""
    flat, contexts, categorical = part.reshape(-1), context.reshape(-1), _entropy_coding().model.Categorical
    order = np.argsort(contexts, kind="stable")
    sizes = np.bincount(contexts, minlength=CONTEXTS)
    ordered, start = flat[order].astype(np.int32) + LARGEST, 0
    for number in np.flatnonzero(sizes):
        stop, known = start + int(sizes[number]), frequencies[number]
        counts = known.astype(np.float32)
        ordered[start:stop] = found = code(ordered[start:stop], categorical(counts / counts.sum(), perfect=False))
        known += COUNT * np.bincount(found, minlength=SYMBOLS)
        while known.sum() > MOST_COUNTS:
            known[:] = (known + 1) // 2
        start = stop
    result = np.empty_like(flat)
    result[order] = ordered - LARGEST
    return result.reshape(part.shape)


def _first_frequencies() -> Levels:
    """Return (contexts, symbols): two-sided geometric distributions with the contexts' expected magnitudes."""
    middle = (LOWEST + WIDTH * (np.arange(CONTEXTS) + 0.5)) / sum(WEIGHTS) / OCTAVE
    expected = 2**middle / UNIT
    ratio = expected / (1 + np.sqrt(1 + expected**2))
    shares = ratio[:, None] ** np.abs(np.arange(-LARGEST, LARGEST + 1))
    return 1 + np.floor(PRIOR * shares / shares.sum(1, keepdims=True)).astype(np.int64)


def _from_the_center(positions: int) -> list[int]:
    """Return the positions of a square kernel, those near the center first; of another kernel, in order."""
    side = math.isqrt(positions)
    if side * side != positions:
        return list(range(positions))
    return sorted(
        range(positions), key=lambda p: ((2 * (p // side) - side + 1) ** 2 + (2 * (p % side) - side + 1) ** 2, p)
    )


def _parts(outputs: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the parts of a tensor's outputs: 8, then as many as before, within a limit."""
    start = 0
    while start < outputs:
        stop = min(outputs, start + max(min(max(start, FIRST_OUTPUTS), PART // max(1, columns)), 1))
        yield start, stop
        start = stop
