"""``compression-papers compress``: its files, its report, the lines that load the network, and resuming."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common import CompressionReport
from common.command_line import main
from common.runs import read_json
from common.testing.fixed_latency import take_macs_for_latency


class Network(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(24, 80, 3, padding=1), nn.BatchNorm2d(80), nn.ReLU())
        self.fc = nn.Linear(80, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def build(num_classes: int = 10) -> Network:
    torch.manual_seed(0)
    return Network(num_classes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The working folder, with images of two classes and trained weights for 2 and for 10 classes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 6)):
        for label in ("a", "b"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / label / f"{i}.png")
    for classes in (2, 10):
        torch.save({"state_dict": build(classes).state_dict()}, tmp_path / f"w{classes}.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = (
    "compress --model test_compare_compress_command:build --dataset folder:photos --target-macs 0.5 --method l1_norm "
    "--no-latency --out small --device cpu --weights"
)


def test_command_writes_network_report_and_export(folder: Path, capsys) -> None:
    words = [*WORDS.split(), "w2.pth", "--export", "small.pt2", "--ignored-layers", "first.*"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert (
        re.search(r"\| MACs +\| +[\d,]+ \| +[\d,]+ \| +4\d\.\d % \|", out) and "| second.0 |              80 |" in out
    )
    written = {"config.json", "decision.json", "log.csv", "metrics.json", "model.safetensors", "model.safetensors.json"}
    assert {path.name for path in (folder / "small").iterdir()} == written and (
        folder / "small.pt2"
    ).stat().st_size > 1000
    report = CompressionReport.load("small/model.safetensors")
    assert (
        report.labeled
        and report.examples == 12
        and str(report) in out
        and [name for name, *_ in report.widths] == ["second.0"]
    )
    assert json.loads((folder / "small" / "config.json").read_text())["options"]["weights"] == "w2.pth"
    code = [line.strip() for line in out.split("To load the network:")[1].splitlines() if line.startswith("    ")]
    scope: dict = {}
    exec("\n".join(code), scope)
    assert (
        len(code) == 3 and sum(p.numel() for p in scope["model"].parameters()) == report.metrics["compressed"]["params"]
    )
    before = (folder / "small" / "model.safetensors").stat().st_mtime_ns
    assert main(words) == 0 and str(CompressionReport.load("small/model.safetensors").widths) == str(report.widths)
    assert (folder / "small" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*words, "--export", "again.pt2"]) == 0 and (folder / "again.pt2").is_file()
    assert main([*words[:-1], "second.*"]) == 2 and "ignored_layers" in capsys.readouterr().err.replace("-", "_")


def test_network_with_other_classes_is_compressed_without_labels(folder: Path, capsys) -> None:
    words = [*WORDS.split(), "w10.pth"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "size mismatch for 'fc.weight'" in error and error.endswith("add --unlabeled\n")
    assert main([*words, "--unlabeled"]) == 0
    out = capsys.readouterr().out
    assert "same prediction as dense (%)" in out and "top-1" not in out
    report = CompressionReport.load("small/model.safetensors")
    assert not report.labeled and report.metrics["baseline"]["params"] == sum(p.numel() for p in build(10).parameters())
    assert main([*words, "--unlabeled", "--train", "1"]) == 2


def test_target_of_other_method_raises(folder: Path, capsys) -> None:
    words = [word if word != "--target-macs" else "--target-bytes" for word in WORDS.split()]
    assert main([*words, "w2.pth"]) == 2
    assert (
        "--target-bytes: method l1_norm has the target --target-macs or --target-latency; give that"
        in capsys.readouterr().err
    )


def test_compare_names_itself_as_typed(capsys) -> None:
    assert main(["compare", "--nonsense"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --nonsense (see compression-papers compare -h)\n"


def test_latency_target_is_met_and_reported(folder: Path, capsys, monkeypatch) -> None:
    take_macs_for_latency(monkeypatch)
    words = [*WORDS.replace("--target-macs 0.5", "--target-latency 0.6 --latency-batch-size 4").split(), "w2.pth"]
    assert main(words) == 0
    assert "60 % of the latency" in capsys.readouterr().out
    metrics = read_json(folder / "small" / "metrics.json")
    reached = metrics["latency_target"]
    assert 0.95 * 0.6 <= reached["ratio"] <= 0.6 and reached["batch_size"] == 4 and reached["attempts"] == 1
    assert metrics["compressed"]["macs"] / metrics["baseline"]["macs"] == pytest.approx(reached["ratio"], abs=1e-4)
    assert main([*words[:-3], "elsewhere", *words[-2:], "--target-macs", "0.5"]) == 2
    assert "give one of --target-macs, --target-bytes and --target-latency" in capsys.readouterr().err
