"""What is compared, as data: the settings that all rows share, and one job per row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from common.methods import Method
from common.training import TrainOptions

# One recipe per data set: how the dense network is trained where none is given, and how every cut network is fine-tuned.
DIGITS = TrainOptions(epochs=6, batch_size=64, learning_rate=0.1, weight_decay=5e-4, nesterov=True, warmup_epochs=1)
OTHERS = replace(DIGITS, batch_size=128, epochs=30)


def baseline_recipe(dataset: str) -> TrainOptions:
    return DIGITS if dataset == "digits" else OTHERS


@dataclass(frozen=True)
class Job:
    """One row: a method, or a chain of them, at one budget and seed.

    methods         names, one after the other; the network of one is handed to the next
    targets         shares of the dense network that are to be kept at the end, by axis: {"macs": 0.5}, {"bytes": 0.05}
    """

    methods: tuple[str, ...]
    targets: Mapping[str, float]
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        aims = [f"{axis}{target:g}" for axis, target in sorted(self.targets.items(), reverse=True)]
        return "-".join(["+".join(self.methods), *aims])

    @property
    def is_chain(self) -> bool:
        return len(self.methods) > 1


@dataclass(frozen=True)
class Comparison:
    """What all rows share.

    command: words that make the same comparison, without what names single rows. distill: weight of the distance to the dense
    network's outputs in the loss of fine-tuning. recalibrate: training images that batch norm is recalibrated on.
    """

    out: Path
    methods: Mapping[str, Method]
    recipe: TrainOptions
    command: tuple[str, ...] = ()
    workers: int = 2
    force: bool = False
    latency: bool = True
    distill: float = 0.0
    recalibrate: int = 0
    details: Mapping[str, object] = field(default_factory=dict)


def jobs(
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    target_macs: Sequence[float],
    target_bytes: Sequence[float],
    chains: Sequence[Sequence[str]] = (),
) -> list[Job]:
    """All rows, seed by seed and budget by budget, so that an interrupted comparison is complete as far as it went."""
    targets = {"macs": target_macs, "bytes": target_bytes}
    found = []
    for seed in seeds:
        for axis, values in targets.items():
            found += [
                Job((name,), {axis: value}, seed)
                for value in values
                for name, method in methods.items()
                if method.axis == axis
            ]
        found += [Job(tuple(chain), aims, seed) for chain in chains for aims in chain_targets(chain, methods, targets)]
    return found


def chain_targets(
    chain: Sequence[str], methods: Mapping[str, Method], targets: Mapping[str, Sequence[float]]
) -> Iterator[dict[str, float]]:
    """The budgets of a chain: every share of the MACs with every share of the bytes that its methods can aim at."""
    if len(chain) < 2:
        raise UserError(f"--chain {','.join(chain)}: a chain has two methods or more, A,B; --methods names single ones")
    axes = {methods[name].axis for name in chain}
    if "bytes" in axes and any(methods[name].axis == "macs" for name in chain[_first(chain, methods, "bytes") :]):
        raise UserError(f"--chain {','.join(chain)}: what aims at bytes comes last, since cutting would undo it")
    for macs in targets["macs"] if "macs" in axes else [None]:
        for size in targets["bytes"] if "bytes" in axes else [None]:
            yield {axis: value for axis, value in (("macs", macs), ("bytes", size)) if value is not None}


def _first(chain: Sequence[str], methods: Mapping[str, Method], axis: str) -> int:
    return next(i for i, name in enumerate(chain) if methods[name].axis == axis)


def chosen_methods(installed: Mapping[str, Method], names: Sequence[str] | None) -> dict[str, Method]:
    """The methods by name, in the order given; all if none is named. Raises UserError that lists what is installed."""
    for name in names or ():
        if name not in installed:
            raise UserError(f"no method {name!r} is installed; there are {', '.join(installed) or 'none'}")
    return {name: installed[name] for name in names} if names else dict(installed)
