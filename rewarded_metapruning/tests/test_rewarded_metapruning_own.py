"""Custom networks: --model in all three stages, and networks that are not supported."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model
from common.cost import count_cost
from common.data import load_dataset
from common.errors import UserError
from common.target import Target
from common.testing import run_method, write_image_folder
from common.trained_model import TrainedModel
from common.training import TrainOptions
from rewarded_metapruning import cost, method, search, train_chosen, train_pruning_net
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.custom_network import build_custom_space
from rewarded_metapruning.pruning_net import PruningNet, sample_nev
from rewarded_metapruning.recipes import EvolutionSettings
from rewarded_metapruning.search_file import read_nev, read_search
from rewarded_metapruning.settings import CONV_LINEAR, PAPER

HERE = "test_rewarded_metapruning_own"
SHAPE = (3, 16, 16)


class Residual(nn.Module):
    """Network with a stem, a residual block, a depthwise convolution and batch norm on features."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.first, self.second = nn.Conv2d(12, 20, 3, padding=1), nn.Conv2d(20, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.features, self.last = nn.Linear(12, 9), nn.BatchNorm1d(9)
        self.classify = nn.Linear(9, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.second(F.relu(self.first(x))))
        x = self.depthwise(x).mean((2, 3))
        return self.classify(F.relu(self.last(self.features(x))))


class Scaled(nn.Module):
    """Network with a parameter whose shape depends on a width."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.classify = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        self.weight = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify((self.conv(x) * self.weight).mean((2, 3)))


class Counting(nn.Module):
    """Network with a buffer outside batch norm."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.classify = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        self.register_buffer("gain", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.conv(x).mean((2, 3)) * self.gain)


def flattened(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, num_classes))


def grouped(num_classes: int = 10) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def one_layer(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))


def twelve_classes() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12))


def batch_norm_without_parameters(num_classes: int = 10) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def requires_argument(depth: int) -> nn.Module:
    return nn.Linear(depth, depth)


def no_network() -> int:
    return 3


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("own"), train=20, size=16)


def common(root: Path, model: str = f"{HERE}:Residual") -> list[str]:
    data = ["--dataset", f"folder:{root}", "--batch-size", "16"]
    return ["--model", model, *data, "--device", "cpu", "--workers", "0"]


def held_out(root: Path, model: str = f"{HERE}:Residual") -> list[str]:
    return [*common(root, model), "--holdout", "0.25"]


@pytest.fixture(scope="module")
def meta(root) -> Path:
    """The folder of a PruningNet that was trained on entries from 5 to 25."""
    words = ["--epochs", "1", "--scale-range", "5", "25", "--save", str(root / "meta")]
    assert train_pruning_net.main([*held_out(root), *words]) == 0
    return root / "meta"


