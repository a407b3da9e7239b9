"""Findings and the tests behind them, on invented results."""

import statistics
from dataclasses import replace

import pytest
from compare_helpers import write_results
from scipy.stats import ttest_rel

from compare import findings, result_set, significance, text_report
from compare.paper import tables
from compare.result_set import ResultGroup, ResultSet, absent_methods, method_key, read_results, single_method_groups


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(write_results(tmp_path_factory.mktemp("results")))


def invented(results: ResultSet, **top1: tuple[float, ...]) -> ResultSet:
    """The results at 50 % of the MACs of some methods, with the given top-1 for seeds 0, 1, ..."""
    rows = [
        {
            **row,
            "compressed": {**row["compressed"], "top1": top1[row["method"]][row["seed"]]},
            "baseline": {**row["baseline"], "top1": 99.0 + 0.2 * row["seed"]},
        }
        for row in results.results
        if not row["chain"] and row["method"] in top1 and row["targets"] in ({"macs": 0.5}, {"bytes": 0.05})
        if row["seed"] < len(top1[row["method"]])
    ]
    return ResultSet(results.out, rows, [], [])


def sentences(results: ResultSet) -> list[str]:
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in findings.findings(results)]


def test_p_value_is_that_of_paired_t_test():
    a, b = (99.0, 98.4, 98.8, 97.9), (98.1, 98.2, 97.0, 97.6)
    differences = [one - other for one, other in zip(a, b, strict=True)]
    assert significance.p_value(differences) == pytest.approx(float(ttest_rel(a, b).pvalue), rel=1e-9)
    assert significance.p_value([0.5]) is None and significance.p_value([0.4, 0.4, 0.4]) is None
    assert significance.p_value([0.0, 0.0, 0.0]) == 1.0


def test_difference_is_tested_in_pairs(results):
    """The means differ by less than their standard errors, but every seed has the same difference up to 0.02."""
    paired = invented(results, decore=(95.0, 97.0, 99.0), l1_norm=(94.5, 96.52, 98.49))
    a, b = single_method_groups(paired)
    assert a.mean("top1") - b.mean("top1") < statistics.stdev(a.values("top1")) / 3**0.5
    assert (
        significance.compare_groups(a, b, "top1") == "higher" and significance.compare_groups(b, a, "top1") == "lower"
    )
    shuffled = ResultGroup(tuple({**r, "seed": (r["seed"] + 1) % 3} for r in b.results))
    assert significance.compare_groups(a, shuffled, "top1") == "not significant"


def test_only_seeds_of_both_are_compared(results):
    partial = invented(results, decore=(95.0, 97.0, 99.0), l1_norm=(94.0,))
    assert significance.compare_groups(*single_method_groups(partial), "top1") == "not tested"
    (line,) = [line for line in sentences(partial) if "highest" in line] or [""]
    assert line == "", "a method with one seed is not ranked"


def test_best_method_is_more_accurate_only_by_test(results):
    found = sentences(
        invented(results, decore=(98.0, 98.2, 98.4), l1_norm=(97.0, 97.3, 97.4), random=(96.0, 99.0, 98.0))
    )
    assert found[0] == (
        "At 50 % of the MACs, after fine-tuning, DECORE (paper) has the highest mean top-1: 98.20 ± 0.20 % (dense 99.20 %); "
        "it is more accurate than L1 norm; no significant difference from random."
    )
    assert (
        "Compared with the best reference method at 50 % of the MACs, random (97.67 ± 1.53 %): no significant difference: "
        "DECORE (paper)." in found
    )


def test_less_accurate_than_reference_is_said(results):
    found = sentences(invented(results, decore=(97.0, 97.3, 97.4), l1_norm=(98.0, 98.2, 98.4)))
    assert (
        "Compared with the best reference method at 50 % of the MACs, L1 norm (98.20 ± 0.20 %): less accurate: DECORE (paper)."
        in found
    )


def test_one_seed_gives_no_ranking(results):
    found = sentences(invented(results, decore=(98.0,), l1_norm=(90.0,), deep_compression=(95.0,)))
    assert found[0] == findings.ONE_SEED and all("A batch of" in line for line in found[1:])


def test_bytes_are_not_repeated_and_accuracy_is_compared_with_dense(results):
    """A size that equals the target, and a chain that no single method can match, are no findings."""
    found = sentences(invented(results, deep_compression=(98.0, 98.1, 98.3)))
    assert found == [
        "At 5 % of the bytes, deep compression (paper) (98.13 ± 0.15 %) is less accurate than the dense network (99.20 %)."
    ]
    everything = "\n".join(sentences(results))
    assert "factor of" not in everything and "no single method" not in everything


def test_chain_is_compared_with_its_methods_alone(results):
    (line,) = [line for line in sentences(results) if line.startswith("The chain")]
    assert line.startswith(
        "The chain model-preserving ID (paper) + deep compression (paper), at 50 % of the MACs and 3 % of the bytes, has top-1 98.20"
    )
    assert line.endswith("; less accurate than model-preserving ID (paper) alone.")


def test_missed_targets_are_not_ranked(results):
    some = invented(results, decore=(98.0, 98.2, 98.4), l1_norm=(97.0, 97.3, 97.4))
    for row in some.results:
        row["missed"] = ["macs"] * (row["method"] == "decore")
    assert not any("accurate" in line for line in sentences(some))


