"""The commands of the stages. What they do is in `stages`, `report` and `plots`, and is imported when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import train as baseline
from common.atomic import write_json
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.evaluate import as_table
from common.options import NetworkOptions
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
    from common.data import load_data
    from common.factory import import_factory
    from common.trained_model import read_trained_model
    from deep_compression import stages

    name, own, seed = type(settings).__name__.lower(), settings.network.model, settings.repeat.seed
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    with process_group(device):
        data = load_data(settings.data)
        out = Path(settings.out or f"runs/{data.name}/{settings.network.arch or 'network'}-{seed}")
        network = network_file(name, settings.network, data, out)
        baseline = baseline_file(settings.baseline, out, network)
        factory = import_factory(own, data.num_classes) if own else None
        read = partial(read_trained_model, data=data, factory=factory, device=device, workers=settings.data.workers)
        start = read(network)
        if baseline != network:
            start = replace(start, reference=read(baseline))
        stage = stages.chain(out, data, device, seed, settings.repeat.force)
        how: dict[str, Any] = {"latency": not settings.no_latency}
        if isinstance(settings, TrainingStage):
            how["tensorboard"] = settings.tensorboard
        match settings:
            case Prune():
                stages.prune(start, stage, settings.pruning.plan(), settings.options(), **how)
            case Share():
                stages.share(start, stage, settings.sharing.plan(), settings.options(), **how)
            case Encode():
                stages.encode(start, stage, settings.encoding, **how)
            case Compress():
                stages.compress(start, stage, settings.recipe(), **how)
        if is_main():
            print(summary(out / ("encode" if name == "compress" else name)))


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


def network_file(stage: str, network: NetworkOptions, data: DataBundle, out: Path) -> Path:
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
    from common.formats import load_network

    factory = import_factory(settings.model) if settings.model else None
    model = load_network(settings.file, factory)
    output = Path(settings.output or Path(settings.file).with_suffix(".safetensors"))
    save_model(output, model, factory=factory)
    print(f"{output}: {sum(t.numel() for t in model.state_dict().values()):,} numbers")


def evaluate(settings: Evaluate) -> None:
    """Measure a file and print the values."""
    from common.data import load_data
    from common.factory import import_factory
    from common.measure import latency_ms
    from common.trained_model import read_trained_model

    set_threads(settings.run.threads)
    data, device = load_data(settings.data), choose_device(settings.run.device)
    factory = import_factory(settings.model, data.num_classes) if settings.model else None
    read = partial(read_trained_model, data=data, factory=factory, device=device, workers=settings.data.workers)
    network = read(Path(settings.file))
    models, accuracy = {"compressed": network.copy()}, None
    if settings.baseline:
        baseline = read(Path(settings.baseline))
        models["baseline"] = baseline.copy()
        accuracy = replace(network, reference=baseline).measure(network.copy())
    values = network.metrics(network.model, accuracy or network.accuracy, network.bytes)
    if not settings.no_latency:
        values["latency_ms"] = latency_ms(models, data.input_shape, device=device)["compressed"]
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
