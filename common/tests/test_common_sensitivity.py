"""Sensitivity of channel groups: equal to pruned networks, streams with all producers, unlabeled data, command."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import sensitivity as command
from common.channels import channel_groups, keep_channels, top_channels
from common.checkpoint import save_model
from common.cost import count_cost
from common.errors import UserError
from common.group_sensitivity import _removed
from common.importance import channel_scores
from common.limits import Limits
from common.replay import Replay
from common.sensitivity import sensitivity
from common.testing import random_network, single_error_line, write_image_folder
from common.testing.limits import LimitedNetwork, limited_start

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def change(outputs: Tensor, dense: Tensor) -> float:
    return float(100 * (outputs - dense).double().norm() / dense.double().norm())


def test_values_are_those_of_pruned_networks():
    """Without rebuilding networks, every value equals that of the network without the channels of the smallest L1 norms."""
    start = limited_start()
    found = sensitivity(start, (0.25, 0.5), images=40)
    assert {one.group for one in found.groups} == {"stem", "blocks.0.0", "blocks.1.0", "head"}
    images = start.data.train
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:40].sort().values
    (batch,) = images.subset(chosen).batches(40)
    dense = start.model(batch.images).detach()
    assert found.top1 == pytest.approx(100 * float((dense.argmax(1) == batch.labels).double().mean()))
    scores = channel_scores(start, "l1_norm")
    for one in found.groups:
        for point in one.points:
            assert point.removed == round(point.fraction * one.channels)
            kept = top_channels(scores[one.group].tolist(), one.channels - point.removed)
            small = keep_channels(start.model, start.example, {one.group: kept}).eval()
            outputs = small(batch.images).detach()
            assert point.output_change == pytest.approx(change(outputs, dense), rel=1e-4)
            assert point.agreement == pytest.approx(100 * float((outputs.argmax(1) == dense.argmax(1)).double().mean()))
            assert point.top1 == pytest.approx(100 * float((outputs.argmax(1) == batch.labels).double().mean()))
            macs = count_cost(small, (3, 8, 8)).macs
            assert point.macs_saved == pytest.approx(1 - macs / start.cost.dense, abs=1e-6)


def test_network_is_not_changed_and_order_is_by_lost_agreement():
    start = limited_start()
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    found = sensitivity(start, (0.5,), images=20)
    assert all(torch.equal(before[name], tensor) for name, tensor in start.model.state_dict().items())
    assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in start.model.modules())
    lost = [100 - one.points[0].agreement for one in found.groups]
    assert lost == sorted(lost, reverse=True) == [pytest.approx(one.score) for one in found.groups]


def test_residual_stream_is_sensitive_with_all_producers_and_looks_robust_with_one():
    """The naive way removes the outputs of one layer, which the others still add to: it underestimates the stream by far."""
    torch.manual_seed(0)
    model = random_network("resnet20").eval()
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = {
        one.group: one
        for one in sensitivity(model, (0.75,), data=(images, torch.zeros(20, dtype=torch.long)), part="test").groups
    }
    stream = found["layer2.0.conv2"]
    assert stream.producers == ("layer2.0.conv2", "layer2.1.conv2", "layer2.2.conv2")
    assert stream.label == "layer2.0.conv2 + 2 more"
    from common.data.own_data import own_data

    (batch,) = own_data((images, torch.zeros(20, dtype=torch.long)))[0].test.batches(20)
    dense = model(batch.images)
    group = next(g for g in channel_groups(model, images[:1]) if g.name == stream.group)
    weights = sum(model.get_submodule(name).weight.detach().abs().flatten(1).sum(1) for name in group.producers)
    gone = weights.argsort()[: stream.points[0].removed]

    def naive(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_fill(1, gone, 0.0)

    for name in ("layer2.1.bn2", "layer2.2.bn2"):
        handle = model.get_submodule(name).register_forward_hook(naive)
        robust = change(model(batch.images), dense)
        handle.remove()
        assert robust < 0.7 * stream.points[0].output_change


class InPlace(nn.Module):
    """A network that changes modules' outputs in place, calls a module twice, and has a parallel path."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.same = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Identity()
        self.c, self.fc, self.relu = nn.Conv2d(8, 12, 3), nn.Linear(12, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        y = self.same(self.b(x))
        y += x
        F.relu_(y)
        return self.fc(self.relu(self.c(y)).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "images"),
    [(LimitedNetwork(), IMAGES), (InPlace(), IMAGES)],
    ids=["residual", "in-place"],
)
@torch.no_grad()
def test_replayed_forward_pass_is_bit_identical(model, images):
    model = model.eval()
    replay = Replay(model, images[:2])
    for batch in images.split(16):
        assert torch.equal(replay.record(batch), model(batch))
        for name in dict.fromkeys(replay.order):
            assert torch.equal(replay.from_layers(batch, [name]), model(batch))
        scale = model.get_submodule(replay.order[-3])
        handle = scale.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,))
        assert torch.equal(replay.from_layers(batch, [replay.order[-3]]), model(batch))
        handle.remove()


