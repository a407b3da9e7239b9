"""Removing duplicated and dead channels does not change the outputs, on seen and unseen images, for every type of layer."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from common.channels import channel_groups, keep_channels, masked
from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.models import PadShortcut, create_model
from model_preserving_id import prune_network
from model_preserving_id.activations import consumer_inputs, gather_statistics
from model_preserving_id.fold import fold, solve_t
from model_preserving_id.folded import FoldedNetwork


class Chain(nn.Module):
    """Padding, stride, dilation, max-pool, average pool, flatten; batch norm between, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 10, 3, stride=2, padding=2, dilation=2)
        self.conv3, self.norm3 = nn.Conv2d(10, 9, 3, padding=1), nn.BatchNorm2d(9)
        self.conv4 = nn.Conv2d(9, 8, 1, stride=2)
        self.fc1, self.norm5 = nn.Linear(8 * 4, 11), nn.BatchNorm1d(11)
        self.fc2 = nn.Linear(11, 5)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        x = torch.relu(self.conv2(x))
        x = nn.functional.avg_pool2d(torch.relu(self.norm3(self.conv3(x))), 2)
        x = torch.relu(self.conv4(x)).flatten(1)
        return self.fc2(torch.relu(self.norm5(self.fc1(x))))


class Separable(nn.Module):
    """A depthwise convolution between producer and consumer, and a grouped consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise, self.norm = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.pointwise = nn.Conv2d(12, 12, 1)
        self.grouped = nn.Conv2d(12, 8, 3, groups=4)
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.stem(x)))))
        x = torch.relu(self.grouped(torch.relu(self.pointwise(x))))
        return self.out(x.mean((2, 3)))


class Residual(nn.Module):
    """A residual stream that is the sum of three layers, with pre-activation batch norms before its consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(2))
        self.inner = nn.ModuleList(nn.Conv2d(12, 6, 3, padding=1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv2d(6, 12, 3, padding=1) for _ in range(2))
        self.out = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, inner, back in zip(self.norms, self.inner, self.back, strict=True):
            x = x + back(torch.relu(inner(torch.relu(norm(x)))))
        return self.out(torch.relu(x).mean((2, 3)))


class Concatenated(nn.Module):
    """Two concatenated branches: one layer reads both as feature maps, another one the flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(3, 9, 1)
        self.both, self.gate, self.out = nn.Conv2d(16, 6, 3), nn.Linear(16 * 16, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        gate = torch.sigmoid(self.gate(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))
        return self.out(torch.relu(self.both(x)).mean((2, 3)) * gate)


class Conv3dChain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv3d(2, 10, 3), nn.BatchNorm3d(10), nn.Conv3d(10, 6, 2, padding=1)
        self.out = nn.Linear(6 * 27, 1)

    def forward(self, x):
        x = nn.functional.max_pool3d(torch.relu(self.norm(self.conv1(x))), 2)
        return self.out(nn.functional.adaptive_max_pool3d(torch.relu(self.conv2(x)), 3).flatten(1))


class Sequence1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.out = nn.Conv1d(4, 10, 3), nn.Conv1d(10, 6, 3, stride=2), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv2(torch.tanh(self.conv1(x)))).mean(2))


SHAPE = (3, 8, 8)
NETWORKS = {
    "chain": (Chain, (3, 32, 32)),
    "separable": (Separable, SHAPE),
    "residual": (Residual, SHAPE),
    "concatenated": (Concatenated, SHAPE),
    "volume": (Conv3dChain, (2, 10, 10, 10)),
    "sequence": (Sequence1d, (4, 20)),
    "lenet5": (lambda: create_model("lenet5"), (1, 28, 28)),
    "densenet40": (lambda: create_model("densenet40", layers=2, growth=6), (3, 32, 32)),
    "resnet, option A": (lambda: create_model("resnet20"), (3, 32, 32)),
    "resnet, 3x3": (lambda: create_model("resnet20", shortcut="conv3x3"), (3, 32, 32)),
    "mobilenet_v1": (lambda: create_model("mobilenet_v1", num_classes=10), (3, 32, 32)),
}


def randomize_batch_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.2)  # most channels are nonzero on every image
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@torch.no_grad()
def plant(model: nn.Module, group, pairs, dead=()) -> None:
    """In all layers that produce or pass on the group's channels, duplicate the first of each pair and zero the dead channels."""
    modules = dict(model.named_modules())
    for name in [*group.producers, *group.pass_through]:
        module = modules[name]
        if isinstance(module, PadShortcut):
            for one, two in pairs:
                module.source[two] = module.source[one]
            module.source[list(dead)] = -1
            continue
        at = positions_in(name, group, module)
        for key, tensor in module.state_dict(keep_vars=True).items():
            if tensor.dim():
                for one, two in pairs:
                    tensor[at[two]] = tensor[at[one]]
                for channel in dead:
                    tensor[at[channel]] = 1.0 if key == "running_var" else 0.0


def positions_in(name: str, group, module) -> list[int]:
    """Return the group's positions in a module; after a concatenation, those in the layer that follows a batch norm."""
    if len(module.weight) == group.size:
        return list(range(group.size))
    parent = name.rpartition(".")[0]
    (positions,) = [p for consumer, p in group.consumers if consumer.rpartition(".")[0] == parent]
    return [of_channel[0] for of_channel in positions]


def groups_and_plants(model, x):
    """Choose duplicates 0 = 2, 1 = 4 in larger groups, and a dead last channel; one duplicate per group of a grouped layer.

    Only groups for which the test has more rows than channels: with fewer, duplicates cannot be identified.
    """
    plants = {}
    for group in channel_groups(model, x):
        if group.size > 64:
            continue
        if group.conv_groups > 1:
            size = group.size // group.conv_groups
            pairs, dead = [(b * size, b * size + size - 1) for b in range(group.conv_groups)], []
        else:
            pairs, dead = [(0, 2), (1, 4)][: 2 if group.size > 5 else 1], [group.size - 1] if group.size > 5 else []
        plants[group.name] = (group, pairs, dead)
    return plants


@pytest.mark.parametrize("name", NETWORKS)
def test_duplicates_and_dead_channels_are_removed_exactly(name, tmp_path):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = randomize_batch_norms(build())
    x = torch.randn(1, *shape)
    plants = groups_and_plants(model, x)
    for group, pairs, dead in plants.values():
        plant(model, group, pairs, dead)
    seen, unseen = torch.randn(96, *shape), torch.randn(16, *shape)
    kept = {name: group.size - len(pairs) - len(dead) for name, (group, pairs, dead) in plants.items()}
    before = copy.deepcopy(model.state_dict())
    compensation = (
        "none" if hasattr(model, "layer3") or hasattr(model, "block1") else "weights"
    )  # deep networks take minutes to solve
    smaller = prune_network(model, x, seen.split(20), kept=kept, compensation=compensation)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    for group in channel_groups(smaller, x):
        assert group.size == kept.get(group.name, group.size)
    with torch.no_grad():
        scale = max(1.0, float(model(unseen).abs().max()))
        for batch in (seen, unseen):
            assert (smaller(batch) - model(batch)).abs().max() <= 1e-5 * scale
    save_model(tmp_path / "m.safetensors", smaller)
    loaded = load_model(tmp_path / "m.safetensors", None if hasattr(model, "architecture") else build)
    with torch.no_grad():
        assert torch.equal(loaded(unseen), smaller(unseen))
        assert torch.equal(copy.deepcopy(smaller)(unseen), smaller(unseen))
    loaded.train()(seen[:4]).square().sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


@pytest.mark.parametrize("name", ["chain", "separable", "residual", "concatenated", "volume", "densenet40"])
def test_biases_of_consumers_are_unchanged_and_widths_consistent(name):
    torch.manual_seed(1)
    build, shape = NETWORKS[name]
    model = randomize_batch_norms(build())
    x = torch.randn(40, *shape)
    groups = channel_groups(model, x[:1])
    smaller = prune_network(model, x[:1], x, keep=0.7)
    modules = dict(smaller.named_modules())
    produced = {producer for group in groups for producer in (*group.producers, *group.pass_through)}
    for key, tensor in model.named_parameters():
        layer = key.rsplit(".", 1)[0]
        if key.endswith("bias") and layer not in produced:
            assert torch.equal(tensor, smaller.get_parameter(key))
    for layer, module in modules.items():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups), layer
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features), layer
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert len(module.weight) == len(module.running_var) == module.num_features, layer
    assert getattr(modules.get("depthwise"), "groups", 9) == getattr(modules.get("depthwise"), "in_channels", 9)


