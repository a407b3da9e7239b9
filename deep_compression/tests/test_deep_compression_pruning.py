"""Selection of weights to prune, and masks that keep them zero: properties 4 and 8 of the paper."""

import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.models import create_model
from deep_compression import pruning as pr
from deep_compression.compression_recipe import PruningPlan, masks_for_round


def weights_of(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(20, 30, generator=g), "b": torch.randn(5, 4, 3, 3, generator=g) * 0.1}


def test_prunable_layers_are_convolutions_and_linear_layers():
    model = create_model("resnet20")
    layers = pr.prunable_layers(model)
    assert len(layers) == 20 and "bn1" not in layers and "linear" in layers
    assert pr.layer_type(layers["linear"]) == "fc" and pr.layer_type(layers["conv1"]) == "conv"
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert list(pr.prunable_layers(tied)) == ["0"]


@pytest.mark.parametrize("quality", [0.25, 1.0, 2.0])
def test_threshold_is_quality_times_standard_deviation(quality):
    weights = weights_of()
    for name, mask in pr.masks_by_std(weights, quality).items():
        w = weights[name].double()
        threshold = quality * float(((w - w.mean()) ** 2).mean().sqrt())
        assert int((~mask).sum()) == int((w.abs() < threshold).sum())


def test_higher_quality_prunes_more_and_pruning_is_idempotent():
    weights = weights_of()
    counts = [int(pr.masks_by_std(weights, q)["a"].sum()) for q in (0.1, 0.5, 1.0, 2.0, 50.0)]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0
    threshold = 0.5
    w = weights["a"]
    once = torch.where(w.abs() >= threshold, w, 0.0)
    quality = threshold / float(once.double().std(correction=0))
    assert torch.equal(pr.masks_by_std({"a": once}, quality)["a"], once != 0)


def test_standard_deviation_of_nonzero_weights_only():
    w = torch.tensor([0.0] * 90 + [-2.0, 2.0] * 5)
    assert int(pr.masks_by_std({"a": w}, 1.0)["a"].sum()) == 10
    assert int(pr.masks_by_std({"a": w}, 1.0, std_of_nonzero=True)["a"].sum()) == 10
    assert int(pr.masks_by_std({"a": w}, 1.01, std_of_nonzero=True)["a"].sum()) == 0
    assert int(pr.masks_by_std({"a": w}, 3.0)["a"].sum()) == 10  # the standard deviation of all weights is 0.63


def test_densities_are_exact_and_first_weights_win_ties():
    weights = weights_of()
    for name, mask in pr.masks_by_density(weights, 0.1).items():
        assert int(mask.sum()) == round(0.1 * weights[name].numel())
        assert float(weights[name][mask].abs().min()) >= float(weights[name][~mask].abs().max())
    assert pr.masks_by_density({"a": torch.ones(10)}, 0.3)["a"].tolist() == [True] * 3 + [False] * 7
    per_layer = pr.masks_by_density(weights, {"a": 0.5, "b": 0.0})
    assert int(per_layer["a"].sum()) == 300 and not per_layer["b"].any()
    with pytest.raises(UserError, match="layer b"):
        pr.masks_by_density(weights, {"a": 0.5})


def test_global_density_and_percentile_rank_all_layers_together():
    weights = weights_of()
    total = sum(w.numel() for w in weights.values())
    masks = pr.masks_by_global_density(weights, 0.25)
    assert sum(int(m.sum()) for m in masks.values()) == round(0.25 * total)
    kept = torch.cat([weights[n][m].abs() for n, m in masks.items()])
    lost = torch.cat([weights[n][~m].abs() for n, m in masks.items()])
    assert float(kept.min()) >= float(lost.max())
    for q in (0.0, 5.0, 37.0, 100.0):
        masks = pr.masks_by_percentile(weights, q)
        assert abs(total - sum(int(m.sum()) for m in masks.values()) - total * q / 100) <= 1
    half = {"a": torch.cat((torch.zeros(50), torch.arange(1.0, 51.0)))}
    assert int(pr.masks_by_percentile(half, 10)["a"].sum()) == 45  # of the 50 remaining weights


