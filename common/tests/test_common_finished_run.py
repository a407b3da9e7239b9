"""A finished run folder of ``common.train`` from commit b50e727 is read, evaluated, kept as a result, and skipped.

COMMAND wrote it in ``data/finished_run``; the network is that of ``common_finished_network.py``.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from common_finished_network import build

from common import evaluate, runs, train
from common.checkpoint import load_model
from common.cost import count_cost
from common.data import load_dataset
from common.errors import UserError
from common.formats import load_network
from common.reporting.results import save_run

COMMAND = (  # after python -m common.train
    "--model common_finished_network:build --dataset digits --epochs 2 --batch-size 64 --device cpu --out train"
)
MACS = 16 * 16 * 8 * 27 + 8 * 8 * 16 * 72 + 2560
TOP1 = 89.2


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Copy of the run folder, at its original path relative to the working directory."""
    shutil.copytree(Path(__file__).parent / "data" / "finished_run", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "train"


def written(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each result was written, and what it is."""
    return {name: ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) for name in RESULTS}


RESULTS = ("log.csv", "metrics.json", "model.safetensors")


def test_network_has_recorded_macs_and_outputs(folder):
    side = runs.read_json(folder / "metrics.json")["baseline"]
    for model in (load_model(folder / "model.safetensors", build), load_network(folder / "model.safetensors", build)):
        cost = count_cost(model, (3, 32, 32))
        assert cost.macs == side["macs"] == MACS == 131_584 and cost.params == side["params"] == 3_986
        assert model.checkpoint_header["dataset"] == "digits" and len(model.checkpoint_header["classes"]) == 10
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert side["bytes"] == (folder / "model.safetensors").stat().st_size


def test_recorded_metrics_are_reproduced(folder):
    words = ["--model", "common_finished_network:build", "--checkpoint", "train/model.safetensors"]
    assert evaluate.main([*words, "--dataset", "digits", "--device", "cpu", "--no-latency", "--json", "now.json"]) == 0
    now, before = json.loads(Path("now.json").read_text()), runs.read_json(folder / "metrics.json")["baseline"]
    assert now["top1"] == pytest.approx(TOP1, abs=1) and before["top1"] == TOP1  # other processors round differently
    assert {name: now[name] for name in ("macs", "params", "bytes")} == {
        n: before[n] for n in ("macs", "params", "bytes")
    }


def test_folder_opens_as_finished_run(folder):
    config = runs.read_json(folder / "config.json")
    before = written(folder)
    run = runs.open_stage(folder, "common", config["options"], fingerprint=load_dataset("digits").fingerprint)
    assert run.finished and run.metrics()["epochs"] == 2 and run.metrics()["commit"] == "b50e727eb782"
    with open(folder / runs.LOG, newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert len(seconds) == 2 and run.previous_seconds == pytest.approx(sum(seconds))
    with pytest.raises(UserError, match="--epochs 2"):
        runs.open_stage(folder, "common", {**config["options"], "epochs": 3}, fingerprint=config["data_fingerprint"])
    assert written(folder) == before


def test_same_command_skips_run_and_other_options_raise(folder, capsys):
    before = written(folder)
    assert train.main(COMMAND.split()) == 0
    assert f"top-1 {TOP1:.2f} %, {MACS:,} MACs" in capsys.readouterr().out
    assert train.main([*COMMAND.split(), "--learning-rate", "0.2"]) == 2
    assert "--learning-rate 0.1" in capsys.readouterr().err
    assert written(folder) == before


def test_run_is_kept_as_one_result_file(folder, tmp_path):
    record = runs.read_json(save_run(folder, "common", tmp_path))
    assert record["baseline"]["top1"] == TOP1 and record["options"]["epochs"] == 2 and len(record["log"]) == 3
    assert record["data_fingerprint"] == load_dataset("digits").fingerprint and record["environment"]["threads"] == 1
