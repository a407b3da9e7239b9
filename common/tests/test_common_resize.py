"""Removing channels from a module and fitting a dense one to the remaining tensors give the same module."""

import pytest
import torch
from torch import nn

from common.channels import keep_channels
from common.channels.resize import fit_shapes, remove_channels, width
from common.errors import UserError
from common.models import PadShortcut

# (module, side, removed channels, {attribute: value afterwards})
CASES = {
    "conv2d outputs": (lambda: nn.Conv2d(4, 6, 3), "out", {0, 5}, {"out_channels": 4, "in_channels": 4}),
    "conv2d inputs": (lambda: nn.Conv2d(4, 6, 3), "in", {1}, {"out_channels": 6, "in_channels": 3}),
    "grouped outputs": (lambda: nn.Conv2d(4, 6, 3, groups=2), "out", {0, 5}, {"out_channels": 4, "groups": 2}),
    "grouped inputs": (lambda: nn.Conv1d(4, 6, 3, groups=2), "in", {0, 3}, {"in_channels": 2, "groups": 2}),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), "both", {2}, dict(in_channels=5, out_channels=5, groups=5)),
    "linear outputs": (lambda: nn.Linear(4, 6), "out", {0}, {"in_features": 4, "out_features": 5}),
    "linear inputs": (lambda: nn.Linear(4, 6, bias=False), "in", {0, 1}, {"in_features": 2, "out_features": 6}),
    "batch norm": (lambda: nn.BatchNorm2d(6), "both", {0, 3}, {"num_features": 4}),
    "batch norm without weight": (lambda: nn.BatchNorm1d(6, affine=False), "both", {0}, {"num_features": 5}),
    "group norm": (lambda: nn.GroupNorm(2, 6), "both", {0, 1, 2}, {"num_channels": 3, "num_groups": 1}),
    "layer norm": (lambda: nn.LayerNorm(6), "both", {5}, {"normalized_shape": (5,)}),
    "slopes": (lambda: nn.PReLU(6), "both", {5}, {"num_parameters": 5}),
    "shortcut outputs": (lambda: PadShortcut(4, 6), "out", {0, 1}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_removed_equals_fitted(case):
    make, side, removed, expected = CASES[case]
    module, dense = make(), make()
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = width(module, side)
    remove_channels("layer", module, side, removed)
    assert width(module, side) == before - len(removed)
    assert {name: getattr(module, name) for name in expected} == expected
    fit_shapes(dense, module.state_dict())
    assert {name: getattr(dense, name) for name in expected} == expected
    dense.load_state_dict(module.state_dict())
    kept = [i for i in range(before) if i not in removed]
    if side != "in":
        assert all(torch.equal(t[kept], module.state_dict()[name]) for name, t in tensors.items() if t.dim())


def test_grouped_inputs_are_removed_per_group():
    layer = nn.Conv2d(4, 2, 1, groups=2)
    weight = layer.weight.detach().clone()
    remove_channels("layer", layer, "in", {0, 3})  # the first input of the first group, the second of the second
    assert torch.equal(layer.weight, torch.stack([weight[0, 1:], weight[1, :1]]))
    with pytest.raises(UserError, match="layer has 2 groups: keep the same number of channels in each block of 1"):
        remove_channels("layer", layer, "in", {0})
    with pytest.raises(UserError, match="layer: no channel would be left"):
        remove_channels("layer", layer, "out", {0, 1})


def test_layers_without_tensors_are_resized():
    for layer in (nn.InstanceNorm2d(6), nn.GroupNorm(2, 6, affine=False), nn.LayerNorm(6, elementwise_affine=False)):
        remove_channels("layer", layer, "both", {0, 1, 2})
        assert width(layer, "both") == 3
    with pytest.raises(UserError, match="layer normalizes 3 channels together: keep all or none of each 3"):
        remove_channels("layer", nn.GroupNorm(2, 6), "both", {0, 3})


def test_common_slope_is_kept():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 4, 2)).eval()
    smaller = keep_channels(model, torch.zeros(1, 3, 6, 6), {"0": range(1, 8)})  # removes channel 0
    assert smaller[0].out_channels == 7 and smaller[1].num_parameters == 1
