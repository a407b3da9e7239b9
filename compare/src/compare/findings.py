"""Summarize a comparison in sentences; every sentence follows from the results by a fixed rule.

Methods are ranked only by tests (:mod:`compare.significance`): over the seeds, and only where the test set is large enough. With
one seed there is no ranking unless the number of test images is known.
"""

from collections.abc import Callable, Sequence

from compare.result_set import ResultGroup, ResultRecord, ResultSet, chain_groups, single_method_groups
from compare.significance import LEVEL, Verdict, compare_groups, compare_metrics, latency_verdict

AXES = {"macs": "MACs", "latency": "latency", "bytes": "bytes"}
TEST = f"Differences between methods are two-sided paired t-tests over the seeds at the {100 * LEVEL:g} % level, not corrected for their number."
TEST_SET = "A difference must also exceed what sampling the {:,} test images explains (z-test)."
ONE_SEED = "One seed: the methods are not ranked."
ONE_SEED_TESTED = (
    "One seed: differences are tested only against the sampling of the {:,} test images (two-sided z-tests at the "
    f"{100 * LEVEL:g} % level, not corrected for their number); another seed may order the methods differently."
)


def findings(result_set: ResultSet) -> list[str]:
    """Return the sentences, the most important first."""
    groups = single_method_groups(result_set)
    several = [g for g in groups if len(g.results) > 1 or g.test_images]
    macs, times, sizes = ([g for g in several if g.first["axis"] == axis] for axis in AXES)
    lines = [
        line for of in (macs, times) for target in _targets(of) for line in _most_accurate(_at(of, target), target)
    ]
    lines += _before_finetuning(macs) + _changed_by_finetuning(macs) + _best_reference(macs)
    lines += [line for target in _targets(sizes) for line in _most_accurate(_at(sizes, target), target)]
    lines += [line for g in sizes for line in _against_dense(g)]
    lines += _chains(result_set, several)
    alone = [_one_seed(groups)] if groups and all(len(g.results) == 1 for g in groups) else []
    return alone + lines + _latency([g for g in groups if g.first["axis"] == "macs"])


def _one_seed(groups: Sequence[ResultGroup]) -> str:
    count = known_test_images(groups)
    return ONE_SEED_TESTED.format(count) if count else ONE_SEED


def known_test_images(groups: Sequence[ResultGroup]) -> int | None:
    """Return the number of test images, if all groups record the same."""
    counts = {g.test_images for g in groups}
    return counts.pop() if len(counts) == 1 else None


def _targets(groups: Sequence[ResultGroup]) -> list[float]:
    return sorted({g.first["target"] for g in groups}, reverse=True)


def _at(groups: Sequence[ResultGroup], target: float) -> list[ResultGroup]:
    return [g for g in groups if g.first["target"] == target and not g.missed]


def any_finetuned(groups: Sequence[ResultGroup]) -> bool:
    return any(g.finetuned for g in groups)


def _verdicts(
    groups: Sequence[ResultGroup], verdict: Callable[[ResultGroup], Verdict], words: dict[Verdict, str]
) -> list[str]:
    """Return one part of a sentence for each verdict that occurs. words: {verdict: text in front of the methods' names}."""
    found = {key: [g.label for g in groups if verdict(g) == key] for key in words}
    return [f"{words[key]} {_list(labels)}" for key, labels in found.items() if labels]


def _most_accurate(groups: Sequence[ResultGroup], target: float) -> list[str]:
    if len(groups) < 2:
        return []
    best = max(groups, key=lambda g: g.mean("top1"))
    axis = best.first["axis"]
    when = "" if axis == "bytes" else ", after fine-tuning" if any_finetuned(groups) else ", without fine-tuning"
    line = (
        f"At {100 * target:g} % of the {AXES[axis]}{when}, {best.label} has the highest mean top-1: {_value(best, 'top1')} "
        f"(dense {best.mean('dense_top1'):.2f} %)"
    )
    return ["; ".join([line, *_better_than(best, groups, "top1")]) + "."]


def _better_than(best: ResultGroup, groups: Sequence[ResultGroup], metric: str) -> list[str]:
    """Say which methods the best one is more accurate than."""
    others = [g for g in groups if g is not best]
    words: dict[Verdict, str] = {
        "higher": "it is more accurate than",
        "not significant": "no significant difference from",
        "not tested": "not tested against",
    }
    return _verdicts(others, lambda g: compare_groups(best, g, metric), words)


def _before_finetuning(groups: Sequence[ResultGroup]) -> list[str]:
    """Name the method with the highest accuracy before fine-tuning, which hides differences between the methods."""
    if not groups or not any_finetuned(groups):
        return []
    target = middle_target(_targets(groups))
    here = _at(groups, target)
    if len(here) < 2:
        return []
    best = max(here, key=lambda g: g.mean("pruned_top1"))
    line = (
        f"Before fine-tuning, at {100 * target:g} % of the MACs, {best.label} has the highest mean top-1, {_value(best, 'pruned_top1')}, and agrees "
        f"with the dense network on {_value(best, 'pruned_agreement')} of the test images"
    )
    return ["; ".join([line, *_better_than(best, here, "pruned_top1")]) + "."]


