"""VGG-16, ResNet-110, DenseNet-40 and GoogLeNet from training to the row of the table, on few images."""

import sys
from pathlib import Path

import pytest
import torch

from common.channels import keep_channels
from common.checkpoint import load_model
from common.cost import count_cost
from common.runs import read_json
from common.testing import random_network, write_image_folder
from decore import Agents

HOME = Path(__file__).resolve().parents[1]
MACS = {
    "vgg16": 313_463_808,
    "resnet110": 252_887_680,
    "densenet40": 282_917_328,
    "googlenet": 1_521_756_160,
}  # ten classes, 32x32
# The selection of their channels is compared with masks in test_decore_selection.py, and of GoogLeNet's below.
SLOW = ("resnet110", "densenet40", "googlenet")


@pytest.fixture(scope="module")
def every_network():
    sys.path.insert(0, str(HOME / "benchmarks"))
    import every_network

    sys.path.remove(str(HOME / "benchmarks"))
    return every_network


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=pytest.mark.slow) if arch in SLOW else arch for arch in MACS]
)
def test_network_of_paper_is_pruned_and_listed_below_published_rows(arch, every_network, tmp_path, capsys):
    write_image_folder(tmp_path / "images", classes=10, train=1, test=1)
    words = ["--networks", arch, "--dataset", f"folder:{tmp_path / 'images'}", "--out", str(tmp_path / "out")]
    words += [
        "--epochs",
        "1",
        "--policy-epochs",
        "1",
        "--finetune-epochs",
        "1",
        "--policy-images",
        "10",
        "--batch-size",
        "5",
    ]
    words += ["--agent-init", "0"]  # every channel is dropped for some images, so that all agents differ
    assert every_network.main(words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert "this repository, small scale" in rows[-1] and len(rows) > 3 and all("published" in row for row in rows[:-1])
    folder = tmp_path / "out" / f"{arch}-auto-macs0.7"
    metrics = read_json(folder / "metrics.json")
    model = load_model(folder / "model.safetensors")
    macs = count_cost(model, (3, 32, 32)).macs
    assert metrics["baseline"]["macs"] == MACS[arch] and metrics["compressed"]["macs"] == macs
    assert 0.98 * 0.7 * MACS[arch] <= macs <= 0.7 * MACS[arch]
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()


def test_googlenet_has_agents_and_masking_a_channel_removes_it():
    model = random_network("googlenet").double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    agents = Agents(model, images[:1], 0.5)
    assert len(agents.groups) == 64 and len(agents.weight) == sum(group.size for group in agents.groups)
    with torch.no_grad():
        agents.weight.normal_(generator=torch.Generator().manual_seed(0))
    kept = agents.kept_channels()
    mask = {
        group.name: torch.zeros(group.size).index_fill_(0, torch.tensor(kept[group.name]), 1.0)
        for group in agents.groups
    }
    with torch.no_grad():
        with agents.masked(model, mask):
            masked = model(images)
        removed = keep_channels(model, images[:1], kept)
        assert torch.allclose(removed(images), masked, atol=1e-11) and not torch.allclose(
            model(images), masked, atol=1e-3
        )
        assert 0.2 < count_cost(removed, (3, 32, 32)).macs / MACS["googlenet"] < 0.3
        with agents.masked(model, agents.sample(2)):
            assert torch.isfinite(model(images)).all()
