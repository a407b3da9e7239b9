"""A comparison that commit b50e727 finished can be read, reported, kept as a result file, and skipped.

``data/finished_run`` was computed by COMPARE with JOBS, with UNREACHABLE, and with ``--methods deep_compression --target-macs
--target-bytes 0.3``; ``dense.safetensors`` is a ResNet-20 on digits pruned to 3 % of its MACs. The folders ``method`` and
``shared`` and ``report.html`` were left out.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from common import pipeline
from common.checkpoint import load_model
from common.runs import read_json
from common.testing.finished import check_recorded_network, check_run_reopens, copy_finished_run
from compare import breakdown, findings, page, report, text_report
from compare.paper import tables
from compare.result_set import chain_groups, read_results, single_method_groups
from compare.settings import main

COMPARE = (  # after python -m compare
    "--checkpoint dense.safetensors --dataset digits --seeds 0 --finetune-epochs 1 --device cpu --jobs 1 --out comparison"
)
JOBS = "--methods l1_norm --chain l1_norm,random --target-macs 0.5 --target-bytes"
UNREACHABLE = "--methods l1_norm --target-macs 0.01 --target-bytes --no-report"
CHAIN = "seed0/l1_norm+random-macs0.5"
MACS = {"seed0/l1_norm-macs0.5": 606_032, f"{CHAIN}/step1-l1_norm": 854_884, f"{CHAIN}/step2-random": 603_738}
BYTES = "seed0/deep_compression_extended-bytes0.3"  # before the migration: deep_compression-bytes0.3
DENSE_MACS = 1_214_318
RENAMED = {"cut_top1": "pruned_top1", "cut_agreement": "pruned_agreement"}  # columns of results.csv
VARIANTS = {"deep_compression": "extended"}  # other methods are reference methods


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch) -> Path:
    """A copy of the comparison, at its original path relative to the current folder."""
    monkeypatch.chdir(tmp_path)  # restored after the test
    copy_finished_run(__file__, tmp_path)
    return Path("comparison")


def written(out: Path) -> dict[Path, tuple[int, bytes]]:
    """Return {file: (modification time, content)} of all result files."""
    files = [f for f in out.rglob("*/*") if f.suffix in (".safetensors", ".dcz", ".csv") or f.name == "metrics.json"]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_every_result_is_read(out):
    result_set = read_results(out)
    assert {found["folder"]: found["compressed"]["macs"] for found in result_set.results} == {**MACS, BYTES: DENSE_MACS}
    (dense,), (unreachable,) = result_set.baselines, result_set.unreachable
    assert dense["folder"] == "baseline" and dense["baseline"]["macs"] == DENSE_MACS
    assert unreachable["folder"] == "seed0/l1_norm-macs0.0001"
    assert "the nearest keep 0.0825" in unreachable["reason"]
    assert [(group.name, group.first["target"]) for group in single_method_groups(result_set)] == [
        ("L1 norm", 0.5),
        ("Deep Compression (extended)", 0.3),
    ]
    assert [group.name for group in chain_groups(result_set)] == ["L1 norm", "L1 norm + random"]
    assert [group.mean("top1") for group in single_method_groups(result_set)] == [79.6, 96.2] and (
        single_method_groups(result_set)[1].missed
    )


@pytest.mark.parametrize("folder", MACS)
def test_network_has_recorded_macs_widths_and_accuracy(out, folder):
    metrics = read_json(out / folder / "metrics.json")
    check_recorded_network(out / folder, MACS[folder], out / "baseline" / "model.safetensors", DENSE_MACS)
    models = (load_model(out / folder / metrics["file"]), load_model(out / "baseline" / "model.safetensors"))
    assert breakdown.layer_widths(*models) == metrics["widths"] and metrics["file"] == "model.safetensors"


def migrated_row(row: dict[str, str]) -> dict[str, str]:
    """A row of an old results.csv by today's names."""
    variant = VARIANTS.get(row["method"], "reference")
    row |= {"command": row["command"].replace(" --baseline ", " --checkpoint "), "variant": variant}
    if variant == "extended":
        row["label"] = f"{row['label'].title()} (extended)"
        for key in ("method", "command", "folder"):
            row[key] = row[key].replace("deep_compression", "deep_compression_extended")
    return row


