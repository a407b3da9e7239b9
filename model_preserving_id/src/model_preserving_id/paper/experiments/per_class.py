"""Accuracy of every class while channels are removed: the work of :mod:`model_preserving_id.paper.experiments.missing_class`."""

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
from model_preserving_id.command import trained_from_options
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterOptions, Row, iterate
from model_preserving_id.paper.settings import MissingClass
from model_preserving_id.pictures import pruning_pictures

MISSING, OTHERS = "#d40000", "#0072b2"


def run(settings: MissingClass, command: str) -> None:
    """Measure, and leave the files in ``settings.out``. command: the command line, for the record."""
    out = writable_folder(settings.out)
    set_threads(settings.run.threads)
    trained = trained_from_options(settings.network, settings.data, settings.run)
    classes = len(trained.data.classes)
    if not 0 <= settings.without_class < classes:
        raise UserError(f"--without-class {settings.without_class}: {trained.data.name} has classes 0 to {classes - 1}")
    points = follow(trained, settings)
    record = {
        "command": command,
        "arch": trained.name,
        "dataset": trained.data.name,
        "classes": list(trained.data.classes),
        "without_class": settings.without_class,
        "pictures": settings.prune_batch_size,
        "k": settings.k,
        "seed": settings.seed,
        "points": points,
        "environment": describe_environment(trained.device),
    }
    write_json(out / "missing_class.json", record)
    plot(record, out)
    print(f"{out / 'missing_class.json'}, {out / 'per_class.png'}, {out / 'agreement.png'}")


def follow(trained: TrainedModel, settings: MissingClass) -> list[dict[str, Any]]:
    """A point for the whole network and after each ``settings.every`` of the MACs."""
    pictures = pruning_pictures(
        trained.data,
        min(settings.prune_batch_size, len(trained.data.train)),
        settings.seed,
        without_class=settings.without_class,
        device=trained.device,
        workers=trained.workers,
    )
    points = [point(trained, None, 1.0)]

    def see(folded: FoldedNetwork, row: Row) -> None:
        if points[-1]["macs_left"] - row["macs_left"] >= settings.every or row["macs_left"] <= settings.target_macs:
            points.append(point(trained, folded, row["macs_left"]))
            print(" ".join(f"{name} {value}" for name, value in points[-1].items() if name != "per_class"), flush=True)

    folded = FoldedNetwork(trained.model, trained.example, streams=settings.streams, device=trained.device)
    iterate(folded, pictures, IterOptions(Target(settings.target_macs), settings.k), on_pick=see)
    return points


def point(trained: TrainedModel, folded: FoldedNetwork | None, macs_left: float) -> dict[str, Any]:
    """Share of the MACs, top-1, agreement and top-1 of every class, in percent, on the test pictures."""
    accuracy = trained.accuracy if folded is None else trained.measure(folded.pruned())
    found = by_class(accuracy.predictions, trained.data.test.labels, len(trained.data.classes))
    agreement = 100.0 if accuracy.agreement is None else round(accuracy.agreement, 4)
    return {"macs_left": macs_left, "top1": round(accuracy.top1, 4), "agreement": agreement, "per_class": found}


def by_class(decisions: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Percent of each class's pictures that are recognised; None for a class without pictures."""
    right, all_of = (torch.bincount(which, minlength=classes) for which in (labels[decisions == labels], labels))
    return [round(100 * int(r) / int(n), 4) if n else None for r, n in zip(right, all_of, strict=True)]


def plot(record: Mapping[str, Any], folder: Path) -> None:
    points, missing = record["points"], record["without_class"]
    left = [p["macs_left"] for p in points]
    with figure(folder / "per_class.png") as axes:
        others = [i for i in range(len(record["classes"])) if i != missing]
        lines = axes.plot(
            left, [[p["per_class"][i] for i in others] for p in points], color=OTHERS, linewidth=0.9, alpha=0.7
        )
        lines[0].set_label("the other classes")
        axes.plot(
            left,
            [p["per_class"][missing] for p in points],
            color=MISSING,
            linewidth=3,
            label=f"missing: {record['classes'][missing]}",
        )
        axes.invert_xaxis()
        axes.set(
            xlabel="fraction of the MACs left",
            ylabel="accuracy of a class, %",
            title=f"{record['arch']}, {record['dataset']}",
        )
        axes.figure.legend(loc="outside upper center", ncols=2)
    with figure(folder / "agreement.png") as axes:
        axes.plot(left, [p["agreement"] for p in points], marker=".", label="agreement with the whole network")
        axes.plot(left, [p["top1"] for p in points], marker=".", label="top-1")
        axes.invert_xaxis()
        axes.set(
            xlabel="fraction of the MACs left", ylabel="%", title=f"pruned without class {record['classes'][missing]}"
        )
        axes.figure.legend(loc="outside upper center", ncols=2)
