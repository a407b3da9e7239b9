"""Pruning according to a prune-info file, and fine-tuning, in the run folder ``<saved-dir>/<arch>-<threshold>/``."""

import hashlib
import json
import shlex
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
from common.settings import flatten
from common.target import Target
from common.trained_model import TrainedModel, print_result
from common.training import best_test_top1
from redundancy_graph.decision import add_vgg_hidden_layer, count_macs, shortcut_type
from redundancy_graph.generate import check_plot_layer, generate
from redundancy_graph.method import METHOD
from redundancy_graph.prune_info import match_prune_info, read_prune_info
from redundancy_graph.settings import GENERATE, PACKAGE, GeneratePruneInfo, PruneCifar10, run_labels
from redundancy_graph.weights import open_network, save_original_format

EXCLUDED_OPTIONS = ("force", "generate", "log_dir", "plot_layer", "plots", "pruneinfo_dir", "saved_dir")
GENERATING_OPTIONS = (  # shared with generate_prune_info.py
    *("pretrained", "pretrain_dir", "dataset", "dataset_dir", "normalize", "mini_batch", "seed"),
    *("similarity_layer", "bn_mode", "augment", "vgg_hidden"),
)
Kept = Mapping[str, Sequence[int]]


def prune_and_finetune(settings: PruneCifar10, command: str) -> None:
    """Run the commands prune_cifar10.py and prune_imagenet.py. ``command``: the command line, for metrics.json."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    with process_group(device):
        start = open_network(settings, device)
        check_plot_layer(start, settings.plotting.plot_layer)
        thresholds = run_labels(start.name, settings)
        if not settings.selection.has_target and not settings.generate:
            _require_prune_info(settings, thresholds)
        with log_to([Path(settings.log_dir) / f"{label}.log" for label in thresholds]) as log:
            log(f"{command}\n{describe_environment(device)}")
            files = _find_or_generate(settings, start, thresholds, command, log)
            kept_by_label = {label: read_kept(start, file, settings) for label, file in files.items()}
            for label, kept in kept_by_label.items():
                prune_one(settings, start, label, thresholds[label], kept, command, log)
            if settings.plotting.plots and is_main():
                _plot(Path(settings.saved_dir), start.name, log)


def prune_one(
    settings: PruneCifar10, start: TrainedModel, label: str, threshold: float | None, kept: Kept, command: str, log: Log
) -> None:
    """Prune and fine-tune one network, and save its weights in the original format next to the run folder."""
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
            "shortcut": shortcut_type(start.model),
            "epochs": settings.epochs,
            "best_test_top1": best_test_top1(outcome.log),
            "kept": {name: f"{len(indices)}/{sizes[name]}" for name, indices in kept.items()},
        }

    method = replace(METHOD, decide=lambda start, target, stage: Decision(kept))
    training = FineTuning(settings.recipe(), tensorboard=settings.tensorboard)
    fraction = settings.selection.target_macs
    target = None if fraction is None else Target(fraction)
    compress(method, start, target, stage, training, latency=not settings.no_latency, details=details)
    if is_main():
        save_original_format(stage, start, replace=not was_finished)
    barrier()


def run_options(settings: PruneCifar10, start: TrainedModel, threshold: float | None, kept: Kept) -> dict[str, Any]:
    """Return all options that a result depends on: a run resumes only if they are equal."""
    options = {name: value for name, value in flatten(settings).items() if name not in EXCLUDED_OPTIONS}
    return options | {
        "arch": start.arch or start.name,
        "dataset": start.data.name,
        "threshold": threshold,
        "weights_digest": start.file_digest,
        "kept_digest": hashlib.sha256(json.dumps(dict(kept), sort_keys=True).encode()).hexdigest()[:16],
        "mean": start.data.mean,
        "std": start.data.std,
    }


def read_kept(start: TrainedModel, file: Path, settings: PruneCifar10) -> dict[str, list[int]]:
    """Read {group: kept filters} from a prune-info file, and check them against the network and the target of MACs, if given."""
    decided = match_prune_info(file, read_prune_info(file), start.model, start.all_groups, start.arch)
    vgg_hidden, target_macs = settings.selection.vgg_hidden, settings.selection.target_macs
    if target_macs is not None:
        fraction = count_macs(start, decided, vgg_hidden) / start.cost.dense
        if not Target(target_macs).is_met_by(fraction):
            raise UserError(
                f"{file}: keeps {fraction:.4f} of the MACs, not {target_macs:g}; delete the file to generate it again"
            )
    return add_vgg_hidden_layer(decided, start.all_groups, vgg_hidden)


def log_epochs(rows: Sequence[Mapping[str, Any]], log: Log) -> None:
    """Log the epochs as the original code does."""
    for row in rows:
        tested = "" if row.get("test_top1") is None else f" test acc@1 {row['test_top1']:.2f}"
        log(
            f"epoch [{row['epoch']:02d}/{len(rows):02d}] time {row['seconds']:.1f} s lr {row['learning_rate']:g}"
            f" train loss {row['train_loss']:.4f} prec@1 {row['train_top1']:.2f}{tested}"
        )


def _require_prune_info(settings: PruneCifar10, thresholds: Mapping[str, float | None]) -> None:
    for label, threshold in thresholds.items():
        file = Path(settings.pruneinfo_dir) / f"{label}.json"
        if not file.is_file():
            command = _generating_command(settings, threshold)
            raise UserError(f"{file}: no such file; generate it with {command}, or add --generate")


def _generating_command(settings: PruneCifar10, threshold: float | None) -> str:
    """Return the command that generates the prune-info file of the same network, images and selection."""
    defaults, words = flatten(GeneratePruneInfo()), [GENERATE]
    network = "arch" if settings.source.model is None else "model"
    for name, value in flatten(settings).items():
        if name == network or (name in GENERATING_OPTIONS and value != defaults[name]):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {shlex.quote(str(value))}")
    return " ".join([*words, f"--threshold {threshold!r} --saved-dir {settings.pruneinfo_dir}"])


def _find_or_generate(
    settings: PruneCifar10, start: TrainedModel, thresholds: Mapping[str, float | None], command: str, log: Log
) -> dict[str, Path]:
    """Return the prune-info file of every label, and generate missing ones."""
    folder = Path(settings.pruneinfo_dir)
    missing = {label: t for label, t in thresholds.items() if not (folder / f"{label}.json").is_file()}
    if missing:  # in every process of torchrun, with the same result
        generate(start, missing, settings, folder, command, log=log)
    barrier()
    return {label: folder / f"{label}.json" for label in thresholds}


def _plot(folder: Path, name: str, log: Log) -> None:
    from redundancy_graph import plots

    file = folder / f"{name}-accuracy.png"
    plots.plot_accuracy_against_macs(file, plots.read_finished_runs(folder, name))
    log(f"plot: {file}")
