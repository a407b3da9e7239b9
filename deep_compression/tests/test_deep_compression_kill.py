"""SIGKILL at seeded random moments of every stage; the same command again ends with the same bits as an undisturbed run."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from common.checkpoint import save_model
from common.data import load_dataset
from common.models import create_model
from deep_compression import commands, seed_main

KILLS = 3
TRAINING = ["--epochs", "3", "--batch-size", "128", "--no-augment"]
SEEDS = ["--epoch", "1", "--iter", "3", "--lr1", "0.02,0.02,0.01", "--lcluster", "4,9", "--lr2", "1e-5,1e-5"]
STAGES = {  # command: (main, its words, files that must be the same, how often it is killed)
    "prune": (commands, ["prune", "--values", "0.4", "0.2", *TRAINING], ["prune/model.safetensors", "prune/rounds.json"], KILLS),
    "share": (commands, ["share", "--fc-bits", "3", "--bias-bits", "3", *TRAINING], ["share/model.safetensors"], KILLS),
    "encode": (commands, ["encode"], ["encode/model.dcz"], KILLS),
    "main.py": (
        seed_main,
        [*SEEDS, "--batch-size", "128", "--arch", "lenet300_100"],
        ["lenet300_100_Pruned02/model.safetensors", "lenet300_100_Shared04/encode/model.dcz",
         "lenet300_100_Shared09/encode/model.dcz"],
        2 * KILLS,
    ),
}  # fmt: skip
UNLIKE = ("seconds", "network", "commit")  # of metrics.json


def run_in_child(stage: str, words: list[str]) -> None:
    torch.set_num_threads(1)
    raise SystemExit(STAGES[stage][0].main(words))


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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deep_compression.commands", "deep_compression.seed_main", "common.data"])
    _, words, names, wanted = STAGES[stage]
    words = [*words, "--dataset", "digits", "--device", "cpu", "--threads", "1", "--no-latency"]
    words += ["--pretrained" if stage == "main.py" else "--checkpoint", str(dense)]
    where = "--saved-dir" if stage == "main.py" else "--out"

    def run(folder, seconds):
        child = context.Process(target=run_in_child, args=(stage, [*words, where, str(folder)]))
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode

    def results(folder):
        assert not list(folder.rglob("state.pt"))
        return [(folder / name).read_bytes() for name in names] + [
            {key: value for key, value in json.loads(path.read_text()).items() if key not in UNLIKE}
            for path in sorted(folder.rglob("metrics.json"))
        ]

    start = time.monotonic()
    assert run(tmp_path / "whole", None) == 0
    span, whole = time.monotonic() - start, results(tmp_path / "whole")
    draw, kills, tries, folder = random.Random(5), 0, 0, 0
    while kills < wanted:
        tries += 1
        assert tries <= 8 * wanted, "the command ends before it can be killed"
        start = time.monotonic()
        status = run(tmp_path / f"killed{folder}", draw.uniform(0.2, 0.9) * span)
        kills += status == -signal.SIGKILL
        if status == 0:  # it finished in spite of all: the next ones begin anew, and the machine is faster than it was
            assert results(tmp_path / f"killed{folder}") == whole
            folder, span = folder + 1, min(span, time.monotonic() - start)
    assert run(tmp_path / f"killed{folder}", None) == 0
    assert results(tmp_path / f"killed{folder}") == whole
