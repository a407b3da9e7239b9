"""Pruning is exact or raises: deliberately wrong removals at 17 output scales, layers that hide differences, odd networks."""

import copy
import re
import sys
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.channels import __main__ as channels_command
from common.channels import channel_groups, keep_channels, listing, masked, remove
from common.channels.exact import Reference, _relative, _sample
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost
from common.errors import UserError
from common.factory import import_factory

SCALES = [10.0**exponent for exponent in range(-8, 9)]
IMAGE = torch.zeros(1, 3, 12, 12)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Branches(nn.Module):
    """Two branches, concatenated; batch norm; optionally a function across channels; a scaled output."""

    def __init__(self, scale: float = 1.0, across=None, gamma: float = 1.0, last=None) -> None:
        super().__init__()
        self.left, self.right, self.norm = conv(3, 8), conv(3, 8), nn.BatchNorm2d(16)
        self.read, self.classifier, self.across, self.last = conv(16, 6), nn.Linear(6, 4), across, last
        with torch.no_grad():
            for statistics in (self.norm.running_mean, self.norm.running_var):
                assert statistics is not None
                statistics.uniform_(0.5, 1.5)
            self.norm.weight.fill_(gamma)
            for parameter in self.classifier.parameters():
                parameter.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()
        x = self.read(x if self.across is None else self.across(x)).relu().mean((2, 3))
        x = self.classifier(x)
        return x if self.last is None else self.last(x)


KEPT = {"left": [0, 2, 3, 6], "right": [1, 4, 5, 7], "read": [0, 1, 4]}
removed_positions, remove_positions, remove_channels = (
    remove.removed_positions,
    remove.remove_positions,
    remove.remove_channels,
)


