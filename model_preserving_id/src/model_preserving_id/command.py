"""The implementation of ``python main.py`` and ``python -m model_preserving_id``: prune a trained network into a run folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import write_csv
from common.checkpoint import image_fields
from common.data import load_data
from common.device import choose_device, set_threads
from common.factory import factory_name, import_factory
from common.limits import Limits
from common.log import Log
from common.measure import Accuracy
from common.options import DataOptions, HardwareOptions, NetworkOptions
from common.pipeline import Outcome, compress
from common.runs import Stage, open_stage
from common.settings import flatten
from common.trained_model import TrainedModel, check_trained_model, open_trained_model, with_preprocessing_of
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import LogRow
from model_preserving_id.method import EXTENDED, METHOD, decide
from model_preserving_id.portable import save_dict, to_dict
from model_preserving_id.settings import PACKAGE, ChannelPruningOptions, PruneChannels

EVALUATIONS = "evaluations.csv"
UNRECORDED_OPTIONS = ("force", "out", "log_interval", "no_latency")


def prune(settings: PruneChannels, command: str) -> None:
    """Prune a network into a run folder. ``command`` is the command line recorded in metrics.json."""
    set_threads(settings.run.threads)
    pruning, seed = settings.pruning, settings.repeat.seed
    start = open_from_options(settings.network, settings.data, settings.run, limits=build_limits(pruning))
    folder = Path(settings.out or f"runs/{start.data.name}/{start.name}-{pruning.label}")
    stage = open_prune_stage(folder, start, pruning, seed, recorded_options(settings), force=settings.repeat.force)
    prune_into(stage, start, pruning, command, log_interval=settings.log_interval, latency=not settings.no_latency)


def recorded_options(settings: PruneChannels) -> dict[str, Any]:
    """Return the options that a run folder records and compares."""
    options = flatten(settings) | record_pruning(settings.pruning)
    return {name: value for name, value in options.items() if name not in UNRECORDED_OPTIONS}


def record_pruning(pruning: ChannelPruningOptions) -> dict[str, Any]:
    """Return the pruning options with ``--compensation`` as it is used. Runs without ``iditer`` record a fixed ``update_every``."""
    recorded = flatten(pruning) | {"compensation": pruning.reconstruction}
    return (
        recorded if pruning.method == "iditer" else recorded | {"update_every": 0.02}
    )  # the default of earlier commits


def build_limits(pruning: ChannelPruningOptions) -> Limits:
    """Return the limits set by ``--ignored-layers`` and ``--round-to``."""
    return Limits(ignored=tuple(pruning.ignored_layers), round_to=pruning.round_to)


def open_from_options(network: NetworkOptions, chosen: DataOptions, run: HardwareOptions, **more: Any) -> TrainedModel:
    """Open the network and the data set that the options name; a factory's network needs no file.

    Args:
        more: Other fields of TrainedModel.

    Raises:
        UserError: If either cannot be opened.
    """
    more["device"] = choose_device(run.device)
    if not network.model or network.weights or network.checkpoint:
        return open_trained_model(network, chosen, **more)
    import_factory(network.model)  # before the images are read
    data = load_data(chosen)
    factory = import_factory(network.model, data.num_classes)
    model = factory()
    data = with_preprocessing_of(model, data)
    name = factory_name(network.model)
    return check_trained_model(TrainedModel(name, model, data, factory=factory, workers=chosen.workers, **more))


def open_prune_stage(
    folder: Path,
    start: TrainedModel,
    pruning: ChannelPruningOptions,
    seed: int,
    more: Mapping[str, Any],
    *,
    force: bool = False,
    log: Log = print,
) -> Stage:
    """Open the run folder of these settings. ``more``: other options to record. Raises UserError if it contains another run."""
    options = {**more, **record_pruning(pruning), "seed": seed, "arch": start.name, "dataset": start.data.name}
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
    pruning: ChannelPruningOptions,
    command: str,
    *,
    log_interval: int = 0,
    latency: bool = True,
    on_evaluation: Callable[[nn.Module, int], None] | None = None,
) -> dict[str, Any]:
    """Prune and return the run's metrics. A finished run is only read; an interrupted run resumes.

    Args:
        command: The command line, for metrics.json.
        log_interval: Evaluate the network on the test images at the first and then at every ``log_interval``-th step, for the
            log only; 0: never.
        on_evaluation: Called with each evaluated network and the number of steps before its last step.
    """
    steps = _StepEvaluation(stage, start, log_interval, on_evaluation)

    def details(outcome: Outcome) -> Mapping[str, Any]:
        print_result(start.name, outcome.metrics, stage.log)
        return {"label": f"{method.label}, {pruning.label}", "variant": method.variant, "command": command}

    variant = METHOD if pruning.variant == "paper" else EXTENDED
    method = replace(variant, decide=partial(decide, pruning, on_step=steps.record))
    return compress(method, start, pruning.target(), stage, latency=latency, details=details)


def print_result(name: str, metrics: Mapping[str, Mapping[str, Any]], log: Log) -> None:
    """Print the result as the original code does: loss, top-1, top-5, and "Corr", the percentage of equal predictions."""
    dense, small = metrics["baseline"], metrics["compressed"]
    log(
        f"{name}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} %, top-5 {small['top5']:.2f} %, loss {small['loss']:.4f}"
    )
    log(f"{name}: agreement (Corr) {small['agreement']:.2f} %")
    for cost in ("macs", "params"):
        remaining = 100 * small[cost] / dense[cost]
        log(f"{name}: {cost} {dense[cost] / 1e6:.2f} M -> {small[cost] / 1e6:.2f} M, {remaining:.2f} % remaining")


def round_accuracy(accuracy: Accuracy, prefix: str = "") -> dict[str, float]:
    """Return loss, top-1, top-5 and, if measured, agreement for a row of a log."""
    values = {f"{prefix}{name}": getattr(accuracy, name) for name in ("loss", "top1", "top5")}
    values["agreement"] = accuracy.agreement
    return {name: round(value, 4) for name, value in values.items() if value is not None}


@dataclass
class _StepEvaluation:
    """Log every step; at every ``interval``-th step, evaluate the network into evaluations.csv and call ``on_evaluation``."""

    stage: Stage
    start: TrainedModel
    interval: int
    on_evaluation: Callable[[nn.Module, int], None] | None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def record(self, folded: FoldedNetwork, row: LogRow) -> None:
        self.stage.log(
            f"{row['iteration']:4d}  {row['layer']}: {row['before']} -> {row['after']}, error {row['error']:.4g}, MACs {row['macs_left']:.4f}"
        )
        if not self.interval or (row["iteration"] - 1) % self.interval:
            return
        model = folded.build_pruned()
        accuracy = self.start.measure(model)
        self.rows.append({"iteration": row["iteration"], "macs_left": row["macs_left"], **round_accuracy(accuracy)})
        write_csv(self.stage.folder / EVALUATIONS, self.rows)
        self.stage.log(
            f"      loss {accuracy.loss:.4f}, top-1 {accuracy.top1:.2f}, top-5 {accuracy.top5:.2f}, Corr {accuracy.agreement:.2f}"
        )
        if self.on_evaluation:
            self.on_evaluation(model, row["iteration"] - 1)


def save_original_format(
    folder: Path, name: str, model: nn.Module, start: TrainedModel, dataset_dir: str | None = None
) -> Path:
    """Write the original code's file into the run folder: a dictionary of architecture name, arguments and tensors."""
    data = start.data
    normalize = {"mean": list(data.mean), "std": list(data.std)}
    how = None if data.preprocessing is None else data.preprocessing.geometry
    images = {"normalize": normalize, "classes": data.classes, **image_fields({}, data.class_ids, how)}
    save_dict(folder / name, to_dict(model, **images, dataset=data.name, dataset_dir=dataset_dir))
    return folder / name
