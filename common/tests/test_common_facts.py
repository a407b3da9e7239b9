"""Facts that the program holds are compared: classes by name, outputs, chance level, targets of finished networks."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations

from common import evaluate, train
from common.channels import channel_groups
from common.checkpoint import load_model, load_tensors, save_model
from common.cost import WidthCost, count_cost, layer_macs
from common.data import DataBundle, FolderImages, MemoryImages, load_dataset
from common.errors import UserError
from common.factory import import_factory
from common.measure import evaluate as measure
from common.methods import Decision, Method
from common.models import create_model
from common.outputs import class_scores, first_output
from common.target import Target, uniform_widths
from common.testing import noise_bundle, run_method, single_error_line
from common.trained_model import TrainedModel, check_trained_model, report_chance_level
from common.training import Hooks, TrainOptions, distillation_loss, fit

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
NAME = "test_common_facts"


def color_network() -> nn.Module:
    """Classify images by color: 0 blue, 1 green, 2 red."""
    layers = [nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        model[3].weight.copy_(torch.eye(3).flip(0))
    return model


def write_colors(root, names: dict[str, str], size: int = 8) -> str:
    """Write three images of each color, {class name: color}, and return the data set's name."""
    for side in ("train", "test"):
        for name, color in names.items():
            (root / side / name).mkdir(parents=True)
            for number in range(3):
                image = Image.fromarray(np.full((size, size, 3), COLORS[color], np.uint8))
                image.save(root / side / name / f"{number}.png")
    return f"folder:{root}"


@pytest.fixture
def checkpoint(tmp_path):
    save_model(tmp_path / "net.safetensors", color_network(), normalize=([0.5], [0.5]), classes=sorted(COLORS))
    return tmp_path / "net.safetensors"


def evaluate_colors(checkpoint, dataset: str, *more: str) -> int:
    network = ["--model", f"{NAME}:color_network", "--checkpoint", str(checkpoint)]
    return evaluate.main([*network, "--dataset", dataset, "--no-latency", "--workers", "0", *more])


# --- classes


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("red", "green"), ("blue", "red")])
@pytest.mark.parametrize("size", [8, 70])  # in memory, streamed
def test_labels_are_matched_to_classes_of_checkpoint_by_name(checkpoint, tmp_path, capsys, names, size):
    dataset = write_colors(tmp_path / "d", {name: name for name in names}, size)
    assert evaluate_colors(checkpoint, dataset) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["top-1", "100.00", "%"]


def test_order_of_recorded_classes_is_used(tmp_path, capsys):
    """A checkpoint whose classes are not sorted: outputs red, green, blue for folders blue, green, red."""
    model = color_network()
    with torch.no_grad():
        model[3].weight.copy_(torch.eye(3))
    save_model(tmp_path / "net.safetensors", model, normalize=([0.5], [0.5]), classes=["red", "green", "blue"])
    assert evaluate_colors(tmp_path / "net.safetensors", write_colors(tmp_path / "d", {c: c for c in COLORS})) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["top-1", "100.00", "%"]


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_unknown_class_names_raise_naming_the_difference(checkpoint, tmp_path, capsys, command):
    dataset = write_colors(tmp_path / "d", {"azul": "blue", "rojo": "red", "green": "green"})
    if command == "evaluate":
        status = evaluate_colors(checkpoint, dataset)
    else:  # from a checkpoint of a registered network
        save_model(checkpoint, create_model("resnet20", num_classes=3), classes=sorted(COLORS))
        argv = ["--arch", "resnet20", "--weights", str(checkpoint), "--dataset", dataset, "--epochs", "1"]
        status = train.main([*argv, "--out", str(tmp_path / "run")])
    message = "2 of the 3 classes of .* are not classes of the network: 'azul', 'rojo'; 2 of the network's 3 classes"
    assert single_error_line(status, capsys.readouterr().err, "azul rojo blue red")
    with pytest.raises(UserError, match=message):
        load_dataset(dataset).with_classes(sorted(COLORS), "file")


