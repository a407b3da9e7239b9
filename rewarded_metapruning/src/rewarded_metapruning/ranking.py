"""Candidates with their rewards, in order: the state of a search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewarded_metapruning.closed_form import SpaceCost
from rewarded_metapruning.evolution import Breeder
from rewarded_metapruning.judge import Judgement
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER
from rewarded_metapruning.space import NEV
from rewarded_metapruning.tradeoff import reward


@dataclass(frozen=True)
class Terms:
    """The reward's constants: accuracy in percent, MACs in millions by the paper's rule."""

    base_accuracy: float = 100.0
    base_macs: float = 4100.0
    accuracy_power: float = 2.0
    macs_power: float = 1.0

    def reward(self, accuracy: float, macs: float) -> float:
        return reward(accuracy, macs, self.base_accuracy, self.base_macs, self.accuracy_power, self.macs_power)


@dataclass(frozen=True)
class Candidate:
    """A judged NEV. macs_paper: millions by the paper's rule; macs: convolutions and linear layers."""

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
    breeder: Breeder,
    cost: SpaceCost,
    terms: Terms,
    judge_all: Callable[[list[NEV]], list[Judgement]],
    generations: int,
    after_generation: Callable[[int, list[Candidate]], None] = lambda number, candidates: None,
) -> list[Candidate]:
    """All candidates in the order in which they were proposed; ``after_generation`` sees those so far.

    The parents of a generation are the best of all generations before it.
    """
    candidates: list[Candidate] = []
    seen: set[NEV] = set()
    for number in range(generations):
        parents = [candidate.nev for candidate in ranked(candidates)[: breeder.plan.parents]]
        pool = breeder.generation(number, parents, seen)
        seen.update(pool)
        judgements = judge_all(pool)
        candidates += _candidates(cost, terms, pool, judgements, number)
        after_generation(number, candidates)
    return candidates


def _candidates(
    cost: SpaceCost, terms: Terms, nevs: Sequence[NEV], judgements: Sequence[Judgement], generation: int
) -> list[Candidate]:
    paper, macs, params = cost.macs(nevs, PAPER), cost.macs(nevs, CONV_LINEAR), cost.params(nevs)
    found = []
    for nev, judged, p, m, n in zip(nevs, judgements, paper.tolist(), macs.tolist(), params.tolist(), strict=True):
        worth = terms.reward(judged.top1, p / MILLION)
        found.append(Candidate(nev, generation, p / MILLION, m, n, judged.top1, judged.top5, judged.loss, worth))
    return found
