"""SIGKILL of a child at seeded random moments; the same command again ends with the same bits. And two real processes."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.checkpoint import load_model, save_model
from common.models import create_model
from model_preserving_id import command, finetune

KILLS = 2
TRAIN = ["--epochs", "2", "--batch-size", "16", "--lr", "0.01", "--seed", "2", "--workers", "0"]
DEVICE = ["--device", "cpu", "--threads", "1"]
PRUNE = ["--prune-batch-size", "40", "--no-latency", "--workers", "0"]
COMMANDS = {
    "iditer": (command.main, ["--checkpoint", "{dense}", "--target-macs", "0.3", "--k", "0.8", *PRUNE], "--out"),
    "budget": (
        command.main,
        ["--checkpoint", "{dense}", "--method", "budget", "--target-macs", "0.5", *PRUNE],
        "--out",
    ),
    "train": (finetune.main, ["--pretrained", "{dense}", "--arch", "lenet5", *TRAIN], "--log_dir"),
}


def run_in_child(name: str, words: list[str]) -> None:
    torch.set_num_threads(1)
    raise SystemExit(COMMANDS[name][0](words))


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """A network beside a few small pictures, noise around a grey of the class."""
    root, random = tmp_path_factory.mktemp("kill"), np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for c in range(2):
            (root / part / f"class{c}").mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (32, 32, 3)) + 150 * c
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / f"class{c}" / f"{i}.png")
    torch.manual_seed(0)
    path = root / "dense.safetensors"
    model = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    save_model(path, model, normalize=([0.5] * 3, [0.3] * 3), dataset=f"folder:{root}", classes=["class0", "class1"])
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(name, dense, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["model_preserving_id.finetune", "common.data", "PIL.Image"])
    _, words, out = COMMANDS[name]
    words = [*(word.format(dense=dense) for word in words), *DEVICE, "--dataset", f"folder:{dense.parent}"]

    def run(folder: Path, seconds: float | None) -> int:
        child = context.Process(target=run_in_child, args=(name, [*words, out, str(folder)]))
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode

    def bits(folder: Path) -> bytes:
        return (folder / "model.safetensors").read_bytes()

    start = time.monotonic()
    assert run(tmp_path / "whole", None) == 0
    span = time.monotonic() - start
    draw, kills, tries, folder = random.Random(5), 0, 0, 0
    while kills < KILLS:
        tries += 1
        assert tries <= 6 * KILLS, "the command ends before it can be killed"
        start = time.monotonic()
        status = run(tmp_path / f"killed{folder}", draw.uniform(0.1, 0.9) * span)
        kills += status == -signal.SIGKILL
        if status == 0:  # it finished in spite of all: the next ones begin anew, and the machine is faster than it was
            assert bits(tmp_path / f"killed{folder}") == bits(tmp_path / "whole")
            folder, span = folder + 1, min(span, time.monotonic() - start)
    assert run(tmp_path / f"killed{folder}", None) == 0
    assert bits(tmp_path / f"killed{folder}") == bits(tmp_path / "whole")
    assert not list((tmp_path / f"killed{folder}").glob("state.pt"))


def test_train_under_torchrun_in_two_processes_equals_one(dense, tmp_path):
    """A network without batch norm: two gloo processes, each with half of every batch, give the weights of one."""
    script = Path(__file__).resolve().parents[1] / "train.py"
    words = ["--pretrained", str(dense), "--arch", "lenet5", *TRAIN, *DEVICE, "--dataset", f"folder:{dense.parent}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*torchrun, *words, "--dist-backend", "gloo", "--log_dir", str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 2/2") == 1, "only the first process speaks"
    assert finetune.main([*words, "--log_dir", str(tmp_path / "one")]) == 0
    one, two = (load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("one", "two"))
    assert max(float((tensor - two[name]).abs().max()) for name, tensor in one.items()) < 1e-5
    assert not torch.equal(one["fc2.weight"], load_model(dense).state_dict()["fc2.weight"])
    assert (tmp_path / "two" / "checkpoint.pth.tar").is_file() and (tmp_path / "two" / "metrics.json").is_file()