def test_relabeled_data_keep_images_and_fingerprint(tmp_path):
    for size, kind in ((8, MemoryImages), (70, FolderImages)):
        data = load_dataset(write_colors(tmp_path / str(size), {c: c for c in ("red", "blue")}, size))
        matched = data.with_classes(["blue", "x", "red"], "file")
        assert isinstance(matched.train, kind) and matched.classes == ["blue", "x", "red"]
        assert matched.fingerprint == data.fingerprint and matched.num_classes == 3
        assert matched.train.labels.tolist() == [0, 0, 0, 2, 2, 2] and data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.with_classes(["blue", "red"], "file") is data
        assert sorted(matched.holdout(0.4).test.labels.tolist()) == [0, 2]
    with pytest.raises(UserError, match="contains a name twice"):
        data.with_classes(["blue", "red", "red"], "file")


def test_unused_outputs_are_reported(tmp_path):
    data = noise_bundle(4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 12))
    with pytest.warns(UserWarning, match="net: the network has 12 outputs, but noise has 10 classes"):
        check_trained_model(TrainedModel("net", model, data))


# --- factories


def keyword_factory(**arguments) -> nn.Module:
    """Build a network as torchvision's functions do, which accept any keyword."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, arguments.get("num_classes", 1000)))


def strict_factory(**arguments) -> nn.Module:
    return color_network(**arguments)


def broken_factory(**arguments) -> nn.Module:
    return len(5)


def test_factory_with_keywords_gets_number_of_classes():
    assert import_factory(f"{NAME}:keyword_factory", 7)()[1].out_features == 7
    assert import_factory(f"{NAME}:keyword_factory")()[1].out_features == 1000
    assert import_factory("torchvision.models:squeezenet1_1", 7)().num_classes == 7
    with pytest.warns(UserWarning, match=f"{NAME}:strict_factory: the factory does not accept num_classes"):
        assert import_factory(f"{NAME}:strict_factory", 7)()[3].out_features == 3
    with pytest.raises(UserError, match="broken_factory raises TypeError"):
        import_factory(f"{NAME}:broken_factory", 7)()


# --- outputs


class TwoHeads(nn.Module):
    """Returns ``kind`` of the outputs of two heads; only in training mode if ``auxiliary``."""

    def __init__(self, kind=tuple, auxiliary: bool = False) -> None:
        super().__init__()
        self.kind, self.auxiliary = kind, auxiliary
        self.features, self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x):
        y = self.features(x).relu().mean((2, 3))
        both = self.first(y), self.second(y)
        return both[0] if self.auxiliary and not self.training else self.kind(both)


def two_heads() -> nn.Module:
    return TwoHeads()


def auxiliary_head() -> nn.Module:
    return TwoHeads(auxiliary=True)


def segmenter() -> nn.Module:
    return nn.Conv2d(3, 10, 1)


def named(pair) -> dict:
    return {"out": pair[0], "aux": pair[1]}


@pytest.mark.parametrize("kind", [tuple, list, named, lambda pair: (list(pair), None)])
def test_first_output_is_evaluated_and_trained(kind):
    data = noise_bundle(20, 20)
    torch.manual_seed(0)
    model, plain = TwoHeads(kind).eval(), TwoHeads(lambda pair: pair[0]).eval()
    plain.load_state_dict(model.state_dict())
    assert measure(model, data.test).loss == measure(plain, data.test).loss
    untrained = model.second.weight.clone()
    for loss in (None, distillation_loss(TwoHeads(kind), 0.5)):
        recipe = TrainOptions(epochs=1, batch_size=10, learning_rate=0.1, weight_decay=0.0)
        rows = fit(model, data.train, recipe, hooks=Hooks(loss=loss))
    fit(plain, data.train, recipe)
    assert rows[0]["train_loss"] > 0 and torch.equal(model.second.weight, untrained)


def test_outputs_that_are_no_class_scores_raise():
    scores = torch.zeros(2, 3)
    assert class_scores((scores, None)) is scores and first_output({"a": [scores], "b": 1}) is scores
    for outputs, message in ((torch.zeros(1, 3, 4, 4), r"shape \(1, 3, 4, 4\)"), ((), "tuple"), (None, "NoneType")):
        with pytest.raises(UserError, match=message):
            class_scores(outputs)


@pytest.mark.parametrize("factory", ["two_heads", "auxiliary_head"])
def test_commands_accept_several_outputs(factory, tmp_path, capsys):
    network = ["--model", f"{NAME}:{factory}", "--dataset", "digits"]
    more = ["--epochs", "1", "--learning-rate", "0.01", "--out", str(tmp_path / "run"), "--no-latency"]
    assert train.main([*network, *more]) == 0
    checkpoint = ["--checkpoint", str(tmp_path / "run" / "model.safetensors")]
    assert evaluate.main([*network, *checkpoint, "--no-latency"]) == 0
    capsys.readouterr()
    status = train.main(["--model", f"{NAME}:segmenter", "--epochs", "1", "--out", str(tmp_path / "other")])
    assert single_error_line(status, capsys.readouterr().err, "shape (1, 10, 32, 32) class scores")


# --- chance level


def labeled(counts: list[int], name: str = "data") -> DataBundle:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    images = MemoryImages(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels)
    return DataBundle(name, images, images, [str(c) for c in range(len(counts))], (3, 8, 8), "0" * 16)


def constant_network() -> nn.Module:
    """Predicts class 0 for every image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    return model.eval()


