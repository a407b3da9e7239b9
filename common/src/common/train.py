"""``python -m common.train`` trains a network from scratch: the baselines. One process, or several under torchrun."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import cli
from common.checkpoint import save_model
from common.data import DataBundle, load_dataset
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.factory import add_model_options, import_factory, model_from_options
from common.measure import measure_files
from common.runs import Run, open_run
from common.training import TrainOptions, add_training_options, fit, training_options


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m common.train", description="Train a network and leave a run folder.")
    add_model_options(parser, arch="resnet20")
    cli.add_data_options(parser)
    cli.add_run_options(parser)
    add_training_options(parser)
    parser.add_argument("--out", default=None, help="run folder; runs/DATASET/ARCH-SEED if not given")
    parser.add_argument("--tensorboard", default=None, help="folder for TensorBoard")
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    args = parser.parse_args(argv)
    if args.checkpoint:
        raise UserError("common.train starts from --arch or --model, with --weights if wanted; not from --checkpoint")
    set_threads(args.threads)
    device = choose_device(args.device)
    with process_group(device):
        data = load_dataset(args.dataset, args.dataset_dir, normalize=args.normalize)
        name = args.model.replace(":", ".") if args.model else args.arch
        folder = Path(args.out or f"runs/{data.name}/{name}-{args.seed}")
        options = training_options(args)
        torch.manual_seed(args.seed)
        model, _ = model_from_options(args, data.num_classes, data.input_shape)
        run = open_run(folder, "common", vars(args), device=device, fingerprint=data.fingerprint, force=args.force)
        if not run.finished:
            factory = import_factory(args.model, data.num_classes) if args.model else None
            train_baseline(
                run,
                model,
                data,
                options,
                device,
                args.seed,
                args.workers,
                factory,
                args.tensorboard,
                not args.no_latency,
            )
        if is_main():
            measured = run.metrics()["baseline"]
            print(
                f"{name} on {data.name}: top-1 {measured['top1']:.2f} %, {measured['macs']:,} MACs -> {run.model_path}"
            )


def train_baseline(
    run: Run,
    model: nn.Module,
    data: DataBundle,
    options: TrainOptions,
    device: torch.device,
    seed: int = 0,
    workers: int = 2,
    factory: Callable[[], nn.Module] | None = None,
    tensorboard: str | None = None,
    latency: bool = True,
) -> dict[str, Any]:
    """Train on all training pictures, save, read back, measure; the run's metrics."""
    fit(
        model, data.train, options,
        folder=run.folder, test=data.test, device=device, seed=seed, workers=workers, tensorboard=tensorboard,
    )  # fmt: skip
    if is_main():
        save_model(run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        sides = measure_files(
            {"baseline": run.model_path}, data, device=device, workers=workers, factory=factory, latency=latency
        )
        run.finish({"epochs": options.epochs, **sides})
    barrier()
    return run.metrics()


if __name__ == "__main__":
    sys.exit(main())
