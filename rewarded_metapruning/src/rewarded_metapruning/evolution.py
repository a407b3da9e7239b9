"""Propose encoding vectors by evolutionary search (arXiv 2301.11063, section "Searching"). No candidate is evaluated here.

Random numbers depend on (seed, generation) only. A restarted search therefore proposes the same vectors if it gets the same
rewards, which makes resuming and distributing a search exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.target import Target
from rewarded_metapruning.closed_form import SpaceCost, space_cost
from rewarded_metapruning.predicted_latency import SpaceLatency
from rewarded_metapruning.recipes import EvolutionSettings
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.settings import CONV_LINEAR, LATENCY, MILLION, PAPER
from rewarded_metapruning.space import NEV, SearchSpace

PROPOSAL_ROUNDS = 60  # rounds of proposing mutants, or crossovers, before random vectors fill the generation
UNIFORM_ROUNDS = 20  # rounds of uniform sampling before vectors are moved into the window step by step
MAX_FAILED_WALKS = 60  # consecutive walks that miss the window or end at a known vector before the search gives up


@dataclass(frozen=True)
class MacsWindow:
    """Allowed MACs of a candidate by a counting rule: least <= macs <= most."""

    least: int
    most: int
    rule: str = PAPER

    def costs(self, cost: SpaceCost, indices: np.ndarray) -> np.ndarray:
        """Return the MACs (N,) of scale indices (N, genes)."""
        return cost.macs_of_genes(indices, self.rule)

    def text(self, least: float, most: float) -> str:
        """Format a range of MACs."""
        return f"{least / MILLION:.6g} to {most / MILLION:.6g} million MACs"


@dataclass(frozen=True)
class LatencyWindow:
    """Allowed predicted time of a candidate, as a fraction of the unpruned network's: least <= fraction <= most."""

    least: float
    most: float
    latency: SpaceLatency
    rule: str = LATENCY

    def costs(self, cost: SpaceCost, indices: np.ndarray) -> np.ndarray:
        """Return the fractions (N,) of scale indices (N, genes)."""
        return self.latency.fractions(indices)

    def text(self, least: float, most: float) -> str:
        """Format a range of fractions."""
        return f"{least:.4g} to {most:.4g} of the predicted latency"


Window = MacsWindow | LatencyWindow


def window_record(window: Window) -> dict[str, float | str]:
    """Return what search.json records of a window, as its "budget"."""
    return {"rule": window.rule, "least": window.least, "most": window.most}


def target_window(cost: SpaceCost, target: Target, latency: SpaceLatency | None = None) -> Window:
    """Return the window of a target, [0.98, 1.00] of it: in MACs of convolutions and linear layers, or, with ``latency``, in time."""
    if latency is not None:
        return LatencyWindow(target.min_fraction, target.fraction, latency)
    dense = int(cost.macs([cost.space.unpruned], CONV_LINEAR)[0])
    return MacsWindow(math.ceil(target.min_fraction * dense), int(target.fraction * dense), CONV_LINEAR)


def window_for_target(
    cost: SpaceCost,
    target: Target,
    scale_range: tuple[int, int] = ALL_SCALES,
    latency: SpaceLatency | None = None,
) -> Window:
    """Return :func:`target_window`.

    Raises:
        UserError: If no vector with entries within ``scale_range`` meets the target; the message has the nearest value.
    """
    space, (low, high), window = cost.space, scale_range, target_window(cost, target, latency)
    dense, least, most = _uniform_costs(cost, (FULL, low, high), window)
    if window.most < least or window.least > most:
        target.raise_unreachable(
            f"no vector of {space.arch} with entries {low} to {high}",
            [(least if window.most < least else most) / dense],
        )
    return window


def _uniform_costs(cost: SpaceCost, entries: Sequence[int], window: Window) -> list[float]:
    """Return the costs of the vectors in which all genes have the same scale index, or the nearest allowed one."""
    indices = np.repeat(np.array(entries)[:, None], len(cost.space.genes), axis=1)
    return window.costs(cost, cost.space.restrict(indices)).tolist()


def largest_uniform(cost: SpaceCost, window: Window) -> int:
    """Return the largest scale index whose uniform vector, moved to allowed entries, is not above a window."""
    costs = _uniform_costs(cost, range(FULL + 1), window)
    return max((index for index in range(FULL + 1) if costs[index] <= window.most), default=0)


def mutate(
    random: np.random.Generator,
    parents: np.ndarray,
    count: int,
    probability: float,
    scale_range: tuple[int, int] = ALL_SCALES,
) -> np.ndarray:
    """Return mutants (count, genes) of random rows of ``parents``.

    Each gene changes with this probability, always to a different value within ``scale_range`` (inclusive).
    """
    children = parents[random.integers(0, len(parents), count)]
    changed = random.random(children.shape) < probability
    low, span = scale_range[0], scale_range[1] - scale_range[0] + 1
    return np.where(changed, low + (children - low + random.integers(1, max(span, 2), children.shape)) % span, children)


def crossover(random: np.random.Generator, parents: np.ndarray, count: int) -> np.ndarray:
    """Return crossovers (count, genes): each gene is taken from one of two different parents with equal probability."""
    first = random.integers(0, len(parents), count)
    second = (first + random.integers(1, len(parents), count)) % len(parents)
    return np.where(random.random((count, parents.shape[1])) < 0.5, parents[first], parents[second])


