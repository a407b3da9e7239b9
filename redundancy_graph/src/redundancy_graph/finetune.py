"""Prune a trained network as its prune-info file says, and fine-tune it: ``<saved-dir>/<arch>-<threshold>/``."""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import cli
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.log import Say, log_to
from common.runs import describe_environment, open_run
from common.trained import Trained
from common.training import TrainOptions, add_running_options, running_options
from redundancy_graph.generate import generate, settings_of
from redundancy_graph.options import (
    PACKAGE,
    add_common_options,
    add_generation_options,
    add_seed_option,
    labels,
    load_subject,
)
from redundancy_graph.prune import fine_tune, read_cut
from redundancy_graph.subject import Subject

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
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    add_running_options(parser)
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
        command = cli.command_line(script.prog, argv)
        with log_to([Path(args.log_dir) / f"{label}.log" for label in wanted]) as say:
            say(f"{command}\n{describe_environment(device)}")
            files = _prune_info(args, subject, wanted, device, say)
            cuts = {label: read_cut(subject, file, args.vgg_hidden, args.target_macs) for label, file in files.items()}
            trained = Trained(
                subject.model, subject.data, subject.name, subject.file, subject.factory, device, args.workers
            )
            for label, kept in cuts.items():
                options = run_options(args, subject, wanted[label], kept)
                run = open_run(
                    Path(args.saved_dir) / label, PACKAGE, options,
                    device=device, fingerprint=subject.data.fingerprint, force=args.force,
                )  # fmt: skip
                fine_tune(
                    run, subject, trained, kept, recipe, seed=args.seed, command=command, tensorboard=args.tensorboard,
                    say=say, latency=not args.no_latency,
                )  # fmt: skip
            if args.plots and is_main():
                _draw(Path(args.saved_dir), subject.name, say)


def recipe_of(args: argparse.Namespace) -> TrainOptions:
    """SGD with the learning rate divided by ten after every ``--adjust`` epochs, as the seed's scripts train."""
    return TrainOptions(
        epochs=args.epochs, batch_size=args.batch_size, learning_rate=args.learning_rate, momentum=args.momentum,
        weight_decay=args.weight_decay, schedule="multi-step", milestones=milestones(args.epochs, args.adjust), gamma=0.1,
        amp=args.amp, compile=args.compile, **running_options(args),
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
    if missing:  # every process of torchrun: they come to the same decisions
        generate(
            subject, missing, settings_of(args), folder,
            device=device, target_macs=args.target_macs, workers=args.workers, plots=args.plots, plot_layer=args.plot_layer, say=say,
        )  # fmt: skip
    barrier()
    return {label: folder / f"{label}.json" for label in wanted}


def _draw(folder: Path, name: str, say: Say) -> None:
    from redundancy_graph import plots

    file = folder / f"{name}-accuracy.png"
    plots.accuracy_against_macs(file, plots.finished_runs(folder, name))
    say(f"plot: {file}")
