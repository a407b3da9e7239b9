"""A comparison that commit b50e727 finished is still read, reported, kept, and skipped.

It was made in ``data/finished_run`` by COMPARE with ROWS, with REFUSED, and with ``--methods deep_compression --target-macs
--target-bytes 0.3``; ``dense.safetensors`` is a ResNet-20 on digits cut to 3 % of its MACs. The folders ``method`` and
``shared`` and ``report.html`` were left out.
"""

import csv
from pathlib import Path

import pytest

from common import pipeline
from common.checkpoint import load_model
from common.runs import read_json
from common.testing.finished import check_network, check_opens, finished_copy
from compare import account, findings, page, report, text
from compare.paper import tables
from compare.rows import chained, read_rows, single
from compare.settings import main

COMPARE = (  # after python -m compare
    "--baseline dense.safetensors --dataset digits --seeds 0 --finetune-epochs 1 --device cpu --jobs 1 --out comparison"
)
ROWS = "--methods l1_norm --chain l1_norm,random --target-macs 0.5 --target-bytes"
REFUSED = "--methods l1_norm --target-macs 0.0001 --target-bytes --no-report"
CHAIN = "seed0/l1_norm+random-macs0.5"
MACS = {"seed0/l1_norm-macs0.5": 606_032, f"{CHAIN}/step1-l1_norm": 854_884, f"{CHAIN}/step2-random": 603_738}
BYTES = "seed0/deep_compression-bytes0.3"
DENSE_MACS = 1_214_318


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch) -> Path:
    """A copy of the comparison, below the present folder as it was when it was made."""
    monkeypatch.chdir(tmp_path)  # and back afterwards
    finished_copy(__file__, tmp_path)
    return Path("comparison")


def written(out: Path) -> dict[Path, tuple[int, bytes]]:
    """When each result of a row was written, and what it is."""
    files = [f for f in out.rglob("*/*") if f.suffix in (".safetensors", ".dcz", ".csv") or f.name == "metrics.json"]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_every_row_is_read(out):
    rows = read_rows(out)
    assert {found["folder"]: found["compressed"]["macs"] for found in rows.metrics} == {**MACS, BYTES: DENSE_MACS}
    (dense,), (refused,) = rows.baselines, rows.refused
    assert dense["folder"] == "baseline" and dense["baseline"]["macs"] == DENSE_MACS
    assert refused["folder"] == "seed0/l1_norm-macs0.0001" and "the nearest keep 0.0825" in refused["reason"]
    assert [(group.name, group.first["target"]) for group in single(rows)] == [
        ("L1 norm", 0.5),
        ("deep compression", 0.3),
    ]
    assert [group.name for group in chained(rows)] == ["L1 norm", "L1 norm + random"]
    assert [group.mean("top1") for group in single(rows)] == [79.6, 96.2] and single(rows)[1].missed


@pytest.mark.parametrize("folder", MACS)
def test_the_network_has_the_recorded_macs_widths_and_accuracy(out, folder):
    metrics = read_json(out / folder / "metrics.json")
    check_network(out / folder, MACS[folder], out / "baseline" / "model.safetensors", DENSE_MACS)
    models = (load_model(out / folder / metrics["file"]), load_model(out / "baseline" / "model.safetensors"))
    assert account.widths(*models) == metrics["widths"] and metrics["file"] == "model.safetensors"


def test_the_report_is_made_of_it_anew(out):
    with open(out / "results.csv", newline="") as file:
        before = list(csv.DictReader(file))
    table = text.table(read_rows(out))
    assert table in (out / "report.md").read_text()  # the table that the old code wrote
    report.write(out, read_rows(out))
    with open(out / "results.csv", newline="") as file:
        assert list(csv.DictReader(file)) == before and len(before) == 4
    html = page.html(read_rows(out))
    assert (out / "report.html").read_text() == html
    assert all(said in html for said in ("49.91", "70.40", "49.72", "12.8", "94.40", "96.20", "0.0825", "b50e727eb782"))
    assert findings.findings(read_rows(out))


def test_it_becomes_a_result_file(out, tmp_path):
    tables.add_result(out, "old", tmp_path / "results")
    rows = tables.read_result("old", tmp_path / "results")
    assert [found["compressed"]["macs"] for found in rows.metrics] == [
        f["compressed"]["macs"] for f in read_rows(out).metrics
    ]
    assert text.table(rows) == text.table(read_rows(out)) and rows.baselines[0]["baseline"]["top1"] == 94.4


@pytest.mark.parametrize("folder", ["baseline", *MACS, BYTES])
def test_the_folder_opens_as_the_same_finished_run(out, folder):
    check_opens(out / folder, "compare")


def test_the_same_command_skips_it_and_others_are_refused(out, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "fit", None)  # nothing is trained
    before = written(out)
    assert main(f"{COMPARE} {ROWS}".split()) == 0
    told = capsys.readouterr().out
    assert (
        "49.91 % of the MACs, top-1 10.20 -> 79.60 %" in told and "49.72 % of the MACs, top-1 20.60 -> 89.60 %" in told
    )
    assert main(f"{COMPARE} {REFUSED}".split()) == 0
    assert "refused: --target-macs 0.0001: no network of equal widths" in capsys.readouterr().out
    assert main(f"{COMPARE} {ROWS} --learning-rate 0.01".split()) == 2
    assert "--force" in capsys.readouterr().err
    assert written(out) == before
