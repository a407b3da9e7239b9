"""Channel selection from weights, and masked equals removed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.channels import ChannelGroup, Masking, keep_channels, masked
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost
from common.data import Batch
from common.errors import UserError
from common.limits import Limits
from common.target import Target
from common.testing import random_network
from common.training import distillation_loss
from decore import Agents
from decore.selection import logit, meet_target, select_by_probability

GROUPS = [
    ChannelGroup("a", 4, ["a"], [("b", [[0], [1], [2], [3]])], [], "a"),
    ChannelGroup("b", 6, ["b"], [("c", [[i] for i in range(6)])], [], "b", conv_groups=2),
]
FREE = [ChannelGroup(g.name, g.size, g.producers, g.consumers, g.pass_through, g.reference_layer) for g in GROUPS]

NETWORKS = {
    "vgg16": ("vgg16", {}, 32),
    "resnet56": ("resnet56", {"shortcut": "pad"}, 32),
    "resnet56-conv": ("resnet56", {"shortcut": "conv3x3"}, 32),
    "resnet110": ("resnet110", {}, 32),
    "densenet40": ("densenet40", {}, 32),
    "mobilenet_v2": ("mobilenet_v2", {}, 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_equals_removed_and_reloaded(name, tmp_path):
    """The masked, the pruned and the reloaded pruned network have the same outputs, with random agents."""
    arch, arguments, size = NETWORKS[name]
    model = random_network(arch, **arguments)
    agents = Agents(model, torch.zeros(1, 3, size, size))
    with torch.no_grad():
        agents.weight.normal_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    kept = agents.kept_channels()
    mask = agents.join(
        {g.name: torch.zeros(g.size).index_fill_(0, torch.tensor(kept[g.name]), 1.0) for g in agents.groups}
    )
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    smaller = keep_channels(model, torch.zeros(1, 3, size, size), kept)
    save_model(tmp_path / "pruned.safetensors", smaller)
    with torch.no_grad():
        dense = model(x)
        with agents.masked(model, mask):
            masked = model(x)
        with agents.masked(model, mask.expand(2, -1)):
            assert torch.equal(model(x), masked)  # the same mask for every example
        with agents.masked(model, torch.ones(len(mask))):
            assert torch.equal(model(x), dense)
        assert torch.equal(model(x), dense)  # no mask remains
        scale = float(masked.abs().max())
        assert float((smaller(x) - masked).abs().max()) <= 1e-5 * max(1.0, scale)
        assert torch.equal(load_model(tmp_path / "pruned.safetensors")(x), smaller(x))
        model.double()
        with agents.masked(model, mask):
            masked = model(x.double())
        assert float((smaller.double()(x.double()) - masked).abs().max()) <= 1e-11 * max(1.0, scale)
    assert float((masked - dense).abs().max()) > 1e-3  # the mask has an effect
    cost = WidthCost(model, (3, size, size), agents.groups)
    assert cost.macs({n: len(k) for n, k in kept.items()}) == count_cost(smaller.float(), (3, size, size)).macs


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-20, 20), min_size=10, max_size=10), st.floats(0.01, 0.99))
def test_selection_keeps_channels_at_or_above_threshold_and_at_least_one(values, threshold):
    weights = {"a": values[:4], "b": values[4:]}
    kept = select_by_probability(FREE, weights, threshold)
    for name, of in weights.items():
        above = [i for i, w in enumerate(of) if w >= logit(threshold)]
        assert kept[name] == (above or [of.index(max(of))])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-20, 20), min_size=10, max_size=10),
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2),
    st.integers(1, 4),
)
def test_higher_threshold_keeps_subset(values, thresholds, round_to):
    weights = {"a": values[:4], "b": values[4:]}
    low, high = (select_by_probability(GROUPS, weights, t, Limits(round_to=round_to)) for t in sorted(thresholds))
    for name in weights:
        assert set(high[name]) <= set(low[name])
    assert (
        len(low["b"]) % 2 == 0 and sum(i < 3 for i in low["b"]) == len(low["b"]) // 2
    )  # half of the channels in each convolution group


def test_probability_of_one_half_is_kept_and_layers_keep_best_channel():
    weights = {"a": [0.0, -1e-6, -3.0, 1.0], "b": [-5.0, -4.0, -9.0, -8.0, -4.5, -7.0]}
    assert select_by_probability(FREE, weights, 0.5) == {"a": [0, 3], "b": [1]}
    assert select_by_probability(FREE, weights, 0.5, Limits(round_to=4)) == {"a": [0, 1, 2, 3], "b": [0, 1, 4, 5]}


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5, 0.4])
def test_target_is_met_by_adapting_threshold(target):
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        agents.weight.normal_(4.0, 1.0, generator=torch.Generator().manual_seed(3))
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    min_weight, kept = meet_target(agents.groups, agents.weights_by_group(), cost, Target(target))
    macs = count_cost(keep_channels(model, torch.zeros(1, 3, 32, 32), kept), (3, 32, 32)).macs
    assert 0.98 * target <= macs / 40551040 <= target
    for group in agents.groups:
        weights = agents.weights_by_group()[group.name]
        removed = [w for i, w in enumerate(weights) if i not in kept[group.name]]
        assert all(w < min_weight for w in removed)


@pytest.mark.parametrize("target", [0.9, 0.5])
def test_target_with_equal_agents_raises(target):
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    with pytest.raises(UserError, match="nearest keep 1.0000"):
        meet_target(agents.groups, agents.weights_by_group(), cost, Target(target))


def test_unreachable_target_names_both_nearest_fractions():
    """Every second channel has a lower weight: only all channels or half of them can be kept."""
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        agents.weight[::2] = 1.0
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    half = cost.macs({group.name: group.size // 2 for group in agents.groups}) / cost.dense
    with pytest.raises(UserError, match=f"nearest keep {half:.4f} and 1.0000"):
        meet_target(agents.groups, agents.weights_by_group(), cost, Target(0.7))
    assert meet_target(agents.groups, agents.weights_by_group(), cost, Target(half * 1.01))[0] == pytest.approx(6.9)


def test_target_below_one_channel_per_layer_names_smallest_fraction():
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        agents.weight.normal_(generator=torch.Generator().manual_seed(3))
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    smallest = cost.macs({g.name: 1 for g in agents.groups}) / cost.dense
    with pytest.raises(UserError, match=f"nearest keep {smallest:.4f}"):
        meet_target(agents.groups, agents.weights_by_group(), cost, Target(smallest / 2))


def test_distillation_moves_student_towards_teacher_and_leaves_teacher_unchanged():
    teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    batch = Batch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), torch.arange(5), 5)
    loss, logits = distillation_loss(teacher, 1.0)(student, batch)
    loss.backward()
    assert teacher.weight.grad is None and student.weight.grad.abs().sum() > 0
    p, q = ((net(batch.images) / 4).softmax(1) for net in (teacher, student))
    assert torch.allclose(loss, 16 * (p * (p / q).log()).sum(), atol=1e-5)
    assert float(distillation_loss(teacher, 1.0)(teacher, batch)[0]) == pytest.approx(0, abs=1e-5)
    entropy = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
    assert torch.allclose(distillation_loss(teacher, 0.25)(student, batch)[0], 0.75 * entropy + 0.25 * loss)


def test_masking_equals_masked_at_every_step():
    """On DenseNet-40, whose consumers read many groups, persistent hooks accept masks by name, concatenated, and of fewer groups."""
    model = random_network("densenet40")
    agents, x = Agents(model, torch.zeros(1, 3, 32, 32)), torch.randn(2, 3, 16, 16)
    generator = torch.Generator().manual_seed(1)
    for count in (0, 1):  # all groups; all but the first
        groups = agents.groups[count:]
        masking = Masking(model, groups)
        for _ in range(2):
            masks = {g.name: torch.bernoulli(torch.full((2, g.size), 0.7), generator=generator) for g in groups}
            with torch.no_grad():
                dense = model(x)
                with masked(model, agents.groups, masks):
                    expected = model(x)
                for given in (masks, torch.cat(list(masks.values()), dim=1)):
                    with masking.applied(given):
                        assert torch.equal(model(x), expected)
                assert torch.equal(model(x), dense) and not torch.equal(expected, dense)
        masking.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())
