"""SIGKILL at seeded random moments, and full disks: repeating the command gives bit-identical results."""

from pathlib import Path

import pytest
import torch

from common import pipeline
from common.models import create_model
from common.testing import check_full_disk_and_kills, check_resume_after_kill, write_image_folder
from common.testing.fixed_latency import fixed_latency
from redundancy_graph.settings import main_cifar10, main_generate


def untimed(words: list[str]) -> int:
    pipeline.measure_latency = fixed_latency  # nothing is written during the measurement
    return main_cifar10(words)


COMMANDS = {
    "generate": (main_generate, ["resnet20-0.6.json", "resnet20-0.7.json"]),
    "prune": (untimed, ["resnet20-0.7/model.safetensors", "resnet20-0.7-weights.pth"]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("kill")
    write_image_folder(root / "images", train=40, test=10)
    torch.manual_seed(0)
    torch.save(create_model("resnet20", num_classes=2).state_dict(), root / "weights.pth")
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_disturbed_command_ends_bit_identical(command, place, tmp_path):
    main, files = COMMANDS[command]

    def results(folder: Path) -> list[bytes]:
        return [(folder / name).read_bytes() for name in files]

    words = ["--arch", "resnet20", "--pretrained", str(place / "weights.pth")]
    words += ["--dataset", f"folder:{place / 'images'}", "--device", "cpu", "--threads", "1"]
    words += ["--mini-batch", "40", "--log-dir", str(tmp_path / "log")]
    if command == "generate":
        words += ["--threshold", "0.6", "0.7"]
    else:
        words += ["--threshold", "0.7", "--generate", "--pruneinfo-dir", str(tmp_path / "info")]
        words += ["--epochs", "3", "--batch-size", "16"]
    preload = ["redundancy_graph.prune_and_finetune", "common.data", "PIL.Image"]
    words += ["--workers", "0", "--saved-dir"]
    check_resume_after_kill(main, words, results, tmp_path, kills=2, preload=preload, seed=11)
    check_full_disk_and_kills(main, words, tmp_path, preload=preload)
