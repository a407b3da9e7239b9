"""Channel groups: coupling, equality of masking and removing channels, and errors for invalid input."""

import copy
import random
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from common.channels import channel_groups, keep_channels, masked, top_channels
from common.channels.example import copy_sharing_tensors
from common.channels.groups import groups_from_traces
from common.channels.trace import trace
from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.models import ARCHITECTURES, create_model

TOLERANCE = 1e-5  # in float32
SMALL = {  # pixels; coupling does not depend on the image size
    "densenet40": 16,
    "resnet50": 64,
    "mobilenet_v1": 64,
    "mobilenet_v2": 64,
    "vgg16_imagenet": 32,
    "googlenet": 16,
    "efficientnet_lite0": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
}
# Other depths of resnet20, another SqueezeNet, and 138 million weights, which are flattened and read by linear layers as those of lenet5 and vgg16.
SLOW = ("resnet32", "resnet44", "resnet56", "resnet110", "vgg16_imagenet", "alexnet", "squeezenet1_0")
# Branches and squeeze-and-excitation, as in the registered googlenet and in mobilenet_v3_small.
SLOW_UNREGISTERED = ("googlenet", "efficientnet_b0")
UNREGISTERED = {
    "DenseNet": {"growth_rate": 8, "num_init_features": 16, "block_config": (2, 3, 2, 2)},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "resnet18": {},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
}


def example(arch: str) -> torch.Tensor:
    channels, height, _ = ARCHITECTURES[arch].input_shape
    size = SMALL.get(arch, height)
    return torch.randn(2, channels, size, size)


