"""The commands of the stages. What they do is in `stages`, `report` and `plots`, and is imported when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import train as baseline
from common.atomic import write_json
from common.cli import load_data
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.evaluate import as_table
from common.options import Network
from common.runs import read_json
from common.settings import subcommands
from deep_compression.settings import (
    PACKAGE,
    Compress,
    Decode,
    Encode,
    Evaluate,
    Prune,
    Report,
    Share,
    StageOptions,
    TrainingStage,
)

if TYPE_CHECKING:
    from common.data import DataBundle


def main(argv: Sequence[str] | None = None) -> int:
    """The stage is the first argument; each stage has its own options (STAGE -h)."""
    about = "The stages of Deep Compression; STAGE -h lists options."
    return subcommands(COMMANDS, argv, prog="python -m deep_compression", description=about, package=PACKAGE)


# -------------------------------------------------------------------------------------------------------- stages that train


def train(settings: baseline.Train) -> None:
    """Train a dense network as `common.train` does."""
    from deep_compression import vgg19  # noqa: F401 - registers the network of the original code

    baseline.train(settings)


def run_stage(settings: StageOptions) -> None:
    """Run one stage, or all of them for `compress`, in run folders."""
    from common.factory import import_factory
    from deep_compression import stages

    name, own = type(settings).__name__.lower(), settings.network.model
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    with process_group(device):
        data = load_data(settings.data)
        out = Path(settings.out or f"runs/{data.name}/{settings.network.arch or 'network'}-{settings.repeat.seed}")
        network = network_file(name, settings.network, data, out)
        setting = stages.Setting(
            data, device, settings.repeat.seed, settings.data.workers,
            baseline=baseline_file(settings.baseline, out, network),
            factory=import_factory(own, data.num_classes) if own else None,
            latency=not settings.no_latency, force=settings.repeat.force,
            tensorboard=settings.tensorboard if isinstance(settings, TrainingStage) else None,
        )  # fmt: skip
        folder = out / name
        match settings:
            case Prune():
                stages.prune(network, folder, settings.pruning.plan(), settings.options(), setting)
            case Share():
                stages.share(network, folder, settings.sharing.plan(), settings.options(), setting)
            case Encode():
                stages.encode(network, folder, settings.encoding, setting)
            case Compress():
                folder = stages.compress(network, out, settings.recipe(), setting)
        if is_main():
            print(summary(folder))


def summary(folder: Path) -> str:
    """Two lines on a finished run."""
    metrics = read_json(folder / "metrics.json")
    dense, small = metrics.get("baseline", metrics["compressed"]), metrics["compressed"]
    rate = f", {metrics['rate']:.2f}x smaller than the dense weights" if "rate" in metrics else ""
    return (
        f"{folder}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} %, "
        f"{small['nonzero_params']:,} of {small['params']:,} parameters not zero, {small['bytes']:,} bytes{rate}"
    )


BEFORE = {"share": "prune", "encode": "share"}


def network_file(stage: str, network: Network, data: DataBundle, out: Path) -> Path:
    """The file to start from: --checkpoint, --weights written once as a checkpoint of ours, or the result of the stage before."""
    if network.checkpoint:
        return Path(network.checkpoint)
    before = out / BEFORE[stage] / "model.safetensors" if stage in BEFORE else None
    if before is not None and not network.weights and before.is_file():
        return before
    if not network.weights:
        hint = f"; {before} is not there" if before else ""
        raise UserError(f"say which trained network: --checkpoint FILE, or --arch NAME --weights FILE{hint}")
    from common.checkpoint import save_model
    from common.factory import model_from_options

    path = out / "dense.safetensors"
    model, _ = model_from_options(network, data.num_classes, data.input_shape)
    if is_main():
        save_model(path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    barrier()
    return path


def baseline_file(given: str | None, out: Path, network: Path) -> Path:
    """The dense network to compare with: the given one, else the one that was pruned into OUT/prune, else ``network``."""
    if given:
        return Path(given)
    pruned = out / "prune" / "metrics.json"
    if pruned.is_file():
        dense = Path(read_json(pruned).get("network", ""))
        if dense.is_file():
            return dense
    return network


# ---------------------------------------------------------------------------------------------------- stages that only look


def decode(settings: Decode) -> None:
    """Write the checkpoint of a compressed file."""
    from common.checkpoint import save_model
    from common.factory import import_factory
    from deep_compression.network_file import read_network

    factory = import_factory(settings.model) if settings.model else None
    model = read_network(settings.file, factory)
    output = Path(settings.output or Path(settings.file).with_suffix(".safetensors"))
    save_model(output, model, factory=factory)
    print(f"{output}: {sum(t.numel() for t in model.state_dict().values()):,} numbers")


def evaluate(settings: Evaluate) -> None:
    """Measure a file and print the values."""
    from common.factory import import_factory
    from deep_compression import stages

    set_threads(settings.run.threads)
    data = load_data(settings.data)
    setting = stages.Setting(
        data, choose_device(settings.run.device), workers=settings.data.workers,
        baseline=Path(settings.baseline) if settings.baseline else None,
        factory=import_factory(settings.model, data.num_classes) if settings.model else None,
        latency=not settings.no_latency,
    )  # fmt: skip
    values: dict[str, Any] = stages.measure(Path(settings.file), setting)["compressed"]
    print(as_table(values))
    if settings.json:
        write_json(settings.json, values)


def report(settings: Report) -> None:
    """Print the table of a file, and draw it if asked for."""
    if not Path(settings.file).is_file():
        raise UserError(f"{settings.file}: no such file")
    from deep_compression import report as reports
    from deep_compression.compressed import account

    try:
        found = account(settings.file)
    except ValueError as problem:
        raise UserError(f"{settings.file}: {problem}") from problem
    print(reports.as_text(settings.file, found))
    if settings.json:
        write_json(settings.json, reports.as_json(found))
    if settings.plots:
        from deep_compression import plots

        for path in plots.draw_file(settings.file, found, Path(settings.plots)):
            print(path)


COMMANDS: dict[str, tuple[type, Any]] = {
    "train": (baseline.Train, train),
    "prune": (Prune, run_stage),
    "share": (Share, run_stage),
    "encode": (Encode, run_stage),
    "compress": (Compress, run_stage),
    "decode": (Decode, decode),
    "evaluate": (Evaluate, evaluate),
    "report": (Report, report),
}
