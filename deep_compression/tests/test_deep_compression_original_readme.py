"""Every promise of the original code's README, one line of original_readme.txt each, is kept."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common.checkpoint import save_model
from common.models import create_model
from common.settings import build_parser
from common.testing import write_image_folder
from deep_compression.paper.published import ORIGINAL_VGG19
from deep_compression.settings import OriginalPipeline

HOME = Path(__file__).parents[1]
LINES = (Path(__file__).with_name("original_readme.txt")).read_text(encoding="utf-8").splitlines()
PROMISES = [(kind, text) for kind, _, text in (line.partition(": ") for line in LINES if not line.startswith("#"))]
# Additional options only: no training, tiny images, a VGG19 with few channels, and the numbers of clusters in the original table.
SMALL = (
    "--dataset folder:{images} --pretrained {network} --epoch 0 --lcluster 4,9,13,35 --no-latency --device cpu --threads 1"
    " --workers 0"
)


def promises(kind: str) -> list[str]:
    return [text for name, text in PROMISES if name == kind]


def narrow_vgg19() -> nn.Module:
    """Build the original code's VGG19 with few channels; the checkpoint has their numbers."""
    torch.manual_seed(0)
    model, before = create_model("vgg19", num_classes=2, head=16), 3
    for name, module in list(model.features.named_children()):
        if isinstance(module, nn.Conv2d):
            width = module.out_channels // 16
            model.features.set_submodule(name, nn.Conv2d(before, width, 3, padding=1))
            before = width
        elif isinstance(module, nn.BatchNorm2d):
            model.features.set_submodule(name, nn.BatchNorm2d(before))
    model.classifier.set_submodule("0", nn.Linear(before, 16))
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A copy of the package's folder in which every command line has run, verbatim with additional options."""
    root = tmp_path_factory.mktemp("original")
    shutil.copy(HOME / "main.py", root)
    images = write_image_folder(root / "images", classes=2, train=2, test=1)
    save_model(root / "narrow.safetensors", narrow_vgg19())
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for line in promises("command"):
        command = f"{line} {SMALL.format(images=images, network=root / 'narrow.safetensors')}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=root, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_original_readme_has_known_kinds_only():
    assert {kind for kind, _ in PROMISES} == {"command", "option", "file", "name", "produces", "row"}


@pytest.mark.parametrize("name", promises("produces"))
def test_original_readme_file_is_written(name, place):
    assert (place / name).stat().st_size > 0


@pytest.mark.parametrize("name", promises("file"))
def test_original_readme_file_exists(name):
    assert (HOME / name).is_file()


@pytest.mark.parametrize("name", promises("name"))
def test_original_readme_script_is_importable(name, monkeypatch):
    monkeypatch.syspath_prepend(str(HOME))
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("text", promises("option"))
def test_original_readme_option_is_known(text):
    script, option = shlex.split(text)
    assert script == "main.py" and option in build_parser(OriginalPipeline)._option_string_actions


@pytest.mark.parametrize("text", promises("row"))
def test_original_readme_row_is_published_data(text):
    _, *numbers = text.split()
    assert [float(number) for number in numbers] == [value for value in ORIGINAL_VGG19.values() if value]
