"""A stand-in for :func:`common.measure.measure_latency`, for tests of what surrounds it."""

from collections.abc import Iterable
from typing import Any

from common.measure import LatencyTimes
from common.timing import CONTROL, Timing


def fixed_latency(models: Iterable[str], *args: Any, **kwargs: Any) -> LatencyTimes:
    """Return 1 ms for a batch of 1 and 2 ms for a batch of 64 for every network, without running any."""
    names = list(models)
    reference = kwargs.get("reference") or names[0]
    return LatencyTimes(
        {
            batch: Timing({name: [seconds] * 6 for name in [*names, CONTROL]}, reference, others=0.0)
            for batch, seconds in (("1", 0.001), ("64", 0.002))
        }
    )
