"""The search: unique candidates within the budget, where genes come from, the same history for the same seed."""

import numpy as np
import pytest

from common.errors import UserError
from common.target import Target
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evaluator import CandidateMetrics
from rewarded_metapruning.evolution import Evolution, MacsWindow, cross, mutate, target_window
from rewarded_metapruning.ranking import RewardSettings, ranked, run_search
from rewarded_metapruning.recipes import SearchSettings
from rewarded_metapruning.settings import CONV_LINEAR, PAPER
from rewarded_metapruning.space import find_space

SIZES = SearchSettings(population=20, parents=5, mutants=10, crossovers=10)
ARCHS = ("resnet50", "mobilenetv2", "resnet20", "resnet-small")


def evolution(arch: str, sizes: SearchSettings = SIZES, seed: int = 0, target: float = 0.5, **options) -> Evolution:
    space = find_space(arch)
    return Evolution(space, target_window(space_cost(space), Target(target)), sizes, seed, **options)


def evaluate_all(nevs):
    """An accuracy that is a pure function of the vector: wide early layers are good."""
    return [CandidateMetrics(20 + sum(e / (i + 1) for i, e in enumerate(nev)) / 3, 90.0, 1.0) for nev in nevs]


def history(arch: str, generations: int = 4, **options):
    own = evolution(arch, **options)
    return run_search(own, RewardSettings(base_macs=5000.0), evaluate_all, generations), own


@pytest.mark.parametrize("arch", ARCHS)
def test_candidates_are_unique_within_the_window_and_equally_many(arch):
    candidates, own = history(arch)
    nevs = [c.nev for c in candidates]
    assert len(set(nevs)) == len(nevs) == 4 * SIZES.population
    assert all(own.space.check(nev) == nev for nev in nevs)
    dense = own.cost.macs([own.space.unpruned], CONV_LINEAR)[0]
    shares = own.cost.macs(nevs, CONV_LINEAR) / dense
    assert shares.min() >= 0.98 * 0.5 and shares.max() <= 0.5
    assert [sum(c.generation == g for c in candidates) for g in range(4)] == [20] * 4
    for c in candidates[:5]:
        assert c.macs == own.cost.macs([c.nev], CONV_LINEAR)[0]
        assert c.macs_paper == own.cost.macs([c.nev], PAPER)[0] / 1e6
        assert c.reward == RewardSettings(base_macs=5000.0).reward(c.top1, c.macs_paper)


def test_the_best_reward_never_falls_and_parents_are_the_best():
    seen = []
    own = evolution("resnet-small")
    generation = own.generation

    def spy(number, parents, known):
        seen.append((number, parents, set(known)))
        return generation(number, parents, known)

    own.generation = spy
    progress = []
    candidates = run_search(
        own,
        RewardSettings(base_macs=50.0),
        evaluate_all,
        5,
        lambda n, so_far: progress.append(ranked(so_far)[0].reward),
    )
    assert progress == sorted(progress) and progress[-1] > progress[0]
    assert seen[0][1] == []
    for number, parents, known in seen[1:]:
        before = [c for c in candidates if c.generation < number]
        assert parents == [c.nev for c in ranked(before)[:5]]
        assert known == {c.nev for c in before}


def test_the_same_seed_gives_the_same_history_and_another_seed_another():
    first, second, other = (history("resnet-small", seed=seed)[0] for seed in (1, 1, 2))
    assert first == second
    assert [c.nev for c in first] != [c.nev for c in other]


def test_mutation_always_moves_the_genes_it_touches():
    random = np.random.default_rng(0)
    parents = np.tile(np.arange(0, 31, 3), (1, 1))
    children = mutate(random, parents, 500, 1.0)
    assert ((children >= 0) & (children <= 30)).all()
    assert (children != parents).all()
    share = (mutate(random, parents, 2000, 0.1) != parents).mean()
    assert 0.08 < share < 0.12
    narrow = mutate(random, np.full((1, 6), 14), 500, 1.0, (12, 16))
    assert set(narrow.ravel()) == {12, 13, 15, 16}


def test_every_gene_of_a_crossover_comes_from_one_of_two_parents():
    random = np.random.default_rng(0)
    parents = np.arange(3)[:, None] + np.zeros((1, 8), dtype=int)
    children = cross(random, parents, 300)
    assert {len(set(child)) for child in children} <= {1, 2}
    assert max(len(set(child)) for child in children) == 2
    assert 0.3 < (children == 0).mean() < 0.37


