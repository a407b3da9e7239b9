"""VGG-16, ResNet-110 and DenseNet-40 from training to the row of the table, on few images."""

import sys
from pathlib import Path

import pytest
import torch

from common.checkpoint import load_model
from common.cost import count_cost
from common.runs import read_json
from common.testing import write_image_folder

HOME = Path(__file__).resolve().parents[1]
MACS = {"vgg16": 313_463_808, "resnet110": 252_887_680, "densenet40": 282_917_328}  # with ten classes, 32x32


@pytest.fixture(scope="module")
def every_network():
    sys.path.insert(0, str(HOME / "benchmarks"))
    import every_network

    sys.path.remove(str(HOME / "benchmarks"))
    return every_network


@pytest.fixture(autouse=True)
def no_latency(monkeypatch):
    """Skip latency measurements, which are slow and not tested here."""
    for module in ("common.pipeline", "common.trained_model"):
        monkeypatch.setattr(
            f"{module}.measure_latency", lambda models, *args, **kwargs: {n: {"64": 1.0} for n in models}
        )


@pytest.mark.parametrize("arch", MACS)
def test_network_of_paper_is_pruned_and_listed_above_published_rows(arch, every_network, tmp_path, capsys):
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
    assert "this repository, small scale" in rows[0] and len(rows) > 3 and all("published" in row for row in rows[1:])
    folder = tmp_path / "out" / f"{arch}-auto-macs0.7"
    metrics = read_json(folder / "metrics.json")
    model = load_model(folder / "model.safetensors")
    macs = count_cost(model, (3, 32, 32)).macs
    assert metrics["baseline"]["macs"] == MACS[arch] and metrics["compressed"]["macs"] == macs
    assert 0.98 * 0.7 * MACS[arch] <= macs <= 0.7 * MACS[arch]
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()
