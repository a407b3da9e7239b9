"""What the figures say, in sentences; every one follows from the rows by a rule, none is written by hand."""

from collections.abc import Sequence
from math import sqrt

from compare.rows import Group, Row, Rows, chained, single


def findings(rows: Rows) -> list[str]:
    """Sentences, the most important first."""
    groups = single(rows)
    macs = [g for g in groups if g.first["axis"] == "macs"]
    said = [line for target in _targets(macs) for line in _best_line(_at(macs, target), target)]
    said += _as_cut(macs) + _worse(macs) + _yardstick(macs) + _latency(macs)
    return said + _bytes(groups) + _chains(rows, groups)


def _targets(groups: Sequence[Group]) -> list[float]:
    return sorted({g.first["target"] for g in groups}, reverse=True)


def _at(groups: Sequence[Group], target: float) -> list[Group]:
    return [g for g in groups if g.first["target"] == target and not g.missed]


def trained(groups: Sequence[Group]) -> bool:
    return any(row["finetune_epochs"] for g in groups for row in g.rows)


def noise(a: Group, b: Group, measure: str) -> float | None:
    """The standard error of the difference of two means over the seeds; None if one of them has a single seed."""
    deviations = [g.deviation(measure) for g in (a, b)]
    if None in deviations:
        return None
    return sqrt(sum(d**2 / len(g.rows) for d, g in zip(deviations, (a, b), strict=True) if d is not None))


def near(a: Group, b: Group, measure: str) -> bool:
    """Whether two means are within two standard errors of one another; False where the error is not known."""
    error = noise(a, b, measure)
    return error is not None and abs(a.mean(measure) - b.mean(measure)) <= 2 * error


def level(best: Group, groups: Sequence[Group], measure: str) -> list[Group]:
    """The groups whose means are within two standard errors of the best one's."""
    return [g for g in groups if g is not best and near(best, g, measure)]


def _best_line(groups: Sequence[Group], target: float) -> list[str]:
    if len(groups) < 2:
        return []
    best = max(groups, key=lambda g: g.mean("top1"))
    when = "after fine-tuning" if trained(groups) else "without any fine-tuning"
    line = f"At {100 * target:g} % of the MACs, {when}, {best.label} is most accurate: {_value(best, 'top1')} (dense {best.mean('dense_top1'):.2f} %)"
    others = level(best, groups, "top1")
    if len(best.rows) == 1:
        line += "; one seed, which cannot tell small differences from chance"
    elif others:
        line += f"; {_subject(others)} within two standard errors of it"
    return [line + "."]


def _as_cut(groups: Sequence[Group]) -> list[str]:
    """Fine-tuning hides what a cut does: who needs none?"""
    if not groups or not trained(groups):
        return []
    target = middle(_targets(groups))
    here = _at(groups, target)
    if len(here) < 2:
        return []
    best, second = sorted(here, key=lambda g: -g.mean("cut_top1"))[:2]
    return [
        f"Before fine-tuning, at {100 * target:g} % of the MACs, {best.label} decides as the dense network on {_value(best, 'cut_agreement')} of the "
        f"test pictures (top-1 {_value(best, 'cut_top1')}); next is {second.label} with top-1 {_value(second, 'cut_top1')}."
    ]


def _worse(groups: Sequence[Group]) -> list[str]:
    """One recipe for all does not suit all: whom does it harm?"""
    harmed = [g for g in groups if g.first["finetune_epochs"] and g.mean("top1") < g.mean("cut_top1")]
    parts = [
        f"{g.label} at {100 * g.first['target']:g} % ({_value(g, 'cut_top1')} to {_value(g, 'top1')})" for g in harmed
    ]
    return [f"This fine-tuning leaves less accuracy than the cut had left: {_list(parts)}."] if parts else []


