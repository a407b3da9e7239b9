"""Summarize a comparison in sentences; every sentence follows from the results by a fixed rule."""

from collections.abc import Sequence
from math import sqrt

from compare.result_set import ResultGroup, ResultRecord, ResultSet, chain_groups, single_method_groups


def findings(result_set: ResultSet) -> list[str]:
    """Return the sentences, the most important first."""
    groups = single_method_groups(result_set)
    macs = [g for g in groups if g.first["axis"] == "macs"]
    lines = [line for target in _targets(macs) for line in _most_accurate(_at(macs, target), target)]
    lines += _before_finetuning(macs) + _worse_after_finetuning(macs) + _best_reference(macs) + _latency(macs)
    return lines + _bytes(groups) + _chains(result_set, groups)


def _targets(groups: Sequence[ResultGroup]) -> list[float]:
    return sorted({g.first["target"] for g in groups}, reverse=True)


def _at(groups: Sequence[ResultGroup], target: float) -> list[ResultGroup]:
    return [g for g in groups if g.first["target"] == target and not g.missed]


def any_finetuned(groups: Sequence[ResultGroup]) -> bool:
    return any(g.finetuned for g in groups)


def difference_se(a: ResultGroup, b: ResultGroup, metric: str) -> float | None:
    """Return the standard error of the difference of two means over the seeds; None if either has a single seed."""
    stds = [g.std(metric) for g in (a, b)]
    if None in stds:
        return None
    return sqrt(sum(std**2 / len(g.results) for std, g in zip(stds, (a, b), strict=True) if std is not None))


def differs_by_less_than_two_se(a: ResultGroup, b: ResultGroup, metric: str) -> bool:
    """Whether two means are within two standard errors of one another; False if the error is unknown."""
    error = difference_se(a, b, metric)
    return error is not None and abs(a.mean(metric) - b.mean(metric)) <= 2 * error


def within_two_se(best: ResultGroup, groups: Sequence[ResultGroup], metric: str) -> list[ResultGroup]:
    """Return the other groups whose means are within two standard errors of the best one's."""
    return [g for g in groups if g is not best and differs_by_less_than_two_se(best, g, metric)]


def _most_accurate(groups: Sequence[ResultGroup], target: float) -> list[str]:
    if len(groups) < 2:
        return []
    best = max(groups, key=lambda g: g.mean("top1"))
    when = "after fine-tuning" if any_finetuned(groups) else "without fine-tuning"
    line = f"At {100 * target:g} % of the MACs, {when}, {best.label} is the most accurate: {_value(best, 'top1')} (dense {best.mean('dense_top1'):.2f} %)"
    others = within_two_se(best, groups, "top1")
    if len(best.results) == 1:
        line += "; with one seed, small differences cannot be distinguished from chance"
    elif others:
        line += f"; {_subject(others)} within two standard errors of it"
    return [line + "."]


def _before_finetuning(groups: Sequence[ResultGroup]) -> list[str]:
    """Name the methods with the highest accuracy before fine-tuning, which hides differences between the methods."""
    if not groups or not any_finetuned(groups):
        return []
    target = middle_target(_targets(groups))
    here = _at(groups, target)
    if len(here) < 2:
        return []
    best, second = sorted(here, key=lambda g: -g.mean("pruned_top1"))[:2]
    return [
        f"Before fine-tuning, at {100 * target:g} % of the MACs, {best.label} agrees with the dense network on {_value(best, 'pruned_agreement')} of the "
        f"test images (top-1 {_value(best, 'pruned_top1')}); the next best is {second.label} with top-1 {_value(second, 'pruned_top1')}."
    ]


def _worse_after_finetuning(groups: Sequence[ResultGroup]) -> list[str]:
    """Name the methods whose accuracy the common fine-tuning options reduce."""
    worse = [g for g in groups if g.first["finetune_epochs"] and g.mean("top1") < g.mean("pruned_top1")]
    parts = [
        f"{g.label} at {100 * g.first['target']:g} % of the MACs ({_value(g, 'pruned_top1')} to {_value(g, 'top1')})"
        for g in worse
    ]
    return [f"Fine-tuning reduces top-1 for {_list(parts)}."] if parts else []


