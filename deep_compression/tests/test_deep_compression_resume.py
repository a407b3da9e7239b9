"""SIGKILL at seeded random moments of every stage; the same command again ends with the same bits as an undisturbed run."""

import json
from pathlib import Path

import pytest
import torch

from common.checkpoint import save_model
from common.data import load_dataset
from common.models import create_model
from common.testing import check_resume_after_kill
from deep_compression import commands, seed_main

KILLS = 3
TRAINING = ["--epochs", "3", "--batch-size", "128", "--no-augment"]
SEEDS = ["--epoch", "1", "--iter", "3", "--lr1", "0.02,0.02,0.01", "--lcluster", "4,9", "--lr2", "1e-5,1e-5"]
STAGES = {  # command: (main, its words, files that must be the same, how often it is killed)
    "prune": (
        commands,
        ["prune", "--values", "0.4", "0.2", *TRAINING],
        ["prune/model.safetensors", "prune/rounds.json"],
        KILLS,
    ),
    "share": (commands, ["share", "--fc-bits", "3", "--bias-bits", "3", *TRAINING], ["share/model.safetensors"], KILLS),
    "encode": (commands, ["encode"], ["encode/model.dcz"], KILLS),
    "main.py": (
        seed_main,
        [*SEEDS, "--batch-size", "128", "--arch", "lenet300_100"],
        [
            "lenet300_100_Pruned02/model.safetensors",
            "lenet300_100_Shared04/encode/model.dcz",
            "lenet300_100_Shared09/encode/model.dcz",
        ],
        2 * KILLS,
    ),
}
UNLIKE = ("seconds", "network", "commit")  # of metrics.json


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A small network whose weights are few values, half of them zero: quick to train and to encode."""
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
def test_killed_again_and_again_it_ends_with_the_same_bits(stage, dense, tmp_path):
    module, words, names, kills = STAGES[stage]
    words = [*words, "--dataset", "digits", "--device", "cpu", "--threads", "1", "--no-latency"]
    words += ["--pretrained" if stage == "main.py" else "--checkpoint", str(dense)]

    def results(folder: Path):
        assert not list(folder.rglob("state.pt"))
        return [(folder / name).read_bytes() for name in names] + [
            {key: value for key, value in json.loads(path.read_text()).items() if key not in UNLIKE}
            for path in sorted(folder.rglob("metrics.json"))
        ]

    check_resume_after_kill(
        module.main,
        [*words, "--saved-dir" if stage == "main.py" else "--out"],
        results,
        tmp_path,
        kills=kills,
        preload=["deep_compression.commands", "deep_compression.seed_pipeline", "common.data"],
        between=(0.2, 0.9),
    )