def table_of(markdown: str) -> list[list[str]]:
    """Return the cells of the table in a Markdown text, without its two header lines."""
    lines = [line.split("|")[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_report_is_regenerated_with_same_values(out):
    """Accuracies are equal; sizes, which the old table had in full, are rounded; latencies, measured without a control, are left out."""
    with open(out / "results.csv", newline="") as file:
        old = list(csv.DictReader(file))
    before = [migrated_row({RENAMED.get(k, k): v for k, v in row.items()}) for row in old]
    rows, old_rows = (
        table_of(text_report.comparison_table(read_results(out))),
        table_of((out / "report.md").read_text()),
    )
    assert len(rows) == len(old_rows) == 5
    for row, old_row in zip(rows, old_rows, strict=True):
        assert row[0] == old_row[0].replace("deep compression", "Deep Compression (extended)")
        assert row[1:3] == old_row[1:3]
        accuracies = [cell.split(" ")[0] for cell in row[3:6]]  # before and after fine-tuning, agreement
        assert list(filter(None, accuracies)) == list(filter(None, old_row[3:6]))
        for cell, exact in zip(row[6:9], old_row[6:9], strict=True):
            value, unit, *_ = cell.replace(",", "").split(" ")
            scale = {"k": 1e3, "kB": 1e3}.get(unit, 1)
            assert float(value) * scale == pytest.approx(float(exact.replace(",", "")), abs=0.05 * scale)
    report.write_report(out, read_results(out))
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    untimed = dict.fromkeys(("ms_batch1", "ms_batch64", "latency1_kept", "latency64_kept"), "")
    assert rows == [{**row, **untimed} for row in before] and len(before) == 4
    html = page.html_report(read_results(out))
    assert (out / "report.html").read_text() == html and 'id="changed"' not in html  # not recorded at that time
    assert all(
        value in html
        for value in ("49.9 %", "70.4 %", "49.7 %", "12.77 kB", "94.40", "96.20", "0.0825", "b50e727eb782")
    )
    assert findings.findings(read_results(out))


def test_comparison_is_kept_as_result_file(out, tmp_path):
    tables.add_result(out, "old", tmp_path / "results")
    result_set = tables.read_result_file("old", tmp_path / "results")
    assert [found["compressed"]["macs"] for found in result_set.results] == [
        f["compressed"]["macs"] for f in read_results(out).results
    ]
    known = [{**found, "test_images": 500} for found in read_results(out).results]  # known from the data's fingerprint
    expected = text_report.comparison_table(replace(read_results(out), results=known))
    assert text_report.comparison_table(result_set) == expected and "79.60 ± 1.81 (−14.80)" in expected
    assert result_set.baselines[0]["baseline"]["top1"] == 94.4


@pytest.mark.parametrize("folder", ["baseline", *MACS, BYTES])
def test_folder_opens_as_same_finished_run(out, folder):
    check_run_reopens(out / folder, "compare")


def test_same_command_skips_results_and_other_options_raise(out, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "fit", None)  # nothing is trained
    before = written(out)
    assert main(f"{COMPARE} {JOBS}".split()) == 0
    printed = capsys.readouterr().out
    assert (
        "49.91 % of the MACs, top-1 10.20 -> 79.60 %" in printed
        and "49.72 % of the MACs, top-1 20.60 -> 89.60 %" in printed
    )
    assert main(f"{COMPARE} {UNREACHABLE}".split()) == 2
    printed = capsys.readouterr()
    assert "unreachable: --target-macs 0.01: no network of equal widths" in printed.out
    assert "1 of 1 results are missing; unreachable: l1_norm-macs0.01, seed 0" in printed.err
    assert len(read_results(out).unreachable) == 2 and (out / "seed0/l1_norm-macs0.01/unreachable.json").is_file()
    assert main(f"{COMPARE} {JOBS} --learning-rate 0.01".split()) == 2
    assert "--force" in capsys.readouterr().err
    assert written(out) == before
