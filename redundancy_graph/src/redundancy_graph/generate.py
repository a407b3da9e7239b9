"""Generation of pruning information ``<arch>-<threshold>.json`` from a trained network and images."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_json
from common.device import choose_device, set_threads
from common.errors import UserError
from common.latency_target.meet import decide_for_latency
from common.log import Log, log_to
from common.methods import Decision
from common.pipeline import build_network
from common.runs import Stage, describe_environment, open_stage
from common.settings import flatten
from common.target import Target, latency_target
from common.trained_model import TrainedModel
from redundancy_graph.decision import (
    GroupDecision,
    add_vgg_hidden_layer,
    decide_group,
    find_threshold,
    summarize,
)
from redundancy_graph.group_similarity import GroupSimilarity, measure_similarities, prunable_groups
from redundancy_graph.layer_names import to_original
from redundancy_graph.prune_info import write_prune_info
from redundancy_graph.settings import PACKAGE, REPORT, GeneratePruneInfo, PruneCifar10, SelectionOptions, run_labels
from redundancy_graph.weights import open_network


def generate_prune_info(options: GeneratePruneInfo, command: str) -> None:
    """Run the command generate_prune_info.py. ``command``: the command line, for report.json."""
    set_threads(options.run.threads)
    start = open_network(options, choose_device(options.run.device))
    check_plot_layer(start, options.plotting.plot_layer)
    thresholds = run_labels(start.name, options)
    with log_to([Path(options.log_dir) / f"{label}.log" for label in thresholds]) as log:
        log(f"{flatten(options)}\n{describe_environment(start.device)}")
        generate(start, thresholds, options, Path(options.saved_dir), command, force=options.repeat.force, log=log)


def generate(
    start: TrainedModel,
    thresholds: Mapping[str, float | None],
    settings: GeneratePruneInfo | PruneCifar10,
    folder: Path,
    command: str,
    force: bool = False,
    log: Log = print,
) -> dict[str, Path]:
    """Write prune info for every label that has none yet, and plots if requested, in one pass over the images.

    The folder ``folder/label/`` next to ``folder/label.json`` contains configuration, report and plots.

    Args:
        thresholds: {label: threshold, or None for the one that meets the target of MACs}.
        command: The command line, for report.json.
        force: Replace files that were generated with other options, instead of raising an error.

    Returns:
        {label: file}.
    """
    selection, began = settings.selection, time.monotonic()
    files = {label: folder / f"{label}.json" for label in thresholds}
    stages = {
        label: _open_stage(start, label, threshold, settings, folder, force) for label, threshold in thresholds.items()
    }
    missing = [label for label in thresholds if force or not files[label].is_file()]
    for label in thresholds:
        if label not in missing:
            log(f"{files[label]} already exists")
    chosen = list(thresholds) if settings.plotting.plots else missing
    if not chosen:
        return files
    log(f"{start.name} on {start.data.name}: {_selection_options(settings)}")
    log(
        f"normalization: mean {_format_values(start.data.mean)}, standard deviation {_format_values(start.data.std)}; device {start.device}"
    )
    similarities = measure_similarities(start, selection, settings.mini_batch, settings.repeat.seed)
    log(f"feature maps of {len(similarities)} layers compared in {time.monotonic() - began:.1f} s")
    for label in chosen:
        threshold = thresholds[label]
        if threshold is None:
            threshold = choose_threshold(start, similarities, selection, stages[label])
        decisions = [decide_group(one, threshold) for one in similarities]
        if settings.plotting.plots:
            _plot(stages[label].folder, start, decisions, similarities, threshold, settings.plotting.plot_layer, log)
        if label not in missing:
            continue
        print_decisions(decisions, start.arch, log)
        summary = summarize(start, decisions, threshold, selection.target_macs, selection.vgg_hidden)
        macs = f"{summary['macs']:,} of {summary['dense_macs']:,} MACs, removes {summary['macs_removed']} %"
        log(f"{label}: threshold {threshold!r} keeps {macs} and {summary['params_removed']} % of the parameters")
        seconds = round(time.monotonic() - began, 1)
        write_json(stages[label].folder / REPORT, {**summary, "command": command, "seconds": seconds})
        write_prune_info(files[label], decisions, start.arch)
        log(f"pruning information saved: {files[label]}")
    return files


def choose_threshold(
    start: TrainedModel, similarities: Sequence[GroupSimilarity], selection: SelectionOptions, stage: Stage
) -> float:
    """Return the threshold that meets the target of MACs, or of latency as measured. Raises UserError if there is none."""
    if selection.target_latency is None:
        assert selection.target_macs is not None
        return find_threshold(start, similarities, Target(selection.target_macs), selection.vgg_hidden)

    def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
        assert target is not None
        threshold = find_threshold(start, similarities, target, selection.vgg_hidden)
        kept = {one.group: decide_group(one, threshold).kept for one in similarities}
        return Decision(
            add_vgg_hidden_layer(kept, start.all_groups, selection.vgg_hidden), report={"threshold": threshold}
        )

    target = _latency_target(selection)
    met = decide_for_latency(decide, build_network, start, target, stage, snap=False)
    return float(met.decision.report["threshold"])


def print_decisions(decisions: Sequence[GroupDecision], arch: str | None, log: Log) -> None:
    """Log one line per layer, as the original code does, with the fraction of removed filters that are similar to a kept one."""
    for decision in decisions:
        removed = decision.channels - len(decision.kept)
        line = f"{to_original(arch, decision.layer)}: removed {removed:04d} of {decision.channels:04d}"
        log(line + (f", {decision.coverage:.0%} of them similar to a kept one" if removed else ""))


def _latency_target(selection: SelectionOptions) -> Target:
    assert selection.target_latency is not None
    return latency_target(selection.target_latency, selection.latency_batch_size, selection.latency_runtime)


def _latency_options(selection: SelectionOptions) -> dict[str, Any]:
    if selection.target_latency is None:
        return {}
    return {"target_latency": selection.target_latency, **_latency_target(selection).conditions}


def _selection_options(settings: GeneratePruneInfo | PruneCifar10) -> dict[str, Any]:
    """Return the options that decisions depend on, besides network, images and threshold."""
    selection = {
        name: value
        for name, value in flatten(settings.selection).items()
        if name not in ("target_macs", "target_latency", "latency_batch_size", "latency_runtime")
    }
    return {"mini_batch": settings.mini_batch, "seed": settings.repeat.seed, **selection}


def _open_stage(
    start: TrainedModel,
    label: str,
    threshold: float | None,
    settings: GeneratePruneInfo | PruneCifar10,
    folder: Path,
    force: bool,
) -> Stage:
    """Open the folder of one label and compare its configuration with the options."""
    file = folder / f"{label}.json"
    config_file = folder / label / "config.json"
    if file.is_file() and not config_file.is_file() and not force:
        raise UserError(f"{file}: not written by this command; use it as it is, or replace it with --force")
    if file.exists() and not file.is_file():
        raise UserError(f"{file}: is a folder, not a prune-info file; move it")
    options = {
        "arch": start.arch or start.name,
        "dataset": start.data.name,
        "threshold": threshold,
        "target_macs": settings.selection.target_macs,
        **_latency_options(settings.selection),
        "weights_digest": start.file_digest,
        "mean": start.data.mean,
        "std": start.data.std,
        **_selection_options(settings),
    }
    if force:
        file.unlink(missing_ok=True)
    return open_stage(
        folder / label, PACKAGE, options, device=start.device, fingerprint=start.data.fingerprint, force=force
    )


def _plot(
    folder: Path, start: TrainedModel, decisions, similarities, threshold: float, layer: str | None, log: Log
) -> None:
    from redundancy_graph import plots

    plots.plot_kept_filters(folder / "kept.png", decisions, start.arch)
    chosen = choose_layer(decisions, start.arch, layer)
    plots.plot_similarity(folder / "similarity.png", similarities[chosen], threshold, start.arch)
    log(f"plots: {folder / 'kept.png'}, {folder / 'similarity.png'} ({decisions[chosen].layer})")


def choose_layer(decisions: Sequence[GroupDecision], arch: str | None, layer: str | None) -> int:
    """Return the position of a layer, named as here or as in the original code; by default the one that loses most filters."""
    if layer is None:
        return int(np.argmax([d.channels - len(d.kept) for d in decisions]))
    return next(i for i, d in enumerate(decisions) if layer in (d.layer, to_original(arch, d.layer)))


def check_plot_layer(start: TrainedModel, layer: str | None) -> None:
    """Raise UserError, before any image is read, if ``--plot-layer`` names no pruned layer."""
    if layer is None:
        return
    known = list(prunable_groups(start.model, start.groups))
    if layer not in (*known, *(to_original(start.arch, name) for name in known)):
        raise UserError(f"--plot-layer {layer}: not a pruned layer; choose from {', '.join(known)}")


def _format_values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
