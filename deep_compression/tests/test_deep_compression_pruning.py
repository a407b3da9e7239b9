"""Which weights die, and that they stay dead: properties 4 and 8 of the paper's facts."""

import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.models import create_model
from deep_compression import pruning as pr
from deep_compression.plan import PrunePlan, decide


def weights_of(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(20, 30, generator=g), "b": torch.randn(5, 4, 3, 3, generator=g) * 0.1}


def test_what_is_pruned_are_the_weights_of_convolutions_and_linear_layers():
    model = create_model("resnet20")
    layers = pr.prunable_layers(model)
    assert len(layers) == 20 and "bn1" not in layers and "linear" in layers
    assert pr.kind_of(layers["linear"]) == "fc" and pr.kind_of(layers["conv1"]) == "conv"
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert list(pr.prunable_layers(tied)) == ["0"]


@pytest.mark.parametrize("quality", [0.25, 1.0, 2.0])
def test_threshold_is_quality_times_deviation(quality):
    weights = weights_of()
    for name, mask in pr.masks_by_std(weights, quality).items():
        w = weights[name].double()
        threshold = quality * float(((w - w.mean()) ** 2).mean().sqrt())
        assert int((~mask).sum()) == int((w.abs() < threshold).sum())


def test_more_quality_prunes_more_and_pruning_again_with_the_same_threshold_changes_nothing():
    weights = weights_of()
    counts = [int(pr.masks_by_std(weights, q)["a"].sum()) for q in (0.1, 0.5, 1.0, 2.0, 50.0)]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0
    threshold = 0.5
    w = weights["a"]
    once = torch.where(w.abs() >= threshold, w, 0.0)
    quality = threshold / float(once.double().std(correction=0))
    assert torch.equal(pr.masks_by_std({"a": once}, quality)["a"], once != 0)


def test_deviation_of_living_weights_only():
    w = torch.tensor([0.0] * 90 + [-2.0, 2.0] * 5)
    assert int(pr.masks_by_std({"a": w}, 1.0)["a"].sum()) == 10
    assert int(pr.masks_by_std({"a": w}, 1.0, alive=True)["a"].sum()) == 10
    assert int(pr.masks_by_std({"a": w}, 1.01, alive=True)["a"].sum()) == 0
    assert int(pr.masks_by_std({"a": w}, 3.0)["a"].sum()) == 10  # over all weights the deviation is 0.63


def test_densities_are_met_exactly_and_ties_go_to_the_first():
    weights = weights_of()
    for name, mask in pr.masks_by_density(weights, 0.1).items():
        assert int(mask.sum()) == round(0.1 * weights[name].numel())
        assert float(weights[name][mask].abs().min()) >= float(weights[name][~mask].abs().max())
    assert pr.masks_by_density({"a": torch.ones(10)}, 0.3)["a"].tolist() == [True] * 3 + [False] * 7
    per_layer = pr.masks_by_density(weights, {"a": 0.5, "b": 0.0})
    assert int(per_layer["a"].sum()) == 300 and not per_layer["b"].any()
    with pytest.raises(UserError, match="layer b"):
        pr.masks_by_density(weights, {"a": 0.5})


def test_global_density_and_percentile_look_at_all_layers_together():
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
    assert int(pr.masks_by_percentile(half, 10)["a"].sum()) == 45  # of the living


def test_the_dead_stay_dead_under_every_rule():
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
def test_zero_stays_zero_for_a_hundred_steps(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    optimizer = OPTIMIZERS[name](model.parameters())
    images, labels = torch.randn(16, 1, 8, 8), torch.randint(0, 5, (16,))

    def steps(number, held=None):
        for _ in range(number):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if held:
                held()

    steps(5)  # momentum from before the pruning
    masks = pr.masks_by_density(pr.prunable_weights(model), 0.2)
    held = pr.Held(model, masks)
    before = {n: w.clone() for n, w in pr.prunable_weights(model).items()}
    steps(100, held)
    for layer, weight in pr.prunable_weights(model).items():
        assert torch.equal(weight != 0, masks[layer])
        assert not torch.signbit(weight[~masks[layer]]).any()  # +0.0
        assert not torch.equal(weight, before[layer])


def test_weights_that_are_not_finite_are_refused_by_name():
    model = create_model("lenet300_100")
    model.fc2.weight.data[3, 4] = math.nan
    with pytest.raises(UserError, match="fc2"):
        pr.prunable_weights(model)


def test_densities_of_a_network_and_csr():
    model = create_model("lenet300_100")
    pr.Held(model, pr.masks_by_density(pr.prunable_weights(model), {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}))
    assert {n: round(d, 4) for n, d in pr.densities(model).items()} == {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}
    assert round(pr.total_density(model), 4) == round((18816 + 2700 + 260) / 266200, 4)
    assert pr.csr_numbers(model.fc3.weight) == 2 * 260 + 10 + 1


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
def test_senseless_plans_are_refused(plan):
    with pytest.raises(UserError):
        PrunePlan(**plan)


def test_a_plan_decides_round_by_round():
    weights = weights_of()
    plan = PrunePlan("density", (0.5, 0.2), {"b": (0.9, 0.8)})
    assert int(decide(plan, 1, weights)["a"].sum()) == 120 and int(decide(plan, 1, weights)["b"].sum()) == 144
    assert int(decide(PrunePlan("density", (0.5, 0.2), {"b": (0.9,)}), 1, weights)["b"].sum()) == 162
    with pytest.raises(UserError, match="no layer 'c'"):
        decide(PrunePlan("density", (0.5,), {"c": (0.1,)}), 0, weights)
    for rule in ("std", "global-density", "percentile"):
        assert set(decide(PrunePlan(rule, (0.3,)), 0, weights)) == {"a", "b"}
