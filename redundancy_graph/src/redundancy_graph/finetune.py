"""Prune a trained network as its prune-info file says, and fine-tune it: ``<saved-dir>/<arch>-<threshold>/``."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.log import Say, log_to
from common.runs import describe_environment, open_stage
from common.settings import flat
from common.trained import Trained
from redundancy_graph.generate import generate, settings_of
from redundancy_graph.prune import fine_tune, read_cut
from redundancy_graph.settings import PACKAGE, FineTune, labels
from redundancy_graph.subject import Subject, load_subject

NOT_PART_OF_A_RUN = ("force", "generate", "log_dir", "plot_layer", "plots", "pruneinfo_dir", "saved_dir")


def prune(settings: FineTune, command: str) -> None:
    """The commands prune_cifar10.py and prune_imagenet.py; ``command``: as it was typed."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    decisions = settings.decisions
    with process_group(device):
        subject = load_subject(settings)
        wanted = labels(subject.name, settings)
        if decisions.target_macs is None and not settings.generate:
            _require(settings, wanted)
        with log_to([Path(settings.log_dir) / f"{label}.log" for label in wanted]) as say:
            say(f"{command}\n{describe_environment(device)}")
            files = _prune_info(settings, subject, wanted, device, say)
            cuts = {
                label: read_cut(subject, file, decisions.vgg_hidden, decisions.target_macs) for label, file in files.items()
            }  # fmt: skip
            trained = Trained(
                subject.model, subject.data, subject.name, subject.file, subject.factory, device, settings.source.workers
            )  # fmt: skip
            for label, kept in cuts.items():
                run = open_stage(
                    Path(settings.saved_dir) / label, PACKAGE, run_options(settings, subject, wanted[label], kept),
                    device=device, fingerprint=subject.data.fingerprint, force=settings.repeat.force,
                )  # fmt: skip
                fine_tune(
                    run, subject, trained, kept, settings.recipe(), seed=settings.repeat.seed, command=command,
                    tensorboard=settings.tensorboard, say=say, latency=not settings.no_latency,
                )  # fmt: skip
            if settings.plotting.plots and is_main():
                _draw(Path(settings.saved_dir), subject.name, say)


def run_options(settings: FineTune, subject: Subject, threshold: float | None, kept: Mapping[str, list[int]]) -> dict:
    """Everything that a run's result depends on: a run goes on only if all of it is the same."""
    options = {name: value for name, value in flat(settings).items() if name not in NOT_PART_OF_A_RUN}
    return options | {
        "arch": subject.arch or subject.name,
        "dataset": subject.data.name,
        "threshold": threshold,
        "weights_digest": subject.digest,
        "kept_digest": hashlib.sha256(json.dumps(dict(kept), sort_keys=True).encode()).hexdigest()[:16],
        "mean": subject.data.mean,
        "std": subject.data.std,
    }


def _require(settings: FineTune, wanted: Mapping[str, float | None]) -> None:
    for label, threshold in wanted.items():
        file = Path(settings.pruneinfo_dir) / f"{label}.json"
        if not file.is_file():
            command = f"generate_prune_info.py --arch {settings.arch} --threshold {threshold!r} --saved-dir {settings.pruneinfo_dir}"
            raise UserError(f"{file}: no such file; make it with {command}, or add --generate")


def _prune_info(settings: FineTune, subject: Subject, wanted, device, say: Say) -> dict[str, Path]:
    """Where the prune info of every label is; what is missing is made, if that was asked for."""
    folder = Path(settings.pruneinfo_dir)
    missing = {label: t for label, t in wanted.items() if not (folder / f"{label}.json").is_file()}
    if missing:  # every process of torchrun: they come to the same decisions
        generate(
            subject, missing, settings_of(settings), folder,
            device=device, target_macs=settings.decisions.target_macs, workers=settings.source.workers,
            plots=settings.plotting.plots, plot_layer=settings.plotting.plot_layer, say=say,
        )  # fmt: skip
    barrier()
    return {label: folder / f"{label}.json" for label in wanted}


def _draw(folder: Path, name: str, say: Say) -> None:
    from redundancy_graph import plots

    file = folder / f"{name}-accuracy.png"
    plots.accuracy_against_macs(file, plots.finished_runs(folder, name))
    say(f"plot: {file}")
