"""``python -m common.evaluate``: accuracy, cost, file size and latency of a network on a data set's test images."""

import sys
from collections.abc import Sequence
from functools import partial

from common.cli import positive_int
from common.options import LATENCY_SECONDS_OF_A_RESULT, DataOptions, HardwareOptions, NetworkOptions
from common.settings import command, option, section, settings


@settings
class Evaluate:
    """Measure a network's accuracy, cost, file size and latency."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)
    batch_size: int | None = option(None, "images per batch; 250, on CUDA up to 2000, if not given", type=positive_int)
    amp: bool = option(False, "measure the accuracy in automatic mixed precision (bfloat16)")
    json: str | None = option(None, "file for the results")
    no_latency: bool = option(False, "skip the latency measurement")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.evaluate") -> int:
    return command(Evaluate, evaluate, argv, prog)


def evaluate(settings: Evaluate) -> None:
    """Read the network and the data, measure, and print the results."""
    from common import measure
    from common.atomic import write_json
    from common.device import amp_dtype, choose_device, set_threads
    from common.progress import activity, phase
    from common.trained_model import open_trained_model

    set_threads(settings.run.threads)
    network, device = settings.network, choose_device(settings.run.device)
    name = network.checkpoint or network.model or network.arch
    # Into a pipe or a file goes only the result.
    say = print if sys.stdout.isatty() else partial(print, file=sys.stderr, flush=True)
    with activity(f"{name} on {settings.data.dataset}", say) as doing:
        trained = open_trained_model(network, settings.data, test_only=True, device=device)
        if trained.data.preprocessing is not None:
            doing.print(f"images: {trained.data.preprocessing}")
        with phase(f"evaluate {len(trained.data.test):,} images"):
            accuracy = measure.evaluate(
                trained.copy(),
                trained.data.test,
                device=trained.device,
                batch_size=settings.batch_size,
                workers=trained.workers,
                amp=settings.amp,
            )
        metrics = trained.metrics(trained.model, accuracy, trained.bytes)
        if settings.amp:
            metrics["precision"] = str(amp_dtype(trained.device)).removeprefix("torch.")
        if not settings.no_latency:
            shape = trained.data.input_shape
            with phase("measure the latency"):
                timed = measure.measure_latency(
                    {"model": trained.copy()}, shape, device=trained.device, seconds=LATENCY_SECONDS_OF_A_RESULT
                )
            metrics["latency_ms"] = timed.milliseconds("model")
    print(format_metrics(metrics))
    if settings.json:
        write_json(settings.json, metrics)


def format_metrics(metrics: dict) -> str:
    """Format the metrics, one per line, with units."""
    rows = [
        ("top-1", f"{metrics['top1']:.2f} %"),
        ("top-5", f"{metrics['top5']:.2f} %"),
        ("loss", f"{metrics['loss']:.4f}"),
        ("MACs", f"{metrics['macs']:,}"),
        ("params", f"{metrics['params']:,} ({metrics['nonzero_params']:,} nonzero)"),
        ("bytes", f"{metrics['bytes']:,}"),
    ]
    rows += [("precision", metrics["precision"])] if "precision" in metrics else []
    rows += [(f"latency, batch {n}", f"{ms:.2f} ms") for n, ms in metrics.get("latency_ms", {}).items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    sys.exit(main())