class Evolution:
    """Propose generations of vectors whose MACs, or predicted times, lie in a window.

    Args:
        scale_range: Smallest and largest scale index of a gene.

    Raises:
        UserError: If no vector can lie in the window.
    """

    def __init__(
        self,
        space: SearchSpace,
        window: Window,
        settings: EvolutionSettings,
        seed: int = 0,
        scale_range: tuple[int, int] = ALL_SCALES,
    ) -> None:
        self.space, self.cost, self.window, self.settings = space, space_cost(space), window, settings
        self.seed, self.scale_range = seed, scale_range
        self._check_reachable()

    def propose(self, number: int, parents: Sequence[NEV], seen: set[NEV]) -> list[NEV]:
        """Propose a generation: ``population`` distinct NEVs within the window: mutants, crossovers and random vectors.

        Args:
            number: Number of the generation, from 0.
            parents: Best vectors so far, best first; empty for the first generation.
            seen: Vectors that must not be proposed again.

        Raises:
            UserError: If the window has too few vectors.
        """
        random = np.random.default_rng([self.seed, number])
        chosen: dict[NEV, None] = {}
        if parents:
            settings = self.settings
            genes = np.array([self.space.scale_indices(nev) for nev in parents[: settings.parents]])
            self._collect(
                chosen, seen, settings.mutants, lambda n: mutate(random, genes, n, settings.mutation, self.scale_range)
            )
            if len(genes) > 1:
                self._collect(chosen, seen, len(chosen) + settings.crossovers, lambda n: crossover(random, genes, n))
        self._fill_with_random(chosen, seen, random)
        return list(chosen)

    def sample(self, count: int, seed: Sequence[int], seen: set[NEV] | None = None) -> list[NEV]:
        """Sample distinct random NEVs within the window."""
        chosen: dict[NEV, None] = {}
        self._fill_with_random(chosen, seen or set(), np.random.default_rng(list(seed)), count)
        return list(chosen)

    def _collect(
        self,
        chosen: dict[NEV, None],
        seen: set[NEV],
        until: int,
        propose: Callable[[int], np.ndarray],
        rounds: int = PROPOSAL_ROUNDS,
    ) -> None:
        """Add proposals that are new and within the window until ``chosen`` has ``until`` vectors."""
        for _ in range(rounds):
            if len(chosen) >= until:
                return
            proposals = self.space.restrict(propose(max(2 * (until - len(chosen)), 16)))
            costs = self.window.costs(self.cost, proposals)
            for indices in proposals[(self.window.least <= costs) & (costs <= self.window.most)]:
                nev = self.space.nev_from_indices(indices)
                if nev not in seen and len(chosen) < until:
                    chosen[nev] = None

    def _fill_with_random(
        self, chosen: dict[NEV, None], seen: set[NEV], random: np.random.Generator, until: int | None = None
    ) -> None:
        """Add random vectors until ``chosen`` has ``until`` vectors. Raises UserError if the window has too few."""
        until = until or self.settings.population
        genes, (low, high) = len(self.space.genes), self.scale_range
        low, high = max(low, self.space.description.scale_min), min(high, self.space.description.scale_max)
        if low <= high:
            self._collect(chosen, seen, until, lambda n: random.integers(low, high + 1, (n, genes)), UNIFORM_ROUNDS)
        failed = 0
        while len(chosen) < until and failed < MAX_FAILED_WALKS:
            nev = self._walk_into_window(random)
            if nev is None or nev in seen or nev in chosen:
                failed += 1
            else:
                chosen[nev], failed = None, 0
        if len(chosen) == until or (self.space.allowed is not None and (chosen or seen)):  # limits leave few vectors
            return
        raise UserError(
            f"only {len(seen) + len(chosen)} distinct vectors were found within {self._window_text()};"
            " widen the window or reduce the number of candidates"
        )

    def _walk_into_window(self, random: np.random.Generator) -> NEV | None:
        """Move a random vector into the window, one random gene by one step at a time; None if it keeps missing the window."""
        low, high = self.scale_range
        first = np.clip([self.space.description.scale_min, self.space.description.scale_max], low, high)
        indices = self.space.restrict(random.integers(first[0], first[1] + 1, (1, len(self.space.genes))))
        for _ in range(2 * (high - low + 1) * indices.shape[1]):
            cost = self.window.costs(self.cost, indices)[0]
            if self.window.least <= cost <= self.window.most:
                return self.space.nev_from_indices(indices[0])
            step = -1 if cost > self.window.most else 1
            moved = [self.space.step(gene, index, step) for gene, index in enumerate(indices[0])]
            movable = np.array([gene for gene, to in enumerate(moved) if to is not None and low <= to <= high], int)
            if not len(movable):
                return None
            gene = random.choice(movable)
            indices[0, gene] = moved[gene]
        return None

    def _check_reachable(self) -> None:
        space, window = self.space, self.window
        low, high = _uniform_costs(self.cost, self.scale_range, window)
        if window.least > window.most:
            raise UserError(
                f"the window of {self._window_text()} is empty: its minimum is above its maximum; swap the values"
            )
        if window.most < low or window.least > high:
            raise UserError(
                f"{space.arch}: the window of {self._window_text()} is unreachable; choose one within "
                f"{window.text(low, high)} (entries {self.scale_range[0]} to {self.scale_range[1]})"
            )

    def _window_text(self) -> str:
        return self.window.text(self.window.least, self.window.most)
