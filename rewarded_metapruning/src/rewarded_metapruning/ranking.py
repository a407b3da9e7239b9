"""Run a search: propose generations, evaluate them and rank the candidates by reward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.evaluator import CandidateMetrics
from rewarded_metapruning.evolution import Evolution
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER
from rewarded_metapruning.space import NEV, SearchSpace
from rewarded_metapruning.tradeoff import check_reward_constants, reward


@dataclass(frozen=True)
class RewardSettings:
    """Constants of the reward: base accuracy in percent, base MACs in millions by the paper's rule, exponents."""

    base_accuracy: float = 100.0
    base_macs: float = 4100.0
    accuracy_power: float = 2.0
    macs_power: float = 1.0

    def __post_init__(self) -> None:
        check_reward_constants(self.base_accuracy, self.base_macs, self.accuracy_power, self.macs_power)

    @classmethod
    def of_space(cls, space: SearchSpace) -> "RewardSettings":
        """Return the default constants with the unpruned network's MACs as the base."""
        return cls(base_macs=int(space_cost(space).macs([space.unpruned])[0]) / MILLION)

    def reward(self, accuracy: float, macs: float) -> float:
        """Compute the reward of a candidate (:func:`rewarded_metapruning.reward`)."""
        return reward(accuracy, macs, self.base_accuracy, self.base_macs, self.accuracy_power, self.macs_power)


@dataclass(frozen=True)
class Candidate:
    """An evaluated NEV.

    ``macs_paper``: millions by the paper's rule. ``macs``: MACs of convolutions and linear layers. ``top1``, ``top5``: percent.
    """

    nev: NEV
    generation: int
    macs_paper: float
    macs: int
    params: int
    top1: float
    top5: float
    loss: float
    reward: float


def rank_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sort candidates by reward, best first; ties by MACs, then by NEV."""
    return sorted(candidates, key=lambda c: (-c.reward, c.macs_paper, c.nev))


def run_search(
    evolution: Evolution,
    reward: RewardSettings,
    evaluate_all: Callable[[list[NEV]], list[CandidateMetrics]],
    generations: int,
    after_generation: Callable[[int, list[Candidate]], None] = lambda number, candidates: None,
) -> list[Candidate]:
    """Run all generations and return the candidates in the order in which they were proposed.

    The parents of a generation are the best candidates of all previous generations.

    Args:
        evaluate_all: Function that evaluates the vectors of a generation.
        after_generation: Called after each generation with its number and all candidates so far.
    """
    candidates: list[Candidate] = []
    seen: set[NEV] = set()
    for number in range(generations):
        parents = [candidate.nev for candidate in rank_candidates(candidates)[: evolution.settings.parents]]
        pool = evolution.propose(number, parents, seen)
        if not pool:  # limits on layers leave few vectors, and all are known
            break
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
            nev,
            generation,
            p / MILLION,
            m,
            n,
            found.top1,
            found.top5,
            found.loss,
            reward.reward(found.top1, p / MILLION),
        )
        for nev, found, p, m, n in zip(nevs, metrics, paper.tolist(), macs.tolist(), params.tolist(), strict=True)
    ]
