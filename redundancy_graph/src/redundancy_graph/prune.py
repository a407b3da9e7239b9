"""Prune a trained network as its prune-info file says, and fine-tune it: ``<saved-dir>/<arch>-<threshold>/``."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.log import Log, log_to
from common.methods import Decision
from common.pipeline import FineTuning, Outcome, compress
from common.runs import describe_environment, open_stage
from common.settings import flat
from common.target import Target
from common.trained_model import TrainedModel, print_result
from common.training import best_test_top1
from redundancy_graph.decision import kept_channels, macs_of
from redundancy_graph.generate import generate
from redundancy_graph.method import METHOD
from redundancy_graph.prune_info import match_prune_info, read_prune_info
from redundancy_graph.settings import PACKAGE, FineTune, labels
from redundancy_graph.weights import open_network, save_flat_weights

NOT_PART_OF_A_RUN = ("force", "generate", "log_dir", "plot_layer", "plots", "pruneinfo_dir", "saved_dir")
Kept = Mapping[str, Sequence[int]]


def prune(settings: FineTune, command: str) -> None:
    """The commands prune_cifar10.py and prune_imagenet.py; ``command``: as it was typed."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    with process_group(device):
        start = open_network(settings, device)
        wanted = labels(start.name, settings)
        if settings.decisions.target_macs is None and not settings.generate:
            _require(settings, wanted)
        with log_to([Path(settings.log_dir) / f"{label}.log" for label in wanted]) as log:
            log(f"{command}\n{describe_environment(device)}")
            files = _prune_info(settings, start, wanted, log)
            cuts = {label: read_kept(start, file, settings) for label, file in files.items()}
            for label, kept in cuts.items():
                prune_one(settings, start, label, wanted[label], kept, command, log)
            if settings.plotting.plots and is_main():
                _draw(Path(settings.saved_dir), start.name, log)


def prune_one(
    settings: FineTune, start: TrainedModel, label: str, threshold: float | None, kept: Kept, command: str, log: Log
) -> None:
    """One network through the pipeline, and the flat file of its weights beside the run folder."""
    stage = open_stage(
        Path(settings.saved_dir) / label,
        PACKAGE,
        run_options(settings, start, threshold, kept),
        device=start.device,
        fingerprint=start.data.fingerprint,
        force=settings.repeat.force,
        seed=settings.repeat.seed,
        log=log,
    )
    was_finished, sizes = stage.finished, {group.name: group.size for group in start.all_groups}

    def details(outcome: Outcome) -> dict[str, Any]:
        log_epochs(outcome.log, log)
        print_result(label, outcome.metrics, log)
        return {
            "label": f"redundancy graph {label}",
            "command": command,
            "epochs": settings.epochs,
            "best_test_top1": best_test_top1(outcome.log),
            "kept": {name: f"{len(indices)}/{sizes[name]}" for name, indices in kept.items()},
        }

    method = replace(METHOD, decide=lambda start, target, stage: Decision(kept))
    training = FineTuning(settings.recipe(), tensorboard=settings.tensorboard)
    compress(method, start, None, stage, training, latency=not settings.no_latency, details=details)
    if is_main():
        save_flat_weights(stage, start, replace=not was_finished)
    barrier()


def run_options(settings: FineTune, start: TrainedModel, threshold: float | None, kept: Kept) -> dict[str, Any]:
    """Everything that a run's result depends on: a run goes on only if all of it is the same."""
    options = {name: value for name, value in flat(settings).items() if name not in NOT_PART_OF_A_RUN}
    return options | {
        "arch": start.arch or start.name,
        "dataset": start.data.name,
        "threshold": threshold,
        "weights_digest": start.file_digest,
        "kept_digest": hashlib.sha256(json.dumps(dict(kept), sort_keys=True).encode()).hexdigest()[:16],
        "mean": start.data.mean,
        "std": start.data.std,
    }


def read_kept(start: TrainedModel, file: Path, settings: FineTune) -> dict[str, list[int]]:
    """{group: filters that stay} of a prune-info file, checked against the network and, if given, the target of MACs."""
    decided = match_prune_info(file, read_prune_info(file), start.model, start.all_groups, start.arch)
    hidden, target_macs = settings.decisions.vgg_hidden, settings.decisions.target_macs
    if target_macs is not None:
        fraction = macs_of(start, decided, hidden) / start.cost.dense
        if not Target(target_macs).met(fraction):
            raise UserError(
                f"{file} keeps {fraction:.4f} of the MACs, not {target_macs:g}; delete it to have it made anew"
            )
    return kept_channels(decided, start.all_groups, hidden)


def log_epochs(rows: Sequence[Mapping[str, Any]], log: Log) -> None:
    """The log of the epochs, as the seed writes it."""
    for row in rows:
        tested = "" if row.get("test_top1") is None else f" test acc@1 {row['test_top1']:.2f}"
        log(
            f"epoch [{row['epoch']:02d}/{len(rows):02d}] time {row['seconds']:.1f} s lr {row['learning_rate']:g}"
            f" train loss {row['train_loss']:.4f} prec@1 {row['train_top1']:.2f}{tested}"
        )


def _require(settings: FineTune, wanted: Mapping[str, float | None]) -> None:
    for label, threshold in wanted.items():
        file = Path(settings.pruneinfo_dir) / f"{label}.json"
        if not file.is_file():
            command = f"generate_prune_info.py --arch {settings.arch} --threshold {threshold!r} --saved-dir {settings.pruneinfo_dir}"
            raise UserError(f"{file}: no such file; make it with {command}, or add --generate")


def _prune_info(
    settings: FineTune, start: TrainedModel, wanted: Mapping[str, float | None], log: Log
) -> dict[str, Path]:
    """Where the prune info of every label is; what is missing is made, if that was asked for."""
    folder = Path(settings.pruneinfo_dir)
    missing = {label: t for label, t in wanted.items() if not (folder / f"{label}.json").is_file()}
    if missing:  # every process of torchrun: they come to the same decisions
        generate(start, missing, settings, folder, log=log)
    barrier()
    return {label: folder / f"{label}.json" for label in wanted}


def _draw(folder: Path, name: str, log: Log) -> None:
    from redundancy_graph import plots

    file = folder / f"{name}-accuracy.png"
    plots.accuracy_against_macs(file, plots.finished_runs(folder, name))
    log(f"plot: {file}")
