"""The tables of latency targets and of deployed files: made from files read back, by the documented commands."""

import numpy as np
import pytest
import torch
from PIL import Image

from common import measure
from common.channels import channel_groups, keep_channels
from common.checkpoint import save_model
from common.export import export_network
from common.models import create_model
from common.runs import read_json
from common.testing.fixed_latency import fixed_latency, take_macs_for_latency
from compare.paper import deployment, latency_target

SHAPE = (3, 32, 32)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a network of two classes, dense.safetensors, and images. All networks seem to take the same time."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 4)):
        for name in ("a", "b"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(generator.integers(0, 256, SHAPE[1:] + (3,), dtype=np.uint8))
                image.save(tmp_path / "images" / part / name / f"{i}.png")
    torch.manual_seed(0)
    save_model(tmp_path / "dense.safetensors", create_model("resnet20", num_classes=2))
    monkeypatch.setattr(measure, "measure_latency", fixed_latency)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_networks_of_both_targets_take_the_same_time(home, monkeypatch, capsys):
    take_macs_for_latency(monkeypatch)
    results = home / "results"
    results.mkdir()
    words = ["--checkpoint", "dense.safetensors", "--dataset", "folder:images", "--method", "l1_norm", "--threads", "1"]
    words += [
        "--target-latency",
        "0.6",
        "--latency-batch-size",
        "64",
        "--name",
        "Own network",
        "--out",
        "runs",
        "--results",
        "results",
    ]
    assert latency_target.main(words) == 0
    record = read_json(results / "latency-target-own_network.json")
    assert record["conditions"] == {"latency_batch_size": 64} and record["target"] == 0.6
    for row in record["rows"].values():
        assert 0.57 <= row["macs"] / record["dense"]["macs"] <= 0.6 and row["time"]["ratio"] == 1
    table = latency_target.latency_table(results).splitlines()
    assert len(table) == 5 and "Own network, latency target" in table[3] and "as dense" in table[3]
    before = (home / "runs" / "latency" / "model.safetensors").stat().st_mtime_ns
    assert latency_target.main(words) == 0  # finished networks are read
    assert (home / "runs" / "latency" / "model.safetensors").stat().st_mtime_ns == before
    monkeypatch.setattr(measure, "measure_latency", lambda *a, **k: _busy(*a, **k))
    assert latency_target.main(words) == 2 and "not an idle machine, nothing is written" in capsys.readouterr().err


def _busy(*args, **kwargs):
    found = fixed_latency(*args, **kwargs)
    for timing in found.timings.values():
        object.__setattr__(timing, "others", 1.0)
    return found


def test_files_are_evaluated_and_timed_in_the_runtimes_that_run_them(home, monkeypatch, capsys):
    dense = create_model("resnet20", num_classes=2).eval()
    group = channel_groups(dense, torch.zeros(1, *SHAPE))[0]
    save_model(home / "pruned.safetensors", keep_channels(dense, torch.zeros(1, *SHAPE), {group.name: range(4)}))
    export_network(dense, torch.randn(3, *SHAPE), home / "dense.onnx", "onnx")
    words = ["--dataset", "folder:images", "--threads", "1", "--name", "Own network", "--results", "."]
    for name, file in (("dense", "dense.safetensors"), ("pruned", "pruned.safetensors"), ("exported", "dense.onnx")):
        words += ["--network", name, file]
    assert deployment.main(words) == 0
    record = read_json(home / "deployment-own_network.json")
    assert record["images"] == 8 and list(record["rows"]) == ["dense", "pruned", "exported"]
    assert record["rows"]["pruned"]["bytes"] == (home / "pruned.safetensors").stat().st_size
    assert record["rows"]["dense"]["agreement"] == 100
    assert [list(row["times"]) for row in record["rows"].values()] == [["onnxruntime", "torch"]] * 2 + [["onnxruntime"]]
    table = deployment.deployment_table(home).splitlines()
    assert len(table) == 5 and "1 ms" in table[2] and "as dense" in table[3] and table[4].count("as dense") == 2
    assert len(deployment.short_table(home).splitlines()) == 4  # "exported" is not in it
    assert deployment.main([*words, "--network", "dense", "dense.onnx"]) == 2
    assert "two have the same name" in capsys.readouterr().err
