"""Results are computed, resumed, marked and chained, with a tiny network and methods that take no time."""

import csv
import json
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from compare_helpers import BYTES, LEADING, RECIPE, bundle, first_channels, tiny
from torch import nn

from common import testing
from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.executor import JobResult, claim_file
from common.methods import Method
from common.models import ARCHITECTURES, Architecture
from common.runs import read_json
from common.settings import parse
from common.target import Target
from common.testing.fixed_latency import fixed_latency, take_macs_for_latency
from compare import command, comparison_jobs, job_loop, job_runner, text_report
from compare.comparison_jobs import Comparison, ComparisonJob
from compare.dense import import_dense, train_dense
from compare.plan import UNREACHABLE
from compare.result_set import read_results, single_method_groups
from compare.settings import Compare, main

CPU = torch.device("cpu")
KEYS = ("top1", "agreement", "loss", "macs", "params", "bytes")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """Provide ``--arch tiny``, ``--dataset grays`` and two methods, without installing anything."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(lambda num_classes=4: tiny(), (3, 8, 8)))
    monkeypatch.setattr(command, "load_data", lambda args: bundle())
    monkeypatch.setattr(command, "installed_methods", lambda: {"leading": LEADING, "bytes": BYTES})
    monkeypatch.setattr("compare.latency.measure_latency", fixed_latency)


def run(out, *argv):
    base = [
        "--dataset",
        "grays",
        "--arch",
        "tiny",
        "--baseline-epochs",
        "2",
        "--batch-size",
        "16",
        "--device",
        "cpu",
        "--seeds",
        "0",
        "--jobs",
        "1",
    ]
    return main([*base, "--out", str(out), *argv])


def values(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {side: {key: metrics[side].get(key) for key in KEYS} for side in ("baseline", "after_cut", "compressed")}


def interrupt_after(monkeypatch, calls):
    """Interrupt the process (KeyboardInterrupt) after the given number of saved training states."""
    from common.training.state import SavedState

    real, count = SavedState.save, [0]

    def keep(*arguments, **more):
        real(*arguments, **more)
        count[0] += 1
        if count[0] == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(SavedState, "save", keep)
    return lambda: monkeypatch.setattr(SavedState, "save", real)


def check_changed_images(folder) -> int:
    """Check the record of the images whose prediction changed against the files of a result, and return their number."""
    metrics = json.loads((folder / "metrics.json").read_text())
    changed, count = metrics["changed"], metrics["test_images"]
    assert count == 16 and changed["count"] == len(changed["index"])
    assert metrics["compressed"]["agreement"] == pytest.approx(100 * (1 - changed["count"] / count), abs=1e-3)
    gain = metrics["compressed"]["top1"] - metrics["baseline"]["top1"]
    assert gain == pytest.approx(100 * (changed["gained"] - changed["lost"]) / count, abs=1e-3)
    assert (folder / "changed.png").is_file() == bool(changed["count"])
    return changed["count"]


def test_comparison_writes_results_tables_and_page(tmp_path, capsys):
    assert run(tmp_path, "--target-macs", "0.5", "--target-bytes", "0.5", "--finetune-epochs", "1") == 0
    out = capsys.readouterr().out
    assert "leading channels" in out and "50 % MACs" in out and "dense baseline" in out and "report.html" in out
    folder = tmp_path / "seed0" / "leading-macs0.5"
    assert {"config.json", "log.csv", "metrics.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert check_changed_images(folder) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0.49 <= metrics["kept"]["macs"] <= 0.5 and metrics["missed"] == [] and metrics["finetune_epochs"] == 1
    assert metrics["compressed"]["bytes"] == (folder / "model.safetensors").stat().st_size
    assert (
        metrics["widths"]["0"][1] == 40
        and metrics["widths"]["0"][0] == load_model(folder / "model.safetensors")[0].out_channels
    )
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["bytes", "leading"]
    assert float(lines[1]["top1"]) == metrics["compressed"]["top1"]
    assert (
        "leading-macs0.5" not in (tmp_path / "report.md").read_text()
        and "--methods leading" in (tmp_path / "report.md").read_text()
    )


def test_images_whose_prediction_changed_are_kept_and_shown(tmp_path):
    argv = ["--target-macs", "0.1", "--target-bytes", "--finetune-epochs", "0", "--methods", "leading"]
    run(tmp_path, *argv, "--baseline-epochs", "10")
    count = check_changed_images(tmp_path / "seed0" / "leading-macs0.1")
    assert (tmp_path / "report.html").read_text().count('<img src="data:') == count > 0


def test_per_class_values_average_to_total(tmp_path):
    run(tmp_path, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0")
    metrics = json.loads((tmp_path / "seed0" / "leading-macs0.5" / "metrics.json").read_text())
    for name, total in (
        ("top1", metrics["compressed"]["top1"]),
        ("agreement", metrics["compressed"]["agreement"]),
        ("dense_top1", metrics["baseline"]["top1"]),
    ):
        values = metrics["per_class"][name]
        assert sum(values) / len(values) == pytest.approx(total, abs=1e-3)  # equally many images in each class


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
def test_interrupted_comparison_resumes_to_same_values(tmp_path, monkeypatch, calls):
    """Two epochs of the baseline, then two of each result: interrupted after one of them."""
    argv = ["--methods", "leading", "--target-macs", "0.7", "0.5", "--target-bytes", "--finetune-epochs", "2"]
    assert run(tmp_path / "complete", *argv) == 0
    stop = interrupt_after(monkeypatch, calls)
    assert run(tmp_path / "killed", *argv) == 130
    stop()
    assert run(tmp_path / "killed", *argv) == 0
    for name in ("leading-macs0.7", "leading-macs0.5"):
        assert values(tmp_path / "complete" / "seed0" / name) == values(tmp_path / "killed" / "seed0" / name)
        files = [
            (tmp_path / side / "seed0" / name / "model.safetensors").read_bytes() for side in ("complete", "killed")
        ]
        assert files[0] == files[1]


def test_finished_results_are_not_recomputed(tmp_path, monkeypatch):
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "1"]
    run(tmp_path, *argv)
    before = (tmp_path / "seed0" / "leading-macs0.5" / "metrics.json").stat().st_mtime_ns
    monkeypatch.setattr(command, "installed_methods", lambda: {"leading": replace(LEADING, decide=never)})
    assert run(tmp_path, *argv) == 0
    assert (tmp_path / "seed0" / "leading-macs0.5" / "metrics.json").stat().st_mtime_ns == before


def never(start, target, stage):
    raise AssertionError("called again")


def test_other_options_raise_and_force_recomputes(tmp_path, capsys):
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes"]
    run(tmp_path, *argv, "--finetune-epochs", "0")
    capsys.readouterr()
    assert run(tmp_path, *argv, "--finetune-epochs", "1") == 2
    assert "--finetune" in capsys.readouterr().err
    assert run(tmp_path, *argv, "--finetune-epochs", "1", "--force") == 0
    assert json.loads((tmp_path / "seed0" / "leading-macs0.5" / "metrics.json").read_text())["finetune_epochs"] == 1


def test_missed_target_is_marked(tmp_path, monkeypatch, capsys):
    def greedy(start, target, stage):  # keeps 0.6 instead of 0.5
        return first_channels(start, Target(target.fraction + 0.1), stage)

    monkeypatch.setattr(command, "installed_methods", lambda: {"greedy": Method("greedy", greedy), "leading": LEADING})
    assert run(tmp_path, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0") == 0
    out = capsys.readouterr().out
    assert "target MISSED" in out and "greedy (!)" in out and "leading channels (!)" not in out
    marked = {g.label: g.missed for g in single_method_groups(read_results(tmp_path))}
    assert marked == {"greedy": True, "leading channels": False}
    assert 'title="misses the target' in (tmp_path / "report.html").read_text()


def test_dense_network_at_chance_level_is_reported(tmp_path, capsys):
    """Noise of one brightness: nothing to learn."""
    argv = ("--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0", "--methods", "leading")
    with pytest.warns(UserWarning, match="at chance level: top-1"):
        assert run(tmp_path, *argv, "--baseline-epochs", "0") == 0
    note = "a dense network is at chance level: the results of compressing it mean nothing"
    assert note in capsys.readouterr().out and note in (tmp_path / "report.md").read_text()
    assert note in (tmp_path / "report.html").read_text()
    assert run(tmp_path / "trained", *argv) == 0
    assert note not in capsys.readouterr().out


def test_unreachable_target_is_reported(tmp_path, monkeypatch, capsys):
    def unreachable(start, target, stage):
        raise UserError("the nearest is 0.42")

    monkeypatch.setattr(command, "installed_methods", lambda: {"shy": Method("shy", unreachable), "leading": LEADING})
    argv = ["--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]
    assert run(tmp_path, *argv) == 2
    captured = capsys.readouterr()
    assert "the nearest is 0.42" in captured.out and "the nearest is 0.42" in (tmp_path / "report.html").read_text()
    missing = "1 of 2 results are missing; unreachable: shy-macs0.5, seed 0 (see unreachable.json in their folders)"
    assert testing.single_error_line(2, captured.err) == f"error: {missing}"
    assert run(tmp_path, *argv, "--accept-unreachable") == 0
    monkeypatch.setattr(command, "installed_methods", lambda: {"shy": LEADING})
    assert run(tmp_path, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0") == 0
    assert read_results(tmp_path).unreachable == []


def test_error_without_results_names_reason(tmp_path, monkeypatch, capsys):
    def unreachable(start, target, stage):
        raise UserError("the nearest is 0.42")

    monkeypatch.setattr(command, "installed_methods", lambda: {"shy": Method("shy", unreachable)})
    assert run(tmp_path, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0") == 2
    assert "seed0/shy-macs0.5: the nearest is 0.42" in testing.single_error_line(
        2, capsys.readouterr().err, "no finished result"
    )


def test_last_line_counts_all_missing_results(tmp_path, monkeypatch, capsys):
    def failing(error):
        def decide(start, target, stage):
            raise error

        return decide

    faults = {f"broken{i}": ZeroDivisionError("a bug") for i in range(4)}
    faults |= {f"shy{i}": UserError("no channel group") for i in range(3)}
    methods = {name: Method(name, failing(error)) for name, error in faults.items()}
    monkeypatch.setattr(command, "installed_methods", lambda: {**methods, "leading": LEADING})
    argv = ["--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]
    for more in ([], ["--no-report"]):
        assert run(tmp_path, *argv, *more) == 2
        line = testing.single_error_line(2, capsys.readouterr().err, "broken0-macs0.5 broken3-macs0.5 shy0-macs0.5")
        assert line.startswith("error: 7 of 8 results are missing; failed: broken0-macs0.5, seed 0, ")
    assert run(tmp_path, *argv, "--accept-unreachable") == 2
    assert "error: 4 of 8 results are missing; failed" in capsys.readouterr().err
    assert run(tmp_path / "all", *argv, "--methods", *faults) == 2
    assert "error: 7 of 7 results are missing" in capsys.readouterr().err


def test_failing_method_does_not_stop_others(tmp_path, monkeypatch, capsys):
    def broken(start, target, stage):
        raise ZeroDivisionError("a bug in a method")

    monkeypatch.setattr(command, "installed_methods", lambda: {"broken": Method("broken", broken), "leading": LEADING})
    assert run(tmp_path, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0") == 2
    captured = capsys.readouterr()
    assert "broken-macs0.5" in captured.err and len(captured.err.strip().splitlines()) == 1
    assert "leading channels" in captured.out and (tmp_path / "report.html").is_file()
    assert "a bug in a method" in (tmp_path / "seed0" / "broken-macs0.5" / "failed.txt").read_text()


def test_chain_passes_file_to_next_step_and_meets_target(tmp_path, monkeypatch):
    started = []

    def spy(start, target, stage):
        started.append(start.file)
        return first_channels(start, target, stage)

    monkeypatch.setattr(
        command, "installed_methods", lambda: {"a": Method("A", spy), "b": Method("B", spy), "bytes": BYTES}
    )
    assert run(tmp_path, "--chain", "a,b", "--target-macs", "0.4", "--target-bytes", "--finetune-epochs", "1") == 0
    folder = tmp_path / "seed0" / "a+b-macs0.4"
    assert started == [tmp_path / "seed0" / "baseline" / "model.safetensors", folder / "step1-a" / "model.safetensors"]
    first, second = (json.loads((folder / name / "metrics.json").read_text()) for name in ("step1-a", "step2-b"))
    assert first["kept"]["macs"] == pytest.approx(0.4**0.5, rel=0.02)
    assert 0.98 * 0.4 <= second["kept"]["macs"] <= 0.4 and not second["missed"]
    assert first["baseline"]["macs"] == second["baseline"]["macs"]  # both compared with the dense network
    assert not (tmp_path / "seed0" / "a-macs0.4").exists()
    page = (tmp_path / "report.html").read_text()
    assert "2. A + B" in page


def test_chain_meets_latency_of_dense_network_in_equal_parts(tmp_path, monkeypatch, capsys):
    """Half of the time does not depend on the MACs. The step that targets bytes changes no shapes, and takes no part."""
    of_macs = lambda macs: 0.5 + 0.5 * macs  # noqa: E731
    take_macs_for_latency(monkeypatch, of_macs, of_macs)
    methods = {name: Method(name, first_channels) for name in ("a", "b")} | {"bytes": BYTES}
    monkeypatch.setattr(command, "installed_methods", lambda: methods)
    argv = ["--chain", "a,b,bytes", "--target-latency", "0.7", "--target-bytes", "0.3", "--finetune-epochs", "0"]
    assert run(tmp_path, *argv) == 0
    folder = tmp_path / "seed0" / "a+b+bytes-latency0.7-bytes0.3"
    names = ("step1-a", "step2-b", "step3-bytes")
    steps = [json.loads((folder / name / "metrics.json").read_text()) for name in names]
    latency = [step["kept"]["latency"] for step in steps]
    first, second = 0.7**0.5, 0.7
    assert 0.95 * first <= latency[0] <= first and 0.95 * second <= latency[1] <= second and latency[2] == latency[1]
    for step in steps:  # against the dense network, also of the second step
        assert step["kept"]["latency"] == pytest.approx(of_macs(step["kept"]["macs"]), abs=1e-4)
    assert [step["target"] for step in steps] == pytest.approx([first, second, 0.3], abs=1e-6)
    assert [step["axis"] for step in steps] == ["latency", "latency", "bytes"] and not steps[0]["missed"]
    assert "latency_target" not in steps[2] and steps[2]["missed"] == ["bytes"]
    assert "70 % latency, 30 % bytes (step 3 of 3)" in capsys.readouterr().out
    before = (folder / "step2-b" / "metrics.json").read_bytes()
    monkeypatch.setattr("common.latency_target.meet.time_against", None)
    assert run(tmp_path, *argv) == 0 and (folder / "step2-b" / "metrics.json").read_bytes() == before


def test_chain_that_cannot_meet_latency_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "installed_methods", lambda: FOUR | {"bytes": BYTES})
    argv = ["--target-latency", "0.5", "--target-bytes", "0.95", "--no-latency"]
    status = run(tmp_path / "bytes", "--chain", "bytes,bytes", *argv)
    line = testing.single_error_line(status, capsys.readouterr().err)
    assert line == "error: --chain bytes,bytes: none of its methods removes channels; omit --target-latency"
    take_macs_for_latency(monkeypatch, measured=lambda macs: 0.9)  # nothing becomes faster
    status = run(tmp_path / "slow", "--chain", "leading,main", *argv[:2])
    printed = capsys.readouterr()
    assert "leading+main-latency0.5" in testing.single_error_line(status, printed.err.splitlines()[-1])
    assert "the nearest keep 0.9000" in printed.out + printed.err


FOUR = {  # a paper's two variants and two reference methods
    "leading": LEADING,
    "leading_extended": replace(LEADING, label="leading channels (extended)", variant="extended", default=False),
    "main": Method("main", first_channels, note="always run"),
    "more": Method("more", first_channels, default=False),
}


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ([], ["leading", "main"]),
        (["--methods", "all"], list(FOUR)),
        (["--methods", "more", "leading"], ["more", "leading"]),
        (["--chain", "leading_extended,more"], ["leading_extended+more"]),
        (["--methods", "main", "--chain", "more,leading"], ["main", "more+leading"]),
    ],
)
def test_methods_run_by_default_all_and_by_name(monkeypatch, argv, names):
    monkeypatch.setattr(command, "installed_methods", lambda: FOUR)
    jobs = command._plan(parse(Compare, ["--target-macs", "0.5", "--target-bytes", "--seeds", "0", *argv])).jobs
    assert ["+".join(job.methods) for job in jobs] == names


def test_variants_stand_in_order_with_notes_and_absent_methods_with_reasons(tmp_path, monkeypatch, capsys):
    def unreachable(start, target, stage):
        raise UserError("the nearest is 0.42")

    monkeypatch.setattr(command, "installed_methods", lambda: {**FOUR, "shy": Method("shy", unreachable)})
    names = ["main", "leading_extended", "leading", "shy"]
    argv = ["--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]
    assert run(tmp_path, "--methods", *names, *argv, "--accept-unreachable") == 0
    out = capsys.readouterr().out
    labels = [line.split("|")[1].strip() for line in out.splitlines() if "50 % MACs" in line]
    assert labels == ["leading channels", "leading channels (extended)", "main"]
    assert "leading channels: Nobody 2026; a toy method" in out and "main: reference method; always run" in out
    page = (tmp_path / "report.html").read_text()
    for text in (out, page, (tmp_path / "report.md").read_text()):
        assert "more (not run by default)" in text and "shy (no target reached)" in text
        assert "always run" in text
    variants = {result["method"]: result["variant"] for result in read_results(tmp_path).results}
    assert variants == {"main": "reference", "leading_extended": "extended", "leading": "paper"}
    monkeypatch.setattr(command, "installed_methods", lambda: {**FOUR, "new": LEADING})
    assert run(tmp_path, "--report-only") == 0
    assert "new (not run)" in capsys.readouterr().out


def test_result_of_unknown_variant_is_rejected_before_work_starts(tmp_path, monkeypatch, capsys):
    """A result of a version that called the extended method by the paper's name is not taken for the paper's."""
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]
    assert run(tmp_path, *argv) == 0
    file = tmp_path / "seed0" / "leading-macs0.5" / "config.json"
    config = json.loads(file.read_text())
    assert config["options"].pop("variant") == "paper"
    file.write_text(json.dumps(config))
    capsys.readouterr()
    monkeypatch.setattr(command, "compare", never)
    for more in ([], ["--report-only"]):
        assert run(tmp_path, *argv, *more) == 2
        assert testing.single_error_line(2, capsys.readouterr().err, "scripts/migrate_results.py")


@pytest.mark.parametrize(("fraction", "missed"), [(0.5, False), (0.506, True), (0.498, False), (0.482, True)])
def test_target_accepts_98_to_100_percent(tmp_path, monkeypatch, fraction, missed):
    """tiny() has 40 x 50 channels: widths are fine enough for fractions that differ by 0.004."""

    def near(start, target, stage):
        return first_channels(start, Target(fraction), stage)

    monkeypatch.setattr(command, "installed_methods", lambda: {"near": Method("near", near)})
    assert run(tmp_path, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0") == 0
    (result,) = read_results(tmp_path).results
    assert (0.49 <= result["kept"]["macs"] <= 0.5) == (not missed) and bool(result["missed"]) == missed


def test_chain_with_bytes_method_before_pruning_raises(tmp_path, capsys):
    assert run(tmp_path, "--chain", "bytes,leading", "--target-macs", "0.5", "--target-bytes", "0.5") == 2
    assert "comes last" in capsys.readouterr().err


def test_bytes_target_of_chain_is_fraction_of_dense_file(tmp_path):
    targets = []

    def record(start, target, stage):
        targets.append(target.fraction * start.bytes)
        return BYTES.decide(start, target, stage)

    save_model(tmp_path / "dense.safetensors", named_tiny())
    file = tmp_path / "dense.safetensors"
    dense = import_dense(tmp_path / "out", lambda: load_model(file), file, "0", bundle(), CPU)
    comparison = Comparison(
        tmp_path / "out",
        {"leading": LEADING, "record": Method("record", record, axis="bytes")},
        comparison_jobs.replace(RECIPE, epochs=0),
    )
    job_runner.run_job(ComparisonJob(("leading", "record"), {"macs": 0.5, "bytes": 0.1}, 0), comparison, dense)
    assert targets == [pytest.approx(0.1 * dense.file.stat().st_size)]


def test_imported_network_keeps_its_classes_and_labels_are_matched_by_name(tmp_path):
    recipe = comparison_jobs.replace(RECIPE, epochs=2)
    dense, file = train_dense(tmp_path, "tiny", bundle(), recipe, CPU, 0), tmp_path / "reversed.safetensors"
    model = load_model(dense.file)
    with torch.no_grad():
        for tensor in (model[-1].weight, model[-1].bias):
            tensor.copy_(tensor.flip(0))
    save_model(file, model, classes=bundle().classes[::-1])
    imported = import_dense(tmp_path / "out", lambda: load_model(file), file, "0", bundle(), CPU)
    assert imported.accuracy.top1 == dense.accuracy.top1 >= 50
    assert load_model(imported.file).checkpoint_header["classes"] == bundle().classes[::-1]


def named_tiny():
    model = tiny()
    model.architecture = {"arch": "tiny", "args": {"num_classes": 4}}
    return model


def test_baseline_is_trained_per_seed_and_given_one_is_shared(tmp_path):
    recipe = comparison_jobs.replace(RECIPE, epochs=1)
    one, two = (train_dense(tmp_path, "tiny", bundle(), recipe, CPU, seed) for seed in (0, 1))
    assert one.file != two.file and not torch.equal(one.model[0].weight, two.model[0].weight)
    given = [
        "--checkpoint",
        str(one.file),
        "--methods",
        "leading",
        "--target-macs",
        "0.5",
        "--target-bytes",
        "--finetune-epochs",
        "0",
    ]
    assert run(tmp_path / "given", *given, "--seeds", "0", "1") == 0
    found = read_results(tmp_path / "given")
    assert [r["seed"] for r in found.results] == [0, 1] and len(found.baselines) == 1
    assert found.results[0]["baseline"]["top1"] == found.results[1]["baseline"]["top1"] == one.metrics()["top1"]


def run_processes_sequentially(monkeypatch):
    """Run the worker processes sequentially, in this process."""

    class Sequential:
        def __init__(self, setup):
            pass

        def __enter__(self):
            self.jobs = []
            return self

        def __exit__(self, *error):
            pass

        def start(self, *job):
            self.jobs.append(job)

        def finish(self):
            for job, function, *arguments in self.jobs:
                yield job, JobResult(function(*arguments))

    monkeypatch.setattr(command, "ProcessPool", Sequential)


def test_processes_take_unclaimed_jobs_and_report_once(tmp_path, monkeypatch, capsys):
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]
    order = []
    run_processes_sequentially(monkeypatch)
    real = job_loop.run_job
    monkeypatch.setattr(job_loop, "run_job", lambda job, *rest: (order.append(job.seed), real(job, *rest))[1])
    assert run(tmp_path, *argv, "--seeds", "0", "1", "2", "--jobs", "2") == 0
    assert order == [0, 1, 2, 1, 2, 0], (
        "the second process starts at the second seed and only reads the results of the first"
    )
    assert sorted(r["seed"] for r in read_results(tmp_path).results) == [0, 1, 2]
    printed = capsys.readouterr().out
    assert printed.count("report.html") == 1 and printed.split("| leading channels")[-1].split("|")[2].strip() == "3"


def test_results_that_fail_in_worker_process_are_named(tmp_path, monkeypatch, capsys):
    def broken(start, target, stage):
        raise ZeroDivisionError("a bug in a method")

    run_processes_sequentially(monkeypatch)
    monkeypatch.setattr(command, "installed_methods", lambda: {"leading": LEADING, "broken": Method("broken", broken)})
    argv = ["--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0", "--seeds", "0", "1", "--jobs", "2"]
    assert run(tmp_path, *argv) == 2
    assert (
        "2 of 4 results are missing; failed: broken-macs0.5, seed 0, broken-macs0.5, seed 1 (see failed.txt"
        in capsys.readouterr().err
    )
    assert [result["method"] for result in read_results(tmp_path).results] == ["leading", "leading"]


@pytest.mark.parametrize(
    ("argv", "cores", "count"),
    [
        (["--seeds", "0", "1", "2"], 2, 2),
        (["--seeds", "0", "1"], 8, 2),
        (["--seeds", "0", "1", "2", "--threads", "4"], 8, 2),
        (["--seeds", "0", "--threads", "4"], 2, 1),
    ],
)
def test_default_jobs_is_one_per_seed_limited_by_cores(monkeypatch, argv, cores, count):
    monkeypatch.setattr(command.torch, "get_num_threads", lambda: cores)
    assert command.default_jobs(parse(Compare, ["--device", "cpu", *argv])) == count


def test_result_claimed_by_another_process_is_awaited_and_not_recomputed(tmp_path):
    argv = ["--methods", "leading", "--target-macs", "0.7", "--target-bytes", "--finetune-epochs", "0", "--seeds", "0"]
    run(tmp_path, *argv)
    written = (tmp_path / "seed0" / "leading-macs0.7" / "model.safetensors").stat().st_mtime_ns
    with (
        claim_file(tmp_path / ".claims" / "seed0-leading") as mine,
        claim_file(tmp_path / ".claims" / "seed0-leading") as other,
    ):
        assert mine and not other
    code = (
        "import sys, time; from pathlib import Path; from common.executor import claim_file\n"
        "with claim_file(Path(sys.argv[1])): print('held', flush=True); time.sleep(1.5)"
    )
    lock = str(tmp_path / ".claims" / "seed0-leading")
    with subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert run(tmp_path, *argv) == 0 and other.poll() is not None, (
            "the result was read before the other process released it"
        )
    assert (tmp_path / "seed0" / "leading-macs0.7" / "model.safetensors").stat().st_mtime_ns == written


def test_target_unreachable_in_another_process_is_not_tried_again(tmp_path, monkeypatch):
    since = time.time()
    assert job_loop._failed_elsewhere(tmp_path, since) == ""
    (tmp_path / UNREACHABLE).write_text("{}")
    assert UNREACHABLE in job_loop._failed_elsewhere(tmp_path, since - 5)
    assert job_loop._failed_elsewhere(tmp_path, since + 3600) == "", "an older file does not prevent another try"


def test_holdout_is_measured_and_not_trained_on(tmp_path, monkeypatch):
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0", "--seeds", "0"]
    run(tmp_path / "test", *argv)
    seen = []
    real = command.dense_networks
    monkeypatch.setattr(
        command, "dense_networks", lambda args, data, *more: (seen.append(data), real(args, data, *more))[1]
    )
    assert run(tmp_path / "held", *argv, "--holdout", "0.25") == 0
    (held,), full = seen, bundle()
    assert (len(held.train), len(held.test)) == (24, 8) and len(full.train) == 32
    (result,) = read_results(tmp_path / "held").results
    assert "--holdout 0.25" in result["command"]
    assert run(tmp_path / "test", *argv, "--holdout", "0.25") == 2, "results on different images are not mixed"


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--methods", "nothing"], "leading"),
        (["--chain", "leading,nothing"], "nothing"),
        (["--chain", "leading,all"], "method 'all' is not installed"),
        (["--chain", "leading"], "two methods or more"),
        (["--target-macs", "--target-bytes"], "nothing to do"),
        (["--target-macs", "1.5"], "--target-macs"),
        (["--finetune-epochs", "-1"], "epochs"),
        (["--weights", "none.pth"], "none.pth: no such file; give an existing file"),
        (
            ["--dataset", "cifar10", "--arch", "resnet110", "--weights", "w/resnet110.pth"],
            "`python -m common.fetch resnet110 --to w` downloads w/resnet110-1d1ed7c2.th",
        ),
        (["--arch", "nothing"], "known: "),
        (["--model", "nothing:here"], "nothing"),
        (["--model", "compare_helpers:absent"], "absent"),
        (["--report-only"], "no finished result"),
    ],
)
def test_invalid_input_is_one_line_with_status_2(tmp_path, capsys, argv, part):
    assert run(tmp_path / "out", *argv) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and part in error[0]
    assert not list((tmp_path / "out").rglob("metrics.json"))


class Custom(nn.Module):
    """A custom network that cannot be built on the meta device: it reads a number from a tensor and has a non-persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = tiny()
        self.scale = float(torch.ones(3).sum() / 3)
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def forward(self, images):
        return self.layers(images * self.scale + self.shift)


