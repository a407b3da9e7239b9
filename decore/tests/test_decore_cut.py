"""From weights to kept channels, and masked equals removed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.channels import ChannelGroup, Masking, keep_channels, masked
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost
from common.data import Batch
from common.errors import UserError
from common.target import Target
from common.testing import random_network
from common.training import distillation
from decore import Agents
from decore.cut import kept_channels, logit, meet_target

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
def test_masked_equals_removed_also_after_saving(name, tmp_path):
    """Random agents on every group: the masked network, the cut one, and the cut one read back from disk."""
    arch, arguments, size = NETWORKS[name]
    model = random_network(arch, **arguments)
    agents = Agents(model, torch.zeros(1, 3, size, size))
    with torch.no_grad():
        agents.weight.normal_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    kept = agents.kept()
    mask = agents.flat(
        {g.name: torch.zeros(g.size).index_fill_(0, torch.tensor(kept[g.name]), 1.0) for g in agents.groups}
    )
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    smaller = keep_channels(model, torch.zeros(1, 3, size, size), kept)
    save_model(tmp_path / "cut.safetensors", smaller)
    with torch.no_grad():
        dense = model(x)
        with agents.masked(model, mask):
            masked = model(x)
        with agents.masked(model, mask.expand(2, -1)):
            assert torch.equal(model(x), masked)  # a mask per example is the same mask
        with agents.masked(model, torch.ones(len(mask))):
            assert torch.equal(model(x), dense)
        assert torch.equal(model(x), dense)  # nothing is left behind
        scale = float(masked.abs().max())
        assert float((smaller(x) - masked).abs().max()) <= 1e-5 * max(1.0, scale)
        assert torch.equal(load_model(tmp_path / "cut.safetensors")(x), smaller(x))
        model.double()
        with agents.masked(model, mask):
            masked = model(x.double())
        assert float((smaller.double()(x.double()) - masked).abs().max()) <= 1e-11 * max(1.0, scale)
    assert float((masked - dense).abs().max()) > 1e-3  # the mask did something
    cost = WidthCost(model, (3, size, size), agents.groups)
    assert cost.macs({n: len(k) for n, k in kept.items()}) == count_cost(smaller.float(), (3, size, size)).macs


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-20, 20), min_size=10, max_size=10), st.floats(0.01, 0.99))
def test_kept_channels_are_those_at_or_above_and_never_none(values, threshold):
    weights = {"a": values[:4], "b": values[4:]}
    kept = kept_channels(FREE, weights, threshold)
    for name, of in weights.items():
        above = [i for i, w in enumerate(of) if w >= logit(threshold)]
        assert kept[name] == (above or [of.index(max(of))])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-20, 20), min_size=10, max_size=10),
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2),
    st.integers(1, 4),
)
def test_a_higher_threshold_never_keeps_more(values, thresholds, round_to):
    weights = {"a": values[:4], "b": values[4:]}
    low, high = (kept_channels(GROUPS, weights, t, round_to) for t in sorted(thresholds))
    for name in weights:
        assert set(high[name]) <= set(low[name])
    assert len(low["b"]) % 2 == 0 and sum(i < 3 for i in low["b"]) == len(low["b"]) // 2  # equal runs


def test_p_of_one_half_stays_and_dead_layers_keep_their_best():
    weights = {"a": [0.0, -1e-6, -3.0, 1.0], "b": [-5.0, -4.0, -9.0, -8.0, -4.5, -7.0]}
    assert kept_channels(FREE, weights, 0.5) == {"a": [0, 3], "b": [1]}
    assert kept_channels(FREE, weights, 0.5, round_to=4) == {"a": [0, 1, 2, 3], "b": [0, 1, 4, 5]}


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5, 0.4])
def test_a_target_is_met_by_moving_the_cut(target):
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        agents.weight.normal_(4.0, 1.0, generator=torch.Generator().manual_seed(3))
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    least, kept = meet_target(agents.groups, agents.weights_by_name(), cost, Target(target))
    macs = count_cost(keep_channels(model, torch.zeros(1, 3, 32, 32), kept), (3, 32, 32)).macs
    assert 0.98 * target <= macs / 40551040 <= target
    for group in agents.groups:
        weights = agents.weights_by_name()[group.name]
        removed = [w for i, w in enumerate(weights) if i not in kept[group.name]]
        assert all(w < least for w in removed)


@pytest.mark.parametrize("target", [0.9, 0.5])
def test_agents_that_are_all_alike_cannot_meet_a_target(target):
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    with pytest.raises(UserError, match="nearest keep 1.0000"):
        meet_target(agents.groups, agents.weights_by_name(), cost, Target(target))


def test_agents_of_two_kinds_reach_two_shares_only_and_both_are_named():
    """Every second channel is worth less: nothing lies between all channels and half of them."""
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        agents.weight[::2] = 1.0
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    half = cost.macs({group.name: group.size // 2 for group in agents.groups}) / cost.dense
    with pytest.raises(UserError, match=f"nearest keep {half:.4f} and 1.0000"):
        meet_target(agents.groups, agents.weights_by_name(), cost, Target(0.7))
    assert meet_target(agents.groups, agents.weights_by_name(), cost, Target(half * 1.01))[0] == pytest.approx(6.9)


def test_a_target_below_one_channel_per_layer_names_the_smallest_that_can_be_had():
    model = random_network("resnet20")
    agents = Agents(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        agents.weight.normal_(generator=torch.Generator().manual_seed(3))
    cost = WidthCost(model, (3, 32, 32), agents.groups)
    smallest = cost.macs({g.name: 1 for g in agents.groups}) / cost.dense
    with pytest.raises(UserError, match=f"nearest keep {smallest:.4f}"):
        meet_target(agents.groups, agents.weights_by_name(), cost, Target(smallest / 2))


def test_distillation_pulls_towards_the_teachers_outputs_and_leaves_the_teacher_alone():
    teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    batch = Batch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), torch.arange(5), 5)
    loss, logits = distillation(teacher, 1.0)(student, batch)
    loss.backward()
    assert teacher.weight.grad is None and student.weight.grad.abs().sum() > 0
    p, q = ((net(batch.images) / 4).softmax(1) for net in (teacher, student))
    assert torch.allclose(loss, 16 * (p * (p / q).log()).sum(), atol=1e-5)
    assert float(distillation(teacher, 1.0)(teacher, batch)[0]) == pytest.approx(0, abs=1e-5)
    entropy = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
    assert torch.allclose(distillation(teacher, 0.25)(student, batch)[0], 0.75 * entropy + 0.25 * loss)


def test_masking_equals_masked_step_after_step():
    """DenseNet-40's consumers read many groups; hooks that stay take masks by name, side by side, and of fewer groups."""
    model = random_network("densenet40")
    agents, x = Agents(model, torch.zeros(1, 3, 32, 32)), torch.randn(2, 3, 16, 16)
    generator = torch.Generator().manual_seed(1)
    for count in (0, 1):  # all groups, without the first
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
