"""A user's own network: --model through all three stages, and which networks no PruningNet can be made for."""

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
from rewarded_metapruning import cost, evaluate, method, search, train
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.custom_network import own_space
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.recipes import SearchSettings
from rewarded_metapruning.search_file import nev_of_rank, read_search
from rewarded_metapruning.settings import CONV_LINEAR, PAPER

HERE = "test_rewarded_metapruning_own"
SHAPE = (3, 16, 16)


class Residual(nn.Module):
    """A stem, a residual block, a depthwise convolution, batch norm on features."""

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
    """A tensor of its own follows a width."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.classify = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        self.weight = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify((self.conv(x) * self.weight).mean((2, 3)))


class Counting(nn.Module):
    """A buffer that is no norm's."""

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


def norm_without_statistics(num_classes: int = 10) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def wants_an_argument(depth: int) -> nn.Module:
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


def test_all_three_stages(root, tmp_path, capsys):
    """Entries 5 to 25 throughout, which only the first stage is told."""
    meta, found = tmp_path / "meta", tmp_path / "search" / "search.json"
    assert train.main([*held_out(root), "--epochs", "1", "--scales", "5", "25", "--save", str(meta)]) == 0
    words = ["--max-iters", "2", "--population", "6", "--parents", "3", "--calibration-batches", "1"]
    for cache in ("checkpoint.pth.tar", "model.safetensors"):
        out = str((tmp_path / cache) if cache.endswith("tar") else found.parent)
        assert search.main([*held_out(root), *words, "--net-cache", str(meta / cache), "--out", out]) == 0
    content = read_search(found)
    assert content["arch"] == f"{HERE}:Residual" and content["scales"] == [5, 25]
    assert all(5 <= entry <= 25 for row in content["candidates"] for entry in row["nev"])
    words = [
        "--epochs",
        "1",
        "--nev-file",
        str(found),
        "--save",
        str(tmp_path / "final"),
        "--beside",
        "unpruned",
        "random",
    ]
    words += ["--init", "generated", "--net-cache", str(meta / "model.safetensors")]
    capsys.readouterr()
    assert evaluate.main([*common(root), *words]) == 0
    assert "not trained on entries such as 30" in capsys.readouterr().out  # the unpruned network's
    space = own_space(f"{HERE}:Residual", 2, SHAPE)
    nev = nev_of_rank(found, 1, space)
    (folder,) = (tmp_path / "final").glob("chosen-*")
    model = load_model(folder / "model.safetensors", factory=lambda: Residual(2))
    assert count_cost(model, SHAPE).macs == space_cost(space).macs([nev], CONV_LINEAR)[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["compressed"]["macs"] == content["candidates"][0]["macs"]
    (random,) = (tmp_path / "final").glob("random-*")
    assert all(5 <= entry <= 25 for entry in json.loads((random / "metrics.json").read_text())["nev"])


def test_a_search_beyond_what_was_trained_on_is_refused(root, tmp_path, capsys):
    meta = tmp_path / "meta"
    assert train.main([*held_out(root), "--epochs", "0", "--scales", "5", "25", "--save", str(meta)]) == 0
    for cache in ("checkpoint.pth.tar", "model.safetensors"):
        words = [*held_out(root), "--net-cache", str(meta / cache), "--out", str(tmp_path / "s")]
        assert search.main([*words, "--scales", "4", "25"]) == 2
        assert "entries 5 to 25, --scales 4 25" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_its_forward_is_the_plain_network_s_and_costs_are_exact():
    space = own_space(f"{HERE}:Residual", 10, SHAPE)
    assert [gene.layers for gene in space.genes] == [("stem", "second"), ("first",), ("features",)]
    torch.manual_seed(0)
    net, images = PruningNet(space).eval(), torch.randn(4, *SHAPE)
    for nev in (draw(space, (1,)), draw(space, (2,)), (0, 0, 0), space.unpruned):
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


def test_what_comes_out_is_an_ordinary_network():
    space = own_space(f"{HERE}:Residual", 10, SHAPE)
    model, example = space.build((10, 20, 5)), torch.zeros(1, *SHAPE)
    group = channel_groups(model, example)[0]
    assert group.size == space.widths((10, 20, 5))[0]
    assert keep_channels(model, example, {group.name: [0, 1]}).stem.out_channels == 2


def test_as_compare_calls_it(root, tmp_path):
    """The factory comes with the network: nothing that a name or a file says is imported."""
    data = load_dataset(f"folder:{root}")
    model = Residual(2).eval()
    start = TrainedModel("no_such_module:Residual", model, data, factory=lambda: Residual(2))
    how = method.MetaPruning(TrainOptions(epochs=1, batch_size=16), SearchSettings(4, 2, 2, 2), 1, (1, 16), 0.25)
    metrics = run_method(replace(method.METHOD, decide=partial(method.decide, how)), start, 0.5, tmp_path)
    small = load_model(tmp_path / metrics["file"], start.factory)
    assert Target(0.5).met(count_cost(small, SHAPE).macs / count_cost(model, SHAPE).macs)
    content = read_search(tmp_path / "search" / "search.json")
    assert content["arch"] == start.name and content["candidates"][0]["nev"] == metrics["nev"]


REFUSED = {
    "flattened": "one by one, in order",
    "grouped": "equally many in each of 2 runs",
    "one_layer": "no layer whose width",
    "Scaled": "no layer whose width",
    "twelve_classes": "(12,)",
    "norm_without_statistics": "no PruningNet can be made",
    "Counting": "no weights and no statistics of a norm: gain",
    "wants_an_argument": "depth",
    "no_network": "builds a int",
    "nothing": "nothing",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_is_refused_with_the_reason(name):
    with pytest.raises(UserError) as refused:
        own_space(f"{HERE}:{name}", 10, SHAPE)
    assert REFUSED[name] in str(refused.value)


def test_mistakes_on_the_command_line_are_one_line(root, tmp_path, capsys):
    for words, reason in (
        (["--model", f"{HERE}:grouped"], "equally many"),
        (["--model", "no_module_of_this_name:f"], "no_module_of_this_name"),
        (["--model", HERE], "PACKAGE.MODULE:FACTORY"),
        (["--model", f"{HERE}:Residual", "--arch", "resnet20"], "not both"),
    ):
        assert (
            train.main([*words, "--dataset", f"folder:{root}", "--device", "cpu", "--save", str(tmp_path / "out")]) == 2
        )
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and reason in error
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_own_network_is_refused(root, tmp_path, capsys):
    meta = tmp_path / "meta"
    assert train.main([*held_out(root), "--epochs", "0", "--save", str(meta)]) == 0
    other = held_out(root, f"{HERE}:twelve")
    assert search.main([*other, "--net-cache", str(meta / "model.safetensors"), "--out", str(tmp_path / "s")]) == 2
    assert f"generates {HERE}:Residual, not {HERE}:twelve" in capsys.readouterr().err
    assert search.main([*other, "--net-cache", str(meta / "checkpoint.pth.tar"), "--out", str(tmp_path / "s")]) == 2
    assert "checkpoint.pth.tar" in capsys.readouterr().err


def twelve(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes))


def test_its_cost_is_printed(capsys):
    assert cost.main(["--model", f"{HERE}:Residual", "--input-shape", "3", "16", "16", "--nev", "10,20,5"]) == 0
    assert "3 entries: 10,20,5" in capsys.readouterr().out
    assert cost.main(["--model", f"{HERE}:Residual"]) == 2
    assert "--input-shape" in capsys.readouterr().err
