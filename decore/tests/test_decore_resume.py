"""SIGKILL at seeded random moments: repeating the command gives bit-identical results."""

from pathlib import Path

import torch

from common import pipeline
from common.checkpoint import save_model
from common.models import create_model
from common.testing import check_resume_after_kill, write_image_folder
from decore.settings import main_prune

FILES = ("resnet20-1-policy/agents.safetensors", "resnet20-1-policy/model.safetensors")
FILES += ("resnet20-1-macs0.7/model.safetensors",)


def untimed(words: list[str]) -> int:
    pipeline.measure_latency = lambda models, *args, **kwargs: {
        name: {} for name in models
    }  # nothing is written during the measurement
    return main_prune(words)


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_run_killed_ten_times_ends_bit_identical(tmp_path):
    """Killed in the policy phase, pruning or fine-tuning: network and agents equal those of an uninterrupted run."""
    write_image_folder(tmp_path / "images", train=24, test=6)
    torch.manual_seed(0)
    save_model(tmp_path / "net.safetensors", create_model("resnet20", num_classes=2))
    words = ["--checkpoint", str(tmp_path / "net.safetensors"), "--dataset", f"folder:{tmp_path / 'images'}"]
    words += ["--device", "cpu", "--threads", "1", "--penalty", "1", "--epochs", "5", "--policy-epochs", "3"]
    words += [
        "--batch-size",
        "16",
        "--agent-init",
        "2",
        "--agents-learning-rate",
        "0.5",
        "--reward-baseline",
        "--target-macs",
        "0.7",
    ]
    preload = ["decore.command", "common.data", "PIL.Image"]
    check_resume_after_kill(untimed, [*words, "--saved-dir"], results, tmp_path, kills=10, preload=preload)
