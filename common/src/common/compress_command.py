"""``compression-papers compress``: make the user's own trained network smaller by one method, and report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import EPOCHS, TARGET_BYTES, TARGET_LATENCY, TARGET_MACS, fraction_or_zero, positive_int
from common.errors import UserError
from common.export import FORMATS, check_format
from common.options import (
    LATENCY_BATCH_HELP,
    LATENCY_RUNTIME_HELP,
    LATENCY_RUNTIMES,
    TARGET_LATENCY_HELP,
    CalibrationOptions,
    DataOptions,
    HardwareOptions,
    LimitOptions,
    NetworkOptions,
    RepeatOptions,
    method_names,
)
from common.settings import changed_values, command, flatten, option, option_name, section, settings

if TYPE_CHECKING:
    import torch

    from common.compression import CompressionReport
    from common.target import Target
    from common.trained_model import TrainedModel

PROG = "python -m common.compress_command"


@settings
class Compress:
    """Make a trained network smaller by one method, measure the result, and write it to a folder."""

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    target_macs: float | None = option(None, "fraction of the MACs to keep", type=TARGET_MACS, metavar="F")
    target_bytes: float | None = option(None, "fraction of the file's bytes to keep", type=TARGET_BYTES, metavar="F")
    target_latency: float | None = option(None, TARGET_LATENCY_HELP, type=TARGET_LATENCY, metavar="F")
    latency_batch_size: int | None = option(None, LATENCY_BATCH_HELP, type=positive_int, metavar="N")
    latency_runtime: str | None = option(None, LATENCY_RUNTIME_HELP, choices=LATENCY_RUNTIMES)
    tolerance: float | None = option(
        None,
        "how far below the target the result may be, relative to it (default: 0.1; of a latency, 0.05)",
        type=fraction_or_zero,
        metavar="F",
    )
    method: str = option(
        "model_preserving_id_extended", f"installed method: {', '.join(method_names())}", metavar="NAME"
    )
    train: int = option(0, "number of epochs of fine-tuning; 0 trains nothing", type=EPOCHS, metavar="EPOCHS")
    unlabeled: bool = option(
        False,
        "ignore the labels of the images: the network keeps its own classes, whatever the folders are, and the result is measured "
        "by its agreement with the dense network",
    )
    limits: LimitOptions = section(LimitOptions)
    calibration: CalibrationOptions = section(CalibrationOptions)
    run: HardwareOptions = section(HardwareOptions)
    repeat: RepeatOptions = section(RepeatOptions)
    out: str = option("runs/compress", "folder for the network and the report", metavar="DIR", free=True)
    export: str | None = option(
        None, "also export the compressed network to this file, .onnx or .pt2", metavar="FILE", free=True
    )
    no_latency: bool = option(False, "skip the latency measurement", free=True)

    def __post_init__(self) -> None:
        _target(self)
        if self.unlabeled and self.train:
            raise UserError("--train and --unlabeled exclude each other; fine-tuning requires labels")
        if self.export:
            suffix = Path(self.export).suffix.lstrip(".")
            if suffix not in FORMATS:
                raise UserError(f"--export {self.export}: unknown format; give a name that ends with .onnx or .pt2")
            check_format(suffix)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    return command(Compress, compress, argv, prog)


def compress(settings: Compress) -> None:
    """Read the network and the data, compress, and print and write the report."""
    from dataclasses import replace

    from common.compression import DEFAULT, TRAINING, check_labels, compress_trained
    from common.device import choose_device, set_threads
    from common.limits import Limits
    from common.methods import find_method, installed_methods
    from common.pipeline import FineTuning
    from common.progress import note
    from common.runs import open_stage
    from common.target import AXES, no_target_message

    target = _target(settings)
    if target is None and settings.method == DEFAULT:
        raise UserError(no_target_message(AXES, option_name))
    method = find_method(installed_methods(), settings.method)
    if target is None and method.axis is not None:
        raise UserError(no_target_message(AXES, option_name))
    method.check_axis(target, settings.method, option_name)
    recipe = replace(TRAINING, epochs=settings.train)
    check_labels(method, settings.method, not settings.unlabeled, recipe)
    set_threads(settings.run.threads)
    start = _open(settings, choose_device(settings.run.device))
    within = Limits.of(start.model, start.all_groups, **changed_values(settings.limits), option=option_name)
    start = start.changed(limits=within, **changed_values(settings.calibration))
    stage = open_stage(
        settings.out,
        "common",
        flatten(settings, identity=True) | {"weights_digest": start.digest},
        device=start.device,
        fingerprint=start.data.fingerprint,
        force=settings.repeat.force,
        seed=settings.repeat.seed,
        log=note,
        recipe=recipe,
    )
    tuning, latency = FineTuning(recipe, log_test=not settings.unlabeled), not settings.no_latency
    _, report = compress_trained(method, start, target, stage, tuning, latency=latency, log=print)
    _print_and_write(report, settings)


def _open(settings: Compress, device: torch.device) -> TrainedModel:
    """Load the network and the data. The message for weights of other classes mentions the option for them."""
    from common.compression import labeled_by
    from common.progress import activity
    from common.trained_model import open_trained_model

    network, relabel = settings.network, labeled_by if settings.unlabeled else None
    name = network.checkpoint or network.model or network.arch
    try:
        with activity(f"{name} on {settings.data.dataset}"):
            return open_trained_model(network, settings.data, device=device, relabel=relabel)
    except UserError as error:
        other_classes = "size mismatch" in str(error) or "not classes of the network" in str(error)
        if settings.unlabeled or not settings.network.model or not other_classes:
            raise
        raise UserError(
            f"{error}; if the classes of the network are not those of the images, add --unlabeled"
        ) from error


def _target(settings: Compress) -> Target | None:
    from common.runtimes import TORCH
    from common.target import AXES, only_target

    given = {axis: getattr(settings, f"target_{axis}") for axis in AXES}
    return only_target(
        given, settings.tolerance, settings.latency_batch_size or 1, settings.latency_runtime or TORCH, option_name
    )


def _print_and_write(report: CompressionReport, settings: Compress) -> None:
    print(f"\n{report}")
    for file in report.save(report.file):
        print(f"written: {file}")
    if settings.export:
        difference = report.export(settings.export)
        print(f"written: {settings.export} (its outputs differ by at most {difference:.2g})")
    print(
        "\nTo load the network:\n\n"
        + "\n".join(f"    {line}" for line in loading_code(report.file, settings.network.model))
    )


def loading_code(file: Path, factory: str | None) -> list[str]:
    """Return the lines of Python that load a network. factory: as given with --model."""
    lines = ["from common import load_network"]
    if factory is None:
        return [*lines, f"model = load_network({str(file)!r})"]
    place, _, name = factory.rpartition(":")
    if place == "timm":
        build = f"lambda: timm.create_model({name!r})"
        return ["import timm", *lines, f"model = load_network({str(file)!r}, {build})"]
    module = Path(place).stem if place.endswith(".py") else place
    return [*lines, f"from {module} import {name}", f"model = load_network({str(file)!r}, {name})"]


if __name__ == "__main__":
    sys.exit(main())
