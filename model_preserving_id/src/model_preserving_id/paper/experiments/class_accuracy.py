"""Accuracy of every class during pruning: the implementation of :mod:`model_preserving_id.paper.experiments.missing_class`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.atomic import write_json
from common.device import set_threads
from common.errors import UserError
from common.plots import figure
from common.runs import describe_environment, writable_folder
from common.target import Target
from common.trained_model import TrainedModel
from model_preserving_id.calibration import CalibrationImages, calibration_images
from model_preserving_id.command import open_from_options
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, LogRow, iterate
from model_preserving_id.paper.settings import EXPERIMENT_IMAGES, MissingClass

MISSING, OTHERS = "#d40000", "#0072b2"


def run(settings: MissingClass, command: str) -> None:
    """Run the experiment and write its files into ``settings.out``. ``command`` is the recorded command line."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    trained = open_from_options(settings.network, settings.data, settings.run)
    classes = len(trained.data.classes)
    if not 0 <= settings.without_class < classes:
        raise UserError(f"--without-class {settings.without_class}: {trained.data.name} has classes 0 to {classes - 1}")
    images = calibration_images(
        trained.data,
        settings.prune_batch_size,
        settings.seed,
        default=EXPERIMENT_IMAGES,
        without_class=settings.without_class,
        device=trained.device,
        workers=trained.workers,
    )
    points = prune_and_measure(trained, images, settings)
    record = {
        "command": command,
        "arch": trained.name,
        "dataset": trained.data.name,
        "classes": list(trained.data.classes),
        "without_class": settings.without_class,
        "images": len(images.image_set),
        "k": settings.k,
        "score": settings.score,
        "seed": settings.seed,
        "points": points,
        "environment": describe_environment(trained.device),
    }
    write_json(out / "missing_class.json", record)
    plot(record, out)
    print(f"{out / 'missing_class.json'}, {out / 'per_class.png'}, {out / 'agreement.png'}")


def prune_and_measure(trained: TrainedModel, images: CalibrationImages, settings: MissingClass) -> list[dict[str, Any]]:
    """Measure the unpruned network, and again after each ``settings.every`` of the MACs."""
    points = [measure(trained, None, 1.0)]

    def add_point(folded: FoldedNetwork, row: LogRow) -> None:
        if points[-1]["macs_left"] - row["macs_left"] >= settings.every or row["macs_left"] <= settings.target_macs:
            points.append(measure(trained, folded, row["macs_left"]))
            print(" ".join(f"{name} {value}" for name, value in points[-1].items() if name != "per_class"), flush=True)

    folded = FoldedNetwork(trained.model, trained.example, residual=settings.residual, device=trained.device)
    options = IterationOptions(Target(settings.target_macs), settings.k, score=settings.score)
    iterate(folded, images, options, on_step=add_point)
    return points


def measure(trained: TrainedModel, folded: FoldedNetwork | None, macs_left: float) -> dict[str, Any]:
    """Return the fraction of MACs, and top-1, agreement and top-1 of every class on the test images (percent)."""
    accuracy = trained.accuracy if folded is None else trained.measure(folded.build_pruned())
    per_class = accuracy_per_class(accuracy.predictions, trained.data.test.labels, len(trained.data.classes))
    agreement = 100.0 if accuracy.agreement is None else round(accuracy.agreement, 4)
    return {"macs_left": macs_left, "top1": round(accuracy.top1, 4), "agreement": agreement, "per_class": per_class}


def accuracy_per_class(predictions: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Return the accuracy of every class in percent; None for a class without images."""
    correct, total = (torch.bincount(one, minlength=classes) for one in (labels[predictions == labels], labels))
    return [round(100 * int(c) / int(n), 4) if n else None for c, n in zip(correct, total, strict=True)]


def plot(record: Mapping[str, Any], folder: Path) -> None:
    """Plot the accuracy of every class (per_class.png), and agreement and top-1 (agreement.png)."""
    points, missing = record["points"], record["without_class"]
    left = [p["macs_left"] for p in points]
    with figure(folder / "per_class.png") as axes:
        others = [i for i in range(len(record["classes"])) if i != missing]
        lines = axes.plot(
            left, [[p["per_class"][i] for i in others] for p in points], color=OTHERS, linewidth=0.9, alpha=0.7
        )
        lines[0].set_label("other classes")
        axes.plot(
            left,
            [p["per_class"][missing] for p in points],
            color=MISSING,
            linewidth=3,
            label=f"missing class: {record['classes'][missing]}",
        )
        axes.invert_xaxis()
        axes.set(
            xlabel="remaining MACs (fraction)",
            ylabel="accuracy per class (%)",
            title=f"{record['arch']}, {record['dataset']}",
        )
        axes.figure.legend(loc="outside upper center", ncols=2)
    with figure(folder / "agreement.png") as axes:
        axes.plot(left, [p["agreement"] for p in points], marker=".", label="agreement with the unpruned network")
        axes.plot(left, [p["top1"] for p in points], marker=".", label="top-1")
        axes.invert_xaxis()
        axes.set(
            xlabel="remaining MACs (fraction)",
            ylabel="%",
            title=f"calibration without class {record['classes'][missing]}",
        )
        axes.figure.legend(loc="outside upper center", ncols=2)