def keep_two_thirds(groups, seed=0) -> dict[str, list[int]]:
    """Keep two thirds of each group, chosen at random; the same number in each block of a grouped convolution."""
    rng, kept = random.Random(seed), {}
    for g in groups:
        size = g.size // g.conv_groups
        blocks = range(0, g.size, size)
        kept[g.name] = [
            first + i for first in blocks for i in sorted(rng.sample(range(size), max(1, size - size // 3)))
        ]
    return kept


def test_trace_shares_weights_and_does_not_modify_network():
    """The weights of an ImageNet VGG-16 are half a gigabyte."""
    model = create_model("resnet20").train()
    model.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    traced = copy_sharing_tensors(model, requires_grad=True).eval()
    places = [[t.data_ptr() for t in net.state_dict().values()] for net in (model, traced)]
    assert places[0] == places[1] and all(p.requires_grad for p in traced.parameters())
    channel_groups(model, example("resnet20"))
    assert model.training and not model.conv1.weight.requires_grad and model.bn1.weight.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def masks_of(groups, kept) -> dict[str, torch.Tensor]:
    masks = {g.name: torch.zeros(g.size) for g in groups}
    for name, indices in kept.items():
        masks[name][indices] = 1
    return masks


def randomize_batch_norm(model: nn.Module) -> nn.Module:
    """Set batch norm to random values, so that a constant left by a removed channel changes the outputs."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def check_removed_equals_masked(model, x):
    groups = channel_groups(model, x)
    kept = keep_two_thirds(groups)
    smaller = keep_channels(model, x, kept)
    with torch.no_grad(), masked(model, groups, masks_of(groups, kept)):
        expected = model(x)
    with torch.no_grad():
        difference = (smaller(x) - expected).abs().max()
    assert difference <= TOLERANCE * max(1.0, float(expected.abs().max()))
    for group in channel_groups(smaller, x):
        assert group.size == len(kept[group.name])
    return smaller


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=pytest.mark.slow) if arch in SLOW else arch for arch in ARCHITECTURES]
)
def test_removed_equals_masked_and_reloads(arch, tmp_path):
    torch.manual_seed(0)
    x = example(arch)
    with warnings.catch_warnings():
        if arch != "alexnet":  # whose response norms mix channels; of the others, all groups can be pruned
            warnings.simplefilter("error")
        smaller = check_removed_equals_masked(randomize_batch_norm(create_model(arch)), x)
    save_model(tmp_path / "m.safetensors", smaller)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors")(x), smaller(x))


@pytest.mark.parametrize("shortcut", ["pad", "conv3x3"])
def test_shortcut_removed_equals_masked(shortcut):
    torch.manual_seed(1)
    check_removed_equals_masked(randomize_batch_norm(create_model("resnet20", shortcut=shortcut)), example("resnet20"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_UNREGISTERED else name for name in UNREGISTERED]
)
def test_unregistered_network_is_pruned_and_reloaded(name, tmp_path):
    torch.manual_seed(0)

    def factory():
        return getattr(torchvision.models, name)(num_classes=10, **UNREGISTERED[name])

    x = torch.randn(2, 3, 64, 64)
    smaller = check_removed_equals_masked(randomize_batch_norm(factory()), x)
    save_model(tmp_path / "m.safetensors", smaller)
    with pytest.raises(UserError, match="factory"):
        load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors", factory)(x), smaller(x))


def test_outputs_are_bit_identical_in_new_process(tmp_path):
    torch.manual_seed(0)
    archs = ["resnet20", "squeezenet1_1", "mobilenet_v1"]  # addition, concatenation, depthwise convolution
    for arch in archs:
        x, model = example(arch), randomize_batch_norm(create_model(arch))
        smaller = keep_channels(model, x, keep_two_thirds(channel_groups(model, x)))
        save_model(tmp_path / f"{arch}.safetensors", smaller)
        with torch.no_grad():
            torch.save({"x": x, "y": smaller(x)}, tmp_path / f"{arch}.pt")
    program = (
        "import sys, torch; from common.checkpoint import load_model; torch.set_num_threads(int(sys.argv[2]))\n"
        "for arch in sys.argv[3:]:\n"
        "    seen = torch.load(f'{sys.argv[1]}/{arch}.pt', weights_only=True)\n"
        "    with torch.no_grad():\n"
        "        same = torch.equal(load_model(f'{sys.argv[1]}/{arch}.safetensors')(seen['x']), seen['y'])\n"
        "    print(arch, same)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(torch.get_num_threads()), *archs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.split() == [word for arch in archs for word in (arch, "True")]


def test_pruned_network_can_be_pruned_again():
    torch.manual_seed(0)
    x, model = example("resnet20"), randomize_batch_norm(create_model("resnet20"))
    once = check_removed_equals_masked(model, x)
    twice = check_removed_equals_masked(once, x)
    assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())
    assert twice.architecture == {"arch": "resnet20", "args": {"num_classes": 10}}


def test_shortcut_may_lose_all_inputs():
    torch.manual_seed(0)
    x, model = example("resnet20"), randomize_batch_norm(create_model("resnet20"))
    padded_only = keep_channels(model, x, {"conv1": [3, 9], "layer2.0.conv2": [0, 1, 2, 31]})
    assert padded_only.layer2[0].shortcut.source.tolist() == [-1] * 4
    smaller = keep_channels(padded_only, x, {"conv1": [1], "layer2.0.conv2": [1, 3]})
    assert smaller.layer2[0].shortcut.source.tolist() == [-1] * 2


def test_resnet20_groups_are_correct():
    groups = {g.name: g for g in channel_groups(create_model("resnet20"), example("resnet20"))}
    stem = groups["conv1"]
    assert (stem.size, stem.producers[0], stem.reference_layer) == (16, "conv1", "conv1")
    assert stem.producers == ["conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"]
    assert [name for name, _ in stem.consumers][-2:] == ["layer2.0.conv1", "layer2.0.shortcut"]
    assert groups["layer2.0.conv2"].reference_layer == "layer2.0.conv2"
    assert "linear" not in groups and len(groups) == 12
    assert "16 channels" in str(stem) and "layer2.0.shortcut" in str(stem)


def test_shortcut_convolution_is_reference_layer():
    groups = channel_groups(create_model("resnet20", shortcut="conv3x3"), example("resnet20"))
    reference_layers = {g.name: g.reference_layer for g in groups if len(g.producers) > 1}
    assert reference_layers == {
        "conv1": "conv1",
        "layer2.0.conv2": "layer2.0.shortcut.conv",
        "layer3.0.conv2": "layer3.0.shortcut.conv",
    }


def test_positions_follow_concatenation_and_flatten():
    dense = {g.name: g for g in channel_groups(create_model("densenet40"), example("densenet40"))}
    reads = dict(dense["block1.1.conv"].consumers)
    assert reads["block1.2.conv"] == [[36 + c] for c in range(12)]  # after 24 channels of the stem and 12 of unit 0
    lenet = {g.name: g for g in channel_groups(create_model("lenet5"), example("lenet5"))}
    ((consumer, positions),) = lenet["conv2"].consumers
    assert consumer == "fc1" and positions[3] == list(range(48, 64))  # 4x4 pixels per channel


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 8, 1, groups=4)
        self.last = nn.Conv2d(8, 1, 1)
        self.out = nn.Linear(1, 5)

    def forward(self, x):
        x = self.grouped(torch.relu(self.norm(self.depthwise(self.first(x)))))
        return self.out(torch.tanh(self.last(torch.relu(x))).mean((2, 3)))


def test_depthwise_grouped_and_single_channel_layers_are_pruned():
    torch.manual_seed(0)
    model, x = randomize_batch_norm(Depthwise()), torch.randn(2, 3, 8, 8)
    groups = {g.name: g for g in channel_groups(model, x)}
    assert (model(x)[0] - model(x)[1]).abs().max() > 1e-3  # otherwise any pruning would pass
    assert set(groups) == {"first", "grouped", "last"} and groups["last"].size == 1
    assert groups["first"].pass_through == ["depthwise", "norm"] and groups["first"].conv_groups == 4
    fits = {"first": [0, 1, 4, 5, 6, 7, 9, 11], "grouped": [1, 3, 4, 7], "last": [0]}  # 2 of 3 and 1 of 2 in each block
    smaller = keep_channels(model, x, fits)
    assert smaller.depthwise.groups == smaller.depthwise.in_channels == 8 and smaller.grouped.groups == 4
    with pytest.raises(UserError, match="first: keep the same number of channels in each of its 4 blocks of 3"):
        keep_channels(model, x, {"first": [0, 1, 2, 4, 5, 6, 7, 9]})


def test_invalid_kept_raises_and_does_not_modify_network():
    model, x = create_model("resnet20").train(), example("resnet20")
    before = copy.deepcopy(model.state_dict())
    for kept in ({"conv1": []}, {"conv1": [0, 0]}, {"conv1": [16]}, {"conv1": [-1]}, {"nothing": [0]}):
        with pytest.raises(UserError, match="conv1|nothing"):
            keep_channels(model, x, kept)
    keep_channels(model, x, {"conv1": [3]})
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(module.training for module in keep_channels(model, x, {"conv1": [3]}).modules())


def test_round_to_keeps_largest_norms():
    model, x = create_model("resnet20"), example("resnet20")
    with torch.no_grad():
        model.layer3[0].conv1.weight[40] = 9.0
    smaller = keep_channels(model, x, {"layer3.0.conv1": [0, 1, 2]}, round_to=8)
    assert smaller.layer3[0].conv1.out_channels == 8
    assert (smaller.layer3[0].conv1.weight == 9).flatten(1).all(1).sum() == 1


class MixesChannels(nn.Module):
    """Softmax over channels: removing a channel changes the others, which masking at the consumer does not."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.first(x).softmax(1)).mean((2, 3))


def test_channel_mixing_raises():
    with pytest.raises(UserError, match="first.*masked"):
        keep_channels(MixesChannels(), torch.randn(2, 3, 4, 4), {"first": [0, 1]})


class AuxiliaryHead(nn.Module):
    """Two convolutions; the second one is also read by a head that runs in training only."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.out, self.aux = nn.Linear(12, 5), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        out = self.out(x.mean((2, 3)))
        return (out, self.aux(x).mean((2, 3))) if self.training else out


def test_group_that_auxiliary_head_reads_is_excluded():
    model, x = AuxiliaryHead().eval(), torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="second is not listed .* aux.*does not run in eval mode"):
        groups = channel_groups(model, x)
    assert [group.name for group in groups] == ["first"] and set(groups.excluded) == {"second"}
    with pytest.raises(UserError, match="aux"):
        keep_channels(model, x, {"second": range(6)})


@pytest.mark.slow
def test_groups_that_auxiliary_heads_of_googlenet_read_are_excluded():
    model = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    x = torch.randn(2, 3, 64, 64)
    with pytest.warns(UserWarning, match="inception4a.branch1.conv is not listed .* aux1.*does not run in eval mode"):
        groups = channel_groups(model.eval(), x)
    assert len(groups) == 49 and len(groups.excluded) == 8
    with pytest.raises(UserError, match="aux1"):
        keep_channels(model, x, {"inception4a.branch1.conv": range(96)})


def test_untraceable_network_raises():
    with pytest.raises(UserError, match="shape"):
        channel_groups(create_model("resnet20"), torch.zeros(1, 1, 32, 32))


def test_alexnet_groups_exclude_channels_that_response_norms_mix():
    with pytest.warns(UserWarning) as caught:
        groups = channel_groups(create_model("alexnet"), example("alexnet"))
    assert {g.name: (g.size, g.conv_groups) for g in groups} == {
        "conv3": (384, 2),
        "conv4": (384, 2),
        "conv5": (256, 2),
        "fc6": (4096, 1),
        "fc7": (4096, 1),
    }
    assert [str(w.message) for w in caught] == [
        f"conv{i} is not listed as a channel group: response_norm{i} is a LocalResponseNorm, which common.channels cannot prune"
        for i in (1, 2)
    ]


class Mixing(nn.Module):
    """Three convolutions; a layer that mixes channels follows the first, and optionally also the second."""

    def __init__(self, mixing: nn.Module, reuse: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 6, 3)
        self.mixing, self.reuse, self.classifier = mixing, reuse, nn.Linear(6, 2)

    def forward(self, x):
        x = self.second(self.mixing(self.first(x)))
        x = self.third(self.mixing(x) if self.reuse else x)
        return self.classifier(x.relu().mean((2, 3)))


@pytest.mark.parametrize("kind", [nn.LocalResponseNorm, nn.CrossMapLRN2d])
@pytest.mark.parametrize("reuse", [False, True])
def test_channels_before_mixing_layer_are_not_pruned(kind, reuse):
    """With a large alpha, so that removing a neighboring channel would change the outputs."""
    torch.manual_seed(0)
    model, x = Mixing(kind(5, alpha=1.0), reuse).eval(), torch.randn(2, 3, 12, 12)
    with pytest.warns(UserWarning, match=f"first is not listed .*: mixing is a {kind.__name__}, which"):
        groups = channel_groups(model, x)
    assert [g.name for g in groups] == ["second", "third"][reuse:]
    with pytest.warns(UserWarning, match="not listed"):
        check_removed_equals_masked(model, x)
    with pytest.raises(UserError, match=f"'first' cannot be pruned: mixing is a {kind.__name__}"):
        keep_channels(model, x, {"first": range(4)})


def test_masks_per_example_equal_single_masks():
    torch.manual_seed(0)
    model, x = randomize_batch_norm(create_model("densenet40")), example("densenet40")
    groups = channel_groups(model, x)
    masks = {g.name: (torch.rand(2, g.size) < 0.7).float() for g in groups}
    with torch.no_grad():
        with masked(model, groups, masks):
            both = model(x)
        for i in range(2):
            with masked(model, groups, {name: mask[i] for name, mask in masks.items()}):
                assert torch.allclose(model(x[i : i + 1]), both[i : i + 1], atol=1e-5)
        assert not model._forward_pre_hooks and torch.equal(model(x), model(x))


def test_top_channels_selects_largest_scores():
    assert top_channels([3, 1, 2, 3], 2) == [0, 3]
    assert top_channels([1, 1, 1], 1) == [0]
    assert top_channels([5, 4, 3, 2, 1, 0], 1, round_to=4) == [0, 1, 2, 3]
    assert top_channels([5, 4, 3], 2, round_to=8) == [0, 1, 2]
    assert top_channels([9, 8, 7, 1, 2, 3], 2, conv_groups=2) == [0, 5]
    assert top_channels([1.0], 0) == [0]


def test_channels_that_do_not_split_into_equal_blocks_are_excluded():
    """A grouped convolution may have more groups than a layer before it has attention heads."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    (found, _) = trace(model, torch.zeros(1, 3, 4, 4))
    groups = groups_from_traces(model, [replace(found, parts=3)])
    assert groups == [] and "4 channels do not split into the 3 equal blocks" in groups.excluded["0"]