def test_replay_does_not_compute_layers_before_the_first(monkeypatch):
    model, computed = LimitedNetwork().eval(), []
    replay = Replay(model, IMAGES[:2])
    replay.record(IMAGES)
    real = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, *a: (computed.append(self), real(self, *a))[1])
    replay.from_layers(IMAGES, ["blocks.1.3", "head"])
    assert computed == [model.blocks[1][3], model.head]
    replay.from_layers(IMAGES, ["not called"])
    assert len(computed) == 2 + 6


@pytest.mark.parametrize("size", [1, 2, 8])
def test_one_channel_remains_and_one_is_removed(size):
    group = limited_start().groups[0]
    group = type(group)("a", size, ["a"], [], [], "a")
    for fraction in (0.01, 0.5, 0.99):
        kept = _removed(group, torch.arange(size), fraction, Limits())
        assert 1 <= int(kept.sum()) <= max(1, size - 1) and bool(kept[-1])


def test_limits_select_groups_and_widths():
    found = sensitivity(limited_start(only=["head", "blocks"], max_pruned=0.5, round_to=8), (0.1, 0.6, 0.9), images=8)
    removed = {one.group: [point.removed for point in one.points] for one in found.groups}
    assert removed == {"head": [8, 32, 32], "blocks.0.0": [8, 24, 24], "blocks.1.0": [8, 24, 24]}


def test_unlabeled_data_give_agreement_and_other_outputs_their_change():
    unlabeled = sensitivity(LimitedNetwork(), (0.5,), data=IMAGES)
    point = unlabeled.groups[0].points[0]
    assert unlabeled.top1 is None and point.top1 is None and point.agreement is not None
    assert "agreement with the dense network (%) / change" in str(unlabeled) and "top-1" not in str(unlabeled)

    class Masks(LimitedNetwork):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks[0](self.stem(x)).relu()).sum(1, keepdim=True)

    maps = sensitivity(Masks(), (0.5,), data=IMAGES)
    assert {point.agreement for one in maps.groups for point in one.points} == {None}
    assert all(point.output_change > 0 for one in maps.groups for point in one.points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.0,)}, r"fractions 0.0: give one or more, in \(0, 1\)"),
        ({"fractions": ()}, r"\(none\)"),
        ({"criterion": "best"}, "criterion 'best': not one that ranks channels; use one of l1_norm, random"),
        ({"part": "all"}, "part 'all'"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(UserError, match=message):
        sensitivity(limited_start(), **options)
    with pytest.raises(UserError, match="give the examples"):
        sensitivity(LimitedNetwork())
    with pytest.raises(UserError, match="no channel group can be pruned"):
        sensitivity(limited_start(only=["stem"]))


def test_random_criterion_depends_on_seed_only():
    values = [sensitivity(limited_start(), (0.5,), images=8, criterion="random", seed=seed) for seed in (1, 1, 2)]
    assert values[0].to_json() == values[1].to_json() != values[2].to_json()


def test_command_prints_table_and_writes_plot_and_json(tmp_path, capsys):
    images = write_image_folder(tmp_path / "images", classes=4, train=6, test=2, size=8)
    torch.manual_seed(0)
    save_model(
        tmp_path / "m.safetensors", LimitedNetwork(), normalize=((0.5,) * 3, (0.25,) * 3), factory=LimitedNetwork
    )
    argv = ["--checkpoint", str(tmp_path / "m.safetensors"), "--model", "common.testing.limits:LimitedNetwork"]
    argv += ["--dataset", f"folder:{images}", "--fractions", "0.5", "0.1", "--images", "10", "--device", "cpu"]
    files = {name: tmp_path / f"s.{name}" for name in ("json", "svg")}
    assert command.main([*argv, "--json", str(files["json"]), "--plot", str(files["svg"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "10 train images" in lines[0] and "most sensitive groups first" in lines[0]
    assert lines[2].split()[1::2][:2] == ["group", "channels"] and "-10 %" in lines[2] and "-50 %" in lines[2]
    record = json.loads(files["json"].read_text())
    assert [line.split()[1] for line in lines[4:8]] == [one["group"] for one in record["groups"]]
    assert "stem + 2 more" in "\n".join(lines)
    assert [point["removed"] for one in record["groups"] if one["group"] == "head" for point in one["points"]] == [
        6,
        32,
    ]
    svg = files["svg"].read_text()
    assert svg.startswith("<?xml") and len(svg) < 60_000
    assert command.main([*argv, "--criterion", "best"]) == 2
    single_error_line(2, capsys.readouterr().err, "criterion 'best'")
    assert command.main([*argv, "--plot", "s.gif"]) == 2
    single_error_line(2, capsys.readouterr().err, "--plot s.gif: the suffix is not one of .svg, .png, .pdf")
    assert np.isfinite([point["output_change"] for one in record["groups"] for point in one["points"]]).all()
