"""Attention heads, layer norms, MLPs and residual streams of transformers: pruned exactly, masked, costed, saved and loaded."""

import copy
import json

import pytest
import torch
import torchvision
from torch import Tensor, nn

from common.channels import channel_groups, keep_channels, masked
from common.channels.attention import HeadAttention, show_heads, with_heads
from common.channels.window_attention import WindowAttention
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost, layer_macs
from common.errors import UserError
from common.replaced_layers import insert_replaced_layers

IMAGE = torch.zeros(1, 3, 16, 16)


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(16, 8, 2, 4, 24, 40, num_classes=3)
    with torch.no_grad():
        for parameter in model.parameters():  # the head and the class token are zero before training
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


class FusedAttention(nn.Module):
    """Attention of timm: one linear layer for queries, keys and values, and a bias per head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, dim // heads, dim
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(heads, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(count, tokens, self.attn_dim))


class SeparateAttention(nn.Module):
    """Attention with three linear layers."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    """An embedding of patches, one attention with a residual connection, and a layer that mixes the tokens."""

    def __init__(self, kind) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm, self.attention = nn.Conv2d(3, 12, 8, 8), nn.LayerNorm(12), kind(12, 3)
        self.mix, self.position, self.classifier = (
            nn.Linear(4, 4),
            nn.Parameter(torch.randn(1, 4, 12)),
            nn.Linear(12, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(self.norm(x))
        return self.classifier((x + self.mix(x.transpose(1, 2)).transpose(1, 2)).mean(1))


def swin(version: int) -> nn.Module:
    """Windows of 3 x 3 in images of 8 x 8 positions: padded, shifted, and both; in the second stage one row of windows."""
    torch.manual_seed(0)
    parts = torchvision.models.swin_transformer
    kinds = {
        1: (parts.SwinTransformerBlock, parts.PatchMerging),
        2: (parts.SwinTransformerBlockV2, parts.PatchMergingV2),
    }
    block, merging = kinds[version]
    model = torchvision.models.SwinTransformer(
        [2, 2], 12, [2, 2], [4, 4], [3, 3], num_classes=3, block=block, downsample_layer=merging
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def half(groups) -> dict[str, list[int]]:
    return {group.name: list(range(0, group.size, 2)) for group in groups}


def check_pruned(factory, tmp_path) -> nn.Module:
    """Prune half of every group; compare with the masked network, its cost and the reloaded network."""
    model = factory()
    groups = channel_groups(model, IMAGE)
    assert not groups.excluded
    x, kept = torch.randn(2, 3, 16, 16), half(groups)
    smaller = keep_channels(model, x, kept)
    masks = {g.name: torch.zeros(g.size).index_fill_(0, torch.tensor(kept[g.name]), 1.0) for g in groups}
    before = model(x)
    with torch.no_grad(), masked(model, groups, masks):
        assert torch.allclose(model(x), smaller(x), atol=1e-5)
    assert torch.allclose(before, model(x), atol=1e-6) and (before - smaller(x)).abs().max() > 1e-3
    cost = WidthCost(model, (3, 16, 16), groups)
    assert cost.macs({name: len(channels) for name, channels in kept.items()}) == count_cost(smaller, (3, 16, 16)).macs
    for given in (factory, None):
        save_model(tmp_path / "m.safetensors", smaller, factory=given)
        assert torch.equal(load_model(tmp_path / "m.safetensors", factory)(x), smaller(x))
    twice = channel_groups(smaller, IMAGE)
    assert {g.name: g.size for g in twice} == {name: len(channels) for name, channels in kept.items()}
    return smaller


@pytest.mark.filterwarnings("ignore:MACs not counted")
def test_heads_streams_and_mlps_of_vision_transformer_are_pruned(tmp_path):
    smaller = check_pruned(vit, tmp_path)
    attention = smaller.get_submodule("encoder.layers.encoder_layer_0.self_attention")
    assert isinstance(attention, HeadAttention) and (attention.num_heads, attention.embed_dim) == (2, 12)
    assert smaller.hidden_dim == 12 and smaller.class_token.shape == (1, 1, 12)


@pytest.mark.filterwarnings("ignore:MACs not counted")
@pytest.mark.parametrize("kind", [FusedAttention, SeparateAttention])
def test_heads_of_linear_layers_are_pruned(kind, tmp_path):
    smaller = check_pruned(lambda: Tokens(kind).eval(), tmp_path)
    assert smaller.attention.proj.in_features == 8 and smaller.position.shape == (1, 4, 6)


@pytest.mark.filterwarnings("ignore:MACs not counted")
@pytest.mark.parametrize("version", [1, 2])
def test_heads_of_shifted_windows_are_pruned(version, tmp_path):
    smaller = check_pruned(lambda: swin(version), tmp_path)
    heads = [module.num_heads for module in smaller.modules() if isinstance(module, WindowAttention)]
    assert heads == [2, 2, 2, 2]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(16, 16), (12, 22), (4, 4)])
def test_window_attention_equals_torchvision(version, size):
    model, x = swin(version).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model(x), show_heads(copy.deepcopy(model))(x)
    assert (expected - found).abs().max() < 1e-12 * expected.abs().max()
    training = [show_heads(copy.deepcopy(model)).train(), model.train()]
    for network in training:
        torch.manual_seed(1)  # of stochastic depth
        network(x).square().sum().backward()
    first, second = ({name: p.grad for name, p in network.named_parameters()} for network in training)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        if gradient is not None:
            assert torch.allclose(gradient, second[name], rtol=1e-9, atol=1e-9), name


def test_projections_in_shifted_windows_are_counted():
    model = swin(1)
    macs = layer_macs(model, (3, 16, 16))
    tokens, attention = 9 * 9, "features.1.0.attn"  # 8 x 8 positions, padded to windows of 3 x 3
    assert macs[f"{attention}.qkv"] == tokens * 3 * 12 * 12 and macs[f"{attention}.proj"] == tokens * 12 * 12
    assert macs == layer_macs(show_heads(copy.deepcopy(model)), (3, 16, 16))


def test_all_channels_of_layer_norm_masked_is_finite():
    model = vit()
    groups = channel_groups(model, IMAGE)
    with torch.no_grad(), masked(model, groups, {g.name: torch.zeros(g.size) for g in groups}):
        assert model(torch.randn(2, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_head_attention_equals_multihead_attention(batch_first, weights):
    torch.manual_seed(0)
    given = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    ours, x, memory = with_heads(given), torch.randn(3, 3, 8), torch.randn(3, 3, 8)
    padding, mask = torch.tensor([[False, False, True]] * 3), torch.randn(3, 3)
    with torch.no_grad():
        for arguments in ((x, x, x), (x, memory, memory), (x[0], x[0], x[0])):
            options = {"need_weights": weights, "attn_mask": mask}
            if arguments[0].dim() == 3:
                options["key_padding_mask"] = torch.zeros(3, 3).masked_fill(padding, -torch.inf)
            for expected, found in zip(given(*arguments, **options), ours(*arguments, **options), strict=True):
                assert expected is found is None or torch.allclose(expected, found, atol=1e-5)


ATTENTION = {
    "kind": "attention",
    "embed_dim": 8,
    "num_heads": 1,
    "head_dim": 4,
    "batch_first": True,
    "dropout": 0.0,
    "out_features": 8,
    "bias": True,
}


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 0},
        {"num_heads": 10**9},
        {"dropout": "x"},
        {"dropout": float("nan")},
        {"bias": 3},
        {"batch_first": None},
    ],
)
def test_invalid_description_of_attention_raises(change):
    model = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)})
    insert_replaced_layers(copy.deepcopy(model), {"a": json.loads(json.dumps(ATTENTION))}, "file")
    with pytest.raises(UserError, match="description of layer a is invalid"):
        insert_replaced_layers(model, {"a": ATTENTION | change}, "file")


WINDOWS = {
    "kind": "window attention",
    "num_heads": 1,
    "head_dim": 4,
    "window_size": [3, 3],
    "shift_size": [1, 0],
    "attention_dropout": 0.0,
    "dropout": 0.1,
    "in_features": 8,
    "out_features": 8,
    "bias": True,
    "proj_bias": False,
    "hidden": 16,
}


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 10**9},
        {"head_dim": True},
        {"window_size": [3]},
        {"window_size": [0, 3]},
        {"window_size": [10**5, 3]},
    ]
    + [{"shift_size": "ab"}, {"hidden": 0}, {"hidden": 10**7}, {"proj_bias": 1}, {"bias": None}, {"dropout": 2}],
)
def test_invalid_description_of_window_attention_raises(change):
    model = nn.ModuleDict({"a": nn.Identity()})
    insert_replaced_layers(model, {"a": json.loads(json.dumps(WINDOWS))}, "file")
    assert isinstance(model["a"], WindowAttention) and model["a"].num_heads == 1
    with pytest.raises(UserError, match="description of layer a is invalid"):
        insert_replaced_layers(model, {"a": WINDOWS | change}, "file")


@pytest.mark.parametrize("counts", [{"forward": 3}, {"num_heads": 0}, {"num_heads": True}, {"dim": 4}, []])
def test_invalid_counts_raise(counts):
    with pytest.raises(UserError, match="description of layer attention is invalid"):
        insert_replaced_layers(Tokens(FusedAttention), {"attention": {"kind": "counts", "counts": counts}}, "file")