def test_a_generation_has_mutants_crossovers_and_random_ones():
    """With the window wide open every quota is filled; the rest is drawn anew."""
    own = Evolution(find_space("resnet-small"), MacsWindow(0, 10**9), SearchSettings(20, 3, 6, 6, 0.2), 0)
    parents = [(i,) * 7 for i in (3, 10, 20)]
    pool = own.generation(1, parents, set(parents))
    near = [sum(any(gene == parent[0] for parent in parents) for gene in nev) for nev in pool]
    assert len(pool) == 20 and not set(pool) & set(parents)
    assert min(near[6:12]) == 7 and min(near[:6]) >= 2
    assert np.mean(near[12:]) < 3


@pytest.mark.parametrize("target", (0.1, 0.9))
def test_windows_far_from_the_average_are_reached(target):
    own = evolution("resnet20", target=target)
    pool = own.generation(0, [], set())
    shares = own.cost.macs(pool, CONV_LINEAR) / own.cost.macs([own.space.unpruned], CONV_LINEAR)[0]
    assert len(pool) == 20 and shares.min() >= 0.98 * target and shares.max() <= target


def test_limits_of_scales_hold_in_every_proposal():
    own = evolution("resnet20", limits=(14, 26))
    pool = own.generation(0, [], set())
    later = own.generation(1, pool[:5], set(pool))
    assert {entry for nev in pool + later for entry in nev} <= set(range(14, 27))


def test_window_that_no_vector_lies_in_is_refused():
    space = find_space("resnet-small")
    cost = space_cost(space)
    with pytest.raises(UserError, match="cannot cost 10 to 20 million.*0.05.*1.8"):
        Evolution(space, MacsWindow(10**7, 2 * 10**7), SIZES)
    with pytest.raises(UserError, match="its least is above its most"):
        Evolution(space, MacsWindow(10**6, 10**5), SIZES)
    low = int(cost.macs([(0,) * 7])[0])
    with pytest.raises(UserError, match=r"no more than \d different vectors"):
        Evolution(space, MacsWindow(low, low), SIZES).generation(0, [], set())


def test_target_out_of_reach_is_refused_with_what_can_be_reached():
    cost = space_cost(find_space("resnet-small"))
    for target, limits in ((0.02, (0, 30)), (0.9, (0, 20)), (0.2, (14, 26))):
        dense, low, high = cost.macs([(entry,) * 7 for entry in (30, *limits)], CONV_LINEAR)
        nearest = (low if low > target * dense else high) / dense
        words = f"--target-macs {target}: no vector of resnet-small with entries {limits[0]} to {limits[1]} keeps"
        with pytest.raises(UserError, match=f"{words} .* of the MACs; the nearest keep {nearest:.4f}$"):
            target_window(cost, Target(target), limits)
    window = target_window(cost, Target(0.5))
    dense = cost.macs([(30,) * 7], CONV_LINEAR)[0]
    assert window.least - 1 < 0.49 * dense <= window.least <= window.most <= 0.5 * dense < window.most + 1


@pytest.mark.parametrize(
    "bad",
    [{"population": 0}, {"parents": 0}, {"parents": 1}, {"mutants": 30}, {"mutation": 0}, {"mutation": float("nan")}],
)
def test_plans_that_make_no_sense_are_refused(bad):
    with pytest.raises(UserError):
        SearchSettings(**bad)


def test_paper_s_windows_are_reached_by_its_networks():
    """The log's window of ResNet-50; its published vector lies in it."""
    space = find_space("resnet50")
    own = Evolution(space, MacsWindow(1950 * 10**6, 2050 * 10**6), SIZES)
    pool = own.generation(0, [], set())
    assert all(1950 <= own.cost.macs([nev])[0] / 1e6 <= 2050 for nev in pool)
    drawn = [entry for nev in pool for entry in nev]
    assert np.mean([12 <= entry <= 23 for entry in drawn]) > 0.6  # led into the window from the paper's range


def test_every_generation_has_draws_of_its_own():
    own = evolution("resnet-small")
    first, second, again = (own.generation(number, [], set()) for number in (0, 1, 0))
    assert first == again and len(set(first) & set(second)) <= 2