def test_extended_variant_stands_below_paper_and_reference_methods_last(results):
    labels = [g.label for g in single_method_groups(results) if g.first["targets"] == {"macs": 0.5}]
    assert labels == [
        "DECORE (paper)",
        "DECORE (extended)",
        "model-preserving ID (paper)",
        "redundancy graph (paper)",
        "meta-pruning (extended)",
        "L1 norm",
        "random",
        "torch-pruning",
    ]
    records = [
        {"method": name, "variant": variant, "label": name}
        for name, variant in (("b", "reference"), ("z_extended", "extended"), ("a", "paper"), ("z", "paper"))
    ]
    assert [one["method"] for one in sorted(records, key=method_key)] == ["a", "z", "z_extended", "b"]


def test_absent_methods_have_reasons(results):
    unreachable = [{"folder": "seed0/shy-macs0.1", "reason": "the nearest is 0.42"}]
    some = ResultSet(results.out, results.results, [], unreachable)
    known = {"decore": True, "shy": True, "new": True, "variant_extended": False}
    assert absent_methods(some, known) == {
        "shy": result_set.UNREACHED,
        "new": result_set.NOT_RUN,
        "variant_extended": result_set.NOT_DEFAULT,
    }
    shown = text_report.table_notes(ResultSet(results.out, results.results, [], unreachable, {"new": "not run"}))
    assert "not in the table (names for --methods): new (not run)" in shown
    assert "target not reached: seed0/shy-macs0.1: the nearest is 0.42" in shown


def test_result_file_keeps_results_of_other_methods(results, tmp_path):
    """A comparison is added to a file with the same dense networks; its own results replace older ones."""
    folder = tmp_path / "file"
    file = tables.add_result(write_results(tmp_path / "digits", chain=False), "digits", folder)
    before = tables.read_json(file)["rows"]
    only = tmp_path / "more"
    write_results(only, targets=(0.5,), chain=False)
    for place in only.glob("seed*/*"):
        if place.name not in ("random-macs0.5", "baseline"):
            for part in place.iterdir():
                part.unlink()
            place.rmdir()
        elif place.name != "baseline":
            metrics = place / "metrics.json"
            metrics.write_text(metrics.read_text().replace('"seconds": 12.0', '"seconds": 99.0'))
    tables.add_result(only, "digits", folder)
    after = tables.read_json(file)["rows"]
    assert len(after) == len(before) and [
        r["seconds"] for r in after if r["folder"].startswith("seed0/random-macs0.5")
    ] == [99.0]
    assert sum(r["seconds"] == 99.0 for r in after) == 3
    record = tables.read_json(file)
    for epochs, fits in ((0, True), (3, False)):  # options of fine-tuning have no effect without epochs
        old, new = ({**record, "finetune": {"epochs": epochs, "schedule": name}} for name in ("cosine", "linear"))
        if fits:
            assert tables._merged(old, new, file)["finetune"]["schedule"] == "cosine"
        else:
            with pytest.raises(tables.UserError, match="another finetune"):
                tables._merged(old, new, file)
    dense = only / "seed1" / "baseline" / "metrics.json"
    dense.write_text(dense.read_text().replace('"top1": 99.0', '"top1": 98.0', 1))
    with pytest.raises(tables.UserError, match="another dense network of seed 1"):
        tables.add_result(only, "digits", folder)


def test_test_set_must_be_large_enough_for_ranking(results):
    """The differences are equal over the seeds, which only says that they would recur on these test images."""
    paired = invented(results, decore=(95.0, 97.0, 99.0), l1_norm=(94.5, 96.52, 98.49))
    for count, verdict in ((1_000, "not significant"), (100_000, "higher")):
        some = replace(paired, results=[{**row, "test_images": count} for row in paired.results])
        a, b = single_method_groups(some)
        assert significance.compare_groups(a, b, "top1") == verdict
        assert significance.compare_over_seeds(a, b, "top1") == "higher"
        assert findings.TEST_SET.format(count) in text_report.seeds_note(some)
    assert (
        "no significant difference from L1 norm"
        in sentences(replace(paired, results=[{**r, "test_images": 1_000} for r in paired.results]))[0]
    )


def test_single_seed_is_ranked_only_by_size_of_test_set(results):
    alone = invented(results, decore=(98.0,), l1_norm=(97.0,), random=(90.0,))
    for count, better, same in ((1_000, "random", "L1 norm"), (10_000, "L1 norm and random", None)):
        found = sentences(replace(alone, results=[{**row, "test_images": count} for row in alone.results]))
        assert found[0] == findings.ONE_SEED_TESTED.format(count) and f"{count:,} test images" in found[0]
        error = result_set.binomial_error(98.0, count)
        assert (
            f"has the highest mean top-1: 98.00 ± {error:.2f} % (dense 99.00 %); it is more accurate than {better}"
            in found[1]
        )
        assert (same is None) != (f"no significant difference from {same}" in found[1])


def test_binomial_error_is_never_zero():
    assert result_set.binomial_error(50.0, 10_000) == pytest.approx(0.5, rel=1e-3)
    assert result_set.binomial_error(100.0, 98) == pytest.approx(100 * (0.99 * 0.01 / 98) ** 0.5)


def test_significant_difference_from_default_recipe_is_marked(results):
    some = invented(results, decore=(95.0, 97.0, 99.0), l1_norm=(94.5, 96.52, 98.49), random=(95.0, 96.0, 99.5))
    default, lower, same = single_method_groups(some)
    assert tables._mean_and_error(lower, default).endswith(" *")
    assert not tables._mean_and_error(same, default).endswith("*") and not tables._mean_and_error(
        default, None
    ).endswith("*")
