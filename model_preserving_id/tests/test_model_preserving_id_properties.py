"""Further properties of the paper's method: selected layers, agreement, depthwise blocks, warnings."""

import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from common.channels import channel_groups
from common.cost import RULES, WidthCost
from common.models import create_model
from common.settings import parse
from common.target import Target
from model_preserving_id import prune_network
from model_preserving_id.activations import gather_statistics
from model_preserving_id.channel_ranking import rank_groups
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, iterate
from model_preserving_id.original_api import create_args
from model_preserving_id.settings import ChannelPruningOptions, PruneChannels
from model_preserving_id.width_allocation import error_score, find_best_step

SHAPE = (3, 12, 12)


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 10, 3),
        nn.ReLU(),
        nn.Conv2d(10, 12, 3),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def test_layer_with_dead_channels_is_pruned_first_without_error():
    model, x = chain(), torch.randn(40, *SHAPE)
    with torch.no_grad():
        model[2].weight[[3, 7]] = 0
        model[2].bias[[3, 7]] = -1.0
    rows = iterate(FoldedNetwork(model, x[:1]), [x], IterationOptions(Target(0.6), keep=0.99, update_every=0.0))
    assert [row["layer"] for row in rows[:2]] == ["2", "2"] and all(row["error"] < 1e-7 for row in rows[:2])
    assert rows[2]["error"] > 1e-4
    assert all(row["agreement"] == 100.0 for row in rows[:2])


def test_selected_layer_is_invariant_to_cost_scale_and_group_order():
    model, x = chain(), torch.randn(40, *SHAPE)
    folded = FoldedNetwork(model, x[:1])
    rankings = rank_groups(folded, gather_statistics(folded.model, folded.consumer_inputs(), [x]))
    score, widths = error_score(rankings, "pivot"), folded.widths()
    one = find_best_step(rankings, widths, folded.macs, score, 0.8)
    scaled = find_best_step(rankings, widths, lambda w: 10 * folded.macs(w), score, 0.8)
    reordered = find_best_step(dict(reversed(rankings.items())), widths, folded.macs, score, 0.8)
    assert one.group == scaled.group == reordered.group and one.after == scaled.after
    cost = WidthCost(model, SHAPE, channel_groups(model, x[:1]))
    scores = {}
    for name, ranking in rankings.items():
        after = int(0.8 * ranking.size)
        saved = cost.macs(widths) - cost.macs({**widths, name: after})
        scores[name] = ranking.pivot[after] / saved
    assert one.group == min(scores, key=scores.get)


def test_unpruned_network_agrees_with_itself_and_output_layer_is_no_group():
    from model_preserving_id.iterate import measure_statistics

    model, x = chain(), torch.randn(20, *SHAPE)
    folded = FoldedNetwork(model, x[:1])
    assert "8" not in folded.groups and measure_statistics(folded, [x], list(folded.groups), [])[1] == 100.0
    smaller = prune_network(model, x[:1], x, keep=0.5)
    assert smaller[8].out_features == 5


def test_vgg16_costs_equal_original_code():
    """Property 12: FLOPs (2 per MAC, and more) and parameters; the ImageNet network is on the meta device."""
    small = create_model("vgg16", conv_bias=False)
    assert RULES["model_preserving_id"](small, (3, 32, 32))[0] == 627_880_970
    with torch.device("meta"):
        large = create_model("vgg16_imagenet", num_classes=1000)
    assert round(RULES["model_preserving_id"](large, (3, 224, 224))[0] / 1e6) == 30_974
    params = [sum(p.numel() for p in model.parameters()) for model in (small, large)]
    assert params == [14_987_722, 138_357_544]


def test_residual_streams_are_not_pruned_by_default():
    """As in the original code; results/choice-residual-*.json show the reason."""
    assert (
        create_args().residual
        == ChannelPruningOptions().residual
        == parse(PruneChannels, []).pruning.residual
        == "keep"
    )
    torch.manual_seed(0)
    model, x = create_model("resnet20").eval(), torch.randn(24, 3, 16, 16)
    smaller = prune_network(model, x[:1], x, keep=0.5, compensation="none")
    assert smaller.layer1[0].conv1.out_channels == 8 and smaller.layer3[0].conv2.out_channels == 64
    explicit = prune_network(model, x[:1], x, kept={"layer3.0.conv2": 32}, compensation="none")
    assert explicit.layer3[0].conv2.out_channels == 32


