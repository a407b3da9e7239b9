"""Check that run folders of earlier versions remain readable. Packages store some in ``tests/data/finished_run``."""

import os
import runpy
import shutil
from pathlib import Path
from typing import Any

from common.checkpoint import load_model
from common.cost import count_cost
from common.data import load_dataset
from common.formats import load_network
from common.measure import evaluate
from common.runs import CONFIG, open_stage, read_json
from common.testing.generated_docs import source_folder

SHAPE = (3, 32, 32)  # of digits, the data set of these runs


def copy_finished_run(test_file: str, to: Path) -> Path:
    """Copy the folders next to a test file, migrate the copy to today's names, and make it the current folder."""
    shutil.copytree(Path(test_file).parent / "data" / "finished_run", to, dirs_exist_ok=True)
    runpy.run_path(str(source_folder("common").parents[2] / "scripts" / "migrate_results.py"))["main"]([str(to)])
    os.chdir(to)
    return to


def file_states(place: Path, *left_out: str) -> dict[Path, tuple[int, bytes]]:
    """Return {file: (modification time, bytes)} without configurations, text logs and files of the given names."""
    skipped = {CONFIG, *left_out}
    files = [f for f in place.rglob("*") if f.is_file() and f.name not in skipped and f.suffix != ".log"]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def check_recorded_network(folder: Path | str, macs: int, dense: Path | str, dense_macs: int) -> None:
    """Check the recorded MACs of a run's network and its dense network, and its recorded top-1 within one point."""
    metrics = read_json(Path(folder) / "metrics.json")
    model: Any = load_network(Path(folder) / metrics.get("file", "model.safetensors"))
    assert count_cost(model, SHAPE).macs == metrics["compressed"]["macs"] == macs
    assert count_cost(load_model(dense), SHAPE).macs == metrics["baseline"]["macs"] == dense_macs
    header = model.checkpoint_header["normalize"]
    test = load_dataset("digits").test.normalized(header["mean"], header["std"])
    found = evaluate(model, test).top1
    assert abs(found - metrics["compressed"]["top1"]) <= 1, f"top-1 {found}, recorded {metrics['compressed']['top1']}"


def check_run_reopens(folder: Path | str, package: str, finished: bool = True) -> None:
    """Check that a folder opens as the same run, with its recorded options and data, and that nothing is rewritten."""
    config, before = read_json(Path(folder) / CONFIG), file_states(Path(folder))
    stage = open_stage(folder, package, config["options"], fingerprint=load_dataset("digits").fingerprint)
    assert stage.finished == finished and file_states(Path(folder)) == before
