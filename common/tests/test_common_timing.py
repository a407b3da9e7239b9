"""Timing of calls: intervals, warm-up, control, and what disturbs a measurement."""

import random
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from common import timing
from common.timing import CONTROL, Timing, median_interval, time_calls


class Clock:
    """A clock that only the calls advance, each by its own seconds."""

    def __init__(self, monkeypatch, others: float = 0.0) -> None:
        self.now, self.order = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing, "_processor_seconds", lambda: ((1 + others) * self.now, self.now))

    def call(self, name, seconds):
        def run():
            self.order.append(name)
            self.now += seconds(len(self.order)) if callable(seconds) else seconds

        return run


def test_interval_contains_the_median_in_95_percent_of_the_cases():
    generator, inside = random.Random(1), 0
    for _ in range(2000):
        found = median_interval([generator.expovariate(1.0) for _ in range(15)])
        inside += found.low <= 0.6931 <= found.high
    assert 0.945 <= inside / 2000 <= 0.985  # of 15 values, the 4th and the 12th: 96.5 %
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0]) == timing.Ratio(3.0, 1.0, 5.0)


def test_ratio_is_that_within_rounds_and_control_is_the_reference_again(monkeypatch):
    """The machine becomes four times slower in the middle; ratios do not see it."""
    clock = Clock(monkeypatch)
    slow = lambda base: lambda count: base * (4 if count > 60 else 1)  # noqa: E731
    found = time_calls(
        {"dense": clock.call("dense", slow(0.1)), "small": clock.call("small", slow(0.05))}, "dense", seconds=20
    )
    assert found.ratio("small").value == pytest.approx(0.5) and found.control.value == pytest.approx(1.0)
    assert found.seconds("dense") == pytest.approx(0.1)
    assert set(found.series) == {"dense", "small", CONTROL} and found.disturbed == ""
    assert len({len(series) for series in found.series.values()}) == 1


def test_order_changes_from_round_to_round(monkeypatch):
    clock = Clock(monkeypatch)
    noise = random.Random(2)
    calls = {name: clock.call(name, lambda count: noise.uniform(0.1, 0.3)) for name in "abc"}
    time_calls(calls, "a", seconds=30)
    rounds = [tuple(clock.order[i : i + 4]) for i in range(8, len(clock.order), 4)]
    assert len(set(rounds)) > 3 and any(one != two for one, two in pairwise(rounds))


def test_warm_up_lasts_until_rounds_are_not_faster(monkeypatch):
    """The first calls compile: 1.0, 0.5, 0.25 seconds, then 0.1; none of these is in the series."""
    clock = Clock(monkeypatch)
    times = iter([1.0, 1.0, 0.5, 0.5, 0.25, 0.25])
    found = time_calls({"a": clock.call("a", lambda count: next(times, 0.1))}, "a", seconds=20)
    assert max(found.series["a"]) == pytest.approx(0.1)


def test_short_calls_are_repeated_within_a_sample(monkeypatch):
    clock = Clock(monkeypatch)
    found = time_calls({"a": clock.call("a", 1e-5)}, "a", seconds=5)
    assert found.seconds("a") == pytest.approx(1e-5)
    assert len(clock.order) / (2 * len(found.series["a"])) > 150  # about 200 calls of 10 microseconds


def test_measurement_ends_when_it_is_precise_or_time_is_over(monkeypatch):
    clock = Clock(monkeypatch)
    found = time_calls({"a": clock.call("a", 0.01)}, "a", seconds=20)
    assert len(found.series["a"]) == timing.FEWEST
    noise = random.Random(3)
    clock = Clock(monkeypatch)
    found = time_calls({"a": clock.call("a", lambda count: noise.uniform(0.1, 1.0))}, "a", seconds=20)
    assert clock.now < 27 and len(found.series["a"]) > timing.FEWEST
    clock = Clock(monkeypatch)
    found = time_calls({"a": clock.call("a", 30.0)}, "a", seconds=20)
    assert len(found.series["a"]) == timing.FEWEST


def test_busy_and_unsteady_machines_are_named(monkeypatch):
    clock = Clock(monkeypatch, others=0.5)
    found = time_calls({"a": clock.call("a", 0.1)}, "a", seconds=20)
    assert found.disturbed == "busy machine: other processes used 0.5 cores"
    assert found.record("a")["disturbed"] == found.disturbed and found.record("a")["others"] == 0.5
    quiet = Timing({"a": [1.0] * 9, CONTROL: [1.2] * 9}, "a", others=0.0)
    assert quiet.disturbed == "unsteady machine: the same network took 120 % of its own time"
    assert "disturbed" not in Timing({"a": [1.0] * 9, CONTROL: [1.02] * 9}, "a", others=0.1).record("a")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not say what other processes use")
def test_another_process_is_noticed():
    """A process that computes without a pause uses about a core, if there is one."""
    program = "import time\nprint(flush=True)\nend = time.time() + 30\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        found = time_calls({"a": lambda: time.sleep(0.01)}, "a", seconds=1, fewest=40)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert found.others > 0.3


def test_names_are_checked():
    with pytest.raises(ValueError, match="control"):
        time_calls({"control": lambda: None, "a": lambda: None}, "a")
    with pytest.raises(ValueError, match="'b'"):
        time_calls({"a": lambda: None}, "b")