def test_depthwise_blocks_stay_depthwise():
    torch.manual_seed(0)
    model, x = create_model("mobilenet_v1").eval(), torch.randn(8, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smaller = prune_network(model, x[:1], x, keep=0.75, compensation="none")
    depthwise = [m for m in smaller.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 13
    for module in depthwise:
        assert module.groups == module.in_channels == module.out_channels == module.weight.shape[0]


def test_fewer_rows_than_channels_warn():
    model, x = chain(), torch.randn(40, *SHAPE)
    with pytest.warns(UserWarning, match=r"4: 4 rows of activations cannot distinguish 8 channels"):
        prune_network(model, x[:1], x[:4], keep=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune_network(model, x[:1], x, keep=0.5)


def test_group_with_fewer_rows_than_channels_is_left_alone_if_the_others_meet_the_target():
    """A layer read after global pooling has one row per image: on these images, few channels seem to be enough."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model, x = nn.Sequential(*layers, nn.Linear(32, 4)).eval(), torch.randn(20, *SHAPE)
    with pytest.warns(UserWarning, match=r"not pruned: 2: 20 rows of activations cannot distinguish 32 channels"):
        smaller = prune_network(model, x[:1], x, target_macs=0.505)
    assert smaller[0].out_channels <= 32 and smaller[2].out_channels == 32
    with pytest.warns(UserWarning, match=r"^2: 20 rows"):  # no other group can meet the target
        smaller = prune_network(model, x[:1], x, target_macs=0.6, ignored_layers=["0"])
    assert smaller[0].out_channels == 64 and smaller[2].out_channels < 32


@pytest.mark.parametrize("residual", ["exact", "conv", "keep"])
def test_selection_does_not_depend_on_image_order(residual):
    """Only images are passed, so labels have no effect; another order of the images gives the same channels."""
    torch.manual_seed(1)
    model, x = create_model("resnet20").eval(), torch.randn(24, 3, 16, 16)
    kept = []
    for order in (torch.arange(24), torch.randperm(24)):
        folded = FoldedNetwork(model, x[:1], residual=residual)
        rankings = rank_groups(folded, gather_statistics(folded.model, folded.consumer_inputs(), x[order].split(8)))
        kept.append({name: one.kept(max(one.widths[0], one.at_most(one.size // 2))) for name, one in rankings.items()})
    assert kept[0] == kept[1]


def test_statistics_are_updated_only_downstream_of_pruned_groups(monkeypatch):
    from model_preserving_id import iterate as module

    updated: list[list[str]] = []
    real = module.gather_statistics
    monkeypatch.setattr(
        module,
        "gather_statistics",
        lambda model, inputs, *a, **k: (updated.append([one.group for one in inputs]), real(model, inputs, *a, **k))[1],
    )
    model, x = chain(), torch.randn(40, *SHAPE)
    rows = iterate(FoldedNetwork(model, x[:1]), [x], IterationOptions(Target(0.5), keep=0.8, update_every=0.0))
    order = ["0", "2", "4"]
    assert updated[0] == order
    for row, groups in zip(rows, updated[1:], strict=True):
        assert groups == order[order.index(row["layer"]) + 1 :]


def test_interpolated_sensitivity_is_monotone():
    from model_preserving_id.sensitivity import interpolate

    energy = [1.0, 0.6, 0.3, 0.1, 0.0]
    sensitivity = interpolate(
        {1: 0.5, 3: 0.7, 4: 0.0}, energy
    )  # the measured values are not monotone, because of noise
    assert sensitivity[4] == 0.0 and all(a >= b for a, b in pairwise(sensitivity))
    assert interpolate({2: 0.09}, [1.0, 0.6, 0.3, 0.1, 0.0])[2] == pytest.approx(0.09)


def test_distillation_adds_softened_cross_entropy():
    from common.data import Batch
    from model_preserving_id.finetune import distillation_loss

    torch.manual_seed(2)
    teacher, network = nn.Linear(4, 3), nn.Linear(4, 3)
    images, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    value, logits = distillation_loss(teacher, 0.7, 2.0)(network, Batch(images, labels, torch.arange(5), 5))
    with torch.no_grad():
        hard = nn.functional.cross_entropy(network(images), labels, reduction="sum")
        p = torch.softmax(teacher(images) / 2, 1)
        soft = -(p * torch.log_softmax(network(images) / 2, 1)).sum()
    assert float(value) == pytest.approx(float(hard + 0.7 * 4 * soft), rel=1e-5)
    assert torch.equal(logits, network(images)) and distillation_loss(teacher, 0.0, 2.0) is None
    value.backward()
    assert teacher.weight.grad is None and network.weight.grad is not None
