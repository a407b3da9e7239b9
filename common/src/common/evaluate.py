"""``python -m common.evaluate`` prints accuracy, cost, size and latency of a network on a data set's test images."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import positive_int
from common.errors import UserError
from common.options import Data, Network, Run
from common.settings import command, option, section, settings


@settings
class Evaluate:
    """Accuracy, cost, size and latency of a network."""

    network: Network = section(Network)
    data: Data = section(Data)
    run: Run = section(Run)
    batch_size: int | None = option(None, "images per step; 250, on CUDA up to 2000", type=positive_int)
    json: str | None = option(None, "write the figures to this file too")
    no_latency: bool = option(False, "do not measure latency")

    @property
    def file(self) -> Path:
        """The weights. Raises UserError if there are none."""
        file = self.network.checkpoint or self.network.weights
        if file is None:
            raise UserError("say which weights: --checkpoint FILE, or --arch NAME --weights FILE")
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file")
        return Path(file)


def main(argv: Sequence[str] | None = None) -> int:
    return command(Evaluate, evaluate, argv, "python -m common.evaluate")


def evaluate(settings: Evaluate) -> None:
    """The command: read the network and the data, measure, print."""
    file = settings.file
    import torch

    from common import measure
    from common.atomic import write_json
    from common.cli import load_data
    from common.device import choose_device, set_threads
    from common.factory import model_from_options

    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    data = load_data(settings.data)
    model, _ = model_from_options(settings.network, data.num_classes, data.input_shape)
    measure.require_fit(model, data, str(file))
    model.to(device, memory_format=torch.channels_last)
    images = data.test if settings.data.normalize else measure.test_images(model, data)
    accuracy = measure.evaluate(
        model, images, device=device, batch_size=settings.batch_size, workers=settings.data.workers
    )
    figures = measure.side(model, accuracy, data.input_shape, file.stat().st_size)
    if not settings.no_latency:
        figures["latency_ms"] = measure.latency_ms({"model": model}, data.input_shape, device=device)["model"]
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
