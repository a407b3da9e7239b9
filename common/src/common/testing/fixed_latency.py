"""Stand-ins for measured latencies, for tests of what surrounds them."""

from collections.abc import Iterable, Sequence
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


def take_macs_for_latency(monkeypatch: Any) -> None:
    """Make the time of a network that of its MACs, predicted and measured, for tests of commands with a latency target."""
    monkeypatch.setattr(meet, "favored_step", lambda *args: 1)
    monkeypatch.setattr(meet, "predict_latency", _predict)
    monkeypatch.setattr(meet, "time_against", _measure)


def _predict(model: nn.Module, shape: Sequence[int], groups: Sequence[ChannelGroup], *args: Any) -> SimpleNamespace:
    cost = WidthCost(model, shape, groups)
    return SimpleNamespace(of=cost.of, dense=cost.dense, error=0.0, timed=1, fitted={})


def _measure(dense: nn.Module, network: nn.Module, shape: Sequence[int], *args: Any) -> Timing:
    ratio = count_cost(network, shape).macs / count_cost(dense, shape).macs
    return Timing({"dense": [1.0] * 9, "network": [ratio] * 9, CONTROL: [1.0] * 9}, "dense", others=0.0)
