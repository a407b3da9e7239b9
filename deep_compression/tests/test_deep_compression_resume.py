"""Stages killed at random times, or with a full disk, and run again end bit-identical to an uninterrupted run."""

import json
from pathlib import Path

import pytest
import torch

from common.checkpoint import save_model
from common.data import load_dataset
from common.models import create_model
from common.testing import check_full_disk_and_kills, check_resume_after_kill
from deep_compression import commands, original_main

KILLS = 2
TRAINING = ["--epochs", "3", "--batch-size", "128", "--no-augment"]
ORIGINAL = ["--epoch", "1", "--iter", "3", "--lr1", "0.02,0.02,0.01", "--lcluster", "4,9", "--lr2", "1e-5,1e-5"]
STAGES = {  # command: (module, arguments, files that must be identical, number of kills)
    "prune": (
        commands,
        ["prune", "--values", "0.4", "0.2", *TRAINING],
        ["prune/model.safetensors", "prune/rounds.json"],
        KILLS,
    ),
    "quantize": (
        commands,
        ["quantize", "--fc-bits", "3", "--bias-bits", "3", *TRAINING],
        ["share/model.safetensors"],
        KILLS,
    ),
    "encode": (commands, ["encode"], ["encode/model.dcz"], KILLS),
    "main.py": (
        original_main,
        [*ORIGINAL, "--batch-size", "128", "--arch", "lenet300_100"],
        [
            "lenet300_100_Pruned02/model.safetensors",
            "lenet300_100_Shared04/encode/model.dcz",
            "lenet300_100_Shared09/encode/model.dcz",
        ],
        KILLS,
    ),
}
DIFFERENT = ("seconds", "network", "commit")  # keys of metrics.json that may differ


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A small network with few distinct weights, half of them zero, which trains and encodes quickly."""
    data = load_dataset("digits")
    torch.manual_seed(0)
    model = create_model("lenet300_100", in_features=3072)
    for layer, (out, into) in ((model.fc1, (32, 3072)), (model.fc2, (20, 32)), (model.fc3, (10, 20))):
        weight = torch.randn(out, into).mul(2).round().div(40)
        layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(torch.zeros(out))
    path = tmp_path_factory.mktemp("kill") / "dense.safetensors"
    save_model(path, model, normalize=(data.mean, data.std))
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_repeatedly_killed_stage_ends_bit_identical(stage, dense, tmp_path):
    module, argv, names, kills = STAGES[stage]
    argv = [*argv, "--dataset", "digits", "--device", "cpu", "--threads", "1", "--no-latency"]
    argv += ["--pretrained" if stage == "main.py" else "--checkpoint", str(dense)]

    def results(folder: Path):
        assert not list(folder.rglob("state.pt"))
        return [(folder / name).read_bytes() for name in names] + [
            {key: value for key, value in json.loads(path.read_text()).items() if key not in DIFFERENT}
            for path in sorted(folder.rglob("metrics.json"))
        ]

    argv += ["--saved-dir" if stage == "main.py" else "--out"]
    preload = ["deep_compression.commands", "deep_compression.original_pipeline", "common.data"]
    check_resume_after_kill(module.main, argv, results, tmp_path, kills=kills, preload=preload, between=(0.2, 0.9))
    check_full_disk_and_kills(module.main, argv, tmp_path, preload=preload)
