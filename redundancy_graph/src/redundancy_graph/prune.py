"""Cut a network as decided, fine-tune it, and measure what was saved: the library behind the fine-tuning scripts."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.atomic import write_bytes, write_csv
from common.channels import keep_channels
from common.checkpoint import load_model, save_model
from common.cost import WidthCost
from common.distributed import barrier, is_main
from common.errors import UserError
from common.log import Say, epochs_said
from common.runs import LOG, METRICS, Stage
from common.trained import Trained, say_result
from common.training import Hooks, TrainOptions, best_test_top1, fit
from redundancy_graph.decide import kept_channels
from redundancy_graph.names import tensors_to_authors
from redundancy_graph.prune_info import match_prune_info, read_prune_info
from redundancy_graph.subject import SUFFIX, Subject
from redundancy_graph.thresholds import TOLERANCE


def read_cut(
    subject: Subject, file: Path, vgg_hidden: str = "512", target_macs: float | None = None
) -> dict[str, list[int]]:
    """{group: kept channels} of a prune-info file, checked against the network and, if given, the target of MACs."""
    decided = match_prune_info(file, read_prune_info(file), subject.model, subject.groups, subject.arch)
    kept = kept_channels(decided, subject.groups, vgg_hidden)
    if target_macs is not None:
        cost = WidthCost(subject.model, subject.data.input_shape, subject.groups)
        share = cost.macs({name: len(indices) for name, indices in kept.items()}) / cost.dense
        if not (1 - TOLERANCE) * target_macs <= share <= target_macs:
            raise UserError(
                f"{file} keeps {share:.4f} of the MACs, not {target_macs:g}; delete it to have it made anew"
            )
    return kept


def fine_tune(
    run: Stage,
    subject: Subject,
    trained: Trained,
    kept: Mapping[str, list[int]],
    recipe: TrainOptions,
    *,
    seed: int = 0,
    command: str = "",
    tensorboard: str | None = None,
    say: Say = print,
    latency: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Cut, measure, fine-tune, save, read back, measure: the run's metrics. A finished run is only read.

    Beside the run folder stands the seed's flat file ``<folder name>-weights.pth``: tensors only, under the authors' names.
    """
    label = run.folder.name
    if not run.finished:
        pruned = keep_channels(subject.model, subject.example, kept)
        after_cut = trained.measure(pruned.to(trained.device, memory_format=torch.channels_last)) if is_main() else None
        hooks = Hooks(after_epoch=epochs_said(label, recipe.epochs, say))
        rows = fit(
            pruned, subject.data.train, recipe, folder=run.folder, test=subject.data.test,
            device=trained.device, seed=seed, workers=trained.workers, tensorboard=tensorboard, hooks=hooks,
        )  # fmt: skip
        if is_main() and after_cut is not None:
            data = subject.data
            if not rows:
                write_csv(run.folder / LOG, [])
            save_model(run.model_path, pruned, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
            sides = trained.sides(run.model_path, after_cut, latency)
            say_epochs(rows, say)
            say_result(label, sides, say)
            save_flat_weights(run, subject)
            best = best_test_top1(rows)
            details = {
                "label": f"redundancy graph {label}",
                "command": command,
                "epochs": recipe.epochs,
                "best_test_top1": best,
            }
            run.finish({**sides, **details, "kept": _counts(subject, kept), **(extra or {})})
        barrier()
    elif is_main():
        save_flat_weights(run, subject, replace=False)
        say(f"{label} is finished: {run.folder / METRICS}")
    return run.metrics()


def save_flat_weights(run: Stage, subject: Subject, replace: bool = True) -> Path:
    """The seed's flat file: a dictionary of tensors under the authors' names, written atomically."""
    file = run.folder.parent / f"{run.folder.name}{SUFFIX}"
    if replace or not file.is_file():
        tensors = load_model(run.model_path, subject.factory).state_dict()
        content = io.BytesIO()  # torch.save puts a file's name into the file: each time another temporary one
        torch.save(tensors_to_authors(subject.arch, tensors), content)
        write_bytes(file, content.getvalue())
    return file


def say_epochs(rows: Sequence[Mapping[str, Any]], say: Say) -> None:
    """The log of the epochs, as the seed writes it."""
    for row in rows:
        tested = "" if row.get("test_top1") is None else f" test acc@1 {row['test_top1']:.2f}"
        say(
            f"epoch [{row['epoch']:02d}/{len(rows):02d}] time {row['seconds']:.1f} s lr {row['learning_rate']:g}"
            f" train loss {row['train_loss']:.4f} prec@1 {row['train_top1']:.2f}{tested}"
        )


def _counts(subject: Subject, kept: Mapping[str, list[int]]) -> dict[str, str]:
    sizes = {group.name: group.size for group in subject.groups}
    return {name: f"{len(indices)}/{sizes[name]}" for name, indices in kept.items()}
