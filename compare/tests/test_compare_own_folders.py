"""The user's network and folder of images in `compare` and `compress`."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from common import compress
from common.settings import parse
from compare.recipes import command_arguments
from compare.settings import Compare


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
