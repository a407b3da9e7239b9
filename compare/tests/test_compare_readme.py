"""Generated tables are up to date, in this README, in the root README and in docs/."""

import itertools
import re

import pytest

from common.testing import check_generated_docs
from common.testing.processes import record_python_calls
from compare.paper import tables
from compare.paper.tables import TABLES, learning_rate_top1
from compare.settings import finetune_defaults


def test_generated_tables_are_current():
    check_generated_docs("compare", TABLES)


def test_digits_learning_rate_default_is_best_on_held_out_images():
    means = {rate: tops["mean"] for rate, tops in learning_rate_top1().items()}
    assert len(means) >= 3 and max(means, key=means.__getitem__) == finetune_defaults("digits").learning_rate


def test_each_comparison_states_its_time_once():
    """The table of commands has no durations; each comparison's time is the sum of its results' seconds, below its table."""
    text = (tables.HOME / "README.md").read_text(encoding="utf-8")
    commands = text[text.index("| command | result |") : text.index("## Python API")]
    assert not re.search(r"\d+ (s|min|minutes|seconds)\b", commands)
    text = (tables.HOME.parent / "docs" / "comparison.md").read_text(encoding="utf-8")
    for name in tables.COMPARISONS:
        rows = tables.read_result_file(name).results
        time, said = ("seconds", "in total") if "cuda" in rows[0]["device"] else ("cpu_seconds", "of CPU time")
        minutes = sum(row[time] for row in rows) / 60
        assert text.count(f"All results: {minutes:.1f} minutes {said}") == 1


def test_notes_have_one_line_per_method():
    labels = [line.partition(":")[0] for line in tables.notes_list().splitlines()]
    assert len(labels) == len(set(labels)) >= 15


def test_statement_on_forty_epochs_is_that_of_the_stored_results():
    """Between 93.1 and 93.6 %, no difference that the sampling of the test images does not explain."""
    result_set = tables.read_result_file("resnet56-40")
    groups = tables.single_method_groups(result_set)
    tops = {group.label: group.mean("top1") for group in groups}
    assert set(tops) == {"model-preserving ID (extended)", "torch-pruning", "L1 norm", "random"}
    assert min(tops.values()) > 93.1 and round(max(tops.values()), 1) == 93.6
    for a, b in itertools.combinations(groups, 2):
        error = sum(top1 * (100 - top1) / 10_000 for top1 in (a.mean("top1"), b.mean("top1"))) ** 0.5
        assert abs(a.mean("top1") - b.mean("top1")) < 1.96 * error
    for page in ("README.md", "compare/README.md"):
        text = (tables.HOME.parent / page).read_text(encoding="utf-8")
        assert "do not differ significantly" in text and "93.1 to 93.6 %" in text


def test_example_of_root_readme_is_the_stored_result():
    text = (tables.HOME.parent / "README.md").read_text(encoding="utf-8")
    (kept,) = re.findall(
        r"half of the MACs and nothing trained, ResNet-56 on CIFAR-10, pruned by extended ID, has a top-1 of ([\d.]+) % instead of ([\d.]+) %",
        text,
    )
    results = tables.read_result_file("resnet56")
    (top1,) = [
        row["compressed"]["top1"]
        for row in results.results
        if row["target"] == 0.5 and row["method"] == "model_preserving_id_extended"
    ]
    assert kept == (f"{top1:.1f}", f"{results.baselines[0]['baseline']['top1']:.1f}")


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ("", "decore deep_compression model_preserving_id rewarded_metapruning l1_norm_inner l1_norm_resolved"),
        ("--methods l1_norm --seeds 0 --target-bytes", "l1_norm --seeds 0 --target-bytes"),
    ],
)
def test_refresh_runs_missing_methods_and_adds_them(tmp_path, monkeypatch, argv, names):
    monkeypatch.setenv("REFRESH_OUT", str(tmp_path))
    done, calls = record_python_calls(f"bash {tables.HOME / 'refresh.sh'} {argv}", tmp_path)
    assert done.returncode == 0, done.stderr
    run, add = (call.partition(": ")[2] for call in calls)
    assert f"--out {tmp_path}/digits --methods {names}" in run and run.startswith("-m compare --dataset digits")
    assert add == f"-m compare.paper.tables --add {tmp_path}/digits"
