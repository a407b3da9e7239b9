"""The evolutionary search over encoding vectors (arXiv 2301.11063, section "Searching"): proposals only, nothing is measured.

Every draw depends on (seed, generation) alone, so a search that is begun anew proposes the same vectors as long as it gets the
same rewards: this is what makes resuming and sharing among processes exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.target import Target
from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.recipes import SearchSettings
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER
from rewarded_metapruning.space import NEV, SearchSpace

ROUNDS = 60  # of proposals for a generation's mutants, and crossovers, before random vectors take their place
RANDOM_ROUNDS = 20  # of uniform draws before vectors are led into the window
WALKS = 60  # vectors in a row that are led towards the window in vain, or to one that is known, before giving up


@dataclass(frozen=True)
class MacsWindow:
    """MACs, by a rule, that a candidate may cost: least <= macs <= most."""

    least: int
    most: int
    rule: str = PAPER

    def holds(self, macs: np.ndarray) -> np.ndarray:
        return (self.least <= macs) & (macs <= self.most)


def target_window(cost: SpaceCost, target: Target, limits: tuple[int, int] = ALL_SCALES) -> MacsWindow:
    """[0.98, 1.00] of a fraction of the unpruned network's MACs, convolutions and linear layers.

    Raises UserError, with what can be reached, if no vector with entries within ``limits`` meets the target.
    """
    space, (low, high) = cost.space, limits
    dense, least, most = (
        int(macs) for macs in cost.macs([(entry,) * space.length for entry in (FULL, low, high)], CONV_LINEAR)
    )
    window = MacsWindow(math.ceil(target.least * dense), int(target.fraction * dense), CONV_LINEAR)
    if window.most < least or window.least > most:
        target.refuse(
            f"no vector of {space.arch} with entries {low} to {high}",
            [(least if window.most < least else most) / dense],
        )
    return window


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


class Evolution:
    """Proposes generations of a space whose MACs lie in a window; ``limits``: least and largest scale index of a gene.

    Raises UserError for a window that no vector can lie in.
    """

    def __init__(
        self,
        space: SearchSpace,
        window: MacsWindow,
        sizes: SearchSettings,
        seed: int = 0,
        limits: tuple[int, int] = ALL_SCALES,
    ) -> None:
        self.space, self.cost, self.window, self.sizes = space, space_cost(space), window, sizes
        self.seed, self.limits = seed, limits
        self._require_reachable()

    def generation(self, number: int, parents: Sequence[NEV], seen: set[NEV]) -> list[NEV]:
        """``population`` different NEVs within the window that are not among ``seen``: mutants, crossovers, random ones.

        parents: the best so far, best first; none for the first generation. Raises UserError if there are not so many.
        """
        random = np.random.default_rng([self.seed, number])
        chosen: dict[NEV, None] = {}
        if parents:
            genes = np.array([self.space.genes_of(nev) for nev in parents[: self.sizes.parents]])
            sizes = self.sizes
            self._take(chosen, seen, sizes.mutants, lambda n: mutate(random, genes, n, sizes.mutation, self.limits))
            if len(genes) > 1:
                self._take(chosen, seen, len(chosen) + sizes.crossovers, lambda n: cross(random, genes, n))
        self._fill(chosen, seen, random)
        return list(chosen)

    def random(self, count: int, seed: Sequence[int], seen: set[NEV] | None = None) -> list[NEV]:
        """Different random NEVs within the window."""
        chosen: dict[NEV, None] = {}
        self._fill(chosen, seen or set(), np.random.default_rng(list(seed)), count)
        return list(chosen)

    def _take(
        self,
        chosen: dict[NEV, None],
        seen: set[NEV],
        until: int,
        propose: Callable[[int], np.ndarray],
        rounds: int = ROUNDS,
    ) -> None:
        """Add proposals that are new and within the window until ``chosen`` has so many."""
        for _ in range(rounds):
            if len(chosen) >= until:
                return
            proposals = propose(max(2 * (until - len(chosen)), 16))
            for indices in proposals[self.window.holds(self.cost.macs_of_genes(proposals, self.window.rule))]:
                nev = self.space.nev_of(indices)
                if nev not in seen and len(chosen) < until:
                    chosen[nev] = None

    def _fill(
        self, chosen: dict[NEV, None], seen: set[NEV], random: np.random.Generator, until: int | None = None
    ) -> None:
        until = until or self.sizes.population
        genes, (low, high) = len(self.space.genes), self.limits
        low, high = max(low, self.space.description.scale_min), min(high, self.space.description.scale_max)
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
            f"no more than {len(seen) + len(chosen)} different vectors were found within {self._in_millions()}; widen the budget,"
            " or ask for fewer candidates"
        )

    def _walk(self, random: np.random.Generator) -> NEV | None:
        """A random vector led into the window, one random gene one step at a time; None if it gets past it for long."""
        low, high = self.limits
        first = np.clip([self.space.description.scale_min, self.space.description.scale_max], low, high)
        indices = random.integers(first[0], first[1] + 1, (1, len(self.space.genes)))
        for _ in range(2 * (high - low + 1) * indices.shape[1]):
            macs = int(self.cost.macs_of_genes(indices, self.window.rule)[0])
            if self.window.least <= macs <= self.window.most:
                return self.space.nev_of(indices[0])
            step = -1 if macs > self.window.most else 1
            movable = np.flatnonzero((indices[0] + step >= low) & (indices[0] + step <= high))
            if not len(movable):
                return None
            indices[0, random.choice(movable)] += step
        return None

    def _require_reachable(self) -> None:
        space, window = self.space, self.window
        ends = self.cost.macs([(limit,) * space.length for limit in self.limits], window.rule)
        if window.least > window.most:
            raise UserError(f"the budget {self._in_millions()} is empty: its least is above its most")
        if window.most < ends[0] or window.least > ends[1]:
            raise UserError(
                f"{space.arch} cannot cost {self._in_millions()}; its vectors cost {ends[0] / MILLION:.6g} to"
                f" {ends[1] / MILLION:.6g} million MACs by this rule (scale indices {self.limits[0]} to {self.limits[1]})"
            )

    def _in_millions(self) -> str:
        return f"{self.window.least / MILLION:.6g} to {self.window.most / MILLION:.6g} million MACs"