def test_all_channels_kept_changes_nothing():
    torch.manual_seed(2)
    model, x = randomize_batch_norms(create_model("resnet20")), torch.randn(8, 3, 32, 32)
    same = prune_network(model, x[:1], x, kept={group.name: group.size for group in channel_groups(model, x[:1])})
    with torch.no_grad():
        assert (same(x) - model(x)).abs().max() <= 1e-5 * max(1.0, float(model(x).abs().max()))


def test_flatten_equals_kronecker_product():
    torch.manual_seed(3)
    model, x = create_model("lenet5").eval(), torch.randn(12, 1, 28, 28)
    (group,) = [g for g in channel_groups(model, x[:1]) if g.name == "conv2"]
    (one,) = consumer_inputs([group])
    statistics = gather_statistics(model, [one], [x])["conv2"]
    kept = list(range(0, 50, 2))
    t = solve_t(model.fc1, one, statistics.grams["fc1"], kept)
    layer = copy.deepcopy(model.fc1)
    fold(layer, model.fc1.weight.detach(), one, kept, t)
    columns = one.positions[kept].flatten()
    expected = model.fc1.weight.detach().double() @ torch.from_numpy(np.kron(t, np.eye(16))).T
    assert torch.allclose(layer.weight[:, columns].double(), expected, atol=1e-6)
    removed = sorted(set(range(layer.in_features)) - set(columns.tolist()))
    assert not layer.weight[:, removed].any() and statistics.rows["fc1"] == 12 * 16


