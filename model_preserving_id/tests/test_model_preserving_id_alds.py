"""ALDS: grouped low-rank factors, chosen for all layers by one error bound."""

import pytest
import torch
from torch import nn

from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.models import create_model
from model_preserving_id.alds import alds, factor_layer, groupings, split_channels
from model_preserving_id.low_rank import choose_ranks, compressible_layers, count_nonzero

CONV = {"in_channels": 12, "out_channels": 20, "kernel_size": 3, "stride": 2, "padding": 1}


def layer(seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(**CONV)


def product(pair: nn.Sequential, groups: int) -> torch.Tensor:
    """Return the weight that two factors stand for, (f, c, k1, k2)."""
    first, second = pair[0].weight, pair[1].weight.flatten(1)
    rank = first.shape[0] // groups
    parts = [
        (second[:, i * rank : (i + 1) * rank] @ first[i * rank : (i + 1) * rank].flatten(1)).unflatten(
            1, first.shape[1:]
        )
        for i in range(groups)
    ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_full_rank_alds_factors_equal_layer(groups):
    module, x = layer(), torch.randn(2, 12, 9, 9)
    pair = factor_layer(module, groups, min(split_channels(module.weight, groups).shape[1:]))
    assert torch.allclose(pair(x), module(x), atol=1e-5) and pair[0].groups == groups


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_alds_error_bound_holds(rank):
    module = layer(3)
    norm = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
    for choice in groupings(module):
        if rank < len(choice.errors):
            difference = module.weight - product(factor_layer(module, choice.groups, rank), choice.groups)
            error = torch.linalg.matrix_norm(difference.flatten(1), 2) / norm
            assert error <= choice.errors[rank] + 1e-6
            pair = factor_layer(module, choice.groups, rank)
            assert sum(part.weight.numel() for part in pair) == rank * choice.per_rank


@pytest.mark.parametrize("keep_ratio", [0.7, 0.4])
def test_alds_meets_ratio_with_bound_of_one_group_or_smaller(keep_ratio, tmp_path):
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller = alds(model, keep_ratio, restarts=3)
    ratio = count_nonzero(smaller) / count_nonzero(model)
    assert keep_ratio * 0.995 <= ratio <= keep_ratio
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    layers = dict(compressible_layers(model))
    one = {name: groupings(module)[0] for name, module in layers.items()}
    ranks = choose_ranks({name: choice.ranks for name, choice in one.items()}, count_nonzero(model), keep_ratio)
    bound = max(one[name].errors[rank] for name, rank in ranks.items() if rank is not None)
    reached = []
    for name, module in layers.items():
        pair = smaller.get_submodule(name)
        if isinstance(pair, nn.Sequential):
            groups = getattr(pair[0], "groups", 1)
            rank = pair[0].weight.shape[0] // groups
            reached.append(next(c for c in groupings(module) if c.groups == groups).errors[rank])
    assert max(reached) <= bound + 1e-9
    save_model(tmp_path / "model.safetensors", smaller)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_model(tmp_path / "model.safetensors").eval()(x), smaller(x))


def test_same_seed_gives_same_alds_network():
    torch.manual_seed(0)
    model = create_model("lenet5").eval()
    one, two = (alds(model, 0.5, restarts=4, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one) and one.keys() == two.keys()


@pytest.mark.parametrize("keep_ratio", [0.0, 1.5, 0.001])
def test_impossible_alds_ratio_raises(keep_ratio):
    with pytest.raises(UserError, match="keep_ratio"):
        alds(create_model("lenet5"), keep_ratio, restarts=0)
