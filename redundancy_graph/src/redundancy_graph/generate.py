"""Generate pruning information: from a trained network and images to ``<arch>-<threshold>.json``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_json
from common.device import choose_device, set_threads
from common.errors import UserError
from common.log import Log, log_to
from common.runs import Stage, describe_environment, open_stage
from common.settings import flat
from common.target import Target
from common.trained_model import TrainedModel
from redundancy_graph.decision import GroupDecision, decide_group, find_threshold, report
from redundancy_graph.evidence import gather
from redundancy_graph.names import to_authors
from redundancy_graph.prune_info import write_prune_info
from redundancy_graph.settings import PACKAGE, FineTune, Generate, labels
from redundancy_graph.weights import open_network

REPORT = "report.json"


def generate_prune_info(options: Generate) -> None:
    """The command generate_prune_info.py."""
    set_threads(options.run.threads)
    start = open_network(options, choose_device(options.run.device))
    wanted = labels(start.name, options)
    with log_to([Path(options.log_dir) / f"{label}.log" for label in wanted]) as log:
        log(f"{flat(options)}\n{describe_environment(start.device)}")
        generate(start, wanted, options, Path(options.saved_dir), force=options.repeat.force, log=log)


def generate(
    start: TrainedModel,
    wanted: Mapping[str, float | None],
    settings: Generate | FineTune,
    folder: Path,
    force: bool = False,
    log: Log = print,
) -> dict[str, Path]:
    """Write prune info for every label that has none yet, all from one pass over the images: {label: file}.

    wanted: {label: threshold, or None for the one that meets the target of MACs}. Beside ``folder/label.json`` a folder
    ``folder/label/`` holds the configuration and a report; the same label with other options is refused without ``force``.
    """
    how, target_macs, began = settings.decisions, settings.decisions.target_macs, time.monotonic()
    files = {label: folder / f"{label}.json" for label in wanted}
    stages = {label: _open(start, label, threshold, settings, folder, force) for label, threshold in wanted.items()}
    missing = [label for label in wanted if force or not files[label].is_file()]
    for label in wanted:
        if label not in missing:
            log(f"{files[label]} is there already")
    if not missing:
        return files
    log(f"{start.name} on {start.data.name}: {_how(settings)}")
    log(f"normalization: mean {_short(start.data.mean)}, deviation {_short(start.data.std)}; device {start.device}")
    evidence = gather(start, how, settings.mini_batch, settings.repeat.seed)
    log(f"maps of {len(evidence)} layers compared in {time.monotonic() - began:.1f} s")
    for label in missing:
        threshold = wanted[label]
        if threshold is None:
            assert target_macs is not None
            threshold = find_threshold(start, evidence, Target(target_macs), how.vgg_hidden)
        decisions = [decide_group(one, threshold) for one in evidence]
        print_decisions(decisions, start.arch, log)
        found = report(start, decisions, threshold, target_macs, how.vgg_hidden)
        macs = f"{found['macs']:,} of {found['dense_macs']:,} MACs, removes {found['macs_removed']} %"
        log(f"{label}: threshold {threshold!r} keeps {macs}")
        write_json(stages[label].folder / REPORT, found)
        if settings.plotting.plots:
            _draw(stages[label].folder, start, decisions, evidence, threshold, settings.plotting.plot_layer, log)
        write_prune_info(files[label], decisions, start.arch)
        log(f"pruning information saved: {files[label]}")
    return files


def print_decisions(decisions: Sequence[GroupDecision], arch: str | None, log: Log) -> None:
    """One line per layer, as the seed logs it, and how many removed filters have a similar one left."""
    for decision in decisions:
        removed = decision.channels - len(decision.kept)
        line = f"{to_authors(arch, decision.layer)}: removed {removed:04d} of {decision.channels:04d}"
        log(line + (f", {decision.coverage:.0%} of them similar to a kept one" if removed else ""))


def _how(settings: Generate | FineTune) -> dict[str, Any]:
    """Everything that decisions depend on besides network, images and threshold."""
    how = {name: value for name, value in flat(settings.decisions).items() if name != "target_macs"}
    return {"mini_batch": settings.mini_batch, "seed": settings.repeat.seed, **how}


def _open(
    start: TrainedModel, label: str, threshold: float | None, settings: Generate | FineTune, folder: Path, force: bool
) -> Stage:
    """The folder of one label, its configuration compared with the one it was made with."""
    file = folder / f"{label}.json"
    config_file = folder / label / "config.json"
    if file.is_file() and not config_file.is_file() and not force:
        raise UserError(f"{file} was not made by this command; use it as it is, or --force to replace it")
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is a folder where the prune info should be; move it away")
    options = {
        "arch": start.arch or start.name,
        "dataset": start.data.name,
        "threshold": threshold,
        "target_macs": settings.decisions.target_macs,
        "weights_digest": start.file_digest,
        "mean": start.data.mean,
        "std": start.data.std,
        **_how(settings),
    }
    if force:
        file.unlink(missing_ok=True)
    return open_stage(
        folder / label, PACKAGE, options, device=start.device, fingerprint=start.data.fingerprint, force=force
    )


def _draw(
    folder: Path, start: TrainedModel, decisions, evidence, threshold: float, layer: str | None, log: Log
) -> None:
    from redundancy_graph import plots

    plots.kept_per_layer(folder / "kept.png", decisions, start.arch)
    chosen = choose_layer(decisions, start.arch, layer)
    plots.similarity_map(folder / "similarity.png", evidence[chosen], threshold, start.arch)
    log(f"plots: {folder / 'kept.png'}, {folder / 'similarity.png'} ({decisions[chosen].layer})")


def choose_layer(decisions: Sequence[GroupDecision], arch: str | None, layer: str | None) -> int:
    """Position of a layer by our name or the authors', or of the one that loses most filters. Raises UserError."""
    if layer is None:
        return int(np.argmax([d.channels - len(d.kept) for d in decisions]))
    for i, decision in enumerate(decisions):
        if layer in (decision.layer, to_authors(arch, decision.layer)):
            return i
    raise UserError(f"--plot-layer {layer}: the deciding layers are {', '.join(d.layer for d in decisions)}")


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
