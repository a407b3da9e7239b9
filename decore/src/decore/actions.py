"""Actions a ~ Bernoulli(p), drawn by (seed, epoch, example, channel): the same on every device and number of processes.

The counters are hashed as common.data.counter_rng does it, here in torch, so that nothing crosses to the device but the
examples' numbers.
"""

import torch
from torch import Tensor

from common.data.counter_rng import mixed_key

_STREAM = 0xDEC0  # crops and flips are other streams of the same (seed, epoch)
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 24  # of a float32's mantissa


def bernoulli(probabilities: Tensor, examples: Tensor, seed: int, epoch: int) -> Tensor:
    """Actions (N, C) float32 of 0 and 1 for examples (N,) int64 and keep probabilities (C,); on the probabilities' device."""
    uniform = uniforms(examples.to(probabilities.device), len(probabilities), seed, epoch)
    return (uniform < probabilities).to(torch.float32)


def uniforms(examples: Tensor, channels: int, seed: int, epoch: int) -> Tensor:
    """Numbers (N, C) float32 in [0, 1), multiples of 2^-24, for each example (N,) and channel."""
    of_example = _finalise((examples + 1) * _signed(_STEP) + _signed(mixed_key(seed, epoch, _STREAM)))
    counters = torch.arange(1, channels // 2 + channels % 2 + 1, device=examples.device) * _signed(_STEP)
    bits = _finalise(of_example[:, None] + counters)  # (N, C/2) int64: one hash serves two channels
    halves = torch.stack([bits & (2**_BITS - 1), (bits >> 32) & (2**_BITS - 1)], dim=2)
    return halves.view(len(examples), -1)[:, :channels].to(torch.float32).mul_(2.0**-_BITS)


def _finalise(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around as unsigned ones do."""
    bits = (bits ^ _shifted(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shifted(bits, 27)) * _signed(_SECOND)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shifted to the right with zeros from the left; torch's own shift of int64 copies the sign."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
