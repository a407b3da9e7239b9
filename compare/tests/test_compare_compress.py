"""``from common import compress``: the user's own network in one call, with the methods that are installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common import CompressionReport, compress, load_network
from common.errors import UserError
from common.testing.pages import read_commands

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES.mean((1, 2, 3)) > 0).long()


class Network(nn.Module):
    """A network of the user's, which no registry knows."""

    def __init__(self, per_pixel: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(24, 80, 3, padding=1), nn.BatchNorm2d(80), nn.ReLU())
        self.last, self.per_pixel = nn.Conv2d(80, 2, 1), per_pixel

    def forward(self, x: Tensor) -> Tensor:
        scores = self.last(self.second(self.first(x)))
        return scores if self.per_pixel else scores.mean((2, 3))


def network(per_pixel: bool = False) -> Network:
    torch.manual_seed(0)
    return Network(per_pixel).eval()


def test_own_network_becomes_smaller_and_is_saved_and_loaded(tmp_path: Path) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, report = compress(model, (IMAGES, LABELS), "l1_norm", target_macs=0.5, latency=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    dense, compressed = report.metrics["baseline"], report.metrics["compressed"]
    assert 0.49 <= compressed["macs"] / dense["macs"] <= 0.5 and report.examples == 8 and report.labeled
    assert [(name, old) for name, old, _ in report.widths] == [("first.0", 24), ("second.0", 80)]
    assert small.first[0].out_channels == report.widths[0][2] < 24
    text = str(report)
    assert all(
        part in text
        for part in ("L1 norm, 50 % of the MACs", "top-1 (%)", "| first.0  |              24 |", "measured on 8")
    )
    file, _ = report.save(tmp_path / "small.safetensors")
    again = load_network(file, network)
    assert torch.equal(again(IMAGES), small(IMAGES)) and CompressionReport.load(file).metrics == report.metrics
    assert again.checkpoint_header["normalize"] is None  # that of the user's transforms is not known
    assert report.export(tmp_path / "small.pt2") < 1e-5


def test_temporary_run_folder_lives_as_long_as_its_report() -> None:
    _, report = compress(network(), IMAGES, "l1_norm", target_macs=0.5, latency=False)
    folder = report.file.parent
    assert folder.is_dir()
    del report
    assert not folder.exists()


def test_data_without_labels_give_agreement() -> None:
    _, report = compress(network(), IMAGES, "l1_norm", target_macs=0.5, latency=False)
    assert not report.labeled and "top-1" not in str(report) and "same prediction as dense" in str(report)


def test_network_that_is_no_classifier_has_metric_and_loss() -> None:
    masks = IMAGES.sum(1, keepdim=True)
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        return (outputs - targets).square().mean()

    options = {"metric": lambda net: float(net(IMAGES).detach().mean()), "target_macs": 0.5, "latency": False}
    _, untrained = compress(network(per_pixel=True), (IMAGES, masks), "l1_norm", **options)
    assert not calls
    _, report = compress(network(per_pixel=True), (IMAGES, masks), "l1_norm", train=2, loss=loss, **options)
    assert sum(calls) == 2 * 32
    found = report.metrics["compressed"]
    assert "top1" not in found and found["output_change"] != untrained.metrics["compressed"]["output_change"] > 0
    assert "your metric" in str(report)


def test_constraints_hold() -> None:
    model = network()
    _, report = compress(model, IMAGES, "l1_norm", target_macs=0.6, ignored_layers=["first.*"], latency=False)
    assert [name for name, *_ in report.widths] == ["second.0"]
    assert report.excluded == {"first.0": "excluded by ignored_layers or only"} and "- first.0: excluded" in str(report)
    _, report = compress(model, IMAGES, "l1_norm", target_macs=0.6, only=["second"], min_channels=40, latency=False)
    assert [name for name, *_ in report.widths] == ["second.0"] and report.widths[0][2] >= 40
    _, report = compress(model, IMAGES, "l1_norm", target_macs=0.48, round_to=8, latency=False)
    assert {after % 8 for _, _, after in report.widths} == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of target_macs, target_bytes and target_latency"),
        ({"target_macs": 0.5, "target_bytes": 0.5}, "give one of target_macs"),
        ({"target_macs": 1.5}, r"1.5: not in \(0, 1\]"),
        ({"target_bytes": 0.5}, "has the target target_macs or target_latency"),
        ({"target_macs": 0.5, "method": "best"}, "'best' is not installed; available: "),
        ({"target_macs": 0.5, "only": ["head.*"]}, r"only 'head.\*': no layer has such a name"),
        ({"target_macs": 0.5, "only": "first.*"}, "give a list of patterns"),
        ({"target_macs": 0.5, "only": ["last"]}, "no channel group can be pruned: the options exclude all 2"),
        ({"target_macs": 0.5, "max_pruned": 0.0}, "max_pruned 0"),
        (
            {"target_macs": 0.3, "max_pruned": 0.25},
            "the limits on layers keep at least 0.5.*; the smallest possible target is 0.5",
        ),
        ({"target_macs": 0.5, "train": 1}, "no class labels"),
    ],
)
def test_invalid_arguments_raise(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compress(network(), IMAGES, **{"method": "l1_norm", "latency": False} | arguments)


@pytest.mark.parametrize(
    "first", ["from common import compress", "import common.compress_command, common.pipeline, common.compression"]
)
def test_function_is_found_in_either_order_of_imports(first: str) -> None:
    code = (
        f"{first}\nfrom common import compress\nimport common.pipeline\nimport common\nassert callable(common.compress)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def run_page_of_compress(name: str) -> dict:
    """Run the Python block of a how-to page, and return its variables. The only change is the method: the default one is not installed here."""
    commands = read_commands(Path(__file__).resolve().parents[2] / "docs" / "how-to" / f"{name}.md")
    (code,) = [command.text for command in commands if command.language == "python"]
    for command in commands:
        for file, content in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", command.text, re.M | re.S):
            Path(file).write_text(content, encoding="utf-8")
    scope: dict = {}
    exec(code.replace("target_macs=0.5", 'target_macs=0.5, method="l1_norm", latency=False'), scope)
    return scope


def test_page_of_own_network_runs_as_printed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    scope = run_page_of_compress("own-network")
    monkeypatch.delitem(sys.modules, "mynet")
    written = {path.name for path in (tmp_path / "runs").iterdir()}
    assert written == {"compress-python", "smaller.safetensors", "smaller.safetensors.json", "smaller.pt2"}
    assert CompressionReport.load(tmp_path / "runs" / "smaller.safetensors").kept == scope["report"].kept


def test_page_of_own_training_loop_runs_as_printed() -> None:
    scope = run_page_of_compress("own-training-loop")
    optimizer, smaller = scope["optimizer"], scope["smaller"]
    trained = optimizer.param_groups[0]["params"]
    assert trained == list(smaller.parameters()) and len(optimizer.state) == len(trained)
    assert sum(p.numel() for p in trained) < sum(p.numel() for p in scope["model"].parameters())


def test_report_from_file_transfers_no_optimizer(tmp_path: Path) -> None:
    model = network()
    small, report = compress(model, IMAGES, "l1_norm", target_macs=0.5, latency=False)
    file, _ = report.save(tmp_path / "small.safetensors")
    with pytest.raises(UserError, match="read from a file"):
        CompressionReport.load(file).transfer_optimizer(torch.optim.SGD(model.parameters()), model, small)


def test_lines_say_what_is_done_and_without_log_nothing_is_printed(capsys: pytest.CaptureFixture) -> None:
    lines: list[str] = []
    compress(network(), (IMAGES, LABELS), "l1_norm", target_macs=0.5, train=1, latency=False, log=lines.append)
    plan = "Network: L1 norm, to 50 % of the MACs; the pruned network is fine-tuned for 1 epoch; about "
    assert lines[0].startswith(plan) and lines[0].endswith(" s, and the measuring")
    assert lines[1].startswith("dense network: top-1 ") and " MACs, " in lines[1] and lines[1].endswith(" bytes")
    assert lines[2:] == [f"L1 norm, 50 % of the MACs: {phase}" for phase in ("prune", "fine-tune", "measure")]
    lines.clear()
    compress(network(), IMAGES, "l1_norm", target_macs=0.5, latency=False, log=lines.append)
    assert lines[0] == "Network: L1 norm, to 50 % of the MACs; nothing is trained"
    assert lines[1].startswith("dense network: ") and "top-1" not in lines[1], "the labels are its own predictions"
    compress(network(), IMAGES, "l1_norm", target_macs=0.5, latency=False)
    assert capsys.readouterr() == ("", "")
