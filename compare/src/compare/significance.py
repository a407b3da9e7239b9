"""Paired tests over the seeds: two results of one seed share the dense network, so their difference is tested, not their means.

Two-sided paired t-test (Student 1908): t = mean(d) / (std(d) / sqrt(n)) with n - 1 degrees of freedom, d the differences per seed.

All seeds have the same test images, so the t-test does not see that other images would give other accuracies. Where their number
is recorded, a difference must also exceed what sampling them explains: a two-sided z-test with the errors of both accuracies, as if
they were independent, which is conservative. With one seed it is the only test.
"""

import statistics
from collections.abc import Sequence
from math import hypot, sqrt
from statistics import NormalDist
from typing import Literal

from compare.result_set import METRIC_READERS, ResultGroup, ResultRecord, binomial_error, latency_record

LEVEL = 0.05  # p-values below it are called a difference
SMALLEST_STD = 1e-9  # below it, all differences are equal: nothing is known about their variation

Verdict = Literal["higher", "lower", "not significant", "not tested"]


def p_value(differences: Sequence[float]) -> float | None:
    """Return the p-value of the hypothesis that the mean difference is 0.

    None if it cannot be tested: with one seed, or if all differences are equal but not 0.
    """
    from scipy.special import stdtr  # the distribution function of Student's t

    count = len(differences)
    if count < 2:
        return None
    mean, std = statistics.mean(differences), statistics.stdev(differences)
    if std < SMALLEST_STD:
        return 1.0 if abs(mean) < SMALLEST_STD else None
    return float(2 * stdtr(count - 1, -abs(mean) / (std / sqrt(count))))


def verdict(differences: Sequence[float]) -> Verdict:
    """Classify differences a - b, one per seed: whether a is higher or lower than b."""
    p = p_value(differences)
    if p is None:
        return "not tested"
    if p >= LEVEL:
        return "not significant"
    return "higher" if statistics.mean(differences) > 0 else "lower"


def compare_groups(a: ResultGroup, b: ResultGroup, metric: str) -> Verdict:
    """Whether an accuracy of ``a`` is higher or lower than that of ``b``, over the seeds that both have."""
    count = a.test_images if a.test_images == b.test_images else None
    return _compare(_by_seed(a.results, metric), _by_seed(b.results, metric), count)


def compare_metrics(group: ResultGroup, metric: str, other: str) -> Verdict:
    """Whether one accuracy of a group is higher or lower than another one, e.g. top-1 after and before fine-tuning."""
    return _compare(_by_seed(group.results, metric), _by_seed(group.results, other), group.test_images)


def compare_over_seeds(a: ResultGroup, b: ResultGroup, metric: str) -> Verdict:
    """The t-test of :func:`compare_groups` alone: whether ``a`` is higher or lower on these test images."""
    return _compare(_by_seed(a.results, metric), _by_seed(b.results, metric), None)


def _compare(values: dict[int, float], others: dict[int, float], test_images: int | None) -> Verdict:
    pairs = [(values[seed], others[seed]) for seed in values if seed in others]
    differences = [value - other for value, other in pairs]
    if not pairs or not test_images:
        return verdict(differences)
    means = [statistics.mean(part) for part in zip(*pairs, strict=True)]
    error = hypot(*(binomial_error(mean, test_images) for mean in means))
    if abs(means[0] - means[1]) <= NormalDist().inv_cdf(1 - LEVEL / 2) * error:
        return "not significant"
    if len(pairs) == 1:
        return "higher" if differences[0] > 0 else "lower"
    return verdict(differences)


def latency_verdict(group: ResultGroup, batch: str) -> Verdict:
    """Compare a latency with the dense network's: it is higher or lower if the interval of every seed's network is."""
    records = [record for result in group.results if (record := latency_record(result, batch)) is not None]
    if records and all(record["low"] > 1 for record in records):
        return "higher"
    return "lower" if records and all(record["high"] < 1 for record in records) else "not significant"


def _by_seed(results: Sequence[ResultRecord], metric: str) -> dict[int, float]:
    found = {result["seed"]: METRIC_READERS[metric](result) for result in results}
    return {seed: float(value) for seed, value in found.items() if value is not None}