@pytest.mark.parametrize("counts", [[40, 30, 30], [20, 40, 40], [90, 5, 5]])
def test_network_at_chance_level_is_reported(counts):
    with pytest.warns(UserWarning, match=rf"net: the network is at chance level: top-1 {counts[0]}\.00 % on 100 test"):
        assert report_chance_level(TrainedModel("net", constant_network(), labeled(counts)))


def test_trained_network_is_not_at_chance_level(tmp_path):
    data = load_dataset(write_colors(tmp_path / "d", {c: c for c in COLORS}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not report_chance_level(TrainedModel("net", color_network(), data))


def test_compression_of_untrained_network_warns(tmp_path):
    start = TrainedModel("net", constant_network(), labeled([50, 50, 50]), factory=constant_network)
    with pytest.warns(UserWarning, match="at chance level"):
        run_method(Method("keep", lambda *_: Decision()), start, None, tmp_path / "run")


# --- costs and targets


class Padded(nn.Conv2d):
    """A convolution whose padding is a child, as in timm's networks for TensorFlow weights."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x):
        return super().forward(self.pad(x))


class Functional(nn.Module):
    """A layer that is not a module: its MACs do not depend on the widths of the groups."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(features, features))

    def forward(self, x):
        return nn.functional.linear(x, self.mixing)


def network_of(convolution, *more: nn.Module) -> nn.Module:
    layers = [convolution(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), convolution(16, 24, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10), *more)


def parametrized(*arguments) -> nn.Module:
    return parametrizations.weight_norm(nn.Conv2d(*arguments))


@pytest.mark.parametrize("convolution", [nn.Conv2d, Padded, parametrized])
def test_layers_with_children_are_counted(convolution):
    model, shape = network_of(convolution).eval(), (3, 12, 12)
    counted = count_cost(model, shape).macs
    assert sum(layer_macs(model, shape).values()) == counted == WidthCost(model, shape, []).dense > 240
    assert {"0", "3", "7"} == set(layer_macs(model, shape))


def test_functions_are_part_of_the_predicted_cost():
    model, shape = network_of(nn.Conv2d, Functional(10)), (3, 12, 12)
    with pytest.warns(
        UserWarning, match=r"Sequential: 100 of [\d,]+ MACs are not those of convolution or linear modules"
    ):
        cost = WidthCost(model, shape, channel_groups(model, torch.zeros(1, *shape)))
    assert cost.dense == count_cost(model, shape).macs == sum(layer_macs(model, shape).values()) + 100
    widths = uniform_widths(channel_groups(model, torch.zeros(1, *shape)), cost, Target(0.5))
    smaller = network_of(lambda i, o, k: nn.Conv2d(widths.get("0", 3) if i == 16 else 3, widths[str(3 * (i > 3))], k))
    smaller[1], smaller[7] = nn.BatchNorm2d(widths["0"]), nn.Linear(widths["3"], 10)
    assert cost.macs(widths) == count_cost(smaller, shape).macs + 100


def start_network() -> TrainedModel:
    return TrainedModel(
        "net", network_of(nn.Conv2d).eval(), noise_bundle(10, 10), factory=lambda: network_of(nn.Conv2d)
    )


@pytest.mark.parametrize(("width", "met"), [(16, False), (8, True), (4, False)])
def test_finished_network_is_checked_against_its_target(width, met, tmp_path):
    start = start_network()
    fraction = start.cost.macs({"0": 8}) / start.cost.dense + 1e-4
    method = Method("fixed", lambda *_: Decision({"0": range(width)} if width < 16 else {}))
    if met:
        assert run_method(method, start, fraction, tmp_path / "run")["compressed"]["macs"] > 0
        return
    with pytest.raises(UserError, match=rf"--target-macs {fraction:g}: the network keeps (1\.0000|0\.\d+), not"):
        run_method(method, start, fraction, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_smaller_file_is_kept_only_with_explanation(tmp_path):
    start = start_network()
    save_model(tmp_path / "dense.safetensors", start.model)
    method = Method("halve", lambda *_: Decision({"0": range(8)}), axis="bytes")
    with pytest.raises(
        UserError, match=r"--target-bytes 0\.99: the network keeps 0\.\d+, not 0\.9702 to 0\.99 of the bytes"
    ):
        run_method(method, start, 0.99, tmp_path / "run")
    explained = Method("halve", lambda *_: Decision({"0": range(8)}, smaller="training shrank it"), axis="bytes")
    found = run_method(explained, start, 0.99, tmp_path / "kept")
    assert found["compressed"]["bytes"] < 0.97 * start.bytes
    with pytest.raises(UserError, match=r"--target-bytes 0\.1"):  # a larger file is not explained
        run_method(explained, start, 0.1, tmp_path / "larger")


# --- messages


class WithoutGradient(nn.Module):
    def __init__(self, context=torch.no_grad) -> None:
        super().__init__()
        self.inner, self.context = network_of(nn.Conv2d), context

    def forward(self, x):
        with self.context():
            return self.inner(x)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_network_without_gradients_raises_with_reason(context):
    with pytest.raises(UserError, match="its forward pass runs under torch.no_grad or torch.inference_mode"):
        channel_groups(WithoutGradient(context), torch.zeros(1, 3, 12, 12))
    with pytest.raises(UserError, match="the loss has no gradient: .* forward runs under torch.no_grad"):
        fit(WithoutGradient(context), noise_bundle(10, 10).train, TrainOptions(epochs=1, batch_size=10))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_raises_by_name():
    x, model = torch.zeros(1, 3, 12, 12), network_of(nn.Conv2d).eval()
    for scripted, name in (
        (torch.jit.trace(model, x), "the network"),
        (nn.Sequential(torch.jit.script(model[:4])), "module 0"),
    ):
        with pytest.raises(UserError, match=f"{name}: a TorchScript program"):
            channel_groups(scripted, x)


def test_groups_are_found_within_inference_mode():
    expected = [group.name for group in channel_groups(network_of(nn.Conv2d), torch.zeros(1, 3, 12, 12))]
    with torch.inference_mode():
        model = network_of(nn.Conv2d)
        inside = channel_groups(model, torch.zeros(1, 3, 12, 12))
    outside = channel_groups(model, torch.zeros(1, 3, 12, 12))
    assert [g.name for g in inside] == [g.name for g in outside] == expected == ["0", "3"]


def test_network_without_groups_raises_before_method_runs(tmp_path):
    data = noise_bundle(10, 10)
    start = TrainedModel("net", nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval(), data)
    with pytest.raises(UserError, match="--target-macs 0.5: no channel group can be pruned: the network has none"):
        run_method(Method("any", lambda *_: pytest.fail("called")), start, 0.5, tmp_path / "run")
    with pytest.raises(UserError, match="no channel group can be pruned"):
        uniform_widths([], start.cost, Target(0.5))


def test_names_with_prefix_are_described_and_not_called_another_network():
    model = network_of(nn.Conv2d)
    renamed = {f"ema.module.{name}": tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(
        UserError, match=r"missing tensor '0.weight'; 11 of the network's 11 tensors have the prefix 'ema.module.'"
    ):
        load_tensors(model, renamed)
    fewer = {name: tensor for name, tensor in model.state_dict().items() if name != "7.bias"}
    with pytest.raises(
        UserError, match=r"missing tensor '7.bias'; 10 of the network's 11 tensors are among the 10 of the"
    ):
        load_tensors(model, fewer)


def test_closed_pipe_ends_command_without_message():
    """As ``python -m common.channels | head -1``: the status of a command that SIGPIPE ends, and no message."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from common.cli import run; sys.exit(run(lambda argv: print('line')))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_torchvision_networks_have_equal_counts():
    for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5"):
        model = getattr(torchvision.models, name)(num_classes=10).eval()
        assert sum(layer_macs(model, (3, 32, 32)).values()) == count_cost(model, (3, 32, 32)).macs


def test_reloaded_checkpoint_keeps_classes(checkpoint):
    assert load_model(checkpoint, color_network).checkpoint_header["classes"] == ["blue", "green", "red"]
