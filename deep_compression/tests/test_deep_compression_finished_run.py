"""Finished run folders of the three stages, made at commit b50e727, can still be read, reported, decoded and skipped.

They were made in ``data/finished_run`` with the options COMPRESS; ``dense.safetensors`` is a ResNet-20 on digits, pruned to 3 % of its MACs.
"""

import csv
from pathlib import Path

import pytest
import torch

from common import pipeline
from common.checkpoint import load_model
from common.cost import count_cost
from common.formats import load_network
from common.reporting.results import save_run
from common.runs import read_json
from common.testing.finished import check_run_reopens, copy_finished_run, file_states
from deep_compression import commands, load_compressed, plots, size_report, size_tables
from deep_compression.pruning import total_density

COMPRESS = (  # arguments of python -m deep_compression
    "compress --checkpoint dense.safetensors --dataset digits --values 0.5 0.3 --epochs 1 --batch-size 64"
    " --learning-rate 0.02 --quantize-epochs 1 --conv-bits 5 --fc-bits 5 --index-bits auto --order auto --device cpu --out runs"
)
FILE, SHARED = "runs/encode/model.dcz", "runs/share/model.safetensors"
MACS, PARAMS, NONZERO, BYTES, TOP1 = 1_214_318, 8_175, 2_624, 7_588, 86.4
CODED = 15  # encoded layers; the five smallest are stored unencoded


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A migrated copy of the folders in the current folder, as when they were made."""
    monkeypatch.chdir(tmp_path)  # restored after the test
    return copy_finished_run(__file__, tmp_path)


@pytest.mark.parametrize(
    "stage, file", [("prune", "model.safetensors"), ("share", "model.safetensors"), ("encode", "model.dcz")]
)
def test_network_has_recorded_macs_and_params(stage, file):
    recorded, path = read_json(f"runs/{stage}/metrics.json")["compressed"], Path(f"runs/{stage}/{file}")
    cost = count_cost(load_network(path), (3, 32, 32))
    assert (cost.macs, cost.params, cost.nonzero_params) == (MACS, PARAMS, NONZERO)
    assert (recorded["macs"], recorded["params"], recorded["nonzero_params"]) == (MACS, PARAMS, NONZERO)
    assert recorded["bytes"] == path.stat().st_size


def test_compressed_file_decodes_to_quantized_network():
    shared, tensors = load_model(SHARED), load_compressed(FILE)
    state = shared.state_dict()
    assert state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in state)
    assert load_network(FILE).checkpoint_header["normalize"] == shared.checkpoint_header["normalize"]
    assert commands.main(["decode", FILE, "--output", "decoded.safetensors"]) == 0
    decoded = load_model("decoded.safetensors").state_dict()
    assert all(torch.equal(state[name], decoded[name]) for name in state)


def test_pruned_network_has_recorded_density():
    metrics, rounds = read_json("runs/prune/metrics.json"), read_json("runs/prune/rounds.json")
    assert total_density(load_model("runs/prune/model.safetensors")) == pytest.approx(metrics["density"])
    assert metrics["density"] == pytest.approx(0.3, abs=1e-3) and len(rounds) == 2
    clusters = read_json("runs/share/metrics.json")["clusters"]
    values = {name: len(load_model(SHARED).state_dict()[name].unique()) - 1 for name in clusters}  # one of them is zero
    assert len(clusters) == 20 and all(0 < values[name] <= count < 32 for name, count in clusters.items())


def test_size_report_equals_recorded_one():
    found, metrics = size_report(FILE), read_json("runs/encode/metrics.json")
    assert found.by_category == metrics["file"] and found.bytes == sum(metrics["file"].values()) == BYTES
    assert commands.main(["report", FILE, "--json", "report.json"]) == 0
    reported = read_json("report.json")
    assert reported["bytes"] == BYTES and len(reported["layers"]) == CODED
    assert reported["dense_bytes"] / BYTES == pytest.approx(metrics["rate_of_state"], abs=1e-4)
    assert len(size_tables.layer_table(found).splitlines()) == 2 + CODED + 1


def test_plots_of_file_are_drawn(place):
    found = size_report(FILE)
    weights = load_compressed(FILE)["layer3.2.conv2.weight"].double().numpy().ravel()
    drawn = [plots.bits_per_layer(place / "bits.png", found), plots.bytes_of_file(place / "bytes.png", found)]
    drawn.append(plots.weight_histogram(place / "weights.png", weights, "layer3.2.conv2"))
    assert all(file.stat().st_size > 5000 for file in drawn)


def test_evaluation_equals_recorded_one():
    argv = ["evaluate", FILE, "--baseline", "dense.safetensors", "--dataset", "digits", "--device", "cpu"]
    assert commands.main([*argv, "--no-latency", "--json", "now.json"]) == 0
    now, before = read_json("now.json"), read_json("runs/encode/metrics.json")["compressed"]
    assert before["top1"] == TOP1
    for name in ("top1", "agreement"):
        assert now[name] == pytest.approx(before[name], abs=1)  # rounding depends on the processor


@pytest.mark.parametrize("stage", ["prune", "share", "encode"])
def test_folder_opens_as_finished_run(stage):
    check_run_reopens(f"runs/{stage}", "deep_compression")


def test_same_command_skips_and_other_options_raise(place, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "fit", None)  # nothing is trained
    before = file_states(place)
    assert commands.main(COMPRESS.split()) == 0
    assert f"top-1 94.40 % -> {TOP1:.2f} %, {NONZERO:,} of {PARAMS:,} parameters nonzero" in capsys.readouterr().out
    for more, reported in (("--learning-rate 0.03", "--learning-rate 0.02"), ("--conv-bits 4", "--conv-bits 5")):
        assert commands.main([*COMPRESS.split(), *more.split()]) == 2
        assert reported in capsys.readouterr().err
    assert file_states(place) == before


def test_old_quantized_network_is_encoded_again():
    argv = [
        "encode",
        "--checkpoint",
        SHARED,
        "--baseline",
        "dense.safetensors",
        "--dataset",
        "digits",
        "--device",
        "cpu",
    ]
    assert commands.main([*argv, "--no-latency", "--coder", "fixed", "--out", "again"]) == 0
    before, after = load_compressed(FILE), load_compressed("again/encode/model.dcz")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert Path("again/encode/model.dcz").stat().st_size > BYTES  # without entropy coding


def test_stage_is_kept_as_one_result_file(place):
    record = read_json(save_run(place / "runs" / "prune", "deep_compression", place))
    with open("runs/prune/log.csv", newline="") as file:
        assert len(record["log"]) == 1 + len(list(csv.DictReader(file))) == 3  # an epoch of each round
    assert record["network"] == "dense.safetensors" and record["compressed"]["nonzero_params"] == NONZERO
