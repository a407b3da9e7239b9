"""Prune a trained network as its prune-info file says, and fine-tune it: ``<saved-dir>/<arch>-<threshold>/``."""

import argparse
import hashlib
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import cli
from common.atomic import write_bytes, write_csv
from common.channels import keep_channels
from common.checkpoint import load_model, save_model
from common.cost import WidthCost
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.measure import Accuracy, evaluate, latency_ms, side
from common.runs import LOG, METRICS, Run, open_run
from common.training import TrainOptions, fit
from redundancy_graph.decide import kept_channels
from redundancy_graph.generate import Settings, generate
from redundancy_graph.log import Say, log_to
from redundancy_graph.names import tensors_to_authors
from redundancy_graph.options import (
    PACKAGE,
    add_common_options,
    add_generation_options,
    add_seed_option,
    labels,
    load_subject,
)
from redundancy_graph.prune_info import match_prune_info, read_prune_info
from redundancy_graph.subject import SUFFIX, Subject
from redundancy_graph.thresholds import TOLERANCE

NOT_PART_OF_A_RUN = ("force", "generate", "log_dir", "plot_layer", "plots", "pruneinfo_dir", "saved_dir")


@dataclass(frozen=True)
class Script:
    """What tells the two fine-tuning scripts apart: the seed's defaults."""

    prog: str
    description: str
    dataset: str
    root: str
    arch: str
    epochs: int
    weight_decay: float


CIFAR10 = Script("prune_cifar10.py", "Fine-tune Pruned Model on CIFAR-10", "cifar10", "./cifar10", "vgg16", 90, 5e-4)
IMAGENET = Script(
    "prune_imagenet.py", "Fine-tune Pruned Model on ImageNet", "imagenet", "./imagenet", "resnet50", 65, 1e-4
)


def main_cifar10(argv: Sequence[str] | None = None) -> int:
    return cli.run(lambda words: _main(CIFAR10, words), argv)


def main_imagenet(argv: Sequence[str] | None = None) -> int:
    return cli.run(lambda words: _main(IMAGENET, words), argv)


def build_parser(script: Script) -> cli.Parser:
    parser = cli.Parser(prog=script.prog, description=script.description, package=PACKAGE)
    add_seed_option(parser, "--arch", script.arch, "model architecture")
    add_seed_option(parser, "--pretrain-dir", f"{script.root}/pre-train/", "pre-trained model saved directory")
    add_seed_option(parser, "--dataset-dir", f"{script.root}/dataset/", "dataset saved directory")
    add_seed_option(parser, "--pruneinfo-dir", f"{script.root}/prune-info/", "pruning information saved directory")
    add_seed_option(parser, "--saved-dir", f"{script.root}/fine-tune/", "pruned model saved directory")
    add_seed_option(parser, "--log-dir", f"{script.root}/log/fine-tune/", "log file saved directory")
    add_seed_option(parser, "--threshold", 0.7, "similarity threshold")
    add_seed_option(parser, "--epochs", script.epochs, "number of fine-tuning epochs")
    add_seed_option(parser, "--batch-size", 256, "batch size", cli.positive_int)
    add_seed_option(parser, "--learning-rate", 0.01, "initial learning rate")
    add_seed_option(parser, "--momentum", 0.9, "momentum")
    add_seed_option(parser, "--weight-decay", script.weight_decay, "weight decay")
    add_seed_option(parser, "--adjust", 30, "learning rate decay step", cli.positive_int)
    add_common_options(parser, dataset=script.dataset)
    add_generation_options(parser, mini_batch=True)
    parser.add_argument(
        "--generate", action="store_true", help="make prune info that is missing; --target-macs always does"
    )
    parser.add_argument("--tensorboard", default=None, help="folder for TensorBoard")
    return parser


