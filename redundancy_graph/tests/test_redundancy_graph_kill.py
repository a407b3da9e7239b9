"""SIGKILL at seeded random moments, ten times per command; the same command again ends with the same bits."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from rg_helpers import write_pictures

from common.models import create_model
from redundancy_graph import finetune, generate, prune

KILLS = 10
COMMANDS = {"generate": generate.main, "prune": finetune.main_cifar10}
RESULTS = {
    "generate": ["resnet20-0.6.json", "resnet20-0.7.json"],
    "prune": ["resnet20-0.7/model.safetensors", "resnet20-0.7-weights.pth"],
}


def run_in_child(command: str, words: list[str]) -> None:
    torch.set_num_threads(1)
    prune.latency_ms = lambda *args, **kwargs: {}  # nothing is written while it measures
    raise SystemExit(COMMANDS[command](words))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("kill")
    write_pictures(root / "pictures", train=40, test=10)
    torch.manual_seed(0)
    torch.save(create_model("resnet20", num_classes=2).state_dict(), root / "weights.pth")
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_ten_times_it_ends_with_the_same_bits(command, place, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["redundancy_graph.finetune", "common.data", "PIL.Image"])
    words = [
        "--arch",
        "resnet20",
        "--pretrained",
        str(place / "weights.pth"),
        "--dataset",
        f"folder:{place / 'pictures'}",
    ]
    words += ["--device", "cpu", "--threads", "1", "--mini-batch", "40", "--log-dir", str(tmp_path / "log")]
    if command == "generate":
        words += ["--threshold", "0.6", "0.7"]
    else:
        words += ["--threshold", "0.7", "--generate", "--pruneinfo-dir", str(tmp_path / "info")]
        words += ["--epochs", "3", "--batch-size", "16"]

    def run(folder: Path, seconds: float | None) -> int:
        child = context.Process(target=run_in_child, args=(command, [*words, "--saved-dir", str(folder)]))
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode

    def results(folder: Path) -> list[bytes]:
        return [(folder / name).read_bytes() for name in RESULTS[command]]

    assert run(tmp_path / "whole", None) == 0
    start = time.monotonic()
    assert run(tmp_path / "timed", None) == 0
    span = time.monotonic() - start
    draw, kills, tries, folder = random.Random(11), 0, 0, 0
    while kills < KILLS:
        tries += 1
        assert tries <= 6 * KILLS, "the command ends before it can be killed"
        start = time.monotonic()
        status = run(tmp_path / f"killed{folder}", draw.uniform(0.1, 0.9) * span)
        kills += status == -signal.SIGKILL
        if status == 0:  # it finished in spite of all: the next ones begin anew, and the machine is faster than it was
            assert results(tmp_path / f"killed{folder}") == results(tmp_path / "whole")
            folder, span = folder + 1, min(span, time.monotonic() - start)
    assert run(tmp_path / f"killed{folder}", None) == 0
    assert results(tmp_path / f"killed{folder}") == results(tmp_path / "whole")