def half(groups) -> dict[str, list[int]]:
    return {
        g.name: [
            first + i
            for first in range(0, g.size, g.size // g.conv_groups)
            for i in range(g.size // g.conv_groups // 2)
        ]
        for g in groups
        if g.size > g.conv_groups
    }


def shift_inputs(slices, kept):
    removed = removed_positions(slices, kept)
    removed["read", "in"] = {(position + 1) % 16 for position in removed["read", "in"]}
    return removed


def drop_group(slices, kept):
    removed = removed_positions(slices, kept)
    del removed["classifier", "in"]
    del removed["read", "out"]
    removed["classifier", "in"], removed["read", "out"] = {2, 3, 5}, {1, 2, 4}
    return removed


def reorder_inputs(order):
    def wrong(model, removed):
        remove_positions(model, removed)
        weight = model.read.weight
        model.read.weight = nn.Parameter(weight.detach()[:, order(weight.shape[1])])

    return wrong


def keep_stale_norm(model, removed):
    before = {key: tensor.clone() for key, tensor in model.norm.state_dict().items() if tensor.dim()}
    remove_positions(model, removed)
    for key, tensor in before.items():
        getattr(model.norm, key).data.copy_(tensor[: len(getattr(model.norm, key))])


BROKEN = {
    "shuffled inputs": ("remove_positions", reorder_inputs(lambda n: torch.randperm(n, generator=torch.Generator()))),
    "swapped halves": ("remove_positions", reorder_inputs(lambda n: [*range(n // 2, n), *range(n // 2)])),
    "off by one": ("removed_positions", shift_inputs),
    "dropped group": ("removed_positions", drop_group),
    "stale norm": ("remove_positions", keep_stale_norm),
}


def test_correct_removal_passes_at_all_output_scales():
    for scale in SCALES:
        torch.manual_seed(0)
        model = Branches(scale).eval()
        assert keep_channels(model, IMAGE, KEPT).get_submodule("read").weight.shape[1] == 8


@pytest.mark.parametrize("fault", BROKEN)
def test_wrong_removal_raises_at_all_output_scales(fault, monkeypatch):
    monkeypatch.setattr(remove, *BROKEN[fault])
    for scale in SCALES:
        torch.manual_seed(0)
        with pytest.raises(UserError, match="compared with the masked network|values of the kept channels"):
            keep_channels(Branches(scale).eval(), IMAGE, KEPT)


@pytest.mark.parametrize(
    "across",
    [lambda x: F.local_response_norm(x, 3, alpha=1e-4), lambda x: x.softmax(1), lambda x: x + 1e-5 * x.mean(1, True)],
)
def test_function_across_channels_raises_at_all_output_scales(across):
    for scale in SCALES:
        torch.manual_seed(0)
        with pytest.raises(UserError, match="left.*input of read would differ"):
            keep_channels(Branches(scale, across).eval(), IMAGE, KEPT)


@pytest.mark.parametrize(
    "hidden", [{"last": nn.Softmax(1), "scale": 1e6}, {"gamma": 0.0}, {"last": nn.Hardtanh(-1e-9, 1e-9)}]
)
@pytest.mark.parametrize("fault", BROKEN)
def test_wrong_removal_raises_where_outputs_do_not_show_it(hidden, fault, monkeypatch):
    """A saturated softmax, and a batch norm that is zero before training."""
    torch.manual_seed(0)
    model = Branches(**hidden).eval()
    keep_channels(model, IMAGE, KEPT)
    monkeypatch.setattr(remove, *BROKEN[fault])
    with pytest.raises(UserError, match="compared with the masked network|values of the kept channels"):
        keep_channels(model, IMAGE, KEPT)


def test_difference_in_returned_network_only_raises(monkeypatch):
    """The comparison uses another copy, with other values in batch norm."""
    calls: list[nn.Module] = []

    def wrong(model, removed):
        remove_positions(model, removed)
        if not calls:
            model.read.weight.data[0, 0, 0, 0] *= 1.001
        calls.append(model)

    monkeypatch.setattr(remove, "remove_positions", wrong)
    with pytest.raises(UserError, match="read.weight does not have the values"):
        keep_channels(Branches().eval(), IMAGE, KEPT)


def test_difference_on_given_image_only_raises():
    """The function mixes channels only if its input is larger than all random inputs."""
    model = Branches(across=lambda x: x + x.mean(1, True) if x.abs().amax() > 1e4 else x).eval()
    assert len(keep_channels(model, IMAGE, KEPT).get_submodule("left").weight) == 4
    with pytest.raises(UserError, match="read would differ"):
        keep_channels(model, 1e6 * torch.randn(2, 3, 12, 12), KEPT)


class Casts(Branches):
    """Computes parts in float32, as FrozenBatchNorm and some softmax layers do."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).float().sigmoid().to(torch.float32)
        return self.classifier(self.read(x).relu().mean((2, 3)))


class OwnType(Casts):
    """Does not run in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(x.numpy().astype("float32")) if not x.requires_grad else x)


@pytest.mark.parametrize(("kind", "dtype"), [(Casts, torch.float64), (OwnType, None)])
def test_networks_that_cast_are_compared(kind, dtype, monkeypatch):
    torch.manual_seed(0)
    model = kind().eval()
    assert Reference(model, IMAGE).dtype == dtype
    keep_channels(model, IMAGE, KEPT)
    monkeypatch.setattr(remove, *BROKEN["shuffled inputs"])
    with pytest.raises(UserError, match="compared with the masked network"):
        keep_channels(model, IMAGE, KEPT)


def test_difference_is_relative_to_each_input():
    small, large = torch.ones(1, 4) * 1e-8, torch.ones(1, 4) * 1e8
    expected = torch.cat([small, large])
    assert _relative(_sample(expected, 2), _sample(expected + 1e-9, 2)) == pytest.approx(0.1)
    assert _relative(_sample(expected, 1), _sample(expected + 1e-9, 1)) < 1e-16
    assert _relative(expected, expected[:, :3]) == float("inf")
    assert _relative(expected, expected * torch.nan) == float("inf")


class Odd(nn.Module):
    """A convolution, an operation, another convolution and a linear layer."""

    def __init__(self, operation, reads: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.classifier = conv(3, 16), conv(reads, 8), nn.Linear(8, 4)
        self.operation = operation
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.operation(self.first(x))
            if isinstance(self.operation, nn.Module)
            else self.operation(self, self.first(x))
        )
        return self.classifier(self.second(x).relu().mean((2, 3)))


def halves(net, x):
    a, b = x.split(8, 1)
    return a * b.sigmoid()


def swapped(net, x):
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


ODD = {
    "response norm": (nn.LocalResponseNorm(3), 16, "is a LocalResponseNorm"),
    "split": (halves, 8, "would fail after the output of first"),
    "permutation": (lambda net, x: x[:, net.order], 16, "input of second would differ in shape"),
    "channel shuffle": (
        lambda net, x: x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2),
        16,
        "input of second would differ",
    ),
    "fixed view": (lambda net, x: x.view(-1, 16, 12, 12), 16, "would fail after the output of first"),
    "all together": (lambda net, x: x + torch.einsum("nchw,nchw->nhw", x, x)[:, None], 16, "depend on each other"),
    "norm over positions": (
        nn.LayerNorm([16, 12, 12]),
        16,
        "would differ|normalizes across positions|cannot be resized",
    ),
    "weight norm": (
        nn.utils.parametrizations.weight_norm(conv(16, 16)),
        16,
        "operation is computed from other tensors",
    ),
}

PRUNED = {  # operation, inputs of the second layer, channels of the first group, blocks
    "glu": (nn.GLU(1), 8, 8, 1),
    "functional glu": (lambda net, x: F.glu(x, 1), 8, 8, 1),
    "pixel shuffle": (nn.PixelShuffle(2), 4, 4, 1),
    "functional pixel shuffle": (lambda net, x: F.pixel_shuffle(x, 2), 4, 4, 1),
    "chunk": (swapped, 16, 16, 2),
    "group norm": (nn.GroupNorm(4, 16), 16, 4, 1),
    "group norm without weights": (nn.GroupNorm(8, 16, affine=False), 16, 8, 1),
    "transposed": (nn.ConvTranspose2d(16, 16, 2, stride=2), 16, 16, 1),
    "transposed in groups": (nn.ConvTranspose2d(16, 16, 1, groups=4), 16, 16, 4),
    "frozen": (torchvision.ops.FrozenBatchNorm2d(16), 16, 16, 1),
    "layer norm": (lambda net, x: net.norm(x.movedim(1, -1)).movedim(-1, 1), 16, 16, 1),
    "layer norm at dimension 1": (torchvision.models.convnext.LayerNorm2d(16), 16, 16, 1),
    "scale": (lambda net, x: net.gamma * x, 16, 16, 1),
    "one factor": (lambda net, x: x * net.factor + x.mean((1, 2, 3), keepdim=True) * 0, 16, 16, 1),
}


@pytest.mark.filterwarnings("ignore:.*not listed")
@pytest.mark.parametrize("name", PRUNED)
def test_group_is_pruned_exactly_and_reloads(name, tmp_path):
    operation, reads, size, blocks = PRUNED[name]

    def factory():
        torch.manual_seed(0)
        model = Odd(operation, reads)
        model.norm, model.gamma = nn.LayerNorm(16), nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        model.factor = nn.Parameter(torch.ones(1) * 2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()

    model = factory()
    groups = channel_groups(model, IMAGE)
    first = groups[0]
    assert (first.name, first.size, first.conv_groups) == ("first", size, blocks) and not groups.excluded
    x, kept = torch.randn(2, 3, 12, 12), half(groups)
    smaller = keep_channels(model, x, kept)
    assert len(smaller.get_submodule("first").weight) == 8 and len(smaller.get_submodule("second").weight) == 4
    masks = {g.name: torch.zeros(g.size).index_fill_(0, torch.tensor(kept[g.name]), 1.0) for g in groups}
    with torch.no_grad(), masked(model, groups, masks):
        assert torch.allclose(model(x), smaller(x), atol=1e-5)
    shared = isinstance(operation, nn.Module)  # the factory then changes the network
    save_model(tmp_path / "m.safetensors", smaller)
    loaded = load_model(tmp_path / "m.safetensors", (lambda: copy.deepcopy(model)) if shared else factory)
    assert torch.equal(loaded(x), smaller(x))


@pytest.mark.filterwarnings("ignore:.*not listed")
@pytest.mark.parametrize("name", ODD)
def test_group_that_cannot_be_pruned_is_excluded_with_reason(name):
    operation, reads, reason = ODD[name]
    torch.manual_seed(0)
    model = Odd(operation, reads).eval()
    groups = channel_groups(model, IMAGE)
    assert re.search(reason, groups.excluded["first"]) and [g.name for g in groups] == ["second"]
    assert len(keep_channels(model, IMAGE, half(groups)).get_submodule("second").weight) == 4
    with pytest.raises(UserError, match="first|second"):
        keep_channels(model, IMAGE, {"first": range(6)})


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def test_layers_of_own_types_are_tried_alone(monkeypatch):
    """A layer that computes its weights from all inputs is named; another one is pruned."""
    model = nn.Sequential(conv(3, 8), Padded(8, 6, 3, groups=2), Standardized(6, 4, 3), nn.Flatten(), nn.Linear(576, 2))
    with pytest.warns(UserWarning, match="1 is not listed .* 2 is a Standardized, whose weights depend on all"):
        groups = channel_groups(model, IMAGE)
    assert [g.name for g in groups] == ["0", "2"] and list(groups.excluded) == ["1"]
    keep_channels(model, IMAGE, half(groups))


def test_result_of_trying_is_cached(monkeypatch):
    model = Odd(halves, 8).eval()
    with pytest.warns(UserWarning, match="first is not listed"):
        first = channel_groups(model, IMAGE)
    monkeypatch.setattr(listing, "_Attempts", None)
    with pytest.warns(UserWarning, match="first is not listed"):
        assert channel_groups(model, IMAGE) == first
    with pytest.raises(TypeError):
        channel_groups(Odd(halves, 8).eval(), IMAGE)


class AfterConvolutions(nn.Module):
    def __init__(self, kind) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU())
        self.recurrent, self.classifier = kind(12, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.classifier(self.recurrent(self.features(x).mean(2).transpose(1, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.project, self.classifier = (
            conv(3, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )

    def forward(self, x):
        q, k, v = (
            part.unflatten(2, (4, 4)).transpose(1, 2)
            for part in self.qkv(self.embed(x).flatten(2).transpose(1, 2)).chunk(3, -1)
        )
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.classifier(self.project(mixed.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.filterwarnings("ignore:.*not listed")
@pytest.mark.parametrize(
    ("model", "listed", "excluded"),
    [
        (AfterConvolutions(nn.GRU), ["features.0"], ["features.2"]),
        (AfterConvolutions(nn.LSTM), ["features.0"], ["features.2"]),
        (Attention(), ["embed", "project"], ["qkv"]),
    ],
)
def test_layers_before_and_after_mixing_ones_are_pruned(model, listed, excluded):
    groups = channel_groups(model.eval(), IMAGE)
    assert [g.name for g in groups] == listed and list(groups.excluded) == excluded
    keep_channels(model, IMAGE, half(groups))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.read, self.classifier = conv(3, 8), conv(3, 8), conv(16, 6), nn.Linear(6, 2)

    def forward(self, x, y):
        return self.classifier(self.read(torch.cat([self.left(x), self.right(y)], 1)).relu().mean((2, 3)))


class OneDict(TwoInputs):
    def forward(self, batch, y=None):
        return super().forward(batch["x"], batch["y"])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right, self.read = (
            nn.Embedding(9, 8),
            nn.Linear(8, 16),
            nn.Linear(16, 6),
            nn.Linear(6, 2),
        )

    def forward(self, tokens):
        return self.read(self.right(self.left(self.embed(tokens)).relu()).relu().mean(1))


@dataclass
class Result:
    logits: Tensor
    count: int = 0


class Outputs(Odd):
    def __init__(self, result) -> None:
        super().__init__(nn.Identity())
        self.result = result

    def forward(self, x):
        return self.result(super().forward(x))


@pytest.mark.parametrize(
    ("model", "inputs", "names"),
    [
        (TwoInputs(), (IMAGE, IMAGE), ["left", "right", "read"]),
        (TwoInputs(), {"y": IMAGE, "x": IMAGE}, ["left", "right", "read"]),
        (OneDict(), {"x": IMAGE, "y": IMAGE}, ["left", "right", "read"]),
        (Tokens(), torch.arange(8).view(1, 8), ["left", "right"]),
        (nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)), torch.zeros(3, 8, 8), ["0"]),
        (Outputs(Result), IMAGE, ["first", "second"]),
        (Outputs(lambda y: {"logits": y, "n": 3, "parts": [y, (y, None)]}), IMAGE, ["first", "second"]),
        (Outputs(lambda y: (y, y.argmax(1))), IMAGE, ["first", "second"]),
    ],
)
def test_inputs_and_outputs_of_any_structure(model, inputs, names):
    groups = channel_groups(model.eval(), inputs)
    assert [g.name for g in groups] == names
    smaller = keep_channels(model, inputs, half(groups))
    assert [g.size for g in channel_groups(smaller, inputs)] == [g.size // 2 for g in groups]


class NoGrad(Branches):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Fails(Branches):
    def forward(self, x):
        raise KeyError("boom")


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (NoGrad(), IMAGE, "not connected to its weights.*no_grad"),
        (Fails(), IMAGE, "does not accept an example input of shape .*boom"),
        (torch.jit.trace(conv(3, 4), IMAGE), IMAGE, "a TorchScript program"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), IMAGE, "cannot be copied"),
        (Branches(), [1, None], "contains no tensor"),
    ],
)
def test_network_that_cannot_be_traced_raises(model, inputs, message):
    with pytest.raises(UserError, match=message):
        channel_groups(model, inputs)


@pytest.mark.filterwarnings("ignore:.*not listed")
def test_tied_weights_stay_tied_or_are_not_pruned():
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    model[4].weight = model[2].weight
    groups = channel_groups(model, torch.zeros(1, 8))
    assert not groups and "tied" in groups.excluded["0"]
    two = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(), nn.Conv2d(8, 8, 1), nn.PReLU(), nn.Conv2d(8, 2, 1))
    two[3].weight = two[1].weight
    smaller = keep_channels(two, IMAGE, {"0": [0, 1]})
    assert smaller.get_submodule("3").weight is smaller.get_submodule("1").weight


@pytest.mark.filterwarnings("ignore:.*not listed")
def test_tracing_of_shifted_windows_ends():
    swin = torchvision.models.swin_transformer.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=4, stochastic_depth_prob=0.0
    )
    groups = channel_groups(swin.eval(), torch.zeros(1, 3, 32, 32))
    assert [g.name for g in groups if ".mlp.0" in g.name] == [
        f"features.{stage}.{block}.mlp.0" for stage in (1, 3) for block in (0, 1)
    ]
    assert not groups.excluded
    keep_channels(swin, torch.zeros(1, 3, 32, 32), half(groups))


def test_command_prints_excluded_groups(tmp_path, monkeypatch, capsys):
    (tmp_path / "odd_factory.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(2), nn.Conv2d(8, 6, 3),"
        " nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))\n\n\ndef broken():\n    raise ZeroDivisionError('no')\n\n\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert channels_command.main(["--model", "odd_factory:build", "--input-shape", "3", "8", "8"]) == 0
    out = capsys.readouterr().out
    assert "excluded:\n  0: 1 is a LocalResponseNorm, which common.channels cannot prune\n1 groups, 6 channels" in out
    assert channels_command.main(["--model", "odd_factory:broken", "--input-shape", "3", "8", "8"]) == 2
    assert capsys.readouterr().err.strip().endswith("--model odd_factory:broken: broken raises ZeroDivisionError: no")
    with pytest.raises(UserError, match="returns a int, not a network"):
        import_factory("odd_factory:number")()
    (tmp_path / "bad_module.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="bad_module:build: division by zero"):
        import_factory("bad_module:build")
    assert "bad_module" not in sys.modules


class Split(nn.Module):
    """A YOLO-style block: half of the channels pass through, and feature maps of three scales are a list in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.join = conv(3, 16), conv(8, 8), conv(24, 10)
        self.down, self.up = nn.Conv2d(10, 12, 3, 2, 1), nn.ConvTranspose2d(12, 10, 2, 2)
        self.heads = nn.ModuleList([nn.Conv2d(10, 6, 1), nn.Conv2d(12, 6, 1), nn.Conv2d(10, 6, 1)])

    def forward(self, x):
        a, b = F.silu(self.first(x)).chunk(2, 1)
        x = self.join(torch.cat([a, b, b + self.inner(b)], 1))
        y = F.silu(self.down(x))
        maps = (x, y, self.up(y) + x)
        return {"maps": [head(one) for head, one in zip(self.heads, maps, strict=True)]}


def test_detector_with_split_blocks_and_dict_of_lists_is_pruned():
    torch.manual_seed(0)
    model, x = Split().eval(), torch.randn(1, 3, 16, 16)
    groups = channel_groups(model, x)
    assert {g.name: (g.size, g.conv_groups) for g in groups} == {"first": (16, 2), "join": (10, 1), "down": (12, 1)}
    assert groups[0].outputs == {"inner": [[]] * 8 + [[c] for c in range(8)]} and not groups.excluded
    smaller = keep_channels(model, x, half(groups))
    assert smaller.get_submodule("up").weight.shape == (6, 5, 2, 2)  # (inputs, outputs, ...)
    cost = WidthCost(model, (3, 16, 16), groups)
    assert cost.macs({g.name: g.size // 2 for g in groups}) == count_cost(smaller, (3, 16, 16)).macs
    assert [one.shape for one in smaller(x)["maps"]] == [one.shape for one in model(x)["maps"]]


@pytest.mark.parametrize(
    ("convolution", "transposed", "sizes"),
    [(nn.Conv1d, nn.ConvTranspose1d, [9]), (nn.Conv3d, nn.ConvTranspose3d, [5, 5, 5])],
)
def test_other_dimensions_are_pruned(convolution, transposed, sizes):
    torch.manual_seed(0)
    model = nn.Sequential(
        convolution(2, 8, 3),
        nn.ReLU(),
        transposed(8, 6, 2),
        convolution(6, 6, 1, groups=6),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    x = torch.randn(1, 2, *sizes)
    model(x)
    groups = channel_groups(model.eval(), x)
    assert [(g.name, g.size) for g in groups] == [("0", 8), ("2", 6)]
    keep_channels(model, x, half(groups))
