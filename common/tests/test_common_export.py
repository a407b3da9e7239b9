"""Exported networks have the network's outputs; a file with other outputs is removed. Latency tables."""

import json
import time
from typing import NamedTuple

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
from common.limits import Limits
from common.measure import LatencyTimes, measure_latency
from common.models import create_model
from common.outputs import named_outputs
from common.target import Target, uniform_widths
from common.timed_networks import uniform_network
from common.timing import Timing

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


class Heads(nn.Module):
    """A network with several outputs, in the structure that ``arrange`` makes of them."""

    def __init__(self, arrange) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.arrange = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), arrange

    def forward(self, images):
        maps = self.conv(images)
        return self.arrange(maps, self.head(maps.mean((2, 3))))


class Pair(NamedTuple):
    maps: torch.Tensor
    scores: torch.Tensor


STRUCTURES = {
    "dict": (lambda a, b: {"scores": b, "maps": a}, ["scores", "maps"]),
    "list": (lambda a, b: [a, b], ["output_0", "output_1"]),
    "named tuple": (Pair, ["maps", "scores"]),
    "nested": (lambda a, b: {"out": [b, (a, b * 2)], "none": None}, ["out.0", "out.1.0", "out.1.1"]),
    "name of the input": (lambda a, b: {"images": b}, ["output_images"]),
    "other sizes": (
        lambda a, b: {"scores": b, "classes": b.argmax(1), "loss": b.mean()},
        ["scores", "classes", "loss"],
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_onnx_file_has_all_outputs_by_name(tmp_path, images, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    arrange, names = STRUCTURES[name]
    model = Heads(arrange).eval()
    assert export_network(model, images, tmp_path / "m.onnx", "onnx") <= 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == names
    expected = named_outputs(model(images[:3])).values()
    for found, target in zip(session.run(None, {"images": images[:3].numpy()}), expected, strict=True):
        assert torch.allclose(torch.from_numpy(found), target, atol=1e-5)


@pytest.mark.parametrize("name", ["dict", "nested", "other sizes"])
def test_pt2_file_keeps_structure_of_outputs(tmp_path, images, name):
    model = Heads(STRUCTURES[name][0]).eval()
    export_network(model, images, tmp_path / "m.pt2", "pt2")
    expected, found = model(images), torch.export.load(tmp_path / "m.pt2").module()(images)
    assert isinstance(found, dict) and named_outputs(found).keys() == named_outputs(expected).keys()


class Two(nn.Module):
    """A network with two inputs, one of them an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 5)

    def forward(self, image, numbers):
        return {"scores": self.head(torch.cat([self.conv(image).mean((2, 3)), numbers], 1)), "numbers": numbers + 1}


@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", [tuple, dict])
def test_network_with_several_inputs_is_exported(tmp_path, images, format, kind):
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
    numbers = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    inputs = (images, numbers) if kind is tuple else {"numbers": numbers, "image": images}
    file = tmp_path / f"m.{format}"
    assert export_network(Two().eval(), inputs, file, format) <= 1e-5
    if format == "onnx":
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == (["input_0", "input_1"] if kind is tuple else list(inputs))


@pytest.mark.parametrize(
    ("outputs", "difference"),
    [
        (lambda model, x: {**model(x), "maps": model(x)["maps"] + 0.01}, "outputs 'maps' differ by 0.01"),
        (lambda model, x: {"scores": model(x)["scores"]}, "has 1 outputs instead of 2"),
        (
            lambda model, x: {**model(x), "maps": model(x)["maps"][:, :1]},
            r"'maps' have shape \(5, 1, 30, 30\) instead of",
        ),
    ],
)
def test_difference_of_any_output_is_found(tmp_path, images, monkeypatch, outputs, difference):
    model = Heads(STRUCTURES["dict"][0]).eval()
    monkeypatch.setitem(export.WRITERS, "pt2", lambda model, inputs, file: lambda x: outputs(model, x))
    with pytest.raises(UserError, match=difference):
        export_network(model, images, tmp_path / "m.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_network_that_torch_does_not_export_is_one_line(tmp_path, images, format):
    if format == "onnx":
        pytest.importorskip("onnxruntime")

    def branch(maps, scores):
        return scores if scores.sum() > 0 else -scores

    unsupported = {"pt2": branch, "onnx": lambda maps, scores: torch.linalg.eigvals(maps).real}
    model = Heads(unsupported[format]).eval()
    with pytest.raises(UserError, match=f"--format {format}: torch does not export this network: .*; try --format"):
        export_network(model, images, tmp_path / f"m.{format}", format)
    with pytest.raises(UserError, match="output '0' of the network is of type str"):
        export_network(Heads(lambda a, b: ["text", b]).eval(), images, tmp_path / "m.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_progress_is_reported_while_a_step_lasts(tmp_path, images, monkeypatch):
    lines: list[str] = []

    def slow(model, inputs, file):
        while len(lines) < 4:  # waits for the lines, not for a time
            time.sleep(0.01)
        file.touch()
        return model

    monkeypatch.setitem(export.WRITERS, "pt2", slow)
    monkeypatch.setattr(export, "PROGRESS_SECONDS", 0.01)
    export_network(Heads(lambda a, b: b), images, tmp_path / "m.pt2", "pt2", log=lines.append)
    assert (
        lines[0] == "tracing the network and writing pt2 ..." and lines[1] == "tracing the network and writing pt2: 0 s"
    )
    assert "comparing the outputs ..." in lines


def two() -> nn.Module:
    return Two()


def test_export_command_accepts_shapes_of_several_inputs(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    save_model(tmp_path / "m.safetensors", Two())
    words = ["--checkpoint", str(tmp_path / "m.safetensors"), "--model", "test_common_export:two"]
    words += ["--out", str(tmp_path / "m.onnx"), "--input-shape", "3", "8", "8"]
    assert export.main([*words, "--input-shape", "2"]) == 0
    assert "outputs on 33 random examples differ by" in capsys.readouterr().out
    assert export.main(words) == 2
    assert "missing 1 required positional argument" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["resnet20", "vgg16"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_uniform_widths_are_multiples_and_meet_target(arch, round_to):
    model = create_model(arch).eval()
    groups = channel_groups(model, X)
    cost = WidthCost(model, (3, 32, 32), groups)
    widths = uniform_widths(groups, cost, Target(0.5), Limits(round_to=round_to), exact=False)
    assert all(width % round_to == 0 or width == g.size for g, width in zip(groups, widths.values(), strict=True))
    assert 0.45 <= cost.macs(widths) / cost.dense <= 0.5


def test_uniform_network_meets_target_macs():
    dense = count_cost(create_model("resnet20"), (3, 32, 32)).macs
    small = uniform_network("resnet20", 0.5, 8)
    assert 0.45 <= count_cost(small, (3, 32, 32)).macs / dense <= 0.5
    widths = {m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)}
    assert widths and all(width % 8 == 0 for width in widths)


@pytest.mark.filterwarnings("ignore:conv. is not listed")
def test_uniform_network_keeps_equal_groups():
    """AlexNet has convolutions with two groups."""
    small = uniform_network("alexnet", 0.6, 8)
    dense = count_cost(create_model("alexnet"), (3, 224, 224)).macs
    assert 0.55 <= count_cost(small, (3, 224, 224)).macs / dense <= 0.6


def test_latency_gains_use_medians():
    ms = {"dense": [2.0, 100.0, 2.0], "small": [1.0, 50.0, 50.0], "control": [2.0, 100.0, 2.0]}
    timing = Timing({name: [one / 1000 for one in series] for name, series in ms.items()}, "dense", others=0.0)
    (one,) = latency.latency_gains(LatencyTimes({"1": timing}), {"dense": 100, "small": 40})
    assert (one.dense_ms, one.ms, one.macs_saved) == (2.0, 50.0, pytest.approx(0.6))
    assert one.latency_saved == 0.5  # the median of the ratios 0.5, 0.5 and 25: both networks slowed down in one round
    assert one.ratio == pytest.approx(0.5 / 0.6)
    assert "| small | 1 | 2.00 | 50.00 | as dense ± 2450 | 60.0 | 0.83 |" in latency.format_gains([one])
    busy = Timing(timing.series, "dense", others=0.8)
    (one,) = latency.latency_gains(LatencyTimes({"1": busy}), {"dense": 100, "small": 40})
    assert "| busy machine | 60.0 |  |" in latency.format_gains([one])


def test_networks_are_timed_alternately_in_changing_order():
    order = []

    class Recorder(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            assert torch.is_inference_mode_enabled() and not self.training
            if not order or order[-1] != self.name:
                order.append(self.name)
            time.sleep(0.002)
            return x

    models = {"a": Recorder("a"), "b": Recorder("b")}
    timed = measure_latency(models, (3, 4, 4), batch_sizes=(2,), seconds=0.2)
    series = timed.timings["2"].series
    assert set(series) == {"a", "b", "control"} and len({len(one) for one in series.values()}) == 1
    rounds = len(series["a"])
    assert order.count("b") >= rounds >= 5 and timed.milliseconds("b")["2"] >= 2.0


def test_latency_command_prints_table_and_reports_errors(tmp_path, capsys):
    save_model(tmp_path / "m.safetensors", pruned())
    words = [
        "--checkpoint",
        str(tmp_path / "m.safetensors"),
        "--batch-size",
        "1",
        "--seconds",
        "0.1",
        "--device",
        "cpu",
    ]
    assert latency.main([*words, "--json", str(tmp_path / "l.json")]) == 0
    printed = capsys.readouterr().out
    assert "latency/MACs saved" in printed and "the dense network against itself: batch 1: " in printed
    assert set(json.loads((tmp_path / "l.json").read_text())["milliseconds"]["1"]) == {
        "dense",
        "control",
        str(tmp_path / "m.safetensors"),
    }
    assert latency.main(["--batch-size", "1"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    save_model(tmp_path / "other.safetensors", create_model("lenet5"))
    assert latency.main([*words[:2], str(tmp_path / "other.safetensors"), *words[2:]]) == 2
    assert "--dense" in capsys.readouterr().err