def test_consumers_of_concatenation_have_separate_t():
    """DenseNet's batch norms differ: each consumer reads a different Z, and T is solved for each."""
    torch.manual_seed(4)
    model, x = randomize_batch_norms(create_model("densenet40", layers=3, growth=6)), torch.randn(16, 3, 32, 32)
    (group,) = [g for g in channel_groups(model, x[:1]) if g.name == "block1.0.conv"]
    found = gather_statistics(model, consumer_inputs([group]), [x])["block1.0.conv"]
    kept = [0, 1, 3, 5]
    solved = {
        one.consumer: solve_t(model.get_submodule(one.consumer), one, found.grams[one.consumer], kept)
        for one in consumer_inputs([group])
    }
    assert len(solved) >= 3 and not np.allclose(*list(solved.values())[:2])
    assert np.allclose(found.stacked(), sum(found.grams.values()))


def test_statistics_equal_consumer_inputs():
    torch.manual_seed(5)
    model, x = randomize_batch_norms(Chain()), torch.randn(6, 3, 32, 32)
    found = gather_statistics(model, consumer_inputs(channel_groups(model, x[:1])), x.split(4))
    with torch.no_grad():
        z = nn.functional.max_pool2d(torch.relu(model.norm1(model.conv1(x))), 2).double()
    rows = z.permute(0, 2, 3, 1).reshape(-1, 12)
    assert found["conv1"].rows["conv2"] == len(rows)
    assert np.allclose(found["conv1"].grams["conv2"], (rows.T @ rows).numpy(), rtol=1e-6, atol=1e-6)


def test_strided_pointwise_convolution_reads_every_second_pixel():
    torch.manual_seed(6)
    model, x = randomize_batch_norms(Chain()), torch.randn(6, 3, 32, 32)
    found = gather_statistics(model, consumer_inputs(channel_groups(model, x[:1])), [x])
    with torch.no_grad():
        maps = torch.relu(model.conv2(nn.functional.max_pool2d(torch.relu(model.norm1(model.conv1(x))), 2)))
        z = nn.functional.avg_pool2d(torch.relu(model.norm3(model.conv3(maps))), 2)[:, :, ::2, ::2].double()
    rows = z.permute(0, 2, 3, 1).reshape(-1, 9)
    assert found["conv3"].rows["conv4"] == len(rows) == 6 * 2 * 2
    assert np.allclose(found["conv3"].grams["conv4"], (rows.T @ rows).numpy(), rtol=1e-6, atol=1e-6)


def test_option_a_shortcut_reads_every_second_pixel():
    torch.manual_seed(6)
    model, x = randomize_batch_norms(create_model("resnet20")), torch.randn(3, 3, 16, 16)
    (stem,) = [group for group in channel_groups(model, x[:1]) if group.name == "conv1"]
    rows = gather_statistics(model, consumer_inputs([stem]), [x])["conv1"].rows
    assert rows["layer2.0.shortcut"] == 3 * 8 * 8 and rows["layer1.0.conv1"] == 3 * 16 * 16


