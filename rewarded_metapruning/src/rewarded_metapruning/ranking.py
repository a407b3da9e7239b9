"""Candidates with their rewards, in order: the state of a search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.evaluator import CandidateMetrics
from rewarded_metapruning.evolution import Evolution
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER
from rewarded_metapruning.space import NEV, SearchSpace
from rewarded_metapruning.tradeoff import reward


@dataclass(frozen=True)
class RewardSettings:
    """The reward's constants: accuracy in percent, MACs in millions by the paper's rule."""

    base_accuracy: float = 100.0
    base_macs: float = 4100.0
    accuracy_power: float = 2.0
    macs_power: float = 1.0

    @classmethod
    def of_space(cls, space: SearchSpace) -> "RewardSettings":
        """Those with the unpruned network's MACs as the base."""
        return cls(base_macs=int(space_cost(space).macs([space.unpruned])[0]) / MILLION)

    def reward(self, accuracy: float, macs: float) -> float:
        return reward(accuracy, macs, self.base_accuracy, self.base_macs, self.accuracy_power, self.macs_power)


@dataclass(frozen=True)
class Candidate:
    """An evaluated NEV. macs_paper: millions by the paper's rule; macs: convolutions and linear layers."""

    nev: NEV
    generation: int
    macs_paper: float
    macs: int
    params: int
    top1: float
    top5: float
    loss: float
    reward: float


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best reward first; equal ones by MACs, then by NEV."""
    return sorted(candidates, key=lambda c: (-c.reward, c.macs_paper, c.nev))


def run_search(
    evolution: Evolution,
    reward: RewardSettings,
    evaluate_all: Callable[[list[NEV]], list[CandidateMetrics]],
    generations: int,
    after_generation: Callable[[int, list[Candidate]], None] = lambda number, candidates: None,
) -> list[Candidate]:
    """All candidates in the order in which they were proposed; ``after_generation`` sees those so far.

    The parents of a generation are the best of all generations before it.
    """
    candidates: list[Candidate] = []
    seen: set[NEV] = set()
    for number in range(generations):
        parents = [candidate.nev for candidate in ranked(candidates)[: evolution.sizes.parents]]
        pool = evolution.generation(number, parents, seen)
        seen.update(pool)
        candidates += _candidates(evolution.cost, reward, pool, evaluate_all(pool), number)
        after_generation(number, candidates)
    return candidates


def _candidates(
    cost: SpaceCost, reward: RewardSettings, nevs: Sequence[NEV], metrics: Sequence[CandidateMetrics], generation: int
) -> list[Candidate]:
    paper, macs, params = cost.macs(nevs, PAPER), cost.macs(nevs, CONV_LINEAR), cost.params(nevs)
    return [
        Candidate(
            nev, generation, p / MILLION, m, n, got.top1, got.top5, got.loss, reward.reward(got.top1, p / MILLION)
        )
        for nev, got, p, m, n in zip(nevs, metrics, paper.tolist(), macs.tolist(), params.tolist(), strict=True)
    ]
