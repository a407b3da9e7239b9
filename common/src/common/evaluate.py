"""``python -m common.evaluate`` prints accuracy, cost, size and latency of a network on a data set's test images."""

import sys
from collections.abc import Sequence

from common.cli import positive_int
from common.options import DataOptions, NetworkOptions, RunOptions
from common.settings import command, option, section, settings


@settings
class Evaluate:
    """Accuracy, cost, size and latency of a network."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: RunOptions = section(RunOptions)
    batch_size: int | None = option(None, "images per step; 250, on CUDA up to 2000", type=positive_int)
    json: str | None = option(None, "write the figures to this file too")
    no_latency: bool = option(False, "do not measure latency")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Evaluate, evaluate, argv, "python -m common.evaluate")


def evaluate(settings: Evaluate) -> None:
    """The command: read the network and the data, measure, print."""
    from common import measure
    from common.atomic import write_json
    from common.device import choose_device, set_threads
    from common.trained_model import open_trained_model

    set_threads(settings.run.threads)
    trained = open_trained_model(settings.network, settings.data, device=choose_device(settings.run.device))
    accuracy = measure.evaluate(
        trained.copy(),
        trained.data.test,
        device=trained.device,
        batch_size=settings.batch_size,
        workers=trained.workers,
    )
    figures = trained.metrics(trained.model, accuracy, trained.bytes)
    if not settings.no_latency:
        timed = measure.latency_ms({"model": trained.copy()}, trained.data.input_shape, device=trained.device)
        figures["latency_ms"] = timed["model"]
    print(as_table(figures))
    if settings.json:
        write_json(settings.json, figures)


def as_table(figures: dict) -> str:
    """The figures, one a line, with units."""
    rows = [
        ("top-1", f"{figures['top1']:.2f} %"),
        ("top-5", f"{figures['top5']:.2f} %"),
        ("loss", f"{figures['loss']:.4f}"),
        ("MACs", f"{figures['macs']:,}"),
        ("params", f"{figures['params']:,} ({figures['nonzero_params']:,} not zero)"),
        ("bytes", f"{figures['bytes']:,}"),
    ]
    rows += [(f"latency, batch {n}", f"{ms:.2f} ms") for n, ms in figures.get("latency_ms", {}).items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    sys.exit(main())