def test_t_reduces_error_of_selection():
    """Property 13: on unseen inputs, the error is smaller than without T, and than with the largest norms."""
    torch.manual_seed(7)
    model = randomize_batch_norms(Chain())
    seen, unseen = torch.randn(400, 3, 32, 32), torch.randn(200, 3, 32, 32)
    groups = channel_groups(model, seen[:1])
    kept = {group.name: max(1, int(0.75 * group.size)) for group in groups}
    smaller = prune_network(model, seen[:1], seen.split(100), kept=kept)
    folded = FoldedNetwork(model, seen[:1])
    statistics = gather_statistics(model, folded.consumer_inputs(), [seen])
    from model_preserving_id.channel_ranking import rank_groups

    chosen = {name: one.kept(kept[name]) for name, one in rank_groups(folded, statistics).items()}
    modules = dict(model.named_modules())
    norms = {
        g.name: modules[g.name].weight.detach().flatten(1).norm(dim=1).argsort(descending=True)[: kept[g.name]]
        for g in groups
    }
    with torch.no_grad():
        outputs = model(unseen)
        error = {"id": (smaller(unseen) - outputs).square().mean()}
        for name, indices in (("without T", chosen), ("norm", norms)):
            error[name] = (keep_channels(model, seen[:1], indices)(unseen) - outputs).square().mean()
    assert error["id"] < 0.7 * min(error["without T"], error["norm"])


def test_folded_network_equals_pruned_network():
    """The full-size network with folded weights, masked or not, has the outputs of the pruned network."""
    torch.manual_seed(8)
    model, x = randomize_batch_norms(create_model("resnet20")), torch.randn(10, 3, 32, 32)
    folded = FoldedNetwork(model, x[:1], residual="conv")
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), [x])
    for name, group in folded.groups.items():
        folded.prune_group(name, list(range(0, group.size, 2)), statistics[name])
    with torch.no_grad():
        full_size, pruned = folded.model(x), folded.build_pruned()(x)
        masks = {name: torch.zeros(group.size) for name, group in folded.groups.items()}
        for name, mask in masks.items():
            mask[folded.kept[name]] = 1
        with masked(folded.model, list(folded.groups.values()), masks):
            with_masks = folded.model(x)
    scale = float(full_size.abs().max())
    assert (full_size - pruned).abs().max() <= 1e-5 * scale and (full_size - with_masks).abs().max() <= 1e-5 * scale


def test_residual_conv_macs_are_counted_and_network_reloads(tmp_path):
    torch.manual_seed(9)
    model, x = randomize_batch_norms(create_model("resnet20")), torch.randn(10, 3, 32, 32)
    smaller = prune_network(model, x[:1], x, kept={"conv1": 9, "layer2.0.conv2": 20}, residual="conv")
    assert isinstance(smaller.layer2[0].shortcut, nn.Conv2d) and isinstance(smaller.layer3[0].shortcut, nn.Conv2d)
    save_model(tmp_path / "m.safetensors", smaller)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors")(x), smaller(x))
    only_inner = prune_network(model, x[:1], x, kept={"layer1.0.conv1": 9}, residual="conv")
    assert isinstance(only_inner.layer2[0].shortcut, PadShortcut), (
        "a convolution that only selects becomes a shortcut again"
    )
    folded = FoldedNetwork(model, x[:1], residual="conv")
    extra = (16 * 32 * 16 * 16) + (32 * 64 * 8 * 8)
    assert folded.macs() - folded.dense_macs == extra


def test_residual_exact_rejects_inexact_widths():
    torch.manual_seed(10)
    model, x = randomize_batch_norms(create_model("resnet20")), torch.randn(10, 3, 32, 32)
    (stem,) = [g for g in channel_groups(model, x[:1]) if g.name == "conv1"]
    plant(model, stem, [(0, 3), (1, 7)], [9])
    fewer = prune_network(model, x[:1], x, kept={"conv1": 13})
    with torch.no_grad():
        assert (fewer(x) - model(x)).abs().max() <= 1e-5 * max(1.0, float(model(x).abs().max()))
    with pytest.raises(UserError, match="conv1: 12 channels"):
        prune_network(model, x[:1], x, kept={"conv1": 12})
    with pytest.raises(UserError, match="conv1"):
        prune_network(model, x[:1], x, kept={"conv1": 13}, residual="keep")
    half = prune_network(
        model, x[:1], x, kept={"layer3.0.conv2": 32}
    )  # no option-A shortcut reads the last residual stream
    assert half.linear.in_features == 32


def test_channel_read_by_two_convolution_groups_raises():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 8, 1, groups=2), nn.Linear(8, 2)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.out(torch.relu(self.second(torch.cat([x, x], 1))).mean((2, 3)))

    model, x = Twice().eval(), torch.randn(4, 3, 6, 6)
    with pytest.raises(UserError, match=r"first.*second"):
        prune_network(model, x[:1], x, keep=0.5)
    assert prune_network(model, x[:1], x, keep=0.5, ignored_layers=["first"]).first.out_channels == 8
