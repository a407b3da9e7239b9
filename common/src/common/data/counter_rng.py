"""Counter-based random numbers that depend only on (seed, epoch, example).

Each number is a hash of its coordinates (the finalizer of SplitMix64: Steele, Lea and Flood, OOPSLA 2014), so it does not
depend on the process, the order of the requests or the device.
"""

import numpy as np

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def hash_key(*coordinates: int) -> int:
    """Hash a few integers, such as (seed, epoch), to one 64-bit key."""
    key = 0
    for value in coordinates:
        key = int(_finalize(np.array([(key ^ (value & _MASK)) + _STEP & _MASK], dtype=np.uint64))[0])
    return key


def random_bits(key: int, indices: np.ndarray) -> np.ndarray:
    """Return 64 random bits (N,) uint64 for each example index (N,) and a key from :func:`hash_key`."""
    counters = np.asarray(indices).astype(np.uint64) + np.uint64(1)
    return _finalize(counters * np.uint64(_STEP) + np.uint64(key))


def random_uniforms(key: int, index: int, count: int) -> np.ndarray:
    """Return uniform random numbers (count,) float64 in [0, 1) for one example."""
    bits = random_bits(hash_key(key, index), np.arange(count))
    return (bits >> np.uint64(11)) * 2.0**-53


def _finalize(bits: np.ndarray) -> np.ndarray:
    """Mix every input bit into all 64 output bits (modulo 2^64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
