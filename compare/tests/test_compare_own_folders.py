"""The user's network and folder of images in `compare` and `compress`."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from common import compress
from common.checkpoint import save_model
from common.models import create_model
from common.preprocessing import Preprocessing
from common.runs import read_json
from common.settings import parse
from compare.recipes import command_arguments
from compare.settings import Compare
from compare.settings import main as compare_main


def gray_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )


def test_command_of_result_has_options_of_network_and_images() -> None:
    words = "--model 'my nets/a.py:build' --dataset folder:photos --split 0.25 --image-size 48 --resize 50 --channels 1"
    argv = shlex.split(
        f"{words} --classes names.txt --normalize 0.4:0.2 --labels l.csv --label-columns 'a b' c --swap-split"
    )
    given = parse(Compare, argv)
    recorded = command_arguments(given)
    assert recorded[:3] == ("python", "-m", "compare")
    again = parse(Compare, shlex.split(" ".join(recorded[3:])))
    assert again.data == given.data and again.network == given.network
    assert given.data.images.split == 0.25 and given.data.images.channels == "1"


def test_call_reads_gray_flat_folder_with_network_of_one_channel(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.fromarray(random.integers(0, 256, (12, 12), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
    small, report = compress(gray_network(), tmp_path, "random", target_macs=0.5, latency=False)
    assert report.examples == 4 and small[0].in_channels == 1
    assert 0.49 <= report.metrics["compressed"]["macs"] / report.metrics["baseline"]["macs"] <= 0.5


def test_comparison_resumes_with_other_sizes_than_the_network_records(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            image = Image.fromarray(random.integers(0, 256, (50, 50, 3), dtype=np.uint8))
            image.save(tmp_path / "photos" / name / f"{number}.png")
    model = create_model("lenet5", num_classes=2, in_channels=3, image_size=40)
    recorded = Preprocessing(50, 40, "bicubic").geometry
    save_model(tmp_path / "net.safetensors", model, preprocessing=recorded)
    words = f"--checkpoint {tmp_path}/net.safetensors --dataset folder:{tmp_path}/photos --split 0.5 --image-size 40 --resize 40"
    words += f" --target-macs 0.5 --seeds 0 --finetune-epochs 0 --no-latency --no-report --out {tmp_path}/out --methods"
    assert compare_main([*words.split(), "random"]) == compare_main([*words.split(), "l1_norm"]) == 0
    fingerprints = {read_json(file)["data_fingerprint"] for file in tmp_path.glob("out/seed0/*/config.json")}
    assert len(fingerprints) == 1 and len(list(tmp_path.glob("out/seed0/*/metrics.json"))) == 2