def _yardstick(groups: Sequence[Group]) -> list[str]:
    """Which methods are ahead of the best yardstick, and which of them by more than chance?"""
    said = []
    for target in _targets(groups):
        here = _at(groups, target)
        yard = [g for g in here if g.first["paper"] is None]
        papers = [g for g in here if g.first["paper"] is not None]
        if not yard or not papers:
            continue
        best = max(yard, key=lambda g: g.mean("top1"))
        ahead = [g for g in papers if g.mean("top1") > best.mean("top1")]
        close = [g for g in ahead if near(best, g, "top1")]
        parts = [
            (end, of_these)
            for end, of_these in (
                ("ahead of it", [g for g in ahead if g not in close]),
                ("ahead by less than two standard errors", close),
                ("not ahead", [g for g in papers if g not in ahead]),
            )
            if of_these
        ]
        said.append(
            f"The best yardstick at {100 * target:g} % of the MACs is {best.label} ({_value(best, 'top1')}): "
            f"{'; '.join(f'{_subject(of_these)} {end}' for end, of_these in parts)}."
        )
    return said


def _latency(groups: Sequence[Group]) -> list[str]:
    if not groups:
        return []
    target = middle(_targets(groups))
    here = [g for g in _at(groups, target) if g.has("latency64_kept")]
    if len(here) < 2:
        return []
    shares = {g.label: 100 * g.mean("latency64_kept") for g in here}
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    return [
        f"MACs are not milliseconds: at {100 * target:g} % of the MACs a batch of 64 on {threads(here[0].first)} takes {shares[low]:.0f} % ({low}) "
        f"to {shares[high]:.0f} % ({high}) of the dense network's time."
    ]


def threads(row: Row) -> str:
    """What a row's latency was timed on: "1 thread"."""
    return counted(row["config"]["environment"]["threads"], "thread")


def counted(count: int, what: str) -> str:
    """A number and its noun: "1 epoch", "2 epochs"."""
    return f"{count} {what}{'s' * (count != 1)}"


def _bytes(groups: Sequence[Group]) -> list[str]:
    """What the methods that aim at bytes reach, one sentence each."""
    found: dict[str, list[str]] = {}
    for g in groups:
        if g.first["axis"] == "bytes":
            kept = g.mean("bytes_kept")
            found.setdefault(g.label, []).append(f"{1 / kept:.0f} times smaller at {_value(g, 'top1')}")
    return [f"{label[0].upper()}{label[1:]} makes the file {'; '.join(parts)} top-1." for label, parts in found.items()]


def _chains(rows: Rows, groups: Sequence[Group]) -> list[str]:
    """What a chain reaches that no single method does: as few bytes, or as few MACs, at no less accuracy."""
    last = [g for g in chained(rows) if g.first["step"] == len(g.first["chain"])]
    said = []
    for chain in last:
        rivals = [g for g in groups if g.mean("top1") >= chain.mean("top1")]
        smaller = [g for g in rivals if g.mean("bytes") <= chain.mean("bytes") and g.mean("macs") <= chain.mean("macs")]
        figures = f"{100 * chain.mean('macs_kept'):.0f} % of the MACs and {100 * chain.mean('bytes_kept'):.1f} % of the bytes at {_value(chain, 'top1')}"
        end = (
            "no single method here has as little of both at that accuracy"
            if not smaller
            else f"{smaller[0].label} alone does no worse"
        )
        said.append(f"The chain {chain.name} reaches {figures}; {end}.")
    return said


def middle(targets: Sequence[float]) -> float:
    """The budget that stands for all where only one is shown."""
    return sorted(targets)[len(targets) // 2]


def _value(group: Group, measure: str) -> str:
    deviation = group.deviation(measure)
    spaced = f"{group.mean(measure):.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "") + " %"
    return spaced.replace(" ", "\N{NO-BREAK SPACE}")


def _subject(groups: Sequence[Group]) -> str:
    return f"{_list([g.label for g in groups])} {'is' if len(groups) == 1 else 'are'}"


def _list(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
