"""``python -m common.evaluate`` prints what a network is worth on a data set's test pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common import cli
from common.atomic import write_json
from common.data import load_dataset
from common.device import choose_device, set_threads
from common.errors import UserError
from common.factory import add_model_options, model_from_options
from common.measure import evaluate, latency_ms, require_fit, side, test_images


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m common.evaluate", description="Accuracy, cost, size and latency of a network.")
    add_model_options(parser)
    cli.add_data_options(parser)
    cli.add_run_options(parser)
    parser.add_argument(
        "--batch-size", type=cli.positive_int, default=None, help="images per step; 250, on CUDA up to 2000"
    )
    parser.add_argument("--json", default=None, help="write the figures to this file too")
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    file = args.checkpoint or args.weights
    if file is None:
        raise UserError("say which weights: --checkpoint FILE, or --arch NAME --weights FILE")
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file")
    data = load_dataset(args.dataset, args.dataset_dir, normalize=args.normalize)
    model, _ = model_from_options(args, data.num_classes, data.input_shape)
    require_fit(model, data, file)
    model.to(device, memory_format=torch.channels_last)
    images = data.test if args.normalize else test_images(model, data)
    accuracy = evaluate(model, images, device=device, batch_size=args.batch_size, workers=args.workers)
    figures = side(model, accuracy, data.input_shape, Path(file).stat().st_size)
    if not args.no_latency:
        figures["latency_ms"] = latency_ms({"model": model}, data.input_shape, device=device)["model"]
    print(as_table(figures))
    if args.json:
        write_json(args.json, figures)


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
