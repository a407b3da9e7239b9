"""Options of ``python -m compare`` and its default fine-tuning options for each data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.cli import (
    BETWEEN,
    IMAGES_OR_ZERO,
    PROCESSES,
    SEED,
    TARGET_BYTES,
    TARGET_LATENCY,
    TARGET_MACS,
    THREADS,
    fraction_or_zero,
    positive_int,
)
from common.errors import UserError
from common.options import (
    ARCHITECTURES_HELP,
    LATENCY_BATCH_HELP,
    LATENCY_RUNTIME_HELP,
    LATENCY_RUNTIMES,
    TARGET_LATENCY_HELP,
    WEIGHTS_HELP,
    CalibrationOptions,
    DataOptions,
    LimitOptions,
    RuntimeOptions,
    method_names,
    model_option,
)
from common.settings import command, option, section, settings
from common.training.train_options import RANGES, SCHEDULES

PACKAGE = "compare"
MACS_TARGETS, BYTES_TARGETS = (0.7, 0.5, 0.3), (0.1, 0.05, 0.03)


@dataclass(frozen=True)
class FineTuneDefaults:
    """Default fine-tuning options; both sets were selected on held-out training images, see docs/comparison.md."""

    learning_rate: float
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    distill: float = 0.0


FINETUNE_DEFAULTS = {
    "digits": FineTuneDefaults(0.05),
    "others": FineTuneDefaults(0.02, "linear", 0.5, distill=0.9),
}


def finetune_defaults(dataset: str) -> FineTuneDefaults:
    return FINETUNE_DEFAULTS.get(dataset, FINETUNE_DEFAULTS["others"])


@settings
class ComparedNetworkOptions:
    """Network."""

    arch: str = option("resnet20", f"architecture: {ARCHITECTURES_HELP}")
    model: str | None = model_option("; used instead of --arch")
    weights: str | None = option(
        None, f"trained weights of --arch or --model: {WEIGHTS_HELP} (default: train a dense network first)"
    )
    checkpoint: str | None = option(None, "trained checkpoint of this project, used instead of --arch")
    baseline_epochs: int | None = option(
        None, "training epochs of the dense network (default: 6 for digits, else 30)", type=RANGES["epochs"]
    )
    baseline_learning_rate: float = option(
        0.1, "initial learning rate of the dense network", type=RANGES["learning_rate"]
    )

    def __post_init__(self) -> None:
        if self.checkpoint and self.weights:
            raise UserError("--checkpoint and --weights exclude each other; give one file")


@settings
class ResultOptions:
    """Results."""

    methods: list[str] | None = option(
        None,
        f"methods to run: {', '.join(method_names())}; all: all of them (default: one variant of each paper, and the main reference methods)",
    )
    target_macs: list[float] | None = option(
        None,
        f"fractions of the dense MACs to keep (default: {' '.join(map(str, MACS_TARGETS))}; none with --target-latency)",
        type=TARGET_MACS,
        nargs="*",
    )
    target_bytes: list[float] | None = option(
        None,
        f"fractions of the dense file size to keep (default: {' '.join(map(str, BYTES_TARGETS))} on digits, and for methods "
        "that --methods or --chain names; else none)",
        type=TARGET_BYTES,
        nargs="*",
    )
    target_latency: list[float] = option(
        [],
        f"{TARGET_LATENCY_HELP.replace('fraction', 'fractions', 1)}; for the methods that target MACs",
        type=TARGET_LATENCY,
        nargs="*",
    )
    latency_batch_size: int | None = option(None, LATENCY_BATCH_HELP, type=positive_int)
    latency_runtime: str | None = option(None, LATENCY_RUNTIME_HELP, choices=LATENCY_RUNTIMES)
    seeds: list[int] = option([0, 1, 2], "random seeds; one dense network and one result per seed", type=SEED)
    chain: list[str] = option(
        [],
        "methods to apply in sequence; may be repeated; int8 comes last and has no target",
        action="append",
        type=str,
        metavar="A,B,C",
    )


@settings
class FineTuneOptions:
    """Fine-tuning, the same for all methods."""

    finetune_epochs: int = option(2, "number of epochs; 0 disables fine-tuning", type=RANGES["epochs"])
    batch_size: int | None = option(
        None, "images per step (default: 64 for digits, else 128)", type=RANGES["batch_size"]
    )
    learning_rate: float | None = option(
        None, "initial learning rate (default: 0.05 for digits, else 0.02)", type=RANGES["learning_rate"]
    )
    weight_decay: float = option(5e-4, "weight decay", type=RANGES["weight_decay"])
    schedule: str | None = option(
        None, "learning-rate schedule (default: cosine for digits, else linear)", choices=SCHEDULES
    )
    warmup_epochs: float | None = option(
        None, "epochs of linear warm-up (default: 0 for digits, else 0.5)", type=RANGES["warmup_epochs"]
    )
    label_smoothing: float = option(0.0, "label smoothing", type=RANGES["label_smoothing"])
    distill: float | None = option(
        None,
        "weight of the distillation loss (distance to the dense network's outputs), in [0, 1]; "
        "cross-entropy has the remaining weight (default: 0 for digits, else 0.9)",
        type=fraction_or_zero,
        metavar="W",
    )
    recalibrate: int = option(
        0,
        "number of training images on which batch norm is recalibrated after pruning, all if there are fewer; 0 disables recalibration",
        type=IMAGES_OR_ZERO,
        metavar="N",
    )
    amp: bool = option(False, "automatic mixed precision (bfloat16)")


@settings
class ExecutionOptions:
    """Run."""

    out: str = option("runs/compare", "folder for the results and the report")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(
        None,
        "number of CPU threads (default: the free cores; a comparison that resumes keeps its number)",
        type=THREADS,
    )
    jobs: int | None = option(
        None,
        "number of processes that share the work (default: on a CPU, one per seed if there are enough cores; else 1)",
        type=PROCESSES,
    )
    force: bool = option(False, "recompute results that were computed with other options")
    accept_unreachable: bool = option(
        False, "exit with status 0 although methods do not reach a target (otherwise 2, after the report)"
    )
    no_latency: bool = option(False, "do not measure latency")
    no_report: bool = option(False, "compute the results only; --report-only writes the report later")
    report_only: bool = option(False, "write the report of the existing results, without compressing anything")

    def __post_init__(self) -> None:
        if self.report_only and self.no_report:
            raise UserError("--report-only and --no-report exclude each other; nothing would be done")


@settings
class Compare:
    """Compress one network to the same targets with every installed method, fine-tune all results alike, and report."""

    data: DataOptions = section(DataOptions)
    holdout: float | None = option(
        None,
        "measure on this fraction of the training set, held out, instead of the test set",
        type=BETWEEN,
        metavar="F",
    )
    network: ComparedNetworkOptions = section(ComparedNetworkOptions)
    results: ResultOptions = section(ResultOptions)
    limits: LimitOptions = section(LimitOptions)
    calibration: CalibrationOptions = section(CalibrationOptions)
    tuning: FineTuneOptions = section(FineTuneOptions)
    execution: ExecutionOptions = section(ExecutionOptions)
    running: RuntimeOptions = section(RuntimeOptions)


def main(argv: Sequence[str] | None = None, prog: str = "python -m compare") -> int:
    return command(Compare, lambda settings: compare(settings, argv), argv, prog, PACKAGE)


def compare(settings: Compare, argv: Sequence[str] | None) -> None:
    """Run the command. argv: arguments for its worker processes."""
    from compare.command import run

    run(settings, argv)
