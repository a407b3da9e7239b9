"""Generate pruning information: from a trained network and pictures to ``<arch>-<threshold>.json``."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from common.atomic import write_json
from common.device import choose_device, set_threads
from common.errors import UserError
from common.log import Say, log_to
from common.runs import Stage, describe_environment, open_stage
from common.settings import flat
from redundancy_graph.budget import Budget, Settings, measure
from redundancy_graph.decide import Decision, decide
from redundancy_graph.names import to_authors
from redundancy_graph.prune_info import write_prune_info
from redundancy_graph.settings import PACKAGE, FineTune, Generate, labels
from redundancy_graph.subject import Subject, load_subject

REPORT = "report.json"


def generate_prune_info(options: Generate) -> None:
    """The command generate_prune_info.py."""
    set_threads(options.run.threads)
    device = choose_device(options.run.device)
    subject = load_subject(options)
    wanted = labels(subject.name, options)
    with log_to([Path(options.log_dir) / f"{label}.log" for label in wanted]) as say:
        say(f"{flat(options)}\n{describe_environment(device)}")
        generate(
            subject, wanted, settings_of(options), Path(options.saved_dir),
            device=device, target_macs=options.decisions.target_macs, workers=options.source.workers,
            force=options.repeat.force, plots=options.plotting.plots, plot_layer=options.plotting.plot_layer, say=say,
        )  # fmt: skip


def settings_of(options: Generate | FineTune) -> Settings:
    decisions = options.decisions
    return Settings(
        options.mini_batch, options.repeat.seed, decisions.decider, decisions.bn_mode, decisions.augment, decisions.vgg_hidden
    )  # fmt: skip


def generate(
    subject: Subject,
    wanted: dict[str, float | None],
    settings: Settings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    target_macs: float | None = None,
    workers: int = 2,
    force: bool = False,
    plots: bool = False,
    plot_layer: str | None = None,
    say: Say = print,
) -> dict[str, Path]:
    """Write prune info for every label that has none yet, all from one pass over the pictures: {label: file}.

    wanted: {label: threshold, or None for the one that meets ``target_macs``}. Beside ``folder/label.json`` a folder
    ``folder/label/`` holds the configuration and a report; the same label with other options is refused without ``force``.
    """
    files = {label: folder / f"{label}.json" for label in wanted}
    runs = {
        label: _open(subject, label, wanted[label], settings, folder, device, target_macs, force) for label in wanted
    }
    missing = [label for label in wanted if force or not files[label].is_file()]
    for label in wanted:
        if label not in missing:
            say(f"{files[label]} is there already")
    if not missing:
        return files
    start = time.monotonic()
    say(f"{subject.name} on {subject.data.name}: {settings}")
    say(f"normalisation: mean {_short(subject.data.mean)}, deviation {_short(subject.data.std)}; device {device}")
    evidence = measure(subject, settings, device=device, workers=workers)
    say(f"maps of {len(evidence)} layers compared in {time.monotonic() - start:.1f} s")
    budget = Budget(subject, evidence, settings.vgg_hidden)
    for label in missing:
        threshold = wanted[label] if target_macs is None else budget.find(target_macs)
        decisions = [decide(one, threshold) for one in evidence]
        say_decisions(decisions, subject.arch, say)
        report = budget.report(decisions, threshold, target_macs)
        macs = f"{report['macs']:,} of {report['dense_macs']:,} MACs, removes {report['macs_removed']} %"
        say(f"{label}: threshold {threshold!r} keeps {macs}")
        write_json(runs[label].folder / REPORT, report)
        if plots:
            _draw(runs[label].folder, subject, decisions, evidence, threshold, plot_layer, say)
        write_prune_info(files[label], decisions, subject.arch)
        say(f"pruning information saved: {files[label]}")
    return files


def say_decisions(decisions: Sequence[Decision], arch: str | None, say: Say) -> None:
    """One line per layer, as the seed logs it, and how many removed filters have a similar one left."""
    for decision in decisions:
        removed = decision.channels - len(decision.kept)
        line = f"{to_authors(arch, decision.layer)}: removed {removed:04d} of {decision.channels:04d}"
        say(line + (f", {decision.coverage:.0%} of them similar to a kept one" if removed else ""))


def _open(
    subject: Subject, label: str, threshold: float | None, settings: Settings, folder: Path, device, target_macs, force
) -> Stage:  # fmt: skip
    """The folder of one label, its configuration compared with the one it was made with."""
    file = folder / f"{label}.json"
    config_file = folder / label / "config.json"
    if file.is_file() and not config_file.is_file() and not force:
        raise UserError(f"{file} was not made by this command; use it as it is, or --force to replace it")
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is a folder where the prune info should be; move it away")
    options = {
        "arch": subject.arch or subject.name,
        "dataset": subject.data.name,
        "threshold": threshold,
        "target_macs": target_macs,
        "weights_digest": subject.digest,
        "mean": subject.data.mean,
        "std": subject.data.std,
        **asdict(settings),
    }
    if force:
        file.unlink(missing_ok=True)
    return open_stage(
        folder / label, PACKAGE, options, device=device, fingerprint=subject.data.fingerprint, force=force
    )


def _draw(folder: Path, subject: Subject, decisions, evidence, threshold: float, layer: str | None, say: Say) -> None:
    from redundancy_graph import plots

    plots.kept_per_layer(folder / "kept.png", decisions, subject.arch)
    chosen = choose_layer(decisions, subject.arch, layer)
    plots.similarity_map(folder / "similarity.png", evidence[chosen], threshold, subject.arch)
    say(f"plots: {folder / 'kept.png'}, {folder / 'similarity.png'} ({decisions[chosen].layer})")


def choose_layer(decisions: Sequence[Decision], arch: str | None, layer: str | None) -> int:
    """Position of a layer by our name or the authors', or of the one that loses most filters. Raises UserError."""
    if layer is None:
        return int(np.argmax([d.channels - len(d.kept) for d in decisions]))
    for i, decision in enumerate(decisions):
        if layer in (decision.layer, to_authors(arch, decision.layer)):
            return i
    raise UserError(f"--plot-layer {layer}: the deciding layers are {', '.join(d.layer for d in decisions)}")


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
