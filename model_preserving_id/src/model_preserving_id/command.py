"""The work of ``python main.py`` and ``python -m model_preserving_id``: from a trained network to a pruned one in a run folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import write_csv
from common.data import load_data
from common.device import choose_device, set_threads
from common.factory import import_factory
from common.log import Log
from common.measure import Accuracy
from common.options import DataOptions, NetworkOptions, RunOptions
from common.pipeline import Outcome, compress
from common.runs import Stage, open_stage
from common.settings import flat
from common.target import Target
from common.trained_model import Limits, TrainedModel, checked, open_trained_model, with_normalization_of
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import Row
from model_preserving_id.method import METHOD, decide
from model_preserving_id.portable import save_dict, to_dict
from model_preserving_id.settings import PACKAGE, Prune, Pruning

EVALUATIONS = "evaluations.csv"
NOT_PART_OF_A_RUN = ("force", "out", "log_interval", "no_latency")


def prune(settings: Prune, command: str) -> None:
    """Prune a network into a run folder. command: the command line, for metrics.json."""
    set_threads(settings.run.threads)
    pruning, seed = settings.pruning, settings.repeat.seed
    start = trained_from_options(settings.network, settings.data, settings.run, limits=limits_of(pruning))
    folder = Path(settings.out or f"runs/{start.data.name}/{start.name}-{pruning.label}")
    stage = open_prune_stage(folder, start, pruning, seed, extra_options(settings), force=settings.repeat.force)
    prune_into(stage, start, pruning, command, log_interval=settings.log_interval, latency=not settings.no_latency)


def extra_options(settings: Prune) -> dict[str, Any]:
    """All options that a run folder records and compares."""
    return {name: value for name, value in flat(settings).items() if name not in NOT_PART_OF_A_RUN}


def limits_of(pruning: Pruning) -> Limits:
    """What ``--skip`` and ``--round-to`` allow."""
    return Limits(ignored=tuple(pruning.skip), round_to=pruning.round_to)


def trained_from_options(network: NetworkOptions, chosen: DataOptions, run: RunOptions, **more: Any) -> TrainedModel:
    """Network and data as the options name them; a factory's network may come without a file. more: other fields. Raises UserError."""
    more["device"] = choose_device(run.device)
    if not network.model or network.weights or network.checkpoint:
        return open_trained_model(network, chosen, **more)
    data = load_data(chosen)
    factory = import_factory(network.model, data.num_classes)
    model = factory()
    data = data if chosen.normalize else with_normalization_of(model, data)
    name = network.model.replace(":", ".")
    return checked(TrainedModel(name, model, data, factory=factory, workers=chosen.workers, **more))


def open_prune_stage(
    folder: Path,
    start: TrainedModel,
    pruning: Pruning,
    seed: int,
    more: Mapping[str, Any],
    *,
    force: bool = False,
    log: Log = print,
) -> Stage:
    """The run folder of these settings on this network. more: other options that it records. Raises UserError if it holds another run."""
    options = {**more, **flat(pruning), "seed": seed, "arch": start.name, "dataset": start.data.name}
    options |= {"weights_digest": start.digest, "mean": start.data.mean, "std": start.data.std}
    return open_stage(
        folder,
        PACKAGE,
        options,
        device=start.device,
        fingerprint=start.data.fingerprint,
        force=force,
        seed=seed,
        log=log,
    )


def prune_into(
    stage: Stage,
    start: TrainedModel,
    pruning: Pruning,
    command: str,
    *,
    log_interval: int = 0,
    latency: bool = True,
    on_evaluation: Callable[[nn.Module, int], None] | None = None,
) -> dict[str, Any]:
    """Prune as the settings say: the run's metrics. A finished run is only read, an interrupted one resumes.

    Args:
        command: The command line, for metrics.json.
        log_interval: The network of every so many picks (the first too) is evaluated on the test images, for the log only.
        on_evaluation: Called with each of these networks and the number of picks before its last.
    """
    picks = _Picks(stage, start, log_interval, on_evaluation)

    def details(outcome: Outcome) -> Mapping[str, Any]:
        print_result(start.name, outcome.metrics, stage.log)
        return {"label": f"{METHOD.label}, {pruning.label}", "command": command}

    method = replace(METHOD, decide=partial(decide, pruning, on_pick=picks.see))
    target = Target(pruning.target_macs) if pruning.method in ("iditer", "budget") else None
    return compress(method, start, target, stage, latency=latency, details=details)


def print_result(name: str, sides: Mapping[str, Mapping[str, Any]], log: Log) -> None:
    """Print the result as the original code does: loss, top-1, top-5, and "Corr", the percentage of equal predictions."""
    dense, small = sides["baseline"], sides["compressed"]
    log(
        f"{name}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} %, top-5 {small['top5']:.2f} %, loss {small['loss']:.4f}"
    )
    log(f"{name}: agreement (Corr) {small['agreement']:.2f} %")
    for what in ("macs", "params"):
        left = 100 * small[what] / dense[what]
        log(f"{name}: {what} {dense[what] / 1e6:.2f} M -> {small[what] / 1e6:.2f} M, {left:.2f} % left")


def rounded(accuracy: Accuracy, prefix: str = "") -> dict[str, float]:
    """Loss, top-1, top-5 and, if it was measured, agreement, for a row of a log."""
    figures = {f"{prefix}{name}": getattr(accuracy, name) for name in ("loss", "top1", "top5")}
    figures["agreement"] = accuracy.agreement
    return {name: round(value, 4) for name, value in figures.items() if value is not None}


@dataclass
class _Picks:
    """Prints picks; every so many it evaluates the network: a row of evaluations.csv, and a call of ``also``."""

    stage: Stage
    start: TrainedModel
    interval: int
    also: Callable[[nn.Module, int], None] | None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def see(self, folded: FoldedNetwork, row: Row) -> None:
        self.stage.log(
            f"{row['iteration']:4d}  {row['layer']}: {row['before']} -> {row['after']}, error {row['error']:.4g}, MACs {row['macs_left']:.4f}"
        )
        if not self.interval or (row["iteration"] - 1) % self.interval:
            return
        model = folded.pruned()
        accuracy = self.start.measure(model)
        self.rows.append({"iteration": row["iteration"], "macs_left": row["macs_left"], **rounded(accuracy)})
        write_csv(self.stage.folder / EVALUATIONS, self.rows)
        self.stage.log(
            f"      loss {accuracy.loss:.4f}, top-1 {accuracy.top1:.2f}, top-5 {accuracy.top5:.2f}, Corr {accuracy.agreement:.2f}"
        )
        if self.also:
            self.also(model, row["iteration"] - 1)


def save_seed_file(
    folder: Path, name: str, model: nn.Module, start: TrainedModel, dataset_dir: str | None = None
) -> Path:
    """The original code's flat file in the run folder: a dictionary of name, arguments and tensors."""
    data = start.data
    normalize = {"mean": list(data.mean), "std": list(data.std)}
    save_dict(folder / name, to_dict(model, normalize=normalize, dataset=data.name, dataset_dir=dataset_dir))
    return folder / name
