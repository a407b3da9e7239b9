"""Channel groups: what is coupled, that masked equals removed, and that a bad cut is refused."""

import copy
import random
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from common.channels import channel_groups, keep_channels, masked, top_channels
from common.channels.cut import TOLERANCE
from common.channels.trace import _traceable_copy
from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.models import ARCHITECTURES, create_model

SMALL = {
    "resnet50": 64,
    "mobilenet_v1": 64,
    "mobilenet_v2": 64,
    "vgg16_imagenet": 32,
}  # pixels: coupling does not depend on them
STRANGERS = {
    "densenet121": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "resnet18": {},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
}


def example(arch: str) -> torch.Tensor:
    channels, height, _ = ARCHITECTURES[arch].input_shape
    size = SMALL.get(arch, height)
    return torch.randn(2, channels, size, size)


def without_a_third(groups, seed=0) -> dict[str, list[int]]:
    draw = random.Random(seed)
    return {g.name: sorted(draw.sample(range(g.size), max(1, g.size - g.size // 3))) for g in groups}


def test_a_trace_holds_no_second_copy_of_the_weights_and_leaves_the_network_alone():
    """VGG-16's are half a gigabyte."""
    model = create_model("resnet20").train()
    model.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    traced = _traceable_copy(model)
    places = [[t.data_ptr() for t in net.state_dict().values()] for net in (model, traced)]
    assert places[0] == places[1] and all(p.requires_grad for p in traced.parameters())
    channel_groups(model, example("resnet20"))
    assert model.training and not model.conv1.weight.requires_grad and model.bn1.weight.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def ones_at(groups, kept) -> dict[str, torch.Tensor]:
    masks = {g.name: torch.zeros(g.size) for g in groups}
    for name, indices in kept.items():
        masks[name][indices] = 1
    return masks


def shaken(model: nn.Module) -> nn.Module:
    """Norms that are not the identity, so that a removed channel's constant would show."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def assert_masked_equals_removed(model, x):
    groups = channel_groups(model, x)
    kept = without_a_third(groups)
    smaller = keep_channels(model, x, kept)
    with torch.no_grad(), masked(model, groups, ones_at(groups, kept)):
        expected = model(x)
    with torch.no_grad():
        difference = (smaller(x) - expected).abs().max()
    assert difference <= TOLERANCE * max(1.0, float(expected.abs().max()))
    for group in channel_groups(smaller, x):
        assert group.size == len(kept[group.name])
    return smaller


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_masked_equals_removed_and_survives_the_disk(arch, tmp_path):
    torch.manual_seed(0)
    x = example(arch)
    smaller = assert_masked_equals_removed(shaken(create_model(arch)), x)
    save_model(tmp_path / "m.safetensors", smaller)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors")(x), smaller(x))


@pytest.mark.parametrize("shortcut", ["pad", "conv3x3"])
def test_both_shortcuts(shortcut):
    torch.manual_seed(1)
    assert_masked_equals_removed(shaken(create_model("resnet56", shortcut=shortcut)), example("resnet56"))


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers(name, tmp_path):
    torch.manual_seed(0)

    def factory():
        return getattr(torchvision.models, name)(num_classes=10, **STRANGERS[name])

    x = torch.randn(2, 3, 64, 64)
    smaller = assert_masked_equals_removed(shaken(factory()), x)
    save_model(tmp_path / "m.safetensors", smaller)
    with pytest.raises(UserError, match="factory"):
        load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors", factory)(x), smaller(x))


def test_equal_to_the_bit_in_a_fresh_process(tmp_path):
    torch.manual_seed(0)
    archs = ["resnet20", "densenet40", "vgg16", "mobilenet_v2"]
    for arch in archs:
        x, model = example(arch), shaken(create_model(arch))
        smaller = keep_channels(model, x, without_a_third(channel_groups(model, x)))
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


def test_a_smaller_network_can_be_cut_again():
    torch.manual_seed(0)
    x, model = example("resnet20"), shaken(create_model("resnet20"))
    once = assert_masked_equals_removed(model, x)
    twice = assert_masked_equals_removed(once, x)
    assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())
    assert twice.architecture == {"arch": "resnet20", "args": {"num_classes": 10}}


def test_a_shortcut_may_lose_all_that_it_reads():
    torch.manual_seed(0)
    x, model = example("resnet20"), shaken(create_model("resnet20"))
    padded_only = keep_channels(model, x, {"conv1": [3, 9], "layer2.0.conv2": [0, 1, 2, 31]})
    assert padded_only.layer2[0].shortcut.source.tolist() == [-1] * 4
    smaller = keep_channels(padded_only, x, {"conv1": [1], "layer2.0.conv2": [1, 3]})
    assert smaller.layer2[0].shortcut.source.tolist() == [-1] * 2


def test_groups_of_resnet20():
    groups = {g.name: g for g in channel_groups(create_model("resnet20"), example("resnet20"))}
    stem = groups["conv1"]
    assert (stem.size, stem.producers[0], stem.reference_layer) == (16, "conv1", "conv1")
    assert stem.producers == ["conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"]
    assert [name for name, _ in stem.consumers][-2:] == ["layer2.0.conv1", "layer2.0.shortcut"]
    assert groups["layer2.0.conv2"].reference_layer == "layer2.0.conv2"
    assert "linear" not in groups and len(groups) == 12
    assert "16 channels" in str(stem) and "layer2.0.shortcut" in str(stem)


def test_the_shortcut_convolution_decides():
    groups = channel_groups(create_model("resnet20", shortcut="conv3x3"), example("resnet20"))
    reference_layers = {g.name: g.reference_layer for g in groups if len(g.producers) > 1}
    assert reference_layers == {
        "conv1": "conv1",
        "layer2.0.conv2": "layer2.0.shortcut.conv",
        "layer3.0.conv2": "layer3.0.shortcut.conv",
    }


def test_positions_after_concatenation_and_flatten():
    dense = {g.name: g for g in channel_groups(create_model("densenet40"), example("densenet40"))}
    reads = dict(dense["block1.1.conv"].consumers)
    assert reads["block1.2.conv"] == [[36 + c] for c in range(12)]  # 24 of the stem, 12 of unit 0, then these
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


def test_depthwise_grouped_and_single_channel():
    torch.manual_seed(0)
    model, x = shaken(Depthwise()), torch.randn(2, 3, 8, 8)
    groups = {g.name: g for g in channel_groups(model, x)}
    assert (model(x)[0] - model(x)[1]).abs().max() > 1e-3  # else every cut would look right
    assert set(groups) == {"first", "grouped", "last"} and groups["last"].size == 1
    assert groups["first"].pass_through == ["depthwise", "norm"] and groups["first"].conv_groups == 4
    fits = {"first": [0, 1, 4, 5, 6, 7, 9, 11], "grouped": [1, 3, 4, 7], "last": [0]}  # 2 of 3 and 1 of 2 in each run
    smaller = keep_channels(model, x, fits)
    assert smaller.depthwise.groups == smaller.depthwise.in_channels == 8 and smaller.grouped.groups == 4
    with pytest.raises(UserError, match="grouped has 4 groups"):
        keep_channels(model, x, {"first": [0, 1, 2, 4, 5, 6, 7, 9]})


def test_bad_kept_sets_are_refused_and_the_network_is_left_alone():
    model, x = create_model("resnet20").train(), example("resnet20")
    before = copy.deepcopy(model.state_dict())
    for kept in ({"conv1": []}, {"conv1": [0, 0]}, {"conv1": [16]}, {"conv1": [-1]}, {"nothing": [0]}):
        with pytest.raises(UserError, match="conv1|nothing"):
            keep_channels(model, x, kept)
    keep_channels(model, x, {"conv1": [3]})
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(module.training for module in keep_channels(model, x, {"conv1": [3]}).modules())


def test_round_to_takes_back_the_largest():
    model, x = create_model("resnet20"), example("resnet20")
    with torch.no_grad():
        model.layer3[0].conv1.weight[40] = 9.0
    smaller = keep_channels(model, x, {"layer3.0.conv1": [0, 1, 2]}, round_to=8)
    assert smaller.layer3[0].conv1.out_channels == 8
    assert (smaller.layer3[0].conv1.weight == 9).flatten(1).all(1).sum() == 1


class MixesChannels(nn.Module):
    """A softmax over channels: removing one changes the others, which no consumer's mask can show."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.first(x).softmax(1)).mean((2, 3))


def test_never_a_silently_wrong_network():
    with pytest.raises(UserError, match="first.*masked"):
        keep_channels(MixesChannels(), torch.randn(2, 3, 4, 4), {"first": [0, 1]})


def test_auxiliary_heads_are_refused_by_name():
    model = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    x = torch.randn(2, 3, 64, 64)
    groups = channel_groups(model.eval(), x)
    into_aux = next(g for g in groups if any(name.startswith("inception4b") for name, _ in g.consumers))
    with pytest.raises(UserError, match="aux"):
        keep_channels(model, x, {into_aux.name: list(range(into_aux.size // 2))})


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(UserError, match="shape"):
        channel_groups(create_model("resnet20"), torch.zeros(1, 1, 32, 32))


def test_masks_per_example():
    torch.manual_seed(0)
    model, x = shaken(create_model("densenet40")), example("densenet40")
    groups = channel_groups(model, x)
    masks = {g.name: (torch.rand(2, g.size) < 0.7).float() for g in groups}
    with torch.no_grad():
        with masked(model, groups, masks):
            both = model(x)
        for i in range(2):
            with masked(model, groups, {name: mask[i] for name, mask in masks.items()}):
                assert torch.allclose(model(x[i : i + 1]), both[i : i + 1], atol=1e-5)
        assert not model._forward_pre_hooks and torch.equal(model(x), model(x))


def test_top_channels():
    assert top_channels([3, 1, 2, 3], 2) == [0, 3]
    assert top_channels([1, 1, 1], 1) == [0]
    assert top_channels([5, 4, 3, 2, 1, 0], 1, round_to=4) == [0, 1, 2, 3]
    assert top_channels([5, 4, 3], 2, round_to=8) == [0, 1, 2]
    assert top_channels([9, 8, 7, 1, 2, 3], 2, conv_groups=2) == [0, 5]
    assert top_channels([1.0], 0) == [0]
