"""Draw the README's plots from ``results/*.json``: ``python -m deep_compression.paper.make_plots``.

``--weights runs/cifar10/resnet20-0/density0.3-epochs5/bits4`` first recomputes the histograms of weights from that run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.errors import UserError
from common.runs import read_json
from common.settings import command
from deep_compression.paper import tables
from deep_compression.paper.published import TITLES
from deep_compression.paper.settings import MakePlots
from deep_compression.settings import PACKAGE

WEIGHTS = tables.RESULTS / "weights-resnet20.json"


def cifar_figure(path: Path) -> Path:
    """Draw accuracy against file size of the CIFAR-10 networks. Raises UserError without result files."""

    from deep_compression.paper import result_plots

    networks: dict[str, dict[str, Any]] = {}
    for run in tables.cifar_runs():
        title = TITLES.get(run["arch"], run["arch"])
        found = networks.setdefault(title, {"dense": run["baseline"]["top1"], "points": []})
        text = f"{100 * run['density']:.0f} %, {run['bits']} bits, {run['rate']:.1f}x"
        found["points"].append((run["compressed"]["bytes"], run["compressed"]["top1"], text))
    if not networks:
        raise UserError(
            f"{tables.RESULTS}: no result files cifar10-*.json; run deep_compression.paper.cifar10 --results"
        )
    return result_plots.accuracy_against_size(path, networks)


def weight_counts(folder: Path, bins: int = 60, shown: int = 6) -> dict[str, Any]:
    """Count the weights of some layers in the checkpoints of a finished run of `deep_compression.paper.cifar10`.

    Args:
        folder: The run's folder ``bitsB``.
        bins: Bins of each histogram.
        shown: Number of layers, which are spread evenly over the network.

    Raises:
        UserError: If the folder does not contain such a run.
    """
    import numpy as np

    from common.formats import load_network
    from deep_compression.pruning import prunable_weights

    files = [
        folder.parent.parent / "dense.safetensors",
        folder.parent / "prune/model.safetensors",
        folder / "encode/model.dcz",
    ]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"--weights {folder}: {file} is missing; give the folder bitsB of a run of deep_compression.paper.cifar10"
            )
    dense, pruned, shared = (prunable_weights(load_network(file)) for file in files)
    names = list(dense)
    layers = []
    for name in (names[round(i * (len(names) - 1) / (shown - 1))] for i in range(shown)):
        remaining = pruned[name][pruned[name] != 0].double().numpy()
        edges = np.linspace(-1, 1, bins + 1) * np.quantile(np.abs(remaining), 0.995)
        layers.append(
            {
                "name": name,
                "density": 100 * len(remaining) / dense[name].numel(),
                "edges": edges.round(6).tolist(),
                "dense": np.histogram(dense[name].double().numpy(), edges)[0].tolist(),
                "pruned": np.histogram(remaining, edges)[0].tolist(),
                "values": sorted(
                    {round(v, 6) for v in shared[name][shared[name] != 0].tolist() if abs(v) <= edges[-1]}
                ),
            }
        )
    return {
        "command": f"python -m deep_compression.paper.make_plots --weights {'/'.join(folder.parts[-4:])}",
        "layers": layers,
    }


def main(argv: Sequence[str] | None = None) -> int:
    return command(MakePlots, draw, argv, "python -m deep_compression.paper.make_plots", PACKAGE)


def draw(settings: MakePlots) -> None:
    """Draw both plots; with --weights, recompute the histograms first."""

    from deep_compression.paper import result_plots

    if settings.weights:
        write_json(WEIGHTS, weight_counts(Path(settings.weights)))
    print(cifar_figure(Path(settings.out) / "cifar10.png"))
    if WEIGHTS.is_file():
        print(result_plots.weight_grid(Path(settings.docs) / "weights.png", read_json(WEIGHTS)["layers"]))


if __name__ == "__main__":
    sys.exit(main())
