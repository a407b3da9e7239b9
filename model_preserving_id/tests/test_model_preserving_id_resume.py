"""Resuming after SIGKILL at seeded random times, and on a full disk, is bit-identical; two processes under torchrun equal one."""

from pathlib import Path

import pytest
import torch

from common.checkpoint import load_model, save_model
from common.models import create_model
from common.testing import check_full_disk_and_kills, check_resume_after_kill, torchrun, write_image_folder
from model_preserving_id.settings import prune_main, train_main

TRAIN = ["--epochs", "2", "--batch-size", "16", "--lr", "0.01", "--seed", "2", "--workers", "0"]
DEVICE = ["--device", "cpu", "--threads", "1"]
PRUNE = ["--prune-batch-size", "40", "--no-latency", "--workers", "0"]
COMMANDS = {
    "iditer": (prune_main, ["--checkpoint", "{dense}", "--target-macs", "0.3", "--k", "0.8", *PRUNE], "--out"),
    "budget": (
        prune_main,
        ["--checkpoint", "{dense}", "--method", "budget", "--target-macs", "0.5", *PRUNE],
        "--out",
    ),
    "train": (train_main, ["--pretrained", "{dense}", "--arch", "lenet5", *TRAIN], "--log_dir"),
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """A network and a folder with a few small images, noise around a gray value per class."""
    root = write_image_folder(tmp_path_factory.mktemp("kill"), train=24, test=8)
    torch.manual_seed(0)
    path = root / "dense.safetensors"
    model = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    save_model(path, model, normalize=([0.5] * 3, [0.3] * 3), dataset=f"folder:{root}", classes=["class0", "class1"])
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command_resumes_bit_identically(name, dense, tmp_path):
    main, words, out = COMMANDS[name]
    words = [*(word.format(dense=dense) for word in words), *DEVICE, "--dataset", f"folder:{dense.parent}", out]
    preload = ["model_preserving_id.command", "model_preserving_id.finetune", "common.data", "PIL.Image"]
    folder = check_resume_after_kill(main, words, read_model, tmp_path, kills=2, preload=preload)
    assert not list(folder.glob("*.pt"))
    check_full_disk_and_kills(main, words, tmp_path, preload=preload, timed=["checkpoint.pth.tar"])


def read_model(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_two_processes_under_torchrun_equal_one(dense, tmp_path):
    """Without batch norm, two gloo processes, each with half of every batch, produce the weights of one process."""
    script = Path(__file__).resolve().parents[1] / "train.py"
    words = ["--pretrained", str(dense), "--arch", "lenet5", *TRAIN, *DEVICE, "--dataset", f"folder:{dense.parent}"]
    output = torchrun(script, *words, "--dist-backend", "gloo", "--log_dir", tmp_path / "two")
    assert output.count("epoch 2/2") == 1, "only the first process prints"
    assert train_main([*words, "--log_dir", str(tmp_path / "one")]) == 0
    one, two = (load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("one", "two"))
    assert max(float((tensor - two[name]).abs().max()) for name, tensor in one.items()) < 1e-5
    assert not torch.equal(one["fc2.weight"], load_model(dense).state_dict()["fc2.weight"])
    assert (tmp_path / "two" / "checkpoint.pth.tar").is_file() and (tmp_path / "two" / "metrics.json").is_file()
