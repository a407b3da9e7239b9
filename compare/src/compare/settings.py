"""Options of ``python -m compare``, and the recipes that they are usually."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.cli import fraction, nonnegative_int, positive_int, share
from common.options import ARCHITECTURE_NAMES, DataOptions, RunningOptions
from common.settings import command, option, section, settings
from common.training.options import SCHEDULES

PACKAGE = "compare"


@dataclass(frozen=True)
class Recipe:
    """What fine-tuning usually is; both were chosen on held-out training images, see the README."""

    learning_rate: float
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    distill: float = 0.0


RECIPES = {"digits": Recipe(0.05), "others": Recipe(0.02, "linear", 0.5, distill=0.9)}


def usual_recipe(dataset: str) -> Recipe:
    return RECIPES.get(dataset, RECIPES["others"])


@settings
class NetworkOptions:
    """Network."""

    arch: str = option("resnet20", f"one of {', '.join(ARCHITECTURE_NAMES)}")
    model: str | None = option(None, "PACKAGE.MODULE:FACTORY, your own network, instead of --arch")
    weights: str | None = option(None, "trained weights of --arch or --model; without them it is trained first")
    baseline: str | None = option(None, "a trained checkpoint of this project, instead of --arch")
    baseline_epochs: int | None = option(None, "epochs of its training; 6 for digits, else 30")


@settings
class Rows:
    """Rows."""

    methods: list[str] | None = option(None, "names of methods; all that are installed if not given")
    target_macs: list[float] = option([0.7, 0.5, 0.3], "shares of the MACs to keep", type=fraction, nargs="*")
    target_bytes: list[float] = option(
        [0.1, 0.05, 0.03], "shares of the file's bytes to keep", type=fraction, nargs="*"
    )
    seeds: list[int] = option([0, 1, 2], "a network and a row of each", type=nonnegative_int)
    chain: list[str] = option(
        [], "methods one after the other; may be repeated", action="append", type=str, metavar="A,B,C"
    )


@settings
class FineTuneOptions:
    """Fine-tuning, the same for all."""

    finetune_epochs: int = option(2, "0 leaves every network as it was cut")
    batch_size: int | None = option(None, "64 for digits, else 128", type=positive_int)
    learning_rate: float | None = option(None, "0.05 for digits, else 0.02")
    weight_decay: float = option(5e-4, "weight decay")
    schedule: str | None = option(None, "of the learning rate; cosine for digits, else linear", choices=SCHEDULES)
    warmup_epochs: float | None = option(None, "epochs of linear warm-up; 0 for digits, else 0.5")
    label_smoothing: float = option(0.0, "label smoothing")
    distill: float | None = option(
        None,
        "weight of the distance to the dense network's outputs in the loss, the rest is cross-entropy; "
        "0 for digits, else 0.9",
        type=share,
        metavar="W",
    )
    recalibrate: int = option(
        0,
        "training images that batch norm is recalibrated on after pruning, before fine-tuning; 0 leaves it",
        type=nonnegative_int,
        metavar="N",
    )
    amp: bool = option(False, "automatic mixed precision (bfloat16)")


@settings
class Execution:
    """Run."""

    out: str = option("runs/compare", "folder of the rows and the report")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(None, "threads on the CPU; torch's choice if not given")
    jobs: int | None = option(
        None,
        "processes that share out the rows; on a CPU one for each seed, as far as there are cores; else one",
        type=positive_int,
    )
    force: bool = option(False, "make rows anew that are there with other options")
    no_latency: bool = option(False, "do not measure latency")
    no_report: bool = option(False, "only the rows; --report-only makes the report later")
    report_only: bool = option(False, "compress nothing: a report on the rows that are there")


@settings
class Compare:
    """Compress one network with every installed method to the same budgets, fine-tune all alike, and report."""

    data: DataOptions = section(DataOptions)
    holdout: float | None = option(
        None,
        "train without this share of the training pictures and measure on it instead of the test set: for choices",
        type=fraction,
        metavar="F",
    )
    network: NetworkOptions = section(NetworkOptions)
    rows: Rows = section(Rows)
    tuning: FineTuneOptions = section(FineTuneOptions)
    run: Execution = section(Execution)
    running: RunningOptions = section(RunningOptions)


def main(argv: Sequence[str] | None = None) -> int:
    return command(Compare, lambda given: compare(given, argv), argv, "python -m compare", PACKAGE)


def compare(given: Compare, argv: Sequence[str] | None) -> None:
    """The command; ``argv`` is what its processes are called with."""
    from compare.command import run

    run(given, argv)