def test_custom_network_runs_all_stages(root, meta, tmp_path, capsys):
    """Entries are 5 to 25 in all stages; the option is given to the first stage only."""
    found = tmp_path / "search" / "search.json"
    words = ["--max-iters", "2", "--population", "6", "--parents", "3", "--calibration-batches", "1"]
    for cache in ("checkpoint.pth.tar", "model.safetensors"):
        out = str((tmp_path / cache) if cache.endswith("tar") else found.parent)
        assert search.main([*held_out(root), *words, "--net-cache", str(meta / cache), "--out", out]) == 0
    content = read_search(found)
    assert content["arch"] == f"{HERE}:Residual" and content["scale_range"] == [5, 25]
    assert all(5 <= entry <= 25 for row in content["candidates"] for entry in row["nev"])
    words = [
        "--epochs",
        "1",
        "--nev-file",
        str(found),
        "--save",
        str(tmp_path / "final"),
        "--also-train",
        "unpruned",
        "random",
    ]
    words += ["--init", "generated", "--net-cache", str(meta / "model.safetensors")]
    capsys.readouterr()
    assert train_chosen.main([*common(root), *words]) == 0
    assert "not trained on entries such as 30" in capsys.readouterr().out  # the unpruned network's
    space = build_custom_space(f"{HERE}:Residual", 2, SHAPE)
    nev = read_nev(found, 1, space)
    (folder,) = (tmp_path / "final").glob("chosen-*")
    model = load_model(folder / "model.safetensors", factory=lambda: Residual(2))
    assert count_cost(model, SHAPE).macs == space_cost(space).macs([nev], CONV_LINEAR)[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["compressed"]["macs"] == content["candidates"][0]["macs"]
    (random,) = (tmp_path / "final").glob("random-*")
    assert all(5 <= entry <= 25 for entry in json.loads((random / "metrics.json").read_text())["nev"])


def test_search_beyond_trained_scale_range_fails(root, meta, tmp_path, capsys):
    for cache in ("checkpoint.pth.tar", "model.safetensors"):
        words = [*held_out(root), "--net-cache", str(meta / cache), "--out", str(tmp_path / "s")]
        assert search.main([*words, "--scale-range", "4", "25"]) == 2
        error = capsys.readouterr().err
        assert "--scale-range 4 25: " in error and "entries 5 to 25 only" in error
    assert not (tmp_path / "s").exists()


def test_forward_and_costs_match_plain_network():
    space = build_custom_space(f"{HERE}:Residual", 10, SHAPE)
    assert [gene.layers for gene in space.genes] == [("stem", "second"), ("first",), ("features",)]
    torch.manual_seed(0)
    net, images = PruningNet(space).eval(), torch.randn(4, *SHAPE)
    for nev in (sample_nev(space, (1,)), sample_nev(space, (2,)), (0, 0, 0), space.unpruned):
        plain = space.build(nev).eval()
        assert [tuple(t.shape) for t in plain.state_dict().values()] == [
            tuple(t.shape) for t in net.plain_network(nev).state_dict().values()
        ]
        plain.load_state_dict(net.tensors(nev))
        with torch.no_grad():
            assert torch.allclose(net(images, nev), plain(images), atol=1e-6)
        costs = space_cost(space)
        for rule in (PAPER, CONV_LINEAR):
            assert costs.macs([nev], rule)[0] == count_cost(plain, SHAPE, rule).macs
        assert costs.params([nev])[0] == sum(p.numel() for p in plain.parameters())


def test_built_network_can_be_pruned_further():
    space = build_custom_space(f"{HERE}:Residual", 10, SHAPE)
    model, example = space.build((10, 20, 5)), torch.zeros(1, *SHAPE)
    group = channel_groups(model, example)[0]
    assert group.size == space.widths((10, 20, 5))[0]
    assert keep_channels(model, example, {group.name: [0, 1]}).stem.out_channels == 2


def test_method_prunes_custom_network(root, tmp_path):
    """The factory comes with the network; no name in a file is imported."""
    data = load_dataset(f"folder:{root}")
    model = Residual(2).eval()
    start = TrainedModel("no_such_module:Residual", model, data, factory=lambda: Residual(2))
    how = {"evolution": EvolutionSettings(4, 2, 2, 2), "generations": 1, "calibration": (1, 16), "holdout": 0.25}
    recipe = TrainOptions(epochs=1, batch_size=16)
    for one, final in ((method.METHOD, recipe), (method.EXTENDED, None)):
        settings = method.MetaPruningSettings(training=recipe, final=final, **how)
        folder = tmp_path / one.variant
        metrics = run_method(replace(one, decide=partial(method.decide, settings)), start, 0.5, folder)
        small = load_model(folder / metrics["file"], start.factory)
        assert Target(0.5).is_met_by(count_cost(small, SHAPE).macs / count_cost(model, SHAPE).macs)
        content = read_search(folder / "search" / "search.json")
        assert content["arch"] == start.name and content["candidates"][0]["nev"] == metrics["nev"]


UNSUPPORTED = {
    "flattened": "one by one, in order",
    "grouped": "grouped convolution of 2 groups",
    "one_layer": "no layer has a width",
    "Scaled": "the channels of conv are attention heads, groups of a norm or of a parameter",
    "twelve_classes": "(12,)",
    "batch_norm_without_parameters": "not supported by a PruningNet",
    "Counting": "buffers other than batch-norm statistics are not supported: gain",
    "requires_argument": "depth",
    "no_network": "returns a int",
    "nothing": "nothing",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_network_raises_with_reason(name):
    with pytest.raises(UserError) as error:
        build_custom_space(f"{HERE}:{name}", 10, SHAPE)
    assert UNSUPPORTED[name] in str(error.value)


def test_invalid_model_prints_one_line(root, tmp_path, capsys):
    for words, reason in (
        (["--model", f"{HERE}:grouped"], "grouped convolution"),
        (["--model", "no_module_of_this_name:f"], "no_module_of_this_name"),
        (["--model", HERE], "PACKAGE.MODULE:FACTORY"),
        (["--model", f"{HERE}:Residual", "--arch", "resnet20"], "not both"),
    ):
        assert (
            train_pruning_net.main(
                [*words, "--dataset", f"folder:{root}", "--device", "cpu", "--save", str(tmp_path / "out")]
            )
            == 2
        )
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and reason in error
    assert not (tmp_path / "out").exists()


def test_pruning_net_of_another_custom_network_fails(root, meta, tmp_path, capsys):
    other = held_out(root, f"{HERE}:twelve")
    assert search.main([*other, "--net-cache", str(meta / "model.safetensors"), "--out", str(tmp_path / "s")]) == 2
    assert f"generates {HERE}:Residual, not {HERE}:twelve" in capsys.readouterr().err
    assert search.main([*other, "--net-cache", str(meta / "checkpoint.pth.tar"), "--out", str(tmp_path / "s")]) == 2
    assert "checkpoint.pth.tar" in capsys.readouterr().err


def twelve(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes))


def test_cost_command_accepts_custom_network(capsys):
    assert cost.main(["--model", f"{HERE}:Residual", "--input-shape", "3", "16", "16", "--nev", "10,20,5"]) == 0
    assert "3 entries: 10,20,5" in capsys.readouterr().out
    assert cost.main(["--model", f"{HERE}:Residual"]) == 2
    assert "--input-shape" in capsys.readouterr().err
