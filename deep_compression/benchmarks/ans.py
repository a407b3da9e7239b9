"""Benchmark of ANS (constriction) against Huffman coding on streams of few distinct symbols, tables and checksums included."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from common.reporting.benchmark import BenchmarkValue, Series, run_benchmark, time_interleaved
from deep_compression.coded_stream import decode_stream, encode_stream
from deep_compression.cursor import Cursor

NUMBER = 1_000_000
CASES = {  # name: (probabilities, bound of the ratio of ANS bytes to Huffman bytes)
    "2 symbols, 97 and 3 %": ((0.97, 0.03), 0.25),
    "3 symbols, 80, 15 and 5 %": ((0.80, 0.15, 0.05), 0.80),
    "16 symbols, one with probability one half": ((0.5, *(0.5 / 15,) * 15), 1.0),
    "32 symbols, distributed as 5-bit weights": (tuple(np.exp(-(((np.arange(32) - 15.5) / 6) ** 2))), 1.0),
}


def parts(symbols: np.ndarray, alphabet: int, coder: str) -> bytes:
    return b"".join(data for _, data in encode_stream(symbols, alphabet, coder, "payload")[0])


def decoded(data: bytes, alphabet: int) -> np.ndarray:
    return decode_stream(Cursor(data), alphabet, NUMBER, "payload")[0]


def body(repeats: int) -> tuple[Series, list[BenchmarkValue]]:
    """Measure the bytes of a million symbols with ANS against Huffman coding and the entropy, and the times of both coders."""
    series, ratios = {}, []
    for name, (weights, bound) in CASES.items():
        p = np.array(weights) / np.sum(weights)
        symbols = np.random.default_rng(0).choice(len(p), NUMBER, p=p).astype(np.uint16)
        coded = {coder: parts(symbols, len(p), coder) for coder in ("huffman", "ans")}
        sides = {}
        for coder, data in coded.items():
            decode = partial(decoded, data, len(p))
            assert np.array_equal(decode(), symbols)
            sides |= {
                f"decode {coder}, {name}": decode,
                f"encode {coder}, {name}": partial(parts, symbols, len(p), coder),
            }
        series |= time_interleaved(sides, repeats)
        used = np.bincount(symbols) / NUMBER
        entropy = -float((used[used > 0] * np.log2(used[used > 0])).sum()) * NUMBER / 8
        huffman, ans = len(coded["huffman"]), len(coded["ans"])
        ratios.append(BenchmarkValue(f"ANS, {name}: bytes", "Huffman coding", ans / huffman, bound, at_most=True))
        ratios.append(BenchmarkValue(f"ANS, {name}: bytes", "entropy", ans / entropy, 1.01, at_most=True))
    return series, ratios


if __name__ == "__main__":
    sys.exit(run_benchmark(body, repeats=7))
