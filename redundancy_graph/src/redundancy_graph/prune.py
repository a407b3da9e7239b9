"""Cut a network as decided, fine-tune it, and measure what was saved: the library behind the fine-tuning scripts."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.atomic import write_bytes, write_csv
from common.channels import keep_channels
from common.checkpoint import load_model, save_model
from common.cost import WidthCost
from common.distributed import barrier, is_main
from common.errors import UserError
from common.log import Say
from common.measure import Accuracy, evaluate, latency_ms, side
from common.runs import LOG, METRICS, Run
from common.training import Hooks, TrainOptions, fit
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


@dataclass
class Reference:
    """The trained network as it was read from disk; its accuracy is measured once per command, when it is first needed."""

    subject: Subject
    device: torch.device
    workers: int = 2
    _accuracy: list[Accuracy] = field(default_factory=list)

    def measure(self, model: nn.Module) -> Accuracy:
        decisions = self.accuracy.predictions
        return evaluate(model, self.subject.data.test, device=self.device, workers=self.workers, reference=decisions)

    @property
    def accuracy(self) -> Accuracy:
        if not self._accuracy:
            model = self.subject.model.to(self.device, memory_format=torch.channels_last)
            self._accuracy.append(evaluate(model, self.subject.data.test, device=self.device, workers=self.workers))
            model.cpu()
        return self._accuracy[0]


def fine_tune(
    run: Run,
    reference: Reference,
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
    subject, device = reference.subject, reference.device
    label = run.folder.name
    if not run.finished:
        pruned = keep_channels(subject.model, subject.example, kept)
        after_cut = reference.measure(pruned.to(device, memory_format=torch.channels_last)) if is_main() else None
        hooks = Hooks(after_epoch=_epochs_said(label, recipe.epochs, say))
        rows = fit(
            pruned, subject.data.train, recipe, folder=run.folder, test=subject.data.test,
            device=device, seed=seed, workers=reference.workers, tensorboard=tensorboard, hooks=hooks,
        )  # fmt: skip
        if is_main() and after_cut is not None:
            data = subject.data
            if not rows:
                write_csv(run.folder / LOG, [])
            save_model(run.model_path, pruned, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
            sides = measure_sides(run, reference, after_cut, latency)
            say_result(label, sides, rows, say)
            save_flat_weights(run, subject)
            best = max((row["test_top1"] for row in rows), default=None)
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


def _epochs_said(label: str, epochs: int, say: Say) -> Callable[[int], dict[str, Any]]:
    """A sign of life after every epoch, in a log that nobody watches through a progress bar."""

    def after_epoch(epoch: int) -> dict[str, Any]:
        say(f"{label}: epoch {epoch + 1} of {epochs} is done")
        return {}

    return after_epoch


def measure_sides(
    run: Run, reference: Reference, after_cut: Accuracy, latency: bool = True
) -> dict[str, dict[str, Any]]:
    """baseline, after_cut (before any fine-tuning) and compressed, the last as it is read back from disk."""
    subject = reference.subject
    model = load_model(run.model_path, subject.factory).to(reference.device, memory_format=torch.channels_last)
    shape, size = subject.data.input_shape, run.model_path.stat().st_size
    sides = {
        "baseline": side(subject.model, reference.accuracy, shape, subject.bytes),
        "after_cut": side(model, after_cut, shape, size),
        "compressed": side(model, reference.measure(model), shape, size),
    }
    if latency:
        timed = latency_ms({"baseline": subject.model, "compressed": model}, shape, device=reference.device)
        subject.model.cpu()
        for name, milliseconds in timed.items():
            sides[name]["latency_ms"] = milliseconds
    return sides


def save_flat_weights(run: Run, subject: Subject, replace: bool = True) -> Path:
    """The seed's flat file: a dictionary of tensors under the authors' names, written atomically."""
    file = run.folder.parent / f"{run.folder.name}{SUFFIX}"
    if replace or not file.is_file():
        tensors = load_model(run.model_path, subject.factory).state_dict()
        content = io.BytesIO()  # torch.save puts a file's name into the file: each time another temporary one
        torch.save(tensors_to_authors(subject.arch, tensors), content)
        write_bytes(file, content.getvalue())
    return file


def say_result(label: str, sides: Mapping[str, dict], rows: Sequence[Mapping[str, Any]], say: Say) -> None:
    """The log of the epochs, as the seed writes it, and what came out."""
    for row in rows:
        say(
            f"epoch [{row['epoch']:02d}/{len(rows):02d}] time {row['seconds']:.1f} s lr {row['learning_rate']:g}"
            f" train loss {row['train_loss']:.4f} prec@1 {row['train_top1']:.2f} test acc@1 {row['test_top1']:.2f}"
        )
    dense, cut, small = sides["baseline"], sides["after_cut"], sides["compressed"]
    say(
        f"{label}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} % ({cut['top1']:.2f} % before fine-tuning),"
        f" agreement {small['agreement']:.2f} %"
    )
    for what in ("macs", "params"):
        gone = 100 * (1 - small[what] / dense[what])
        say(f"{label}: {what} {dense[what] / 1e6:.2f} M -> {small[what] / 1e6:.2f} M, {gone:.2f} % removed")


def _counts(subject: Subject, kept: Mapping[str, list[int]]) -> dict[str, str]:
    sizes = {group.name: group.size for group in subject.groups}
    return {name: f"{len(indices)}/{sizes[name]}" for name, indices in kept.items()}
