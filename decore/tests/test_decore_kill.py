"""SIGKILL at seeded random moments; the same command again ends with the same bits."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import torch
from decore_helpers import write_pictures

from common.checkpoint import save_model
from common.models import create_model
from decore import command, phases

KILLS = 10


def run_in_child(words: list[str]) -> None:
    torch.set_num_threads(1)
    phases.latency_ms = lambda *args, **kwargs: {}  # nothing is written while it measures
    raise SystemExit(command.main(words))


def test_killed_ten_times_it_ends_with_the_same_bits(tmp_path):
    """In the policy phase, in the cut, in fine-tuning: network, agents and result are those of a run that was left alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["decore.command", "common.data", "PIL.Image"])
    write_pictures(tmp_path / "pictures", train=24, test=6)
    torch.manual_seed(0)
    save_model(tmp_path / "net.safetensors", create_model("resnet20", num_classes=2))
    words = ["--checkpoint", str(tmp_path / "net.safetensors"), "--dataset", f"folder:{tmp_path / 'pictures'}"]
    words += ["--device", "cpu", "--threads", "1", "--penalty", "1", "--epochs", "5", "--policy-epochs", "3"]
    words += [
        "--batch-size",
        "16",
        "--init",
        "2",
        "--agents-learning-rate",
        "0.5",
        "--baseline",
        "--target-macs",
        "0.7",
    ]
    names = ("resnet20-1-policy/agents.safetensors", "resnet20-1-policy/model.safetensors")
    names += ("resnet20-1-macs0.7/model.safetensors",)

    def run(folder: Path, seconds: float | None) -> int:
        child = context.Process(target=run_in_child, args=([*words, "--saved-dir", str(folder)],))
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode

    def results(folder: Path) -> list[bytes]:
        return [(folder / name).read_bytes() for name in names]

    assert run(tmp_path / "whole", None) == 0
    start = time.monotonic()
    assert run(tmp_path / "timed", None) == 0
    span = time.monotonic() - start
    draw, kills, folder = random.Random(5), 0, 0
    for _ in range(6 * KILLS):
        start = time.monotonic()
        status = run(tmp_path / f"killed{folder}", draw.uniform(0.1, 0.9) * span)
        kills += status == -signal.SIGKILL
        if status == 0:  # it finished in spite of all: the next ones begin anew, and the machine is faster than it was
            assert results(tmp_path / f"killed{folder}") == results(tmp_path / "whole")
            folder, span = folder + 1, min(span, time.monotonic() - start)
        if kills == KILLS:
            break
    assert kills == KILLS, "the command ends before it can be killed"
    assert run(tmp_path / f"killed{folder}", None) == 0
    assert results(tmp_path / f"killed{folder}") == results(tmp_path / "whole")
