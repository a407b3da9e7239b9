"""Random numbers that depend on (seed, epoch, example) and on nothing else.

A counter-based generator: each number is a hash of its coordinates (the finaliser of SplitMix64, Steele, Lea and
Flood, OOPSLA 2014), so it does not matter which process asks for it, in which order, or on which device it is used.
"""

import numpy as np

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mixed_key(*coordinates: int) -> int:
    """One 64-bit key for a few integers, such as (seed, epoch)."""
    key = 0
    for value in coordinates:
        key = int(_finalise(np.array([(key ^ (value & _MASK)) + _STEP & _MASK], dtype=np.uint64))[0])
    return key


def example_bits(key: int, indices: np.ndarray) -> np.ndarray:
    """64 random bits (N,) uint64 for each example number (N,) under a key from :func:`mixed_key`."""
    counters = np.asarray(indices).astype(np.uint64) + np.uint64(1)
    return _finalise(counters * np.uint64(_STEP) + np.uint64(key))


def example_uniforms(key: int, index: int, count: int) -> np.ndarray:
    """`count` numbers (count,) float64 in [0, 1) for one example."""
    bits = example_bits(mixed_key(key, index), np.arange(count))
    return (bits >> np.uint64(11)) * 2.0**-53


def _finalise(bits: np.ndarray) -> np.ndarray:
    """Spread every input bit over the 64 output bits; wraps around as unsigned arithmetic does."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
