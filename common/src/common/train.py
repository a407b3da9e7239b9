"""``python -m common.train``: train a dense network from scratch, in one process or in several under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.options import (
    DataOptions,
    HardwareOptions,
    NetworkOptions,
    PrecisionOptions,
    RepeatOptions,
    RuntimeOptions,
    TrainingOptions,
    train_options,
)
from common.settings import command, flatten, option, section, settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from common import runs
    from common.data import DataBundle
    from common.training import TrainOptions


@settings
class Train:
    """Train a network and write a run folder."""

    network: NetworkOptions = section(NetworkOptions, arch="resnet20")
    data: DataOptions = section(DataOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    precision: PrecisionOptions = section(PrecisionOptions)
    training: TrainingOptions = section(TrainingOptions)
    running: RuntimeOptions = section(RuntimeOptions)
    out: str | None = option(None, "run folder; runs/DATASET/ARCH-SEED if not given")
    tensorboard: str | None = option(None, "folder of TensorBoard logs", free=True)
    no_latency: bool = option(False, "skip the latency measurement", free=True)

    def __post_init__(self) -> None:
        if self.network.checkpoint:
            raise UserError(
                f"--checkpoint {self.network.checkpoint}: training starts from --arch or --model; give its weights as --weights"
            )
        if not (self.training.epochs or self.network.weights or self.network.model):
            raise UserError("--epochs 0: nothing is trained; give --weights, or at least 1 epoch")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.train") -> int:
    return command(Train, train, argv, prog)


def train(settings: Train) -> None:
    """Read the data, train, save and evaluate the network."""
    import torch

    from common.data import load_data
    from common.device import choose_device, set_threads
    from common.distributed import is_main, process_group
    from common.factory import factory_name, import_factory, weights_file
    from common.progress import activity
    from common.runs import open_stage

    options = train_options(settings.training, settings.running, settings.precision)
    factory, seed = settings.network.model, settings.repeat.seed
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    if factory:
        import_factory(factory)  # before the images are read
        if settings.network.weights:
            weights_file(factory, settings.network.weights)
    name = factory_name(factory) if factory else settings.network.arch
    reading = f"{name} on {settings.data.dataset}"
    with process_group(device):
        with activity(reading, print if is_main() else None):
            data = load_data(settings.data)
        folder = Path(settings.out or f"runs/{data.name}/{name}-{seed}")
        torch.manual_seed(seed)
        model, data = _start(settings.network, data)
        run = open_stage(
            folder,
            "common",
            flatten(settings),
            device=device,
            fingerprint=data.fingerprint,
            force=settings.repeat.force,
        )
        if not run.finished:
            with activity(f"{name} on {data.name}", print if is_main() else None):
                train_baseline(
                    run,
                    model,
                    data,
                    options,
                    device,
                    seed,
                    settings.data.workers,
                    factory=import_factory(factory, data.num_classes) if factory else None,
                    tensorboard=settings.tensorboard,
                    latency=not settings.no_latency,
                )
        if is_main():
            measured = run.metrics()["baseline"]
            print(
                f"{name} on {data.name}: top-1 {measured['top1']:.2f} %, {measured['macs']:,} MACs -> {run.model_path}"
            )


def _start(network: NetworkOptions, data: DataBundle) -> tuple[nn.Module, DataBundle]:
    """Return the network to train, and the data as it reads them.

    A network with a library's own weights is given new layers for the classes of the data, unless they are its own.
    """
    from common.factory import import_factory, model_from_options
    from common.library_networks import LibraryNetwork
    from common.trained_model import with_classes_of, with_preprocessing_of

    model, _ = model_from_options(network, data.num_classes, data.input_shape)
    factory = import_factory(network.model, data.num_classes) if network.model else None
    try:
        data = with_classes_of(model, data, network.weights)
    except UserError:
        if not isinstance(factory, LibraryNetwork) or network.weights is None or not factory.is_own(network.weights):
            raise
        model = factory.with_new_classes(network.weights)
    return model, with_preprocessing_of(model, data, network.weights)


def train_baseline(
    run: runs.Stage,
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
    """Train on all training images, save the network, evaluate the saved file, and return the run's metrics."""
    from common.checkpoint import save_model
    from common.distributed import barrier, is_main
    from common.progress import phase
    from common.trained_model import check_compatible, read_trained_model, report_chance_level
    from common.training import fit

    data = check_compatible(model, data, run.folder)

    with phase("train"):
        fit(
            model,
            data.train,
            options,
            folder=run.folder,
            test=data.test,
            device=device,
            seed=seed,
            workers=workers,
            tensorboard=tensorboard,
        )
    if is_main():
        save_model(run.model_path, model, **data.record())
        trained = read_trained_model(run.model_path, data, factory=factory, device=device, workers=workers)
        with phase("measure"):
            found = {"epochs": options.epochs, "baseline": trained.timed_metrics(latency)}
        run.finish(found | ({"at_chance": True} if report_chance_level(trained) else {}))
    barrier()
    return run.metrics()


if __name__ == "__main__":
    sys.exit(main())
