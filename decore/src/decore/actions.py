"""Counter-based sampling of actions a ~ Bernoulli(p), bit-identical on every device and for any number of processes.

The random number of an action depends only on (seed, epoch, example, channel). The hash is that of common.data.counter_rng,
written in torch, so that only the indices of the examples are copied to the device.
"""

import torch
from torch import Tensor

from common.data.counter_rng import hash_key

_STREAM = 0xDEC0  # crops and flips use other streams of the same (seed, epoch)
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 24  # mantissa of a float32


def bernoulli(probabilities: Tensor, examples: Tensor, seed: int, epoch: int) -> Tensor:
    """Sample actions (N, C), float32 zeros and ones, for examples (N,) int64 and keep probabilities (C,), on the latter's device."""
    uniform = uniforms(examples.to(probabilities.device), len(probabilities), seed, epoch)
    return (uniform < probabilities).to(torch.float32)


def uniforms(examples: Tensor, channels: int, seed: int, epoch: int) -> Tensor:
    """Return uniform random numbers (N, C), float32 multiples of 2^-24 in [0, 1), for each example (N,) and channel."""
    of_example = _finalize((examples + 1) * _signed(_STEP) + _signed(hash_key(seed, epoch, _STREAM)))
    counters = torch.arange(1, channels // 2 + channels % 2 + 1, device=examples.device) * _signed(_STEP)
    bits = _finalize(of_example[:, None] + counters)  # (N, C/2) int64: one hash serves two channels
    halves = torch.stack([bits & (2**_BITS - 1), (bits >> 32) & (2**_BITS - 1)], dim=2)
    return halves.view(len(examples), -1)[:, :channels].to(torch.float32).mul_(2.0**-_BITS)


def _finalize(bits: Tensor) -> Tensor:
    """Apply the finalizer of SplitMix64 to int64, whose products wrap around like those of uint64."""
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_SECOND)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; torch's shift of int64 copies the sign bit."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
