"""The method as compare calls it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import load_dataset
from common.errors import UserError
from common.models import ARCHITECTURES, Architecture, create_model
from common.pipeline import apply_decision, compress
from common.runs import open_stage
from common.target import Target
from common.trained_model import Limits, TrainedModel, read_trained_model
from model_preserving_id import prune_network
from model_preserving_id.method import METHOD, decide
from model_preserving_id.pictures import pruning_pictures
from model_preserving_id.settings import Pruning


class OnlyStreams(nn.Module):
    """Every convolution adds into a residual stream."""

    def __init__(self, num_classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.enter, self.one, self.two = (nn.Conv2d(c, width, 3, padding=1) for c in (3, width, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, pictures):
        stream = self.enter(pictures)
        stream = torch.relu(stream + self.one(torch.relu(stream)))
        return self.head(torch.relu(stream + self.two(stream)).mean((2, 3)))


def test_streams_shrink_where_there_is_nothing_else(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(ARCHITECTURES, "streams", Architecture(OnlyStreams, (3, 32, 32)))
    digits, dense = load_dataset("digits"), create_model("streams")
    save_model(tmp_path / "dense.safetensors", dense, normalize=(digits.mean, digits.std))
    few = replace(digits, train=digits.train.subset(range(40)))
    with pytest.raises(UserError, match="--streams exact cuts them, too"):
        prune_network(dense, torch.zeros(1, 3, 32, 32), [torch.zeros(2, 3, 32, 32)], target_macs=0.7, streams="off")
    target = count_cost(OnlyStreams(width=20), (3, 32, 32)).macs / count_cost(dense, (3, 32, 32)).macs + 1e-4
    start = read_trained_model(tmp_path / "dense.safetensors", few)
    small = apply_decision(start, METHOD.decide(start, Target(target), open_stage(tmp_path / "out", "tests", {})))
    assert small.enter.out_channels == small.one.out_channels == small.two.out_channels == 20


@pytest.fixture
def start(tmp_path) -> TrainedModel:
    """An untrained ResNet-20, with few images."""
    torch.manual_seed(0)
    digits, dense = load_dataset("digits"), create_model("resnet20")
    save_model(tmp_path / "dense.safetensors", dense, normalize=(digits.mean, digits.std))
    return read_trained_model(tmp_path / "dense.safetensors", replace(digits, train=digits.train.subset(range(40))))


def test_the_method_meets_a_share_of_the_macs_without_training(start, tmp_path):
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    metrics = compress(METHOD, start, Target(0.7), stage, latency=False)
    share = count_cost(load_model(stage.model_path), (3, 32, 32)).macs / count_cost(start.model, (3, 32, 32)).macs
    assert METHOD.axis == "macs" and not METHOD.trains and 0.686 <= share <= 0.7 and metrics["pictures"] == 40
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.model.state_dict().items())
    written = stage.model_path.stat().st_mtime_ns
    assert compress(METHOD, start, Target(0.7), stage) == metrics and stage.model_path.stat().st_mtime_ns == written


def test_limits_of_the_network_are_respected(start, tmp_path):
    limits = Limits(ignored=("layer1.0.conv1",), min_channels=5, max_pruned=0.7, round_to=2)
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    bounded = replace(start, limits=limits)
    decision = METHOD.decide(bounded, Target(0.6), stage)
    assert decision.kept and "layer1.0.conv1" not in decision.kept
    limits.check(decision.kept, bounded.all_groups)
    assert apply_decision(bounded, decision).layer1[0].conv1.out_channels == 16


@pytest.mark.parametrize("streams", ["off", "conv"])
def test_nothing_is_pruned_if_everything_may_stay(start, tmp_path, streams):
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    decision = decide(Pruning(method="frac", k=1.0, streams=streams), start, None, stage)
    same = apply_decision(start, decision).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in start.model.state_dict().items())


@pytest.mark.parametrize("streams", ["off", "exact", "conv"])
def test_the_script_and_the_function_prune_alike(start, tmp_path, streams):
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    pruned = apply_decision(
        start, decide(Pruning(method="frac", k=0.6, streams=streams), start, None, stage)
    ).state_dict()
    inputs = pruning_pictures(start.data, 40, stage.seed)
    other = prune_network(start.model, start.example, inputs, keep=0.6, streams=streams).state_dict()
    assert pruned.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in pruned.items())
