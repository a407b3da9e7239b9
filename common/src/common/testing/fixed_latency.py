"""Stand-ins for measured latencies, for tests of what surrounds them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import nn

from common.channels import ChannelGroup
from common.cost import WidthCost, count_cost
from common.latency_target import meet
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


def take_macs_for_latency(
    monkeypatch: Any,
    predicted: Callable[[float], float] = lambda macs: macs,
    measured: Callable[[float], float] = lambda macs: macs,
) -> None:
    """Replace predicted and measured times, for tests of commands with a latency target.

    predicted, measured: functions from the fraction of the MACs to that of the time; default: they are the same.
    """
    monkeypatch.setattr(meet, "known_step", lambda *args: 1)
    monkeypatch.setattr(meet, "predict_latency", partial(_predict, predicted))
    monkeypatch.setattr(meet, "time_against", partial(_measure, measured))


def _predict(
    time: Callable[[float], float],
    model: nn.Module,
    shape: Sequence[int],
    groups: Sequence[ChannelGroup],
    *args: Any,
) -> SimpleNamespace:
    cost = WidthCost(model, shape, groups)
    return SimpleNamespace(
        of=lambda kept: time(cost.of(kept) / cost.dense), dense=time(1.0), error=0.0, timed=1, fitted={}
    )


def _measure(
    time: Callable[[float], float], dense: nn.Module, network: nn.Module, shape: Sequence[int], *args: Any
) -> Timing:
    ratio = time(count_cost(network, shape).macs / count_cost(dense, shape).macs)
    return Timing({"dense": [1.0] * 9, "network": [ratio] * 9, CONTROL: [1.0] * 9}, "dense", others=0.0)