def test_custom_network_is_compressed(tmp_path, monkeypatch):
    name = "test_compare_command:Custom"
    argv = ["--model", name, "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "1"]
    monkeypatch.delitem(ARCHITECTURES, "tiny")
    monkeypatch.setitem(ARCHITECTURES, name, None)  # removed after the test
    assert run(tmp_path / "all", *argv) == 0
    (result,) = read_results(tmp_path / "all").results
    assert f"--model {name}" in result["command"] and "--arch" not in result["command"]
    assert result["arch"] == name and 0.49 <= result["kept"]["macs"] <= 0.5
    folder = tmp_path / "all" / result["folder"]
    model = load_model(folder / "model.safetensors", Custom)
    assert model.layers[0].out_channels == result["widths"]["layers.0"][0] < 40
    dense = tmp_path / "all" / "seed0" / "baseline" / "model.safetensors"
    monkeypatch.setitem(ARCHITECTURES, name, None)
    assert run(tmp_path / "given", *argv, "--checkpoint", str(dense)) == 0
    assert (tmp_path / "given" / result["folder"] / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    (given,) = read_results(tmp_path / "given").results
    assert given["arch"] == read_json(tmp_path / "given" / "baseline" / "metrics.json")["arch"] == name


@pytest.mark.parametrize("option", ["--weights", "--checkpoint"])
def test_file_of_common_train_is_read_with_its_normalization(tmp_path, monkeypatch, option):
    data = bundle().with_normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    start = train_dense(tmp_path / "dense", "x", data, RECIPE, CPU, 0, factory=Custom)
    monkeypatch.setitem(ARCHITECTURES, "test_compare_command:Custom", None)
    argv = ["--model", "test_compare_command:Custom", option, str(start.file), "--target-macs", "0.5"]
    assert run(tmp_path / "out", *argv, "--finetune-epochs", "0", "--no-latency") == 0
    read = load_model(tmp_path / "out" / "baseline" / "model.safetensors", Custom).checkpoint_header
    assert read["normalize"] == {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    metrics = read_json(tmp_path / "out" / "baseline" / "metrics.json")["baseline"]
    assert metrics["loss"] == start.metrics()["loss"]


@pytest.mark.parametrize("inner", ["", "runs/new"])
def test_file_in_place_of_folder_raises_and_is_kept(tmp_path, capsys, inner):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert run(file / inner, "--jobs", "2") == 2
    assert testing.single_error_line(2, capsys.readouterr().err, f"{file} is a file")
    assert file.read_text() == "mine"


def test_command_of_result_computes_that_result(tmp_path):
    argv = ["--methods", "leading", "--target-macs", "0.7", "0.5", "--target-bytes", "--finetune-epochs", "1"]
    run(tmp_path / "all", *argv, "--baseline-epochs", "1")
    metrics = json.loads((tmp_path / "all" / "seed0" / "leading-macs0.5" / "metrics.json").read_text())
    again = metrics["command"].split()
    assert again[:3] == ["python", "-m", "compare"]
    assert main([*again[3:], "--target-bytes", "--device", "cpu", "--out", str(tmp_path / "one")]) == 0
    assert [p.name for p in (tmp_path / "one" / "seed0").iterdir() if p.name != "baseline"] == ["leading-macs0.5"]
    assert values(tmp_path / "one" / "seed0" / "leading-macs0.5") == values(
        tmp_path / "all" / "seed0" / "leading-macs0.5"
    )


LIMITS = ["--ignored-layers", "3", "--min-channels", "4", "--max-pruned", "0.9", "--round-to", "8"]


def test_limits_are_obeyed_and_stored_with_result(tmp_path, capsys):
    """The first convolution has 40 channels: 16 of them are 40 % of the MACs."""
    argv = ["--methods", "leading", "--target-macs", "0.405", "--target-bytes", "--finetune-epochs", "0"]
    assert run(tmp_path / "limited", *argv, *LIMITS, "--baseline-epochs", "0") == 0
    folder = tmp_path / "limited" / "seed0" / "leading-macs0.405"
    network = load_model(folder / "model.safetensors")
    assert (network[0].out_channels, network[3].out_channels) == (16, 50)
    recorded = json.loads((folder / "config.json").read_text())["options"]["limits"]
    assert recorded == {
        "ignored": ["3"],
        "only": None,
        "min_channels": 4,
        "max_pruned": 0.9,
        "round_to": 8,
        "layers": ["3"],
    }
    command = json.loads((folder / "metrics.json").read_text())["command"]
    assert " ".join(LIMITS) in command
    again = [*command.split()[3:], "--target-bytes", "--device", "cpu", "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert values(tmp_path / "again" / "seed0" / "leading-macs0.405") == values(folder)
    assert run(tmp_path / "limited", *argv, "--round-to", "4", "--baseline-epochs", "0") == 2
    assert "limits" in testing.single_error_line(2, capsys.readouterr().err)


def test_result_without_limits_records_none(tmp_path):
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]
    assert run(tmp_path, *argv, "--baseline-epochs", "0") == 0
    folder = tmp_path / "seed0" / "leading-macs0.5"
    assert "limits" not in json.loads((folder / "config.json").read_text())["options"]
    assert "--round-to" not in json.loads((folder / "metrics.json").read_text())["command"]


def test_limits_that_prevent_target_and_unknown_layers_are_one_line(tmp_path, capsys):
    argv = ["--methods", "leading", "--target-macs", "0.3", "--target-bytes", "--finetune-epochs", "0"]
    assert run(tmp_path, *argv, "--baseline-epochs", "0", "--max-pruned", "0.25") == 2
    line = capsys.readouterr().err
    assert "the limits on layers keep at least 0.6239" in line and "the smallest possible target is 0.624" in line
    assert run(tmp_path / "b", *argv, "--baseline-epochs", "0", "--only", "backbone.*") == 2
    testing.single_error_line(2, capsys.readouterr().err, "--only 'backbone.*': no layer has such a name")


def test_fine_tuning_options_are_stored_with_result(tmp_path, capsys):
    recipe = ["--schedule", "linear", "--warmup-epochs", "0.5", "--label-smoothing", "0.1", "--distill", "0.5"]
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "2"]
    assert run(tmp_path / "plain", *argv) == 0
    assert run(tmp_path / "recipe", *argv, *recipe) == 0
    plain, other = (
        json.loads((tmp_path / name / "seed0/leading-macs0.5/metrics.json").read_text()) for name in ("plain", "recipe")
    )
    assert (
        all(" ".join(recipe[i : i + 2]) in other["command"] for i in (0, 2, 4, 6))
        and "--distill" not in plain["command"]
    )
    assert plain["compressed"]["loss"] != other["compressed"]["loss"]
    config = json.loads((tmp_path / "recipe/seed0/leading-macs0.5/config.json").read_text())
    assert config["options"]["finetune"]["distill"] == 0.5 and config["options"]["finetune"]["schedule"] == "linear"
    defaults = json.loads((tmp_path / "plain/seed0/leading-macs0.5/config.json").read_text())["options"]["finetune"]
    assert (defaults["schedule"], defaults["warmup_epochs"], defaults["learning_rate"], defaults["distill"]) == (
        "linear",
        0.5,
        0.02,
        0.9,
    )
    assert run(tmp_path / "before", *argv, "--schedule", "cosine", "--warmup-epochs", "0", "--distill", "0") == 0
    config = json.loads((tmp_path / "before/seed0/leading-macs0.5/config.json").read_text())
    assert "distill" not in config["options"]["finetune"]  # older results do not have this option
    digits = parse(Compare, ["--dataset", "digits"])
    recipe = command.finetune_recipe(digits)
    assert (recipe.schedule, recipe.warmup_epochs, recipe.learning_rate) == ("cosine", 0.0, 0.05)
    assert run(tmp_path / "recipe", *argv) == 2 and "--force" in capsys.readouterr().err
    assert run(tmp_path / "other", *argv, "--distill", "1.5") == 2


def test_no_latency_omits_latency_from_tables_and_page(tmp_path, capsys):
    argv = ["--methods", "leading", "--target-macs", "0.7", "0.5", "--target-bytes", "--finetune-epochs", "1"]
    assert run(tmp_path, *argv, "--no-latency") == 0
    metrics = json.loads((tmp_path / "seed0/leading-macs0.5/metrics.json").read_text())
    assert "latency_ms" not in metrics["compressed"] and "latency_ms" not in metrics["baseline"]
    assert " ms " not in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy against latency" not in page and "Latency on" not in page and "Accuracy against MACs" in page
    assert "latency64_kept" in (tmp_path / "results.csv").read_text().splitlines()[0]


def test_recalibrate_changes_batch_norm_statistics(tmp_path, monkeypatch):
    argv = ["--methods", "leading", "--target-macs", "0.5", "--target-bytes", "0.5", "--finetune-epochs", "0"]
    assert run(tmp_path / "plain", *argv) == 0 and run(tmp_path / "again", *argv, "--recalibrate", "24") == 0
    plain, again = (tmp_path / name / "seed0" / "leading-macs0.5" for name in ("plain", "again"))
    one, two = (load_model(folder / "model.safetensors", tiny) for folder in (plain, again))
    assert torch.equal(one[0].weight, two[0].weight) and not torch.equal(one[1].running_mean, two[1].running_mean)
    config = json.loads((again / "config.json").read_text())["options"]["finetune"]
    assert config["recalibrate"] == 24
    assert "--recalibrate 24" in json.loads((again / "metrics.json").read_text())["command"]
    assert "recalibrate" not in json.loads((plain / "config.json").read_text())["options"]["finetune"]
    assert main([*f"--dataset grays --arch tiny --out {tmp_path / 'x'}".split(), "--recalibrate", "-1"]) == 2


def test_dense_network_that_diverges_names_its_own_option(tmp_path, monkeypatch, capsys):
    """--learning-rate belongs to fine-tuning."""
    with monkeypatch.context() as patch:
        patch.setattr("common.training.loop.math", SimpleNamespace(isfinite=lambda loss: False))
        assert run(tmp_path / "a", "--baseline-learning-rate", "1000", "--target-macs", "0.5", "--target-bytes") == 2
    line = testing.single_error_line(2, capsys.readouterr().err, "dense network tiny --baseline-learning-rate 1000")
    assert " --learning-rate" not in line
    argv = ["--baseline-learning-rate", "0.05", "--target-macs", "0.5", "--target-bytes", "--no-latency"]
    assert run(tmp_path / "b", *argv) == 0
    assert read_json(tmp_path / "b" / "seed0" / "baseline" / "config.json")["options"]["learning_rate"] == 0.05
    assert "--baseline-learning-rate 0.05" in read_results(tmp_path / "b").results[0]["command"]


def test_full_disk_stops_comparison_and_is_no_unreachable_target(tmp_path, capsys):
    argv = ["--target-macs", "0.5", "--target-bytes", "--no-latency"]
    with testing.full_disk(after=9):  # after the files of the dense network
        assert run(tmp_path, *argv) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/seed0/leading-macs0.5/") and "No space left on device" in line
    assert not [*tmp_path.rglob(UNREACHABLE), *tmp_path.rglob("failed.txt"), *tmp_path.rglob("*.part")]
    assert run(tmp_path, *argv) == 0


@pytest.mark.parametrize("name", ["state.pt", "config.json", "log.csv"])
def test_damaged_file_of_result_is_no_unreachable_target(name, tmp_path, monkeypatch, capsys):
    argv = ["--target-macs", "0.5", "--target-bytes", "--no-latency", "--finetune-epochs", "2"]
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        assert run(tmp_path, *argv) == 130
    file = tmp_path / "seed0" / "leading-macs0.5" / name
    file.write_bytes(b"epoch,seconds\n1,x\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(tmp_path, *argv) == 2
    assert str(file) in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.rglob(UNREACHABLE))
    assert not [path for path, data in before.items() if path.name != "config.json" and path.read_bytes() != data]


def test_force_does_not_delete_results_of_running_command(tmp_path, capsys):
    argv = ["--target-macs", "0.5", "--target-bytes", "--no-latency"]
    assert run(tmp_path, *argv) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    with claim_file(tmp_path / command.CLAIMS / "seed0-leading"):
        assert run(tmp_path, *argv, "--force") == 2
    testing.single_error_line(2, capsys.readouterr().err, f"{tmp_path}: another command seed0-leading")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_latency_of_all_networks_is_measured_at_the_end_against_the_dense_one(tmp_path, monkeypatch):
    """One measurement with a control; it is repeated only if a network is added or changed."""
    calls = []

    def timed(models, *args, **kwargs):
        calls.append(list(models))
        return fixed_latency(models, *args, **kwargs)

    monkeypatch.setattr("compare.latency.measure_latency", timed)
    argv = ["--target-macs", "0.5", "--target-bytes", "0.5", "--finetune-epochs", "0"]
    assert run(tmp_path, *argv) == 0
    names = ["seed0/leading-macs0.5", "seed0/bytes-bytes0.5"]
    assert [sorted(one) for one in calls] == [sorted(["dense", *names])]
    written = json.loads((tmp_path / "latency.json").read_text())
    assert set(written["results"]) == set(names) and written["dense_ms"] == {"1": 1.0, "64": 2.0}
    results = read_results(tmp_path)
    for result in results.results:
        assert result["latency"]["64"]["ratio"] == 1.0 and result["compressed"]["latency_ms"] == {"1": 1.0, "64": 2.0}
    assert "2.0 ms (as dense ± 0 %)" in text_report.comparison_table(results)
    assert run(tmp_path, *argv) == 0 and len(calls) == 1
    assert run(tmp_path, *argv[:1], "0.5", "0.7", *argv[2:]) == 0 and len(calls) == 2
    assert "seed0/leading-macs0.7" in calls[1]
    (tmp_path / "latency.json").write_text('{"environment": 7}')
    assert run(tmp_path, *argv) == 2


def test_results_are_reported_although_their_latency_cannot_be_measured(tmp_path, monkeypatch, capsys):
    argv = ["--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0"]

    def fails(*args, **kwargs):
        raise UserError("no such runtime")

    monkeypatch.setattr("compare.latency.measure_latency", fails)
    assert run(tmp_path, *argv) == 0
    printed = capsys.readouterr()
    assert "latency was not measured: no such runtime" in printed.out + printed.err and "leading" in printed.out
    assert not (tmp_path / "latency.json").exists() and (tmp_path / "report.md").is_file()
