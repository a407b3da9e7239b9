"""Benchmark of Huffman decoding of 10M symbols against dahuffman and constriction; payload against the optimum and xz."""

from __future__ import annotations

import lzma
import sys

import constriction
import dahuffman
import numpy as np

from common.reporting.benchmark import BenchmarkValue, Series, run_benchmark, speedup, time_interleaved
from deep_compression import huffman_decode, huffman_encode
from deep_compression.huffman import optimal_bits

NUMBER = 10_000_000
SLOW = 50  # the other libraries decode 1/50 of the symbols, and their time is multiplied by 50


def body(repeats: int) -> tuple[Series, list[BenchmarkValue]]:
    """Decode ten million of 256 distinct symbols, about 7.4 bits each; the other libraries decode 1/50 of them."""
    symbols = np.clip(np.round(np.random.default_rng(0).normal(128, 40, NUMBER)), 0, 255).astype(np.uint8)
    counts = np.bincount(symbols, minlength=256)
    stream = huffman_encode(symbols)
    assert np.array_equal(huffman_decode(stream), symbols)
    few = symbols[: NUMBER // SLOW].tolist()
    codec = dahuffman.HuffmanCodec.from_frequencies({i: int(c) for i, c in enumerate(counts) if c})
    packed = codec.encode(few)
    book = constriction.symbol.huffman.EncoderHuffmanTree(counts.astype(np.float32))
    tree = constriction.symbol.huffman.DecoderHuffmanTree(counts.astype(np.float32))
    coder = constriction.symbol.QueueEncoder()
    for symbol in few:
        coder.encode_symbol(symbol, book)
    words, _ = coder.get_compressed()

    def by_constriction() -> list[int]:
        decoder = constriction.symbol.QueueDecoder(words)
        return [decoder.decode_symbol(tree) for _ in range(len(few))]

    assert by_constriction() == few and codec.decode(packed) == few
    sides = {
        "ours": lambda: huffman_decode(stream),
        "dahuffman": lambda: codec.decode(packed),
        "constriction": by_constriction,
    }
    times = time_interleaved(sides, repeats)
    times = {name: [t * (1 if name == "ours" else SLOW) for t in series] for name, series in times.items()}
    what = "Huffman decode, 10M symbols: speed"
    xz = len(lzma.compress(symbols[:1_000_000].tobytes(), preset=9))
    ours = len(huffman_encode(symbols[:1_000_000]).payload)
    ratios = [
        BenchmarkValue(what, "dahuffman", speedup(times, "ours", "dahuffman"), 10),
        BenchmarkValue(what, "constriction", speedup(times, "ours", "constriction"), 4),
        BenchmarkValue(
            "Huffman payload: bits", "optimal length", stream.payload_bits / optimal_bits(counts), 1, at_most=True
        ),
        BenchmarkValue("Huffman coding, 1M symbols: bytes", "xz -9", ours / xz, 1, at_most=True),
    ]
    return times, ratios


if __name__ == "__main__":
    sys.exit(run_benchmark(body))
