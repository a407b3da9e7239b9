"""Settings for the LeNets, chosen on training pictures held out: ``python -m deep_compression.paper.choice``.

A sixth of MNIST's training pictures is set aside; the test pictures are never looked at. For one seed, one thing after the
other is chosen: the learning rate of the dense network (smallest error); the epochs after the paper's pruning (the fewest);
density, epochs and learning rate of the row `lossless` (the smallest file). The latter two among those whose error is at most
one standard error above the smallest, and above the dense network's: on 10,000 pictures less is noise.
All that was tried is written to results/choice-ARCH.json, and courses.py holds what was chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.atomic import write_json
from common.device import choose_device, set_threads
from common.markdown import markdown_table
from common.runs import describe_environment, read_json
from common.settings import command
from deep_compression.paper.courses import COURSES, HOLDOUT, Course, lossless
from deep_compression.paper.mnist import train_dense
from deep_compression.paper.settings import Choose
from deep_compression.settings import PACKAGE

if TYPE_CHECKING:
    from common.data import DataBundle
    from common.runs import Stage


@dataclass(frozen=True)
class Candidates:
    """What is tried: learning rates of the dense network, epochs after the paper's pruning, and of `lossless` all
    combinations of densities, epochs and learning rates of retraining."""

    rates: tuple[float, ...]
    paper_epochs: tuple[int, ...]
    lossless: tuple[tuple[float, int, float], ...]


CANDIDATES = {
    "lenet300_100": Candidates(
        (0.1,),
        (4,),
        (*product((0.05, 0.06, 0.07), (9, 20), (0.1,)), (0.05, 9, 0.03), (0.05, 20, 0.03), (0.06, 9, 0.03)),
    ),
    "lenet5": Candidates((0.02, 0.05, 0.1), (4, 8), tuple(product((0.03, 0.04), (8,), (0.05,)))),
}


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line("python -m deep_compression.paper.choice", argv)
    return command(
        Choose, lambda settings: choose_all(settings, line), argv, "python -m deep_compression.paper.choice", PACKAGE
    )


def choose_all(settings: Choose, line: str) -> None:
    """Choose for each network, print and keep what was tried. line: the command as typed, for result files."""
    from common.data import load_data
    from deep_compression.stages import chain

    set_threads(settings.run.threads)
    device, data = choose_device(settings.run.device), load_data(settings.data).holdout(HOLDOUT)
    seed = settings.repeat.seed
    for arch in settings.arch:
        candidates = replace(CANDIDATES[arch], lossless=()) if settings.no_lossless else CANDIDATES[arch]
        stage = chain(Path(settings.out) / f"{arch}-{seed}", data, device, seed, settings.repeat.force)
        record = choose(arch, COURSES[arch], candidates, stage, data, settings.data.workers)
        print(table(record), flush=True)
        if settings.results:
            kept = {**record, "command": line, "environment": describe_environment(device)}
            write_json(Path(settings.results) / f"choice-{arch}.json", kept)


def choose(
    arch: str,
    course: Course,
    candidates: Candidates,
    stage: Stage,
    data: DataBundle,
    workers: int = 2,
    **arguments: Any,
) -> dict[str, Any]:
    """All that was tried, with its error in percent on the pictures held out, and what was chosen.

    arguments: of the network's constructor.
    """
    from deep_compression import stages

    tried: list[dict[str, Any]] = []
    for rate in candidates.rates:
        training = replace(course.dense, learning_rate=rate)
        network = train_dense(arch, training, stage, data, f"dense-{rate:g}", workers, **arguments)
        assert network.file is not None
        tried.append({"what": "dense", "rate": rate, "network": network, **_figures(network.file.parent)})
    dense = min(tried, key=lambda one: one["error"])
    stage = replace(stage, folder=stage.folder / f"after-{dense['rate']:g}")
    papers = []
    for epochs in candidates.paper_epochs:
        recipe = replace(course.paper, prune=replace(course.paper.prune, last_epochs=epochs))
        place = replace(stage, folder=stage.folder / f"paper-{epochs}")
        folder = stages.compress(dense["network"], place, recipe)
        network = stages.opened(place.folder / "prune" / "model.safetensors", dense["network"])
        papers.append({"what": "paper", "epochs": epochs, "network": network, **_figures(folder)})
    limit = within_noise(min(one["error"] for one in papers), len(data.test))
    paper = min((one for one in papers if one["error"] <= limit), key=lambda one: one["epochs"])
    stage, smaller = replace(stage, folder=stage.folder / f"after-{paper['epochs']}"), []
    for density, epochs, rate in candidates.lossless:
        recipe = lossless(course.best, density, epochs, rate)
        usual = rate == course.best.prune_training.learning_rate
        name = f"density{density:g}-epochs{epochs}" + ("" if usual else f"-rate{rate:g}")
        folder = stages.compress(paper["network"], replace(stage, folder=stage.folder / name), recipe)
        smaller.append({"what": "lossless", "density": density, "epochs": epochs, "rate": rate, **_figures(folder)})
    tried = [{name: value for name, value in one.items() if name != "network"} for one in [*tried, *papers, *smaller]]
    chosen: dict[str, Any] = {"rate": dense["rate"], "paper_epochs": paper["epochs"]}
    if smaller:
        best = smallest_without_loss(smaller, within_noise(dense["error"], len(data.test)))
        chosen["lossless"] = [best["density"], best["epochs"], best["rate"]]
    return {"arch": arch, "seed": stage.seed, "pictures": len(data.test), "tried": tried, "chosen": chosen}


def within_noise(error: float, pictures: int) -> float:
    """An error in percent plus its standard error on so many pictures: sqrt(p (1 - p) / n)."""
    share = error / 100
    return error + 100 * (share * (1 - share) / pictures) ** 0.5


def smallest_without_loss(tried: Sequence[Mapping[str, Any]], limit: float) -> Mapping[str, Any]:
    """The smallest file whose error does not exceed the limit; the smallest error if there is none."""
    good = [one for one in tried if one["error"] <= limit]
    return min(good, key=lambda one: one["bytes"]) if good else min(tried, key=lambda one: one["error"])


def _figures(folder: Path) -> dict[str, Any]:
    metrics = read_json(folder / "metrics.json")
    side = metrics.get("compressed") or metrics["baseline"]
    found = {"error": round(100 - side["top1"], 4), "bytes": side["bytes"]}
    return found | ({"compression": metrics["rate"]} if "rate" in metrics else {})


TITLES = {"density": "density", "epochs": "epochs", "rate": "learning rate"}


def table(record: Mapping[str, Any]) -> str:
    """A line for everything that was tried, what was chosen in bold."""
    chosen, lines = record["chosen"], []
    picked = {"dense": [chosen["rate"]], "paper": [chosen["paper_epochs"]], "lossless": chosen.get("lossless")}
    for one in record["tried"]:
        values = {title: one[name] for name, title in TITLES.items() if name in one}
        text = ", ".join(f"{title} {value:g}" for title, value in values.items())
        rate = f"{one['compression']:.1f}x" if "compression" in one else ""
        bold = "**" if list(values.values()) == picked[one["what"]] else ""
        lines.append((one["what"], f"{bold}{text}{bold}", f"{one['error']:.2f}", rate))
    return markdown_table(("row", "tried", "error % on the pictures held out", "rate"), lines)


if __name__ == "__main__":
    sys.exit(main())
