"""Huffman codes, bit packing and ANS: property 2 of the paper."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deep_compression import ans, coded_stream, huffman_decode, huffman_encode
from deep_compression import huffman as hf
from deep_compression.bits import pack_codes, pack_fixed, unpack_fixed
from deep_compression.cursor import Cursor


def fibonacci(n):
    numbers = [1, 1]
    while len(numbers) < n:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers


def round_trip(symbols):
    stream = huffman_encode(symbols)
    assert np.array_equal(huffman_decode(stream), np.asarray(symbols).ravel())
    return stream


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(-300, 300), max_size=400))
def test_any_integers_round_trip(symbols):
    stream = round_trip(np.array(symbols, np.int64))
    counts = np.unique(symbols, return_counts=True)[1]
    assert stream.payload_bits == hf.optimal_bits(counts) if symbols else stream.payload_bits == 0
    assert len(stream.payload) == (stream.payload_bits + 7) // 8


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=120))
def test_lengths_are_optimal_and_form_prefix_code(frequencies):
    lengths = hf.code_lengths(frequencies).astype(int)
    assert (lengths > 0).tolist() == [f > 0 for f in frequencies]
    assert int(lengths @ np.array(frequencies)) == hf.optimal_bits(frequencies)
    used = lengths[lengths > 0]
    if len(used) > 1:
        assert sum(2.0**-length for length in used) == 1.0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=40), st.integers(6, 12))
def test_limited_lengths_satisfy_limit_and_kraft_equality(frequencies, limit):
    lengths = hf.code_lengths(frequencies, limit).astype(int)
    free = hf.code_lengths(frequencies).astype(int)
    assert lengths.max() <= limit and sum(2.0**-length for length in lengths) == 1.0
    cost = int(lengths @ np.array(frequencies))
    assert cost >= hf.optimal_bits(frequencies)
    if free.max() <= limit:
        assert cost == hf.optimal_bits(frequencies)


def test_limited_lengths_are_optimal():
    frequencies = [1, 1, 2, 3, 5, 8]
    best = min(
        sum(f * n for f, n in zip(frequencies, lengths, strict=True))
        for lengths in itertools.product(range(1, 5), repeat=6)
        if sum(2.0**-n for n in lengths) <= 1
    )
    assert int(hf.code_lengths(frequencies, 4).astype(int) @ np.array(frequencies)) == best


def test_mean_length_is_within_one_bit_of_entropy():
    for seed in range(10):
        symbols = np.random.default_rng(seed).geometric(0.05 + 0.09 * seed, 5000)
        stream = round_trip(symbols)
        p = np.unique(symbols, return_counts=True)[1] / len(symbols)
        entropy = -(p * np.log2(p)).sum()
        assert entropy <= stream.payload_bits / len(symbols) < entropy + 1


def test_codes_are_canonical_and_prefix_free():
    lengths = hf.code_lengths([5, 9, 12, 13, 16, 45, 0, 3])
    codes = hf.canonical_codes(lengths)
    words = {i: format(int(c), f"0{n}b") for i, (c, n) in enumerate(zip(codes, lengths, strict=True)) if n}
    assert not any(a != b and words[b].startswith(words[a]) for a in words for b in words)
    in_order = sorted(words, key=lambda i: (len(words[i]), i))
    values = [int(words[i].ljust(8, "0"), 2) for i in in_order]
    assert values == sorted(values)


def test_fibonacci_frequencies_fit_decoder_table():
    frequencies = fibonacci(28)
    assert hf.code_lengths(frequencies).max() == 27
    symbols = np.random.default_rng(0).permutation(np.repeat(np.arange(28), frequencies))
    stream = round_trip(symbols)
    assert stream.lengths.max() <= hf.MAX_TABLE_BITS
    assert stream.payload_bits <= hf.optimal_bits(frequencies) * 1.001
    deep = hf.choose_lengths(fibonacci(80))
    assert deep.max() <= hf.MAX_TABLE_BITS and sum(2.0 ** -int(n) for n in deep) == 1.0


def test_single_distinct_symbol_takes_one_bit():
    for number in (1, 7, 8, 9, 1000):
        stream = round_trip(np.full(number, 42))
        assert stream.payload_bits == number and stream.lengths.tolist() == [1]


def test_empty_and_single_element_round_trip():
    assert huffman_decode(huffman_encode([])).tolist() == []
    assert huffman_decode(huffman_encode(np.array([], np.uint8))).dtype == np.uint8
    assert huffman_decode(huffman_encode([-7])).tolist() == [-7]


@pytest.mark.parametrize("number", [hf.UNCHUNKED - 1, hf.UNCHUNKED, hf.UNCHUNKED + 1, hf.UNCHUNKED + hf.CHUNK, 100_001])
def test_long_streams_are_decoded_in_chunks(number):
    rng = np.random.default_rng(number)
    for symbols in (rng.integers(0, 256, number, dtype=np.uint8), rng.geometric(0.5, number), np.zeros(number, int)):
        stream = round_trip(symbols)
        assert len(stream.starts) == (-(-number // hf.CHUNK) - 1 if number > hf.UNCHUNKED else 0)


def test_more_chunks_than_lanes_round_trip(monkeypatch):
    monkeypatch.setattr(hf, "LANES", 3)
    round_trip(np.random.default_rng(0).integers(0, 50, hf.UNCHUNKED + 5 * hf.CHUNK + 17))


def test_packing_in_blocks_equals_packing_in_one_block(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, 300)
    codes = np.array([int(rng.integers(0, 1 << int(n))) for n in lengths], np.uint64)
    ranks = rng.integers(0, 300, 1001)
    expected = "".join(format(int(codes[r]), f"0{lengths[r]}b") for r in ranks)
    for block in (64, 1 << 20):
        monkeypatch.setattr("deep_compression.bits.BLOCK", block)
        data, bits = pack_codes(ranks, codes, lengths)
        assert bits == len(expected)
        assert "".join(format(b, "08b") for b in data).startswith(expected)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 24), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_fixed_width_codes_round_trip(width, number, seed):
    values = np.random.default_rng(seed).integers(0, 1 << width, number)
    data = pack_fixed(values, width)
    assert len(data) == (number * width + 7) // 8
    assert unpack_fixed(data, width, number).tolist() == values.tolist()


def test_integer_dtypes_are_preserved():
    for dtype in (np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, bool):
        symbols = np.random.default_rng(0).integers(0, 2, 100).astype(dtype)
        decoded = huffman_decode(huffman_encode(symbols))
        assert np.array_equal(decoded, symbols)
    wide = np.array([0, 2**62, -(2**62), 5])
    assert huffman_decode(huffman_encode(wide)).tolist() == wide.tolist()
    full = np.arange(-128, 128).astype(np.int8)
    assert huffman_decode(huffman_encode(full)).tolist() == full.tolist()


def test_invalid_symbols_raise():
    with pytest.raises(ValueError, match="integers"):
        huffman_encode([0.5, 1.0])
    with pytest.raises(ValueError, match="different symbols"):
        huffman_encode(np.arange(hf.MAX_ALPHABET + 1))


def test_damaged_stream_raises_or_decodes_to_same_length():
    rng = np.random.default_rng(0)
    stream = huffman_encode(rng.geometric(0.3, 300))
    for _ in range(300):
        payload = bytearray(stream.payload)
        payload[rng.integers(len(payload))] ^= 1 << int(rng.integers(8))
        damaged = hf.HuffmanStream(
            stream.symbols, stream.lengths, stream.count, bytes(payload), stream.payload_bits, ()
        )
        with contextlib.suppress(ValueError):
            assert len(huffman_decode(damaged)) == stream.count
    for field, value in (("count", 10**12), ("payload_bits", 10**12), ("lengths", stream.lengths[:-1]), ("count", 299)):
        fields = {n: getattr(stream, n) for n in ("symbols", "lengths", "count", "payload", "payload_bits", "starts")}
        with pytest.raises(ValueError):
            huffman_decode(hf.HuffmanStream(**{**fields, field: value}))


@pytest.mark.parametrize("coder", ["fixed", "huffman", "ans", "auto"])
def test_streams_round_trip_with_all_bytes_counted(coder):
    if coder == "ans":
        pytest.importorskip("constriction")
    rng = np.random.default_rng(0)
    for values, alphabet in (
        (np.minimum(rng.geometric(0.4, 5000) - 1, 30), 31),
        (np.zeros(70, int), 1),
        (np.zeros(0, int), 4),
        (np.arange(4), 4),
        (rng.integers(0, 9, hf.UNCHUNKED + 3000), 9),
    ):
        parts, bits = coded_stream.encode_stream(values, alphabet, coder, "payload")
        data = b"".join(part for _, part in parts)
        cursor = Cursor(data)
        decoded, count, found = coded_stream.decode_stream(cursor, alphabet, len(values), "payload")
        cursor.finish()
        assert decoded.tolist() == values.tolist() and count == len(values) and found == bits
        assert sum(cursor.used.values()) == len(data)
        skipping = Cursor(data)
        assert coded_stream.decode_stream(skipping, alphabet, len(values), "payload", skip=True)[1:] == (count, bits)
        assert skipping.used == cursor.used


def test_ans_takes_less_than_one_bit_per_symbol():
    pytest.importorskip("constriction")
    values = (np.random.default_rng(0).random(20_000) < 0.03).astype(np.uint8)
    sizes = {}
    for coder in ("huffman", "ans"):
        _, sizes[coder] = coded_stream.encode_stream(values, 2, coder, "payload")
    assert sizes["huffman"] == 20_000 and sizes["ans"] < 0.21 * 20_000


def test_constriction_is_required_only_for_ans(monkeypatch):
    pytest.importorskip("constriction")
    parts, _ = coded_stream.encode_stream(np.array([0, 1, 1, 1]), 2, "ans", "payload")
    monkeypatch.setattr(ans, "available", lambda: False)
    assert coded_stream.encode_stream(np.zeros(9, int), 2, "auto", "payload")
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(ValueError, match="constriction"):
        coded_stream.decode_stream(Cursor(b"".join(p for _, p in parts)), 2, 4, "payload")


def test_unknown_coder_raises():
    with pytest.raises(ValueError, match="known"):
        coded_stream.encode_stream(np.zeros(3, int), 2, "zip", "payload")


def test_damaged_ans_payload_raises():
    """Any payload decodes to some values, so only the checksum of the values detects damage."""
    pytest.importorskip("constriction")
    values = np.random.default_rng(0).choice(3, 5000, p=(0.9, 0.08, 0.02)).astype(np.uint16)
    parts, _ = coded_stream.encode_stream(values, 3, "ans", "payload")
    before = b"".join(data for name, data in parts[: [name for name, _ in parts].index("payload")])
    data = b"".join(data for _, data in parts)
    rejected = 0
    for at in range(len(before), len(data), 37):
        bad = bytearray(data)
        bad[at] ^= 16
        with pytest.raises(ValueError):
            coded_stream.decode_stream(Cursor(bytes(bad)), 3, 5000, "payload")
        rejected += 1
    assert rejected > 5
