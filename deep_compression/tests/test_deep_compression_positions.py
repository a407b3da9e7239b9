"""Relative positions with fillers: property 7 of the paper."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deep_compression import positions as ps


@settings(deadline=None, max_examples=300)
@given(st.sets(st.integers(0, 3000), max_size=80), st.integers(1, 12))
def test_any_positions_round_trip(places, bits):
    places = np.array(sorted(places), np.int64)
    gaps, entry = ps.encode_positions(places, bits)
    decoded = ps.decode_positions(gaps)
    assert decoded[entry].tolist() == places.tolist()
    assert len(gaps) - len(places) == ps.count_fillers(places, bits)
    assert gaps.max(initial=0) < 1 << bits
    fillers = np.setdiff1d(np.arange(len(gaps)), entry)
    assert (gaps[fillers] == (1 << bits) - 1).all()


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_gaps_at_bound_need_expected_fillers(bits):
    largest = 1 << bits
    for gap, fillers in ((largest, 0), (largest + 1, 1), (2 * largest, 1), (2 * largest + 1, 2), (5 * largest, 4)):
        places = np.array([0, gap, 2 * gap])
        gaps, entry = ps.encode_positions(places, bits)
        assert len(gaps) - 3 == 2 * fillers and ps.decode_positions(gaps)[entry].tolist() == places.tolist()


def test_encoding_reproduces_figure_2():
    gaps, entry = ps.encode_positions(np.array([1, 4, 15]), 3)
    assert gaps.tolist() == [1, 2, 7, 2] and entry.tolist() == [0, 1, 3]  # a filler bridges 8 of the gap of 11


@settings(deadline=None, max_examples=200)
@given(st.sets(st.integers(0, 999), max_size=20), st.integers(1, 9))
def test_trailing_zeros_are_bridged_and_entries_bound_size(places, bits):
    places = np.array(sorted(places), np.int64)
    gaps, entry = ps.encode_positions(places, bits, size=1000)
    decoded = ps.decode_positions(gaps)
    last = int(decoded[-1]) if len(decoded) else -1
    assert decoded[entry].tolist() == places.tolist() and last < 1000 < last + 1 + (1 << bits)
    assert len(gaps) <= 1000 < (len(gaps) + 1) << bits


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 4000), max_size=60), st.integers(1, 12))
def test_histograms_predict_stream(places, bits):
    places = np.array(sorted(places), np.int64)
    stored, fillers = ps.stored_histogram(*ps.gap_histogram(places, 4001), bits)
    gaps, entry = ps.encode_positions(places, bits, 4001)
    assert stored.tolist() == np.bincount(gaps, minlength=1 << bits).tolist() and fillers == len(gaps) - len(entry)


def test_invalid_positions_raise():
    for places, bits in (([3, 2], 4), ([1, 1], 4), ([-1], 4), ([1], 0), ([1], 17)):
        with pytest.raises(ValueError):
            ps.encode_positions(np.array(places), bits)