def _changed_by_finetuning(groups: Sequence[ResultGroup]) -> list[str]:
    """Name the methods whose accuracy the common fine-tuning options reduce."""
    worse = [g for g in groups if g.finetuned and compare_metrics(g, "top1", "pruned_top1") == "lower"]
    parts = [
        f"{g.label} at {100 * g.first['target']:g} % of the MACs ({_value(g, 'pruned_top1')} to {_value(g, 'top1')})"
        for g in worse
    ]
    remedy = "; --finetune-epochs 0 trains nothing, a smaller --learning-rate changes less"
    return [f"Fine-tuning reduces top-1 for {_list(parts)}{remedy}."] if parts else []


def _best_reference(groups: Sequence[ResultGroup]) -> list[str]:
    """Compare the papers' methods with the reference method of the highest mean top-1 at each target."""
    words: dict[Verdict, str] = {
        "higher": "more accurate:",
        "lower": "less accurate:",
        "not significant": "no significant difference:",
        "not tested": "not tested:",
    }
    lines = []
    for target in _targets(groups):
        here = _at(groups, target)
        references, papers = ([g for g in here if g.is_reference == reference] for reference in (True, False))
        if not references or not papers:
            continue
        best = max(references, key=lambda g: g.mean("top1"))
        parts = "; ".join(_verdicts(papers, lambda g, best=best: compare_groups(g, best, "top1"), words))  # type: ignore[misc]
        lines.append(
            f"Compared with the best reference method at {100 * target:g} % of the MACs, {best.label} ({_value(best, 'top1')}): {parts}."
        )
    return lines


def _against_dense(g: ResultGroup) -> list[str]:
    """Compare a method that targets bytes with the dense network, which it shares no target with."""
    words = {
        "lower": "less accurate than",
        "higher": "more accurate than",
        "not significant": "not significantly different from",
    }
    found = compare_metrics(g, "top1", "dense_top1")
    if g.missed or found not in words:
        return []
    return [
        f"At {100 * g.first['target']:g} % of the bytes, {g.label} ({_value(g, 'top1')}) is {words[found]} the dense network "
        f"({g.mean('dense_top1'):.2f} %)."
    ]


def _chains(result_set: ResultSet, groups: Sequence[ResultGroup]) -> list[str]:
    """Compare each chain with each of its methods alone at the same target."""
    words: dict[Verdict, str] = {
        "higher": "more accurate than",
        "lower": "less accurate than",
        "not significant": "no significant difference from",
    }
    lines = []
    for chain in chain_groups(result_set):
        methods, targets = chain.first["chain"], chain.first["targets"]
        if chain.first["step"] != len(methods) or chain.missed:
            continue
        alone = [g for g in groups if g.first["method"] in methods and g.first["targets"].items() <= targets.items()]
        parts = _verdicts(alone, lambda g, chain=chain: compare_groups(chain, g, "top1"), words)  # type: ignore[misc]
        aims = " and ".join(f"{100 * targets[axis]:g} % of the {AXES[axis]}" for axis in AXES if axis in targets)
        if parts:
            lines.append(
                f"The chain {chain.name}, at {aims}, has top-1 {_value(chain, 'top1')}; {'; '.join(parts)} alone."
            )
    return lines


def _latency(groups: Sequence[ResultGroup]) -> list[str]:
    """State the range of latencies at the middle target, and how many networks are slower than the dense network."""
    if not groups:
        return []
    target, lines = middle_target(_targets(groups)), []
    for batch in ("1", "64"):
        metric = f"latency{batch}_kept"
        timed = [g for g in groups if g.has(metric)]
        here = [100 * g.mean(metric) for g in _at(timed, target)]
        if not here:
            continue
        line = (
            f"A batch of {batch} on {count_threads(timed[0].first)} takes {min(here):.0f} to {max(here):.0f} % of the dense network's time at "
            f"{100 * target:g} % of the MACs"
        )
        slower = [g for g in timed if latency_verdict(g, batch) == "higher"]
        if slower:
            line += (
                f"; rows of all targets that are slower than the dense network: {len(slower)} of {len(timed)} "
                f"(up to {max(100 * g.mean(metric) for g in slower):.0f} %)"
            )
        lines.append(line + ".")
    return lines


def count_threads(result: ResultRecord) -> str:
    """Return the number of threads with which latency was measured: "1 thread"."""
    return pluralize(result["config"]["environment"]["threads"], "thread")


def pluralize(count: int, noun: str) -> str:
    """Return a number and its noun: "1 epoch", "2 epochs"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def middle_target(targets: Sequence[float]) -> float:
    """Return the target that is shown where there is room for only one."""
    return sorted(targets)[len(targets) // 2]


def _value(group: ResultGroup, metric: str) -> str:
    noise = group.noise(metric)
    spaced = f"{group.mean(metric):.2f}" + (f" ± {noise:.2f}" if noise is not None else "") + " %"
    return spaced.replace(" ", "\N{NO-BREAK SPACE}")


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
