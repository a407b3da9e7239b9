"""Exported networks have the network's outputs; a file with other outputs is removed. Latency tables."""

import json

import pytest
import torch
from torch import nn

from common import export, latency
from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost
from common.data import load_dataset
from common.errors import UserError
from common.export import export_network, first_test_images
from common.measure import measure_latency_series
from common.models import create_model
from common.target import Target, uniform_widths

X = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def images():
    return first_test_images(load_dataset("digits"), 5)


def pruned() -> nn.Module:
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    groups = channel_groups(model, X)
    return keep_channels(model, X, {g.name: range(0, g.size, 2) for g in groups})


def factored() -> nn.Module:
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    first = model.layer1[0].conv1
    model.layer1[0].conv1 = nn.Sequential(nn.Conv2d(16, 5, 3, padding=1, bias=False), nn.Conv2d(5, 16, 1))
    assert first.out_channels == 16
    return model


NETWORKS = {"pruned": pruned, "factored": factored}


@pytest.mark.parametrize(("name", "format"), [("pruned", "onnx"), ("factored", "onnx"), ("factored", "pt2")])
def test_exported_network_equals_saved_network(tmp_path, images, name, format):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    save_model(tmp_path / "m.safetensors", NETWORKS[name]())
    model = load_model(tmp_path / "m.safetensors")
    difference = export_network(model, images, tmp_path / f"m.{format}", format)
    assert difference <= 1e-5 * max(1.0, float(model(images).detach().abs().max()))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"m.{format}", "m.safetensors"]


def test_onnx_file_accepts_any_batch_size(tmp_path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = pruned()
    export_network(model, images, tmp_path / "m.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        (scores,) = session.run(None, {"images": images[:count].numpy()})
        assert torch.allclose(torch.from_numpy(scores), model(images[:count]), atol=1e-5, rtol=1e-5)


def test_file_with_different_outputs_is_removed(tmp_path, images, monkeypatch):
    monkeypatch.setitem(export.WRITERS, "pt2", lambda model, images, file: lambda batch: model(batch).detach() * 1.001)
    with pytest.raises(UserError, match="differ by"):
        export_network(pruned(), images, tmp_path / "m.pt2", "pt2")
    monkeypatch.setitem(export.WRITERS, "pt2", lambda *a: lambda batch: torch.full((len(batch), 10), float("nan")))
    with pytest.raises(UserError, match="differ by nan"):
        export_network(pruned(), images, tmp_path / "m.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_export_command_writes_file_and_reports_errors(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    data = load_dataset("digits")
    save_model(tmp_path / "m.safetensors", pruned(), normalize=(data.mean, data.std), dataset="digits")
    out = tmp_path / "m.onnx"
    assert export.main(["--checkpoint", str(tmp_path / "m.safetensors"), "--out", str(out)]) == 0
    assert "digits differ by" in capsys.readouterr().out and out.stat().st_size > 0
    save_model(tmp_path / "n.safetensors", pruned())
    assert export.main(["--checkpoint", str(tmp_path / "n.safetensors"), "--out", str(out)]) == 2
    assert "--dataset" in capsys.readouterr().err
    assert export.main(["--checkpoint", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["resnet20", "vgg16"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_uniform_widths_are_multiples_and_meet_target(arch, round_to):
    model = create_model(arch).eval()
    groups = channel_groups(model, X)
    cost = WidthCost(model, (3, 32, 32), groups)
    widths = uniform_widths(groups, cost, Target(0.5), round_to, exact=False)
    assert all(width % round_to == 0 or width == g.size for g, width in zip(groups, widths.values(), strict=True))
    assert 0.45 <= cost.macs(widths) / cost.dense <= 0.5


def test_uniform_network_meets_target_macs():
    dense = count_cost(create_model("resnet20"), (3, 32, 32)).macs
    small = latency.uniform_network("resnet20", 0.5, 8)
    assert 0.45 <= count_cost(small, (3, 32, 32)).macs / dense <= 0.5
    widths = {m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)}
    assert widths and all(width % 8 == 0 for width in widths)


@pytest.mark.filterwarnings("ignore:conv. is not listed")
def test_uniform_network_keeps_equal_groups():
    """AlexNet has convolutions with two groups."""
    small = latency.uniform_network("alexnet", 0.6, 8)
    dense = count_cost(create_model("alexnet"), (3, 224, 224)).macs
    assert 0.55 <= count_cost(small, (3, 224, 224)).macs / dense <= 0.6


def test_latency_gains_use_medians():
    series = {"dense": {"1": [2.0, 100.0, 2.0], "64": [10.0]}, "small": {"1": [1.0, 1.0, 50.0], "64": [10.0]}}
    one, many = latency.latency_gains(series, {"dense": 100, "small": 40})
    assert (one.dense_ms, one.ms, one.latency_saved, one.macs_saved) == (2.0, 1.0, 0.5, pytest.approx(0.6))
    assert one.ratio == pytest.approx(0.5 / 0.6) and many.ratio == 0.0
    assert "| small | 1 | 2.00 | 1.00 | 50.0 | 60.0 | 0.83 |" in latency.format_gains([one, many])


def test_networks_are_timed_alternately(monkeypatch):
    order = []

    class Recorder(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            order.append((self.name, len(x)))
            return x

    series = measure_latency_series({"a": Recorder("a"), "b": Recorder("b")}, (3, 4, 4), batch_sizes=(2,), repeats=3)
    assert order == [("a", 2), ("b", 2)] * 5 and [len(v["2"]) for v in series.values()] == [3, 3]


def test_latency_command_prints_table_and_reports_errors(tmp_path, capsys):
    save_model(tmp_path / "m.safetensors", pruned())
    words = ["--checkpoint", str(tmp_path / "m.safetensors"), "--batch-size", "1", "--repeats", "1", "--device", "cpu"]
    assert latency.main([*words, "--json", str(tmp_path / "l.json")]) == 0
    assert "latency/MACs saved" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "l.json").read_text())["milliseconds"]) == {
        "dense",
        str(tmp_path / "m.safetensors"),
    }
    assert latency.main(["--batch-size", "1"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    save_model(tmp_path / "other.safetensors", create_model("lenet5"))
    assert latency.main([*words[:2], str(tmp_path / "other.safetensors"), *words[2:]]) == 2
    assert "--dense" in capsys.readouterr().err
