"""The evolutionary search over encoding vectors (arXiv 2301.11063, section "Searching"): proposals only, nothing is measured.

Every draw depends on (seed, generation) alone, so a search that is begun anew proposes the same vectors as long as it gets the
same rewards: this is what makes resuming and sharing among processes exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from rewarded_metapruning.closed_form import SpaceCost
from rewarded_metapruning.recipes import Plan
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import MILLION, PAPER
from rewarded_metapruning.space import NEV, Space

ROUNDS = 60  # of proposals for a generation's mutants, and crossovers, before random vectors take their place
RANDOM_ROUNDS = 20  # of uniform draws before vectors are led into the window
WALKS = 60  # vectors in a row that are led towards the window in vain, or to one that is known, before giving up


@dataclass(frozen=True)
class Budget:
    """MACs, by a rule, that a candidate may cost: least <= macs <= most."""

    least: int
    most: int
    rule: str = PAPER

    def holds(self, macs: np.ndarray) -> np.ndarray:
        return (self.least <= macs) & (macs <= self.most)


def mutate(
    random: np.random.Generator,
    parents: np.ndarray,
    count: int,
    probability: float,
    limits: tuple[int, int] = ALL_SCALES,
) -> np.ndarray:
    """(count, genes): children of random rows of ``parents``; each gene moves with this probability, always to another value
    within ``limits`` (both included)."""
    children = parents[random.integers(0, len(parents), count)]
    moved = random.random(children.shape) < probability
    low, span = limits[0], limits[1] - limits[0] + 1
    return np.where(moved, low + (children - low + random.integers(1, max(span, 2), children.shape)) % span, children)


def cross(random: np.random.Generator, parents: np.ndarray, count: int) -> np.ndarray:
    """(count, genes): each gene from one of two different parents, with equal chances."""
    first = random.integers(0, len(parents), count)
    second = (first + random.integers(1, len(parents), count)) % len(parents)
    return np.where(random.random((count, parents.shape[1])) < 0.5, parents[first], parents[second])


class Breeder:
    """Proposes generations of a space within a budget; ``limits``: least and largest scale index of a gene."""

    def __init__(
        self, space: Space, cost: SpaceCost, budget: Budget, plan: Plan, seed: int = 0,
        limits: tuple[int, int] = ALL_SCALES,
    ) -> None:  # fmt: skip
        self.space, self.cost, self.budget, self.plan, self.seed = space, cost, budget, plan, seed
        self.limits = limits
        self._refuse_unreachable()

    def generation(self, number: int, parents: Sequence[NEV], seen: set[NEV]) -> list[NEV]:
        """``population`` different NEVs within the budget that are not among ``seen``: mutants, crossovers, random ones.

        parents: the best so far, best first; none for the first generation. Raises UserError if there are not so many.
        """
        random = np.random.default_rng([self.seed, number])
        chosen: dict[NEV, None] = {}
        if parents:
            genes = np.array([self.space.genes_of(nev) for nev in parents[: self.plan.parents]])
            plan = self.plan
            self._take(chosen, seen, plan.mutants, lambda n: mutate(random, genes, n, plan.mutation, self.limits))
            if len(genes) > 1:
                self._take(chosen, seen, len(chosen) + plan.crossovers, lambda n: cross(random, genes, n))
        self._fill(chosen, seen, random)
        return list(chosen)

    def random(self, count: int, seed: Sequence[int], seen: set[NEV] | None = None) -> list[NEV]:
        """Different random NEVs within the budget."""
        chosen: dict[NEV, None] = {}
        self._fill(chosen, seen or set(), np.random.default_rng(list(seed)), count)
        return list(chosen)

    def _take(
        self, chosen: dict[NEV, None], seen: set[NEV], until: int, propose: Callable[[int], np.ndarray], rounds: int = ROUNDS
    ) -> None:  # fmt: skip
        """Add proposals that are new and within the budget until ``chosen`` has so many."""
        for _ in range(rounds):
            if len(chosen) >= until:
                return
            proposals = propose(max(2 * (until - len(chosen)), 16))
            for indices in proposals[self.budget.holds(self.cost.macs_of_genes(proposals, self.budget.rule))]:
                nev = self.space.nev_of(indices)
                if nev not in seen and len(chosen) < until:
                    chosen[nev] = None

    def _fill(
        self, chosen: dict[NEV, None], seen: set[NEV], random: np.random.Generator, until: int | None = None
    ) -> None:
        until = until or self.plan.population
        genes, (low, high) = len(self.space.genes), self.limits
        low, high = max(low, self.space.description.fewest), min(high, self.space.description.most)
        if low <= high:
            self._take(chosen, seen, until, lambda n: random.integers(low, high + 1, (n, genes)), RANDOM_ROUNDS)
        in_vain = 0
        while len(chosen) < until and in_vain < WALKS:
            nev = self._walk(random)
            if nev is None or nev in seen or nev in chosen:
                in_vain += 1
            else:
                chosen[nev], in_vain = None, 0
        if len(chosen) == until:
            return
        raise UserError(
            f"no more than {len(seen) + len(chosen)} different vectors were found within {self._window()}; widen the budget,"
            " or ask for fewer candidates"
        )

    def _walk(self, random: np.random.Generator) -> NEV | None:
        """A random vector led into the budget, one random gene one step at a time; None if it gets past it for long."""
        low, high = self.limits
        first = np.clip([self.space.description.fewest, self.space.description.most], low, high)
        indices = random.integers(first[0], first[1] + 1, (1, len(self.space.genes)))
        for _ in range(2 * (high - low + 1) * indices.shape[1]):
            macs = int(self.cost.macs_of_genes(indices, self.budget.rule)[0])
            if self.budget.least <= macs <= self.budget.most:
                return self.space.nev_of(indices[0])
            step = -1 if macs > self.budget.most else 1
            movable = np.flatnonzero((indices[0] + step >= low) & (indices[0] + step <= high))
            if not len(movable):
                return None
            indices[0, random.choice(movable)] += step
        return None

    def _refuse_unreachable(self) -> None:
        space, budget = self.space, self.budget
        ends = self.cost.macs([(limit,) * space.length for limit in self.limits], budget.rule)
        if budget.least > budget.most:
            raise UserError(f"the budget {self._window()} is empty: its least is above its most")
        if budget.most < ends[0] or budget.least > ends[1]:
            raise UserError(
                f"{space.arch} cannot cost {self._window()}; its vectors cost {ends[0] / MILLION:.6g} to"
                f" {ends[1] / MILLION:.6g} million MACs by this rule (scale indices {self.limits[0]} to {self.limits[1]})"
            )

    def _window(self) -> str:
        return f"{self.budget.least / MILLION:.6g} to {self.budget.most / MILLION:.6g} million MACs"
