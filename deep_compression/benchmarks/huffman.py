"""Huffman decoding of 10M symbols against dahuffman and constriction; payload against the optimum and xz."""

from __future__ import annotations

import heapq
import lzma

import constriction
import dahuffman
import numpy as np
import series

from deep_compression import huffman_decode, huffman_encode

NUMBER = 10_000_000
SLOW = 50  # the peers decode a fiftieth of it, and their time is multiplied


def optimal_bits(counts) -> int:
    heap = [int(c) for c in counts if c]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def body(args) -> list[dict]:
    """Ten million symbols of 256, about 7.4 bits each."""
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
    times = series.interleaved(
        {
            "ours": lambda: huffman_decode(stream),
            "dahuffman": lambda: codec.decode(packed),
            "constriction": by_constriction,
        },
        args.repeats,
    )
    times = {name: [s * (1 if name == "ours" else SLOW) for s in seconds] for name, seconds in times.items()}
    series.show("decode 10M symbols (peers: 200k, times fifty)", times)
    encode = series.interleaved({"encode": lambda: huffman_encode(symbols)}, 3)
    series.show("encode 10M symbols", encode)
    rows = [
        {"what": "Huffman decode, 10M symbols: speed", "against": name, "floor": floor,
         "ratio": series.ratio(times, "ours", name), "series": times}
        for name, floor in (("dahuffman", ">= 10"), ("constriction", ">= 4"))
    ]  # fmt: skip
    best = optimal_bits(counts)
    rows.append(
        {
            "what": "Huffman payload, bits",
            "against": "optimal length",
            "ratio": stream.payload_bits / best,
            "floor": "= 1",
        }
    )
    xz = len(lzma.compress(symbols[:1_000_000].tobytes(), preset=9))
    ours = len(huffman_encode(symbols[:1_000_000]).payload)
    rows.append({"what": "Huffman bytes, 1M symbols", "against": "xz -9", "ratio": ours / xz, "floor": "< 1"})
    return rows


if __name__ == "__main__":
    series.main("huffman", body)
