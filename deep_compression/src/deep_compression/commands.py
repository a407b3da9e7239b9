"""Commands of the stages. Heavy modules (`stages`, `size_tables`, `plots`) are imported only when they are needed."""

from __future__ import annotations

import warnings
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
from common.evaluate import format_metrics
from common.options import LATENCY_SECONDS_OF_A_RESULT, NetworkOptions
from common.runs import read_json
from common.settings import subcommands
from deep_compression.settings import (
    PACKAGE,
    CompressStages,
    Decode,
    EncodeStage,
    EvaluateFile,
    PruneStage,
    QuantizeStage,
    ReportFile,
    StageOptions,
    TrainingStageOptions,
)

if TYPE_CHECKING:
    from common.data import DataBundle


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage named by the first argument; each stage has its own options (STAGE -h)."""
    about = "Run a stage of Deep Compression. `python -m deep_compression STAGE -h` lists the options of a stage."
    return subcommands(COMMANDS, argv, prog="python -m deep_compression", description=about, package=PACKAGE)


# -------------------------------------------------------------------------------------------------------- stages that train


def train(settings: baseline.Train) -> None:
    """Train a dense network with :mod:`common.train`."""
    from deep_compression import vgg19  # noqa: F401 - registers the network of the original code

    baseline.train(settings)


def run_stage(settings: StageOptions) -> None:
    """Run one stage, or all stages for `compress`, in run folders."""
    from common.data import load_data
    from common.factory import import_factory
    from common.trained_model import read_trained_model
    from deep_compression import stages

    name = next(name for name, (cls, _) in COMMANDS.items() if isinstance(settings, cls))
    own, seed = settings.network.model, settings.repeat.seed
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    if own:
        import_factory(own)  # before the images are read
    with process_group(device):
        data = load_data(settings.data)
        out = Path(settings.out or f"runs/{data.name}/{settings.network.arch or 'network'}-{seed}")
        network = find_network(name, settings.network, data, out)
        baseline = find_baseline(settings.baseline, out, network)
        factory = import_factory(own, data.num_classes) if own else None
        read = partial(read_trained_model, data=data, factory=factory, device=device, workers=settings.data.workers)
        start = read(network)
        if baseline != network:
            start = replace(start, reference=read(baseline))
        stage = stages.root_stage(out, data, device, seed, settings.repeat.force)
        arguments: dict[str, Any] = {"latency": not settings.no_latency}
        if isinstance(settings, TrainingStageOptions):
            arguments["tensorboard"] = settings.tensorboard
        match settings:
            case PruneStage():
                stages.prune(start, stage, settings.pruning.plan(), settings.options(), **arguments)
            case QuantizeStage():
                stages.quantize(start, stage, settings.quantization.plan(), settings.options(), **arguments)
            case EncodeStage():
                stages.encode(start, stage, settings.encoding, **arguments)
            case CompressStages():
                stages.compress(start, stage, settings.recipe(), **arguments)
        if is_main():
            print(summary(out / stages.FOLDERS["encode" if name == "compress" else name]))


def summary(folder: Path) -> str:
    """Summarize a finished run in one line."""
    metrics = read_json(folder / "metrics.json")
    dense, small = metrics.get("baseline", metrics["compressed"]), metrics["compressed"]
    ratio = f", {metrics['rate']:.2f}x smaller than the dense weights" if "rate" in metrics else ""
    return (
        f"{folder}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} %, "
        f"{small['nonzero_params']:,} of {small['params']:,} parameters nonzero, {small['bytes']:,} bytes{ratio}"
    )


PREVIOUS = {"quantize": "prune", "encode": "quantize"}


def find_network(stage: str, network: NetworkOptions, data: DataBundle, out: Path) -> Path:
    """Return the network to start from: --checkpoint, a checkpoint of --weights, or the result of the previous stage."""
    from deep_compression.stages import FOLDERS

    if network.checkpoint:
        return Path(network.checkpoint)
    previous = out / FOLDERS[PREVIOUS[stage]] / "model.safetensors" if stage in PREVIOUS else None
    if previous is not None and not network.weights and previous.is_file():
        return previous
    if not network.weights:
        hint = f" ({previous} does not exist: run the stage {PREVIOUS[stage]} first)" if previous else ""
        option = f"--model {network.model}" if network.model else "--arch NAME"
        raise UserError(f"no trained network is given{hint}; use --checkpoint FILE, or {option} --weights FILE")
    from common.checkpoint import save_model
    from common.factory import model_from_options
    from common.trained_model import with_classes_of, with_preprocessing_of

    path = out / "dense.safetensors"
    model, _ = model_from_options(network, data.num_classes, data.input_shape)
    data = with_classes_of(model, with_preprocessing_of(model, data, network.weights), network.weights)
    if is_main():
        save_model(path, model, **data.record())
    barrier()
    return path


def find_baseline(given: str | None, out: Path, network: Path) -> Path:
    """Return the dense network to compare with: the given one, else the one that OUT/prune was made from, else ``network``."""
    if given:
        return Path(given)
    pruned = out / "prune" / "metrics.json"
    if pruned.is_file():
        dense = Path(read_json(pruned).get("network", ""))
        for place in (dense, out / dense.name):  # the folder may have been moved
            if place.is_file():
                return place
        warnings.warn(
            f"{pruned}: the dense network {dense} does not exist; results are compared with {network}, use --baseline FILE",
            stacklevel=2,
        )
    return network


# ------------------------------------------------------------------------------------------------------------------- files


def decode(settings: Decode) -> None:
    """Decode a compressed file to a checkpoint."""
    from common.checkpoint import save_model
    from common.factory import import_factory
    from common.formats import load_network

    factory = import_factory(settings.model) if settings.model else None
    model = load_network(settings.file, factory)
    output = Path(settings.output or Path(settings.file).with_suffix(".safetensors"))
    save_model(output, model, factory=factory)
    print(f"{output}: {sum(t.numel() for t in model.state_dict().values()):,} values")


def evaluate(settings: EvaluateFile) -> None:
    """Evaluate a compressed file or a checkpoint and print its accuracy, cost, size and latency."""
    from common.data import load_data
    from common.factory import import_factory
    from common.measure import measure_latency
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
        reference = "baseline" if settings.baseline else "compressed"
        timed = measure_latency(
            models, data.input_shape, reference=reference, device=device, seconds=LATENCY_SECONDS_OF_A_RESULT
        )
        values["latency_ms"] = timed.milliseconds("compressed")
        if settings.baseline:
            values["latency"] = timed.record("compressed")
    print(format_metrics(values))
    if settings.json:
        write_json(settings.json, values)


def report(settings: ReportFile) -> None:
    """Print the size tables of a file, and draw plots on request."""
    if not Path(settings.file).is_file():
        raise UserError(f"{settings.file}: no such file")
    from deep_compression import size_tables
    from deep_compression.compressed import size_report

    try:
        found = size_report(settings.file)
    except ValueError as problem:
        raise UserError(f"{settings.file}: {problem}") from problem
    print(size_tables.as_text(settings.file, found))
    if settings.json:
        write_json(settings.json, size_tables.as_json(found))
    if settings.plots:
        from deep_compression import plots

        for path in plots.draw_file(settings.file, found, Path(settings.plots)):
            print(path)


COMMANDS: dict[str, tuple[type, Any]] = {
    "train": (baseline.Train, train),
    "prune": (PruneStage, run_stage),
    "quantize": (QuantizeStage, run_stage),
    "encode": (EncodeStage, run_stage),
    "compress": (CompressStages, run_stage),
    "decode": (Decode, decode),
    "evaluate": (EvaluateFile, evaluate),
    "report": (ReportFile, report),
}
