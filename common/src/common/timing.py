"""Time several calls against each other: warm-up until steady, one call after the other in changing order, and a control.

The reference is timed twice in every round: the second series, the control, says how far two equal networks seem to differ on this
machine at this time. A ratio is the median of the ratios within the rounds, so that a machine that becomes slower during the measurement
changes both of its terms; its interval is the one that contains the median of such ratios with a probability of 95 %.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

SECONDS = 20.0  # longest duration of a measurement, for a whole table
FEWEST, MOST = 5, 200  # rounds; an interval of five is that from the smallest to the largest ratio
SHORTEST = 0.002  # seconds of one sample; shorter calls are repeated within it
STEADY = 0.03  # the warm-up ends when a round is not faster than the fastest one before by more than this
PRECISE = 0.01  # half width of an interval, relative, that ends a measurement
BUSY = 0.15  # cores that other processes use during a measurement of an idle machine, at most
LIMIT = 0.05  # difference from 1 of the control on an idle machine, at most
CONTROL = "control"


@dataclass(frozen=True)
class Ratio:
    """Time of a call over that of the reference, with the interval that contains the median with a probability of 95 %."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """The larger distance of the interval's ends from the value."""
        return max(self.high - self.value, self.value - self.low)

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Timing:
    """Seconds per call of several calls, by round: the same place in all series is the same round.

    Attributes:
        series: {name: seconds per call, by round}, with the reference's second series as ``control``.
        reference: Name of the call to which the others are compared.
        others: Cores that other processes used meanwhile, e.g. 0.5; None if the system does not say.
    """

    series: Mapping[str, Sequence[float]]
    reference: str
    others: float | None = None

    def seconds(self, name: str) -> float:
        """Return the median."""
        return statistics.median(self.series[name])

    def ratio(self, name: str, reference: str | None = None) -> Ratio:
        """Return the time of a call over that of the reference, or of another call."""
        pairs = zip(self.series[name], self.series[reference or self.reference], strict=True)
        return median_interval([one / reference for one, reference in pairs])

    @property
    def control(self) -> Ratio:
        """Time of the reference over its own."""
        return self.ratio(CONTROL)

    def record(self, name: str, reference: str | None = None) -> dict[str, Any]:
        """Return what metrics.json records of a call: its ratio to the reference, or to another call, and what the control and the
        system say.
        """
        ratio, control = self.ratio(name, reference), self.control
        found = {
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "control": control.value,
            "control_low": control.low,
            "control_high": control.high,
        }
        rounded: dict[str, Any] = {key: round(value, 4) for key, value in found.items()}
        rounded |= {"rounds": len(self.series[name])}
        if self.others is not None:
            rounded["others"] = round(self.others, 2)
        return rounded | ({"disturbed": self.disturbed} if self.disturbed else {})

    @property
    def disturbed(self) -> str:
        """Why the measurement is not one of an idle machine; empty if it is."""
        if self.others is not None and self.others > BUSY:
            return f"busy machine: other processes used {self.others:.1f} cores"
        control = self.control
        if abs(control.value - 1) > LIMIT:
            return f"unsteady machine: the same network took {100 * control.value:.0f} % of its own time"
        return ""


def relative_text(record: Mapping[str, Any] | None) -> str:
    """Format a record of :meth:`Timing.record`: "81 ± 1", "104 ± 2 (slower)", "as dense ± 3", "busy machine".

    The spread is that of the interval that contains the median with a probability of 95 %. If it contains 100 %, it is given instead of
    the value; and so is what disturbed the measurement, if anything did.
    """
    if not record:
        return ""
    if record.get("disturbed"):
        return str(record["disturbed"]).split(":")[0]
    value, low, high = (100 * record[key] for key in ("ratio", "low", "high"))
    spread = f"{max(high - value, value - low):.0f}"
    if low <= 100 <= high:
        return f"as dense ± {spread}"
    return f"{value:.0f} ± {spread}" + (" (slower)" if low > 100 else "")


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Return the median and an interval for it, from the order of the values alone (the sign test's).

    With fewer than six values, no interval has that confidence, and the smallest and the largest value are returned.
    """
    ordered, count = sorted(values), len(values)
    below, lost = 0.0, 0  # probability of at most `lost` values below the median
    while lost < count // 2:
        below += comb(count, lost) / 2**count
        if 2 * below > 1 - confidence:
            break
        lost += 1
    lost = max(0, lost - 1) if count >= 6 else 0
    return Ratio(statistics.median(ordered), ordered[lost], ordered[count - 1 - lost])


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    reference: str,
    *,
    seconds: float = SECONDS,
    fewest: int = FEWEST,
    most: int = MOST,
    synchronize: Callable[[], object] = lambda: None,
) -> Timing:
    """Time calls against each other, until their ratios are precise, at most about ``seconds`` (or ``fewest`` rounds).

    Args:
        calls: What is timed, by name; ``control`` is not allowed.
        reference: The call to which the others are compared.
        synchronize: Waits for a device that works on its own; called before the clock is read.
    """
    if CONTROL in calls or reference not in calls:
        raise ValueError(f"calls: {reference!r} must be one of them, and {CONTROL!r} none")
    timed = {**calls, CONTROL: calls[reference]}
    numbers = _warm_up(timed, seconds / 4, synchronize)
    series: dict[str, list[float]] = {name: [] for name in timed}
    names, shuffled = list(timed), random.Random(0)  # the order of the rounds; no statistics depend on it
    began, clock = _processor_seconds(), time.perf_counter()
    while len(series[reference]) < most:
        shuffled.shuffle(names)
        for name in names:
            series[name].append(_sample(timed[name], numbers[name], synchronize))
        rounds, passed = len(series[reference]), time.perf_counter() - clock
        found = Timing(series, reference)
        if rounds >= fewest and (passed > seconds or all(found.ratio(name).spread <= PRECISE for name in names)):
            break
    others = _others(began, _processor_seconds(), time.perf_counter() - clock)
    return Timing(series, reference, others)


def _sample(call: Callable[[], object], number: int, synchronize: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    for _ in range(number):
        call()
    synchronize()
    return (time.perf_counter() - began) / number


def _warm_up(
    calls: Mapping[str, Callable[[], object]], seconds: float, synchronize: Callable[[], object]
) -> dict[str, int]:
    """Call all until a round is not faster than the ones before; return how often each is called within a sample."""
    began, fastest = time.perf_counter(), float("inf")
    while True:
        once = {name: _sample(call, 1, synchronize) for name, call in calls.items()}
        total = sum(once.values())
        if total > (1 - STEADY) * fastest or time.perf_counter() - began > seconds:
            return {name: max(1, round(SHORTEST / max(one, 1e-9))) for name, one in once.items()}
        fastest = total


def _processor_seconds() -> tuple[float, float] | None:
    """Return the processor time of all processes and that of this one; None if the system does not say."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, _ = ticks
    own = os.times()
    total = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return total, own.user + own.system


def _others(before: tuple[float, float] | None, after: tuple[float, float] | None, seconds: float) -> float | None:
    if before is None or after is None or seconds < 0.1:  # the system counts in hundredths of a second
        return None
    return max(0.0, (after[0] - before[0]) - (after[1] - before[1])) / seconds
