"""The method as called by compare."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import load_dataset
from common.errors import UserError
from common.limits import Limits
from common.models import ARCHITECTURES, Architecture, create_model
from common.pipeline import apply_decision, compress
from common.runs import open_stage, read_json
from common.target import Target
from common.testing.limits import check_limits_obeyed, limited_start
from common.trained_model import TrainedModel, read_trained_model
from model_preserving_id import prune_network
from model_preserving_id.calibration import calibration_images
from model_preserving_id.method import EXTENDED, METHOD, SENSITIVITY, decide
from model_preserving_id.settings import ChannelPruningOptions, prune_main


class OnlyResidual(nn.Module):
    """A network whose convolutions all add to a residual stream."""

    def __init__(self, num_classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.enter, self.one, self.two = (nn.Conv2d(c, width, 3, padding=1) for c in (3, width, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        stream = self.enter(images)
        stream = torch.relu(stream + self.one(torch.relu(stream)))
        return self.head(torch.relu(stream + self.two(stream)).mean((2, 3)))


def test_residual_streams_are_pruned_without_other_groups(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(ARCHITECTURES, "residual", Architecture(OnlyResidual, (3, 32, 32)))
    digits, dense = load_dataset("digits"), create_model("residual")
    save_model(tmp_path / "dense.safetensors", dense, normalize=(digits.mean, digits.std))
    few = replace(digits, train=digits.train.subset(range(40)))
    with pytest.raises(UserError, match="use --residual exact"):
        prune_network(dense, torch.zeros(1, 3, 32, 32), [torch.zeros(2, 3, 32, 32)], target_macs=0.7, residual="keep")
    target = count_cost(OnlyResidual(width=20), (3, 32, 32)).macs / count_cost(dense, (3, 32, 32)).macs + 1e-4
    start = read_trained_model(tmp_path / "dense.safetensors", few)
    stage = open_stage(tmp_path / "out", "tests", {})
    small = apply_decision(start, EXTENDED.decide(start, Target(target), stage))
    assert small.enter.out_channels == small.one.out_channels == small.two.out_channels == 20


@pytest.fixture
def start(tmp_path) -> TrainedModel:
    """An untrained ResNet-20 with few images."""
    torch.manual_seed(0)
    digits, dense = load_dataset("digits"), create_model("resnet20")
    save_model(tmp_path / "dense.safetensors", dense, normalize=(digits.mean, digits.std))
    return read_trained_model(tmp_path / "dense.safetensors", replace(digits, train=digits.train.subset(range(40))))


def test_method_meets_target_without_training(start, tmp_path):
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    metrics = compress(METHOD, start, Target(0.7), stage, latency=False)
    fraction = count_cost(load_model(stage.model_path), (3, 32, 32)).macs / count_cost(start.model, (3, 32, 32)).macs
    assert METHOD.axis == "macs" and not METHOD.trains and 0.686 <= fraction <= 0.7 and metrics["images"] == 40
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.model.state_dict().items())
    written = stage.model_path.stat().st_mtime_ns
    assert compress(METHOD, start, Target(0.7), stage) == metrics and stage.model_path.stat().st_mtime_ns == written


def test_limits_are_respected(start, tmp_path):
    limits = Limits(ignored=("layer1.0.conv1",), min_channels=5, max_pruned=0.7, round_to=2)
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    bounded = replace(start, limits=limits)
    decision = METHOD.decide(bounded, Target(0.6), stage)
    assert decision.kept and "layer1.0.conv1" not in decision.kept
    limits.check(decision.kept, bounded.all_groups)
    assert apply_decision(bounded, decision).layer1[0].conv1.out_channels == 16


@pytest.mark.parametrize("residual", ["keep", "conv"])
def test_full_width_prunes_nothing(start, tmp_path, residual):
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    decision = decide(ChannelPruningOptions(method="frac", k=1.0, residual=residual), start, None, stage)
    same = apply_decision(start, decision).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in start.model.state_dict().items())


@pytest.mark.parametrize(("residual", "how"), [("keep", "none"), ("exact", "weights"), ("conv", "weights")])
def test_script_and_function_are_bit_identical(start, tmp_path, residual, how):
    stage = open_stage(tmp_path / "out", "tests", {}, log=lambda line: None)
    pruned = apply_decision(
        start,
        decide(ChannelPruningOptions(method="frac", k=0.6, residual=residual, compensation=how), start, None, stage),
    ).state_dict()
    inputs = calibration_images(start.data, 40, stage.seed)
    other = prune_network(
        start.model, start.example, inputs, keep=0.6, residual=residual, compensation=how
    ).state_dict()
    assert pruned.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in pruned.items())


def test_settings_say_how_they_differ_from_paper(tmp_path, capsys):
    """`main.py` prints it, and its runs record the variant; widths in multiples of 8 are not the paper's either."""
    assert ChannelPruningOptions().differences == [] and ChannelPruningOptions(score="sigma").variant == "paper"
    assert ChannelPruningOptions(round_to=8).differences == ["widths in multiples of 8"]
    extended = ChannelPruningOptions(method="budget")
    assert extended.variant == "extended" and len(extended.differences) == 4
    torch.manual_seed(0)
    save_model(tmp_path / "net.safetensors", create_model("resnet20"))
    words = f"--checkpoint {tmp_path / 'net.safetensors'} --dataset digits --prune-batch-size 20 --no-latency --k 0.8"
    assert prune_main([*words.split(), "--method", "frac", "--out", str(tmp_path / "a")]) == 0
    assert prune_main([*words.split(), "--method", "frac", "--round-to", "8", "--out", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "frac-0.8 with 20 images; the paper's method" in out
    assert "frac-0.8 with 20 images; extended, differs from the paper: widths in multiples of 8" in out


@pytest.mark.parametrize("method", [METHOD, EXTENDED], ids=lambda method: method.variant)
def test_variant_obeys_limits_and_meets_target(method, tmp_path):
    check_limits_obeyed(method, tmp_path)


def test_run_folder_keeps_measured_sensitivity(tmp_path):
    """A value per group that could be pruned and per measured width; removing more changes the outputs more.

    Not those of ``head``: from fewer images than channels, T fits these images only.
    """
    check_limits_obeyed(EXTENDED, tmp_path)
    found = read_json(tmp_path / SENSITIVITY)
    assert set(found) == {"blocks.0.0", "head"}
    assert all(len(points) >= 2 and min(points.values()) > 0 for points in found.values())
    values = [found["blocks.0.0"][width] for width in sorted(found["blocks.0.0"], key=int)]
    assert values == sorted(values, reverse=True)


def test_channels_are_ranked_by_order_of_decomposition():
    """A channel that is a copy of another one is needed last."""
    start = limited_start()
    with torch.no_grad():
        for tensor in (start.model.head.weight, start.model.head.bias):
            tensor[5] = tensor[40]
    scores = METHOD.scores(start, 0)
    assert set(scores) == {group.name for group in start.groups}
    assert sorted(scores["head"].tolist()) == [float(-i) for i in reversed(range(64))]
    assert min(scores["head"][5], scores["head"][40]) < scores["head"].sort().values[4]
