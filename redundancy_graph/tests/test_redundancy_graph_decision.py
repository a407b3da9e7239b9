"""Decisions per channel group, names of the prunable layers, and pruning."""

import numpy as np
import pytest
import torch
from rg_helpers import ARCHS, network, random_kept
from torch import nn

from common.channels import channel_groups, keep_channels
from common.cost import count_cost
from common.errors import UserError
from common.models import create_model
from common.testing import noise_images
from common.testing.limits import check_limits_obeyed
from redundancy_graph.decision import add_vgg_hidden_layer, decide_group
from redundancy_graph.features import collect_hashes
from redundancy_graph.graph import select_filters
from redundancy_graph.group_similarity import compute_similarities, l1_norms, layers_to_hash, prunable_groups
from redundancy_graph.layer_names import to_original
from redundancy_graph.method import METHOD

EXAMPLE = torch.zeros(1, 3, 32, 32)
COST = {
    "vgg16": (313_463_808, 14_991_946),
    "resnet56": (127_844_992, 876_250),
    "resnet110": (255_246_976, 1_751_194),
    "densenet40": (282_917_328, 1_059_298),
}


def expected_names(arch: str) -> list[str]:
    """Return the layers of the original code's prune-info files, in their order."""
    if arch == "vgg16":
        return [f"features.conv{i}" for i in (0, 1, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16)]
    if arch == "densenet40":
        blocks = [[f"dense{b}.{i}.conv" for i in range(12)] + [f"trans{b}.conv"] * (b < 3) for b in (1, 2, 3)]
        return ["conv", *(name for block in blocks for name in block)]
    blocks, names = {
        "resnet56": ([9, 9, 9], ["conv"]),
        "resnet110": ([18, 18, 18], ["conv"]),
        "resnet50": ([3, 4, 6, 3], ["conv1"]),
    }[arch]
    inner = ["conv1", "conv2"] if arch == "resnet50" else ["conv1"]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            names += [f"layer{stage}.{block}.{conv}" for conv in inner]
            if block == 0 and (stage > 1 or arch == "resnet50"):
                names.append(f"layer{stage}.0.downsample.0")
    return names


@pytest.mark.parametrize("arch", ARCHS)
def test_prunable_layers_equal_original_code(arch):
    model = network(arch)
    names = [to_original(arch, layer) for layer in prunable_groups(model, channel_groups(model, EXAMPLE))]
    assert names == expected_names(arch)
    assert len(names) == ARCHS[arch][1]
    if arch in COST:
        cost = count_cost(model, (3, 32, 32))
        assert (cost.macs, cost.params) == COST[arch]


def test_first_layer_without_shortcut_convolution_is_last_convolution_of_first_block():
    model = create_model("resnet56")
    layers = list(prunable_groups(model, channel_groups(model, EXAMPLE)))
    assert len(layers) == 30
    assert {"conv1", "layer2.0.conv2", "layer3.0.conv2"} <= set(layers)


def zero_batch_norms(model: nn.Module, groups, kept, pre_activation: bool) -> None:
    """Zero scale and shift of every removed channel in all batch norms that it passes through.

    pre_activation: In DenseNet, batch norms precede the layer that reads a concatenation, and have its positions.
    """
    modules = dict(model.named_modules())
    for group in groups:
        removed = set(range(group.size)) - set(kept.get(group.name, range(group.size)))
        consumers = dict(group.consumers)
        for name in group.pass_through:
            if not isinstance(modules[name], nn.BatchNorm2d):
                continue
            positions = sorted(removed)
            if pre_activation:
                positions_of = consumers["linear" if name == "norm" else name.replace(".norm", ".conv")]
                positions = [position for channel in removed for position in positions_of[channel]]
            with torch.no_grad():
                modules[name].weight[positions] = 0
                modules[name].bias[positions] = 0


@pytest.mark.parametrize("arch", ARCHS)
def test_pruning_equals_zeroed_batch_norms(arch):
    """Property 10; VGG's hidden linear layer keeps 512 units."""
    model = network(arch)
    groups = channel_groups(model, EXAMPLE)
    deciding = {group.name for group in prunable_groups(model, groups).values()}
    kept = {name: indices for name, indices in random_kept(groups, seed=3).items() if name in deciding}
    pruned = keep_channels(model, EXAMPLE, kept)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    zero_batch_norms(model, groups, kept, pre_activation=arch == "densenet40")
    with torch.no_grad():
        expected, found = model(x), pruned(x)
    assert (expected - found).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))
    assert count_cost(pruned, (3, 32, 32)).macs < count_cost(model, (3, 32, 32)).macs