def _best_reference(groups: Sequence[ResultGroup]) -> list[str]:
    """Name the methods that are more accurate than the best reference method, and by how many standard errors."""
    lines = []
    for target in _targets(groups):
        here = _at(groups, target)
        references = [g for g in here if g.first["paper"] is None]
        papers = [g for g in here if g.first["paper"] is not None]
        if not references or not papers:
            continue
        best = max(references, key=lambda g: g.mean("top1"))
        ahead = [g for g in papers if g.mean("top1") > best.mean("top1")]
        close = [g for g in ahead if differs_by_less_than_two_se(best, g, "top1")]
        parts = [
            f"{_subject(those)} {end}"
            for end, those in (
                ("more accurate", [g for g in ahead if g not in close]),
                ("more accurate by less than two standard errors", close),
                ("not more accurate", [g for g in papers if g not in ahead]),
            )
            if those
        ]
        lines.append(
            f"The best reference method at {100 * target:g} % of the MACs is {best.label} ({_value(best, 'top1')}): "
            f"{'; '.join(parts)}."
        )
    return lines


def _latency(groups: Sequence[ResultGroup]) -> list[str]:
    if not groups:
        return []
    target = middle_target(_targets(groups))
    here = [g for g in _at(groups, target) if g.has("latency64_kept")]
    if len(here) < 2:
        return []
    percent = {g.label: 100 * g.mean("latency64_kept") for g in here}
    low, high = min(percent, key=percent.__getitem__), max(percent, key=percent.__getitem__)
    return [
        f"Latency is not proportional to MACs: at {100 * target:g} % of the MACs, a batch of 64 on {count_threads(here[0].first)} takes "
        f"{percent[low]:.0f} % ({low}) to {percent[high]:.0f} % ({high}) of the dense network's time."
    ]


def count_threads(result: ResultRecord) -> str:
    """Return the number of threads with which latency was measured: "1 thread"."""
    return pluralize(result["config"]["environment"]["threads"], "thread")


def pluralize(count: int, noun: str) -> str:
    """Return a number and its noun: "1 epoch", "2 epochs"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _bytes(groups: Sequence[ResultGroup]) -> list[str]:
    """State the file size and accuracy of the methods that target bytes, one sentence per method."""
    found: dict[str, list[str]] = {}
    for g in groups:
        if g.first["axis"] == "bytes":
            found.setdefault(g.label, []).append(f"{1 / g.mean('bytes_kept'):.0f} (top-1 {_value(g, 'top1')})")
    return [
        f"{label[0].upper()}{label[1:]} reduces the file size by a factor of {_list(parts)}."
        for label, parts in found.items()
    ]


def _chains(result_set: ResultSet, groups: Sequence[ResultGroup]) -> list[str]:
    """State the MACs, bytes and accuracy of each chain, and whether a single method achieves all three."""
    last = [g for g in chain_groups(result_set) if g.first["step"] == len(g.first["chain"])]
    lines = []
    for chain in last:
        rivals = [g for g in groups if g.mean("top1") >= chain.mean("top1")]
        smaller = [g for g in rivals if g.mean("bytes") <= chain.mean("bytes") and g.mean("macs") <= chain.mean("macs")]
        values = f"{100 * chain.mean('macs_kept'):.0f} % of the MACs and {100 * chain.mean('bytes_kept'):.1f} % of the bytes at {_value(chain, 'top1')} top-1"
        end = (
            "no single method here has as few MACs and bytes at that accuracy"
            if not smaller
            else f"{smaller[0].label} alone is at least as small and as accurate"
        )
        lines.append(f"The chain {chain.name} keeps {values}; {end}.")
    return lines


def middle_target(targets: Sequence[float]) -> float:
    """Return the target that is shown where there is room for only one."""
    return sorted(targets)[len(targets) // 2]


def _value(group: ResultGroup, metric: str) -> str:
    std = group.std(metric)
    spaced = f"{group.mean(metric):.2f}" + (f" ± {std:.2f}" if std is not None else "") + " %"
    return spaced.replace(" ", "\N{NO-BREAK SPACE}")


def _subject(groups: Sequence[ResultGroup]) -> str:
    return f"{_list([g.label for g in groups])} {'is' if len(groups) == 1 else 'are'}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
