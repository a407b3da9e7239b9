"""Comparisons as data: the settings that all results share, and one job per result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.runtimes import TORCH
from common.training.train_options import TrainOptions

if TYPE_CHECKING:
    from common.methods import Method
    from common.target import Axis

# Training options of the dense network, for each data set; fine-tuning starts from them.
DIGITS = TrainOptions(epochs=6, batch_size=64, learning_rate=0.1, weight_decay=5e-4, nesterov=True, warmup_epochs=1)
OTHERS = replace(DIGITS, batch_size=128, epochs=30)
ALL = "all"  # in place of methods' names: all installed methods


def baseline_recipe(dataset: str) -> TrainOptions:
    return DIGITS if dataset == "digits" else OTHERS


@dataclass(frozen=True)
class ComparisonJob:
    """One result to compute: a method, or a chain of methods, at one target with one seed.

    Attributes:
        methods: Names of the methods, applied in sequence.
        targets: Fraction of the dense network to keep at the end, by axis: {"macs": 0.5}, {"bytes": 0.05}, {"latency": 0.6}; empty if the
            methods have none.
        seed: Random seed.
    """

    methods: tuple[str, ...]
    targets: Mapping[str, float]
    seed: int

    @property
    def name(self) -> str:
        """Name of the result's folder."""
        aims = [f"{axis}{target:g}" for axis, target in sorted(self.targets.items(), reverse=True)]
        return "-".join(["+".join(self.methods), *aims])

    @property
    def is_chain(self) -> bool:
        return len(self.methods) > 1


@dataclass(frozen=True)
class Comparison:
    """Settings that all results share.

    Attributes:
        out: Folder of the comparison.
        methods: {name: method}.
        recipe: Fine-tuning options.
        command: Arguments that repeat the comparison, without those that select single results.
        distill: Weight of the distillation loss (distance to the dense network's outputs) in fine-tuning.
        recalibrate: Number of training images on which batch norm is recalibrated.
        latency_batch_size, latency_runtime: Images per forward pass, and runtime, of targets of latency.
    """

    out: Path
    methods: Mapping[str, Method]
    recipe: TrainOptions
    command: tuple[str, ...] = ()
    workers: int = 2
    force: bool = False
    distill: float = 0.0
    recalibrate: int = 0
    latency_batch_size: int = 1
    latency_runtime: str = TORCH


def comparison_jobs(
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    target_macs: Sequence[float],
    target_bytes: Sequence[float],
    chains: Sequence[Sequence[str]] = (),
    target_latency: Sequence[float] = (),
) -> list[ComparisonJob]:
    """List all jobs, ordered by seed and target: an interrupted comparison has complete results for the first ones."""
    from common.methods import accepted_axes  # torch begins here

    targets: dict[Axis, Sequence[float]] = {"macs": target_macs, "latency": target_latency, "bytes": target_bytes}
    found = []
    for seed in seeds:
        for axis, values in targets.items():
            found += [
                ComparisonJob((name,), {axis: value}, seed)
                for value in values
                for name, method in methods.items()
                if axis in accepted_axes(method.axis)
            ]
        found += [ComparisonJob((name,), {}, seed) for name, method in methods.items() if method.axis is None]
        found += [
            ComparisonJob(tuple(chain), aims, seed)
            for chain in chains
            for aims in chain_targets(chain, methods, targets)
        ]
    return found


def chain_targets(
    chain: Sequence[str], methods: Mapping[str, Method], targets: Mapping[Axis, Sequence[float]]
) -> Iterator[dict[str, float]]:
    """Yield the targets of a chain: all combinations of the MACs or latency and bytes targets that its methods can aim at."""
    if len(chain) < 2:
        raise UserError(
            f"--chain {','.join(chain)}: a chain needs two methods or more (A,B); use --methods for single methods"
        )
    axes = {methods[name].axis for name in chain}
    early = next((name for name in chain[:-1] if methods[name].axis is None), None)
    if early:
        raise UserError(f"--chain {','.join(chain)}: {early} writes a file that no other method reads; it comes last")
    if "bytes" in axes and any(methods[name].axis != "bytes" for name in chain[_first(chain, methods, "bytes") :]):
        raise UserError(
            f"--chain {','.join(chain)}: another method would undo one that targets bytes; such a method comes last"
        )
    latency = targets.get("latency", ())
    if latency and "macs" not in axes:
        raise UserError(f"--chain {','.join(chain)}: none of its methods removes channels; omit --target-latency")
    shapes: list[dict[str, float]] = [{}]
    if "macs" in axes:
        shapes = [{"macs": value} for value in targets["macs"]] + [{"latency": value} for value in latency]
    sizes: list[dict[str, float]] = [{"bytes": value} for value in targets["bytes"]] if "bytes" in axes else [{}]
    for shape in shapes:
        for size in sizes:
            yield shape | size


def _first(chain: Sequence[str], methods: Mapping[str, Method], axis: str) -> int:
    return next(i for i, name in enumerate(chain) if methods[name].axis == axis)


def select_methods(installed: Mapping[str, Method], names: Sequence[str] | None) -> dict[str, Method]:
    """Select methods by name, in the given order; without names, those with ``default``; with the name ``all``, all."""
    from common.methods import find_method  # torch begins here

    if names is None:
        return {name: method for name, method in installed.items() if method.default}
    return dict(installed) if ALL in names else {name: find_method(installed, name) for name in names}