def _main(script: Script, argv: Sequence[str] | None) -> None:
    args = build_parser(script).parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    recipe = recipe_of(args)
    with process_group(device):
        subject = load_subject(args, f"{script.root}/dataset/")
        wanted = labels(subject.name, args)
        if args.target_macs is None and not args.generate:
            _require(script, args, wanted)
        with log_to([Path(args.log_dir) / f"{label}.log" for label in wanted]) as say:
            files = _prune_info(args, subject, wanted, device, say)
            cuts = {label: read_cut(subject, file, args.vgg_hidden, args.target_macs) for label, file in files.items()}
            reference = Reference(subject, device, args.workers)
            command = shlex.join([script.prog, *(sys.argv[1:] if argv is None else argv)])
            for label, kept in cuts.items():
                options = run_options(args, subject, wanted[label], kept)
                run = open_run(
                    Path(args.saved_dir) / label, PACKAGE, options,
                    device=device, fingerprint=subject.data.fingerprint, force=args.force,
                )  # fmt: skip
                fine_tune(
                    run, reference, kept, recipe, seed=args.seed, command=command, tensorboard=args.tensorboard, say=say
                )
            if args.plots and is_main():
                _draw(Path(args.saved_dir), subject.name, say)


def recipe_of(args: argparse.Namespace) -> TrainOptions:
    """SGD with the learning rate divided by ten after every ``--adjust`` epochs, as the seed's scripts train."""
    return TrainOptions(
        epochs=args.epochs, batch_size=args.batch_size, learning_rate=args.learning_rate, momentum=args.momentum,
        weight_decay=args.weight_decay, schedule="multi-step", milestones=milestones(args.epochs, args.adjust), gamma=0.1,
        amp=args.amp, compile=args.compile,
    )  # fmt: skip


def milestones(epochs: int, adjust: int) -> tuple[int, ...]:
    """Epochs after which the learning rate drops: every multiple of ``adjust`` below ``epochs``."""
    return tuple(range(adjust, epochs, adjust))


def run_options(
    args: argparse.Namespace, subject: Subject, threshold: float | None, kept: Mapping[str, list[int]]
) -> dict:
    """Everything that a run's result depends on: a run goes on only if all of it is the same."""
    options = {name: value for name, value in vars(args).items() if name not in NOT_PART_OF_A_RUN}
    return options | {
        "arch": subject.arch or subject.name,
        "dataset": subject.data.name,
        "threshold": threshold,
        "weights_digest": subject.digest,
        "kept_digest": hashlib.sha256(json.dumps(dict(kept), sort_keys=True).encode()).hexdigest()[:16],
        "mean": subject.data.mean,
        "std": subject.data.std,
    }


def _require(script: Script, args: argparse.Namespace, wanted: Mapping[str, float | None]) -> None:
    for label, threshold in wanted.items():
        file = Path(args.pruneinfo_dir) / f"{label}.json"
        if not file.is_file():
            command = (
                f"generate_prune_info.py --arch {args.arch} --threshold {threshold!r} --saved-dir {args.pruneinfo_dir}"
            )
            raise UserError(f"{file}: no such file; make it with {command}, or add --generate")


def _prune_info(args: argparse.Namespace, subject: Subject, wanted, device, say: Say) -> dict[str, Path]:
    """Where the prune info of every label is; what is missing is made, if that was asked for."""
    folder = Path(args.pruneinfo_dir)
    missing = {label: t for label, t in wanted.items() if not (folder / f"{label}.json").is_file()}
    if missing and is_main():
        generate(
            subject, missing, Settings.of(args), folder,
            device=device, target_macs=args.target_macs, workers=args.workers, plots=args.plots, plot_layer=args.plot_layer, say=say,
        )  # fmt: skip
    barrier()
    return {label: folder / f"{label}.json" for label in wanted}


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
        rows = fit(
            pruned, subject.data.train, recipe, folder=run.folder, test=subject.data.test,
            device=device, seed=seed, workers=reference.workers, tensorboard=tensorboard,
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
        content = (
            io.BytesIO()
        )  # torch.save writes a file's name into the file: the temporary one would differ each time
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


def _draw(folder: Path, name: str, say: Say) -> None:
    from redundancy_graph import plots

    file = folder / f"{name}-accuracy.png"
    plots.accuracy_against_macs(file, plots.finished_runs(folder, name))
    say(f"plot: {file}")
