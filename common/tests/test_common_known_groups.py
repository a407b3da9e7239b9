"""What is known of a network is not computed again: its channel groups are traced once, and files are read once."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common import checkpoint, compression
from common.channels import channel_groups, keep_channels, listing, remove
from common.compression import compress
from common.cost import WidthCost
from common.limits import Limits
from common.methods import Decision, Method
from common.models import create_model
from common.target import uniform_widths
from common.testing import noise_bundle, random_network
from common.trained_model import TrainedModel


@pytest.fixture
def calls(monkeypatch):
    """Names of the functions that were called: trace and read_checkpoint."""
    found = []

    def count(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **more: (found.append(name), function(*args, **more))[1])

    count(listing, "trace")
    count(remove, "trace")
    count(checkpoint, "read_checkpoint")
    return found


def test_compression_traces_once_and_reads_its_file_once(calls, monkeypatch):
    def first_channels(start, target, stage):
        return Decision(
            {name: range(count) for name, count in uniform_widths(start.groups, start.cost, target).items()}
        )

    monkeypatch.setattr(compression, "installed_methods", lambda: {"first": Method("first channels", first_channels)})
    torch.manual_seed(0)
    data = torch.rand(30, 1, 28, 28), torch.arange(30) % 10
    network, report = compress(create_model("lenet5"), data, "first", target_macs=0.5, latency=False)
    assert calls == ["trace", "read_checkpoint"]
    written = checkpoint.load_model(report.file, lambda: create_model("lenet5"))
    assert torch.equal(network(data[0]), written(data[0]))
    assert all(one.is_contiguous() for one in network.parameters())


@pytest.mark.parametrize("arch", ["resnet20", "densenet40"])
def test_known_groups_give_the_same_network(calls, arch):
    model, example = random_network(arch), torch.zeros(1, 3, 32, 32)
    groups = channel_groups(model, example)
    kept = {group.name: range(0, group.size, 2) for group in groups}
    again, known = keep_channels(model, example, kept), keep_channels(model, example, kept, groups=groups)
    assert calls == ["trace", "trace"]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), known(images))


def test_other_limits_keep_what_is_known_of_the_network(calls):
    start = TrainedModel("resnet20", random_network("resnet20"), noise_bundle(4, 4))
    groups, digest = start.all_groups, start.digest
    other = start.changed(limits=Limits(round_to=8))
    assert other.limits.round_to == 8 and other.all_groups is groups and vars(other)["digest"] == digest
    assert "all_groups" not in vars(replace(start, limits=Limits(round_to=8))) and calls == ["trace"]


def test_groups_are_those_of_networks_with_the_same_layers():
    start = TrainedModel("resnet20", random_network("resnet20"), noise_bundle(4, 4))
    other = random_network("resnet20", seed=1)
    assert start.groups_of(other) is start.all_groups
    other.set_submodule("layer2.0.shortcut", nn.Conv2d(16, 32, 1, stride=2))
    assert start.groups_of(other) is None


def test_width_costs_have_fractions_only_where_needed():
    model = random_network("densenet40")
    cost = WidthCost(model, (3, 32, 32), channel_groups(model, torch.zeros(1, 3, 32, 32)))
    positions = [one for layer in cost.layers for _, one in layer.reads[1]]
    assert positions and all(type(one) is int for one in positions)