@pytest.mark.parametrize("arch", ["vgg16", "densenet40"])
def test_keeping_all_channels_preserves_outputs(arch):
    model = network(arch)
    groups = channel_groups(model, EXAMPLE)
    same = keep_channels(model, EXAMPLE, {group.name: range(group.size) for group in groups})
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x), same(x))


def test_similarities_use_first_or_all_layers():
    model = network("resnet20")
    groups = channel_groups(model, EXAMPLE)
    modules = dict(model.named_modules())
    hashes = collect_hashes(model, noise_images(4), layers_to_hash(model, groups, "all"))
    stem = next(group for group in groups if "conv1" in group.producers)
    assert stem.producers == ["conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"]
    first = compute_similarities(model, groups, hashes)[0]
    joint = compute_similarities(model, groups, hashes, "all")[0]
    assert first.bits == 4 * 64
    assert joint.bits == 4 * first.bits
    assert np.array_equal(first.l1_norms, l1_norms(modules["conv1"]))
    np.testing.assert_allclose(joint.l1_norms, sum(l1_norms(modules[name]) for name in stem.producers))
    stacked = torch.cat([hashes[name] for name in stem.producers])  # bits of 16 images
    agree = (stacked[:, :, None] == stacked[:, None]).sum(dim=(0, 3)).numpy()
    assert np.array_equal(joint.similarity, agree / joint.bits)
    decision = decide_group(joint, 0.6)
    assert decision.kept == select_filters(joint.similarity, joint.l1_norms, 0.6)
    assert (decision.layer, decision.channels) == ("conv1", 16)


def test_l1_norms_exclude_biases():
    layer = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2], [0, 0.5], [3, 3]]).view(3, 2, 1, 1))
        layer.bias.fill_(100)
    assert l1_norms(layer).tolist() == [3, 0.5, 6]


def test_vgg_hidden_layer_keeps_512_or_shrinks():
    model = network("vgg16")
    groups = channel_groups(model, EXAMPLE)
    decided = {"features.conv16": [1, 5, 400]}
    assert add_vgg_hidden_layer(decided, groups) == decided
    shrunk = add_vgg_hidden_layer(decided, groups, "shrunk")
    assert shrunk == {**decided, "classifier.linear1": [1, 5, 400]}
    pruned = keep_channels(model, EXAMPLE, shrunk)
    assert pruned.classifier.linear1.weight.shape == (3, 3)
    assert pruned.classifier.norm.num_features == 3
    assert torch.equal(pruned.classifier.linear1.weight, model.classifier.linear1.weight[[1, 5, 400]][:, [1, 5, 400]])
    with pytest.raises(UserError, match="vgg-hidden"):
        resnet = network("resnet20")
        add_vgg_hidden_layer({}, channel_groups(resnet, EXAMPLE), "shrunk")


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.last = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.last(self.grouped(self.first(x))).mean((2, 3)))


def test_grouped_convolutions_are_not_pruned():
    model = Grouped().eval()
    assert list(prunable_groups(model, channel_groups(model, EXAMPLE))) == ["last"]


def test_network_without_convolutions_raises():
    model = create_model("lenet300_100")
    with pytest.raises(UserError, match="no convolution"):
        prunable_groups(model, channel_groups(model, torch.zeros(1, 1, 28, 28)))


def test_depthwise_convolutions_follow_their_producers():
    model = network("mobilenet_v2")
    example = torch.zeros(1, 3, 64, 64)
    groups = channel_groups(model, example)
    hashes = collect_hashes(model, noise_images(2, size=64), layers_to_hash(model, groups))
    decided = {e.group: decide_group(e, 0.7).kept for e in compute_similarities(model, groups, hashes)}
    pruned = keep_channels(model, example, decided)  # compares the pruned with the masked network
    assert count_cost(pruned, (3, 64, 64)).macs < count_cost(model, (3, 64, 64)).macs


def test_layer_with_maps_of_one_pixel_is_left_alone_and_named():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 13), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 10)).eval()
    groups = channel_groups(model, EXAMPLE)
    hashes = collect_hashes(model, noise_images(6), layers_to_hash(model, groups))
    with pytest.warns(
        UserWarning, match="1 of 3 layers are not pruned, because their feature maps have one pixel.*: 4$"
    ):
        found = compute_similarities(model, groups, hashes)
    decisions = [decide_group(one, 0.1) for one in found]
    assert [len(one.kept) for one in decisions] == [1, 1, 24] and [one.bits for one in decisions][2] == 0
    assert len(decide_group(found[2], 0.0).kept) == 24
    with pytest.warns(UserWarning, match="one pixel"):
        both = compute_similarities(model, groups, hashes, "all")
    assert [one.bits for one in both] == [one.bits for one in found]


def test_method_obeys_limits_and_meets_target(tmp_path):
    check_limits_obeyed(METHOD, tmp_path)