def test_pruned_weights_remain_pruned_under_every_rule():
    w = weights_of()["a"].clone()
    w[:5] = 0.0
    for masks in (
        pr.masks_by_std({"a": w}, 0.0),
        pr.masks_by_density({"a": w}, 1.0),
        pr.masks_by_global_density({"a": w}, 1.0),
        pr.masks_by_percentile({"a": w}, 0),
    ):
        assert torch.equal(masks["a"], w != 0)


OPTIMIZERS = {
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_remain_zero_for_hundred_steps(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    optimizer = OPTIMIZERS[name](model.parameters())
    images, labels = torch.randn(16, 1, 8, 8), torch.randint(0, 5, (16,))

    def steps(number, masks_hook=None):
        for _ in range(number):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if masks_hook:
                masks_hook()

    steps(5)  # momentum from before pruning
    masks = pr.masks_by_density(pr.prunable_weights(model), 0.2)
    masks_hook = pr.PruningMaskHook(model, masks)
    before = {n: w.clone() for n, w in pr.prunable_weights(model).items()}
    steps(100, masks_hook)
    for layer, weight in pr.prunable_weights(model).items():
        assert torch.equal(weight != 0, masks[layer])
        assert not torch.signbit(weight[~masks[layer]]).any()  # +0.0
        assert not torch.equal(weight, before[layer])


def test_nonfinite_weights_raise_with_layer_name():
    model = create_model("lenet300_100")
    model.fc2.weight.data[3, 4] = math.nan
    with pytest.raises(UserError, match="fc2"):
        pr.prunable_weights(model)


def test_layer_densities_and_csr_size():
    model = create_model("lenet300_100")
    pr.PruningMaskHook(model, pr.masks_by_density(pr.prunable_weights(model), {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}))
    assert {n: round(d, 4) for n, d in pr.layer_densities(model).items()} == {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}
    assert round(pr.total_density(model), 4) == round((18816 + 2700 + 260) / 266200, 4)
    assert pr.csr_size(model.fc3.weight) == 2 * 260 + 10 + 1


@pytest.mark.parametrize(
    "plan",
    [
        {"rule": "magic"},
        {"values": ()},
        {"rule": "density", "values": (1.5,)},
        {"values": (-1.0,)},
        {"rule": "percentile", "values": (101.0,)},
        {"values": (float("nan"),)},
        {"values": (float("inf"),)},
        {"rule": "global-density", "values": (0.5,), "layers": {"a": (0.1,)}},
        {"values": (1.0, 2.0, 3.0), "layers": {"a": (0.1, 0.2)}},
        {"values": (1.0, 1.0), "learning_rates": (0.1,)},
    ],
)
def test_invalid_pruning_plans_raise(plan):
    with pytest.raises(UserError):
        PruningPlan(**plan)


def test_pruning_plan_gives_masks_of_each_round():
    weights = weights_of()
    plan = PruningPlan("density", (0.5, 0.2), {"b": (0.9, 0.8)})
    assert (
        int(masks_for_round(plan, 1, weights)["a"].sum()) == 120
        and int(masks_for_round(plan, 1, weights)["b"].sum()) == 144
    )
    assert int(masks_for_round(PruningPlan("density", (0.5, 0.2), {"b": (0.9,)}), 1, weights)["b"].sum()) == 162
    with pytest.raises(UserError, match="no layer 'c'"):
        masks_for_round(PruningPlan("density", (0.5,), {"c": (0.1,)}), 0, weights)
    for rule in ("std", "global-density", "percentile"):
        assert set(masks_for_round(PruningPlan(rule, (0.3,)), 0, weights)) == {"a", "b"}


@pytest.mark.parametrize("density", [0.0, 0.07, 0.5, 1.0])
def test_quality_for_density_keeps_density_by_common_factor(density):
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(40, 50, generator=generator), "b": 7 * torch.randn(500, generator=generator)}
    masks = pr.masks_by_std(weights, pr.quality_for_density(weights, density))
    assert sum(int(mask.sum()) for mask in masks.values()) == round(density * 2500)
    assert (
        abs(float(masks["a"].double().mean()) - float(masks["b"].double().mean())) < 0.05
    )  # unlike with one threshold
