"""Evolutionary search: unique candidates within the MACs window, origin of genes, reproducibility."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.channels import channel_groups
from common.errors import UserError
from common.latency_target.meet import widths_of
from common.models import create_model
from common.target import Target
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evaluator import CandidateMetrics
from rewarded_metapruning.evolution import (
    Evolution,
    LatencyWindow,
    MacsWindow,
    crossover,
    mutate,
    window_for_target,
    window_record,
)
from rewarded_metapruning.predicted_latency import SpaceLatency
from rewarded_metapruning.ranking import RewardSettings, rank_candidates, run_search
from rewarded_metapruning.recipes import EvolutionSettings
from rewarded_metapruning.settings import CONV_LINEAR, PAPER
from rewarded_metapruning.space import find_space

SETTINGS = EvolutionSettings(population=20, parents=5, mutants=10, crossovers=10)
ARCHS = ("resnet50", "mobilenetv2", "resnet20", "resnet-small")


def evolution(arch: str, seed: int = 0, target: float = 0.5, **options) -> Evolution:
    space = find_space(arch)
    return Evolution(space, window_for_target(space_cost(space), Target(target)), SETTINGS, seed, **options)


def evaluate_all(nevs):
    """Return metrics that are a pure function of the vector: wide early layers increase the accuracy."""
    return [CandidateMetrics(20 + sum(e / (i + 1) for i, e in enumerate(nev)) / 3, 90.0, 1.0) for nev in nevs]


def history(arch: str, generations: int = 4, **options):
    own = evolution(arch, **options)
    return run_search(own, RewardSettings(base_macs=5000.0), evaluate_all, generations), own


@pytest.mark.parametrize("arch", ARCHS)
def test_candidates_are_unique_and_within_window(arch):
    candidates, own = history(arch)
    nevs = [c.nev for c in candidates]
    assert len(set(nevs)) == len(nevs) == 4 * SETTINGS.population
    assert all(own.space.check(nev) == nev for nev in nevs)
    dense = own.cost.macs([own.space.unpruned], CONV_LINEAR)[0]
    fractions = own.cost.macs(nevs, CONV_LINEAR) / dense
    assert fractions.min() >= 0.98 * 0.5 and fractions.max() <= 0.5
    assert [sum(c.generation == g for c in candidates) for g in range(4)] == [20] * 4
    for c in candidates[:5]:
        assert c.macs == own.cost.macs([c.nev], CONV_LINEAR)[0]
        assert c.macs_paper == own.cost.macs([c.nev], PAPER)[0] / 1e6
        assert c.reward == RewardSettings(base_macs=5000.0).reward(c.top1, c.macs_paper)


def test_best_reward_never_decreases_and_parents_are_best_candidates():
    calls = []
    own = evolution("resnet-small")
    propose = own.propose

    def record_call(number, parents, known):
        calls.append((number, parents, set(known)))
        return propose(number, parents, known)

    own.propose = record_call
    progress = []
    candidates = run_search(
        own,
        RewardSettings(base_macs=50.0),
        evaluate_all,
        5,
        lambda n, so_far: progress.append(rank_candidates(so_far)[0].reward),
    )
    assert progress == sorted(progress) and progress[-1] > progress[0]
    assert calls[0][1] == []
    for number, parents, known in calls[1:]:
        before = [c for c in candidates if c.generation < number]
        assert parents == [c.nev for c in rank_candidates(before)[:5]]
        assert known == {c.nev for c in before}


def test_history_depends_on_seed_only():
    first, second, other = (history("resnet-small", seed=seed)[0] for seed in (1, 1, 2))
    assert first == second
    assert [c.nev for c in first] != [c.nev for c in other]


def test_mutation_changes_selected_genes():
    random = np.random.default_rng(0)
    parents = np.tile(np.arange(0, 31, 3), (1, 1))
    children = mutate(random, parents, 500, 1.0)
    assert ((children >= 0) & (children <= 30)).all()
    assert (children != parents).all()
    fraction = (mutate(random, parents, 2000, 0.1) != parents).mean()
    assert 0.08 < fraction < 0.12
    narrow = mutate(random, np.full((1, 6), 14), 500, 1.0, (12, 16))
    assert set(narrow.ravel()) == {12, 13, 15, 16}


def test_crossover_takes_genes_from_two_parents():
    random = np.random.default_rng(0)
    parents = np.arange(3)[:, None] + np.zeros((1, 8), dtype=int)
    children = crossover(random, parents, 300)
    assert {len(set(child)) for child in children} <= {1, 2}
    assert max(len(set(child)) for child in children) == 2
    assert 0.3 < (children == 0).mean() < 0.37


def test_generation_has_mutants_crossovers_and_random_vectors():
    """With an unlimited window, all quotas are filled and the remaining vectors are random."""
    own = Evolution(find_space("resnet-small"), MacsWindow(0, 10**9), EvolutionSettings(20, 3, 6, 6, 0.2), 0)
    parents = [(i,) * 7 for i in (3, 10, 20)]
    pool = own.propose(1, parents, set(parents))
    inherited = [sum(any(gene == parent[0] for parent in parents) for gene in nev) for nev in pool]
    assert len(pool) == 20 and not set(pool) & set(parents)
    assert min(inherited[6:12]) == 7 and min(inherited[:6]) >= 2
    assert np.mean(inherited[12:]) < 3


@pytest.mark.parametrize("target", (0.1, 0.9))
def test_extreme_windows_are_reached(target):
    own = evolution("resnet20", target=target)
    pool = own.propose(0, [], set())
    fractions = own.cost.macs(pool, CONV_LINEAR) / own.cost.macs([own.space.unpruned], CONV_LINEAR)[0]
    assert len(pool) == 20 and fractions.min() >= 0.98 * target and fractions.max() <= target


def test_proposals_stay_within_scale_range():
    own = evolution("resnet20", scale_range=(14, 26))
    pool = own.propose(0, [], set())
    later = own.propose(1, pool[:5], set(pool))
    assert {entry for nev in pool + later for entry in nev} <= set(range(14, 27))


@pytest.fixture
def latency():
    """Predicted times of resnet20 that are no function of its MACs: half constant, half by the widths of its layers."""
    space = find_space("resnet20")
    groups = channel_groups(create_model("resnet20").eval(), torch.zeros(1, 3, 32, 32))
    sizes = {group.name: group.size for group in groups}
    time = lambda kept: 0.5 + 0.5 * sum((sizes | kept).values()) / sum(sizes.values())  # noqa: E731
    return SpaceLatency(space, SimpleNamespace(of=time, dense=1.0), groups)


def test_predicted_time_of_vector_is_that_of_its_network(latency):
    space = find_space("resnet20")
    vector = Evolution(space, MacsWindow(0, 10**9), SETTINGS).sample(1, [0])[0]
    network = space.build(vector)
    groups = channel_groups(create_model("resnet20").eval(), torch.zeros(1, 3, 32, 32))
    expected = latency.latency.of(widths_of(network, groups))
    assert latency.fractions(np.array([space.scale_indices(vector)])) == pytest.approx([expected]) and expected < 1


def test_candidates_are_within_predicted_time(latency):
    """All of mutants, crossovers and random vectors; their MACs are not those of a target with the same number."""
    space = find_space("resnet20")
    window = window_for_target(space_cost(space), Target(0.7, "latency", 0.02), latency=latency)
    own = Evolution(space, window, SETTINGS)
    first = own.propose(0, [], set())
    pool = first + own.propose(1, first[:5], set(first))
    times = latency.fractions(np.array([space.scale_indices(nev) for nev in pool]))
    assert len(set(pool)) == 2 * SETTINGS.population and times.min() >= 0.98 * 0.7 and times.max() <= 0.7
    macs = own.cost.macs(pool, CONV_LINEAR) / own.cost.macs([space.unpruned], CONV_LINEAR)[0]
    assert macs.max() < 0.4
    assert window_record(window) == {"rule": "latency", "least": pytest.approx(0.686), "most": 0.7}


def test_unreachable_predicted_time_names_the_nearest(latency):
    cost = space_cost(find_space("resnet20"))
    message = r"--target-latency 0.5: no vector of resnet20 with entries 0 to 30 keeps .* predicted latency; .* 0.54"
    with pytest.raises(UserError, match=message):
        window_for_target(cost, Target(0.5, "latency", 0.02, asked=0.5), latency=latency)
    window = LatencyWindow(0.1, 0.2, latency)
    with pytest.raises(UserError, match="0.1 to 0.2 of the predicted latency is unreachable; choose one within 0.54"):
        Evolution(find_space("resnet20"), window, SETTINGS)


def test_unreachable_window_raises():
    space = find_space("resnet-small")
    cost = space_cost(space)
    with pytest.raises(UserError, match="10 to 20 million MACs is unreachable.*0.05.*1.8"):
        Evolution(space, MacsWindow(10**7, 2 * 10**7), SETTINGS)
    with pytest.raises(UserError, match="its minimum is above its maximum"):
        Evolution(space, MacsWindow(10**6, 10**5), SETTINGS)
    low = int(cost.macs([(0,) * 7])[0])
    with pytest.raises(UserError, match=r"only \d distinct vectors"):
        Evolution(space, MacsWindow(low, low), SETTINGS).propose(0, [], set())


def test_unreachable_target_raises_with_nearest_value():
    cost = space_cost(find_space("resnet-small"))
    for target, scale_range in ((0.02, (0, 30)), (0.9, (0, 20)), (0.2, (14, 26))):
        dense, low, high = cost.macs([(entry,) * 7 for entry in (30, *scale_range)], CONV_LINEAR)
        nearest = (low if low > target * dense else high) / dense
        words = (
            f"--target-macs {target}: no vector of resnet-small with entries {scale_range[0]} to {scale_range[1]} keeps"
        )
        with pytest.raises(UserError, match=f"{words} .* of the MACs; the nearest keep {nearest:.4f}$"):
            window_for_target(cost, Target(target), scale_range)
    window = window_for_target(cost, Target(0.5))
    dense = cost.macs([(30,) * 7], CONV_LINEAR)[0]
    assert window.least - 1 < 0.49 * dense <= window.least <= window.most <= 0.5 * dense < window.most + 1


@pytest.mark.parametrize(
    "invalid",
    [{"population": 0}, {"parents": 0}, {"parents": 1}, {"mutants": 30}, {"mutation": 0}, {"mutation": float("nan")}],
)
def test_invalid_evolution_settings_raise(invalid):
    with pytest.raises(UserError):
        EvolutionSettings(**invalid)


def test_published_window_is_reached():
    """The window is that of the logged ResNet-50 search, which contains the published vector."""
    space = find_space("resnet50")
    own = Evolution(space, MacsWindow(1950 * 10**6, 2050 * 10**6), SETTINGS)
    pool = own.propose(0, [], set())
    assert all(1950 <= own.cost.macs([nev])[0] / 1e6 <= 2050 for nev in pool)
    entries = [entry for nev in pool for entry in nev]
    assert np.mean([12 <= entry <= 23 for entry in entries]) > 0.6  # walks start within the paper's range


def test_generations_have_different_random_vectors():
    own = evolution("resnet-small")
    first, second, again = (own.propose(number, [], set()) for number in (0, 1, 0))
    assert first == again and len(set(first) & set(second)) <= 2
