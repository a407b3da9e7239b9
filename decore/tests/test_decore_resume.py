"""SIGKILL at seeded random moments and full disks: repeating the command gives bit-identical results."""

from pathlib import Path

import pytest
import torch

from common import pipeline
from common.checkpoint import save_model
from common.models import create_model
from common.testing import check_full_disk_and_kills, check_resume_after_kill, write_image_folder
from common.testing.fixed_latency import fixed_latency
from decore.settings import main_prune

FILES = ("resnet20-1-policy/agents.safetensors", "resnet20-1-policy/model.safetensors")
FILES += ("resnet20-1-macs0.7/model.safetensors",)
PRELOAD = ["decore.command", "common.data", "PIL.Image"]


def untimed(words: list[str]) -> int:
    pipeline.measure_latency = fixed_latency  # nothing is written during the measurement
    return main_prune(words)


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def words(tmp_path) -> list[str]:
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
    return [*words, "--workers", "0", "--saved-dir"]


def test_repeatedly_killed_run_ends_bit_identical(words, tmp_path):
    """Killed in the policy phase, pruning or fine-tuning: network and agents equal those of an uninterrupted run."""
    check_resume_after_kill(untimed, words, results, tmp_path, kills=3, preload=PRELOAD)


def test_run_survives_full_disk_and_kills(words, tmp_path):
    check_full_disk_and_kills(untimed, words, tmp_path, preload=PRELOAD)
