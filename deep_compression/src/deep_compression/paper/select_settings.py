"""Selection of the LeNets' settings on held-out training images: ``python -m deep_compression.paper.select_settings``.

A sixth of MNIST's training images is held out; test images are not used. With one seed, settings are selected one after
another: the learning rate of the dense network (smallest error); the epochs after the paper's pruning (fewest); density,
epochs and learning rate of the settings `validated` (smallest file). The last two are selected among the candidates whose
error is at most one standard error above the smallest error, or above the dense network's; with 10,000 images, smaller
differences are noise. results/choice-ARCH.json has all candidates, and mnist_recipes.py the selected settings.
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
from deep_compression.paper.mnist import train_dense
from deep_compression.paper.mnist_recipes import HOLDOUT, MNIST_RECIPES, MnistRecipe, validated_recipe
from deep_compression.paper.settings import SelectSettings
from deep_compression.settings import PACKAGE

if TYPE_CHECKING:
    from common.data import DataBundle
    from common.runs import Stage

PROG = "python -m deep_compression.paper.select_settings"


@dataclass(frozen=True)
class Candidates:
    """Candidates of one network.

    Attributes:
        learning_rates: Of the dense network.
        paper_epochs: Epochs after the paper's pruning.
        validated: (density, epochs of the last round, learning rate of retraining) of the settings `validated`.
    """

    learning_rates: tuple[float, ...]
    paper_epochs: tuple[int, ...]
    validated: tuple[tuple[float, int, float], ...]


CANDIDATES = {
    "lenet300_100": Candidates(
        (0.1,),
        (4,),
        (*product((0.05, 0.06, 0.07), (9, 20), (0.1,)), (0.05, 9, 0.03), (0.05, 20, 0.03), (0.06, 9, 0.03)),
    ),
    "lenet5": Candidates((0.02, 0.05, 0.1), (4, 8), tuple(product((0.03, 0.04), (8,), (0.05,)))),
}


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line(PROG, argv)
    return command(SelectSettings, lambda options: select_all(options, line), argv, PROG, PACKAGE)


def select_all(options: SelectSettings, line: str) -> None:
    """Select the settings of each network, print and store all candidates. line: the command line, for result files."""
    from common.data import load_data
    from deep_compression.stages import root_stage

    set_threads(options.run.threads)
    device, data = choose_device(options.run.device), load_data(options.data).holdout(HOLDOUT)
    seed = options.repeat.seed
    for arch in options.arch:
        candidates = replace(CANDIDATES[arch], validated=()) if options.skip_validated else CANDIDATES[arch]
        stage = root_stage(Path(options.out) / f"{arch}-{seed}", data, device, seed, options.repeat.force)
        record = select(arch, MNIST_RECIPES[arch], candidates, stage, data, options.data.workers)
        print(table(record), flush=True)
        if options.results:
            kept = {**record, "command": line, "environment": describe_environment(device)}
            write_json(Path(options.results) / f"choice-{arch}.json", kept)


def select(
    arch: str,
    recipe: MnistRecipe,
    candidates: Candidates,
    stage: Stage,
    data: DataBundle,
    workers: int = 2,
    **arguments: Any,
) -> dict[str, Any]:
    """Evaluate all candidates on the held-out images (error in percent) and select settings.

    arguments: of the network's constructor.
    """
    from deep_compression import stages

    tried: list[dict[str, Any]] = []
    for rate in candidates.learning_rates:
        training = replace(recipe.dense, learning_rate=rate)
        network = train_dense(arch, training, stage, data, f"dense-{rate:g}", workers, **arguments)
        assert network.file is not None
        tried.append({"what": "dense", "rate": rate, "network": network, **_metrics(network.file.parent)})
    dense = min(tried, key=lambda one: one["error"])
    stage = replace(stage, folder=stage.folder / f"after-{dense['rate']:g}")
    papers = []
    for epochs in candidates.paper_epochs:
        compression = replace(recipe.paper, pruning=replace(recipe.start or recipe.paper.pruning, last_epochs=epochs))
        place = replace(stage, folder=stage.folder / f"paper-{epochs}")
        folder = stages.compress(dense["network"], place, compression)
        network = stages.open_network(place.folder / "prune" / "model.safetensors", dense["network"])
        papers.append({"what": "paper", "epochs": epochs, "network": network, **_metrics(folder)})
    limit = plus_standard_error(min(one["error"] for one in papers), len(data.test))
    paper = min((one for one in papers if one["error"] <= limit), key=lambda one: one["epochs"])
    stage, smaller = replace(stage, folder=stage.folder / f"after-{paper['epochs']}"), []
    for density, epochs, rate in candidates.validated:
        compression = validated_recipe(recipe.smallest, density, epochs, rate)
        usual = rate == recipe.smallest.pruning_training.learning_rate
        name = f"density{density:g}-epochs{epochs}" + ("" if usual else f"-rate{rate:g}")
        folder = stages.compress(paper["network"], replace(stage, folder=stage.folder / name), compression)
        smaller.append({"what": "validated", "density": density, "epochs": epochs, "rate": rate, **_metrics(folder)})
    tried = [{name: value for name, value in one.items() if name != "network"} for one in [*tried, *papers, *smaller]]
    chosen: dict[str, Any] = {"rate": dense["rate"], "paper_epochs": paper["epochs"]}
    if smaller:
        best = smallest_within_error(smaller, plus_standard_error(dense["error"], len(data.test)))
        chosen["validated"] = [best["density"], best["epochs"], best["rate"]]
    return {"arch": arch, "seed": stage.seed, "images": len(data.test), "tried": tried, "chosen": chosen}


def plus_standard_error(error: float, images: int) -> float:
    """Add its standard error, sqrt(p (1 - p) / n), to an error in percent that was measured on n images."""
    p = error / 100
    return error + 100 * (p * (1 - p) / images) ** 0.5


def smallest_within_error(tried: Sequence[Mapping[str, Any]], limit: float) -> Mapping[str, Any]:
    """Return the smallest file whose error is at most the limit, or the smallest error if there is none."""
    good = [one for one in tried if one["error"] <= limit]
    return min(good, key=lambda one: one["bytes"]) if good else min(tried, key=lambda one: one["error"])


def _metrics(folder: Path) -> dict[str, Any]:
    metrics = read_json(folder / "metrics.json")
    network = metrics.get("compressed") or metrics["baseline"]
    found = {"error": round(100 - network["top1"], 4), "bytes": network["bytes"]}
    return found | ({"compression": metrics["rate"]} if "rate" in metrics else {})


TITLES = {"density": "density", "epochs": "epochs", "rate": "learning rate"}


def table(record: Mapping[str, Any]) -> str:
    """Format one line per candidate, with the selected ones in bold."""
    chosen, lines = record["chosen"], []
    selected = {"dense": [chosen["rate"]], "paper": [chosen["paper_epochs"]], "validated": chosen.get("validated")}
    for one in record["tried"]:
        values = {title: one[name] for name, title in TITLES.items() if name in one}
        text = ", ".join(f"{title} {value:g}" for title, value in values.items())
        ratio = f"{one['compression']:.1f}x" if "compression" in one else ""
        bold = "**" if list(values.values()) == selected[one["what"]] else ""
        lines.append((one["what"], f"{bold}{text}{bold}", f"{one['error']:.2f}", ratio))
    return markdown_table(("settings", "candidate", "error on held-out images (%)", "compression ratio"), lines)


if __name__ == "__main__":
    sys.exit(main())
