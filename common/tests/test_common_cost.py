"""Exact MACs by every rule; the closed form equals the counter."""

import random
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.channels import channel_groups, keep_channels
from common.cost import WidthCost, count_cost, layer_macs
from common.errors import UserError
from common.models import ARCHITECTURES, create_model

MACS = {
    ("vgg16", ()): 313_463_808,
    ("resnet56", ()): 125_485_696,
    ("resnet110", ()): 252_887_680,
    ("resnet56", (("shortcut", "conv3x3"),)): 127_844_992,
    ("resnet110", (("shortcut", "conv3x3"),)): 255_246_976,
    ("densenet40", ()): 282_917_328,
    ("googlenet", ()): 1_521_756_160,
    ("alexnet", (("num_classes", 1000),)): 724_406_816,
    ("resnet50", (("num_classes", 1000),)): 4_089_184_256,
    ("mobilenet_v1", (("num_classes", 1000),)): 568_740_352,
    ("mobilenet_v2", (("num_classes", 1000),)): 300_774_272,
}
BY_RULE = {
    ("vgg16", "decore_paper"): (313_735_168, {}),
    ("vgg16", "decore_seed"): (314_293_248, {}),
    ("vgg16", "model_preserving_id"): (627_880_970, {"conv_bias": False}),
    ("vgg16_imagenet", "model_preserving_id"): (30_973_762_536, {"num_classes": 1000}),
    ("resnet50", "rewarded_metapruning"): (4_111_714_280, {"num_classes": 1000}),
}


def half_of_flop_counter(model: nn.Module, shape) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("arch", "arguments"), MACS)
def test_macs_are_exact(arch, arguments):
    model, shape = create_model(arch, **dict(arguments)), ARCHITECTURES[arch].input_shape
    assert count_cost(model, shape).macs == MACS[arch, arguments] == half_of_flop_counter(model, shape)


@pytest.mark.parametrize(("arch", "rule"), BY_RULE)
def test_paper_rules_are_exact(arch, rule):
    macs, arguments = BY_RULE[arch, rule]
    assert count_cost(create_model(arch, **arguments), ARCHITECTURES[arch].input_shape, rule).macs == macs


def test_thop_does_not_modify_network():
    pytest.importorskip("thop", reason="thop is not installed")
    model = create_model("resnet56", shortcut="conv3x3")
    names = set(model.state_dict())
    assert count_cost(model, (3, 32, 32), "thop").macs == pytest.approx(130_024_128, rel=1e-4)
    assert set(model.state_dict()) == names and not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("arch", ["vgg16", "resnet20", "densenet40", "googlenet", "mobilenet_v2", "resnet50", "lenet5"])
def test_closed_form_equals_counter(arch):
    model = create_model(arch)
    channels, size, _ = ARCHITECTURES[arch].input_shape
    shape = (channels, min(size, 64), min(size, 64))
    x = torch.zeros(1, *shape)
    groups = channel_groups(model, x)
    widths = WidthCost(model, shape, groups)
    rng = random.Random(1)
    kept = {g.name: sorted(rng.sample(range(g.size), rng.randint(1, g.size))) for g in groups}
    smaller = keep_channels(model, x, kept, groups=groups)
    counted = count_cost(smaller, shape).macs
    assert widths.dense == count_cost(model, shape).macs == sum(layer_macs(model, shape).values())
    assert widths.macs({name: len(indices) for name, indices in kept.items()}) == counted
    assert counted == half_of_flop_counter(smaller, shape)


def test_grouped_convolutions_are_exact():
    model = torchvision.models.resnext50_32x4d()
    groups = channel_groups(model, torch.zeros(1, 3, 64, 64))
    assert WidthCost(model, (3, 64, 64), groups).dense == half_of_flop_counter(model, (3, 64, 64))


def test_functional_layers_are_counted_and_others_named():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, x):
            maps = nn.functional.conv2d(x, self.weight).flatten(2)
            return maps @ maps.transpose(1, 2)

    with pytest.warns(UserWarning, match="bmm"):
        cost = count_cost(Functional(), (3, 8, 8))
    assert cost.macs == 4 * 3 * 9 * 36 and cost.uncounted == ("aten.bmm",)


def test_count_restores_mode_and_counts_zeros():
    torch.manual_seed(0)  # without it, a random weight is exactly 0 once in a while
    model = create_model("resnet20").train()
    model.layer1.eval()
    with torch.no_grad():
        model.linear.weight[0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost = count_cost(model, (3, 32, 32))
    assert model.training and not model.layer1.training
    assert cost.params - cost.nonzero_params == 64 + sum(
        int((p == 0).sum()) for n, p in model.named_parameters() if "bias" in n
    )


def test_invalid_rule_or_shape_raises():
    with pytest.raises(UserError, match="conv_linear"):
        count_cost(create_model("resnet20"), (3, 32, 32), rule="flops")
    with pytest.raises(UserError, match="shape"):
        count_cost(create_model("resnet20"), (1, 32, 32))
