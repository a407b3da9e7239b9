"""The pictures of the README, made from ``results/*.json``: ``python -m deep_compression.paper.figures``.

python -m deep_compression.paper.figures --weights runs/cifar10/resnet20-0/density0.3-epochs5/bits4   count its weights anew first
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
from deep_compression.paper.settings import Figures
from deep_compression.settings import PACKAGE

WEIGHTS = tables.RESULTS / "weights-resnet20.json"


def cifar_figure(path: Path) -> Path:
    """Accuracy against file size of the CIFAR-10 networks. Raises UserError without result files."""
    from deep_compression.paper import plots

    networks: dict[str, dict[str, Any]] = {}
    for run in tables.cifar_runs():
        title = TITLES.get(run["arch"], run["arch"])
        found = networks.setdefault(title, {"dense": run["baseline"]["top1"], "points": []})
        text = f"{100 * run['density']:.0f} %, {run['bits']} bits, {run['rate']:.1f}x"
        found["points"].append((run["compressed"]["bytes"], run["compressed"]["top1"], text))
    if not networks:
        raise UserError(f"{tables.RESULTS}: no result files of CIFAR-10 to draw")
    return plots.accuracy_against_size(path, networks)


def weight_counts(folder: Path, bins: int = 60, shown: int = 6) -> dict[str, Any]:
    """Histograms of some layers of a finished point of `deep_compression.paper.cifar10` (its folder ``bitsB``), from its checkpoints.

    Layers are spread evenly over the network. Raises UserError if the folder holds no such run.
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
                f"--weights {folder}: {file} is missing; name the folder bitsB of a run of deep_compression.paper.cifar10"
            )
    dense, pruned, shared = (prunable_weights(load_network(file)) for file in files)
    names = list(dense)
    layers = []
    for name in (names[round(i * (len(names) - 1) / (shown - 1))] for i in range(shown)):
        living = pruned[name][pruned[name] != 0].double().numpy()
        edges = np.linspace(-1, 1, bins + 1) * np.quantile(np.abs(living), 0.995)
        layers.append(
            {
                "name": name,
                "density": 100 * len(living) / dense[name].numel(),
                "edges": edges.round(6).tolist(),
                "dense": np.histogram(dense[name].double().numpy(), edges)[0].tolist(),
                "pruned": np.histogram(living, edges)[0].tolist(),
                "values": sorted(
                    {round(v, 6) for v in shared[name][shared[name] != 0].tolist() if abs(v) <= edges[-1]}
                ),
            }
        )
    return {
        "command": f"python -m deep_compression.paper.figures --weights {'/'.join(folder.parts[-4:])}",
        "layers": layers,
    }


def main(argv: Sequence[str] | None = None) -> int:
    return command(Figures, draw, argv, "python -m deep_compression.paper.figures", PACKAGE)


def draw(settings: Figures) -> None:
    """Draw both plots; with --weights, count first."""
    from deep_compression.paper import plots

    if settings.weights:
        write_json(WEIGHTS, weight_counts(Path(settings.weights)))
    print(cifar_figure(Path(settings.out) / "cifar10.png"))
    if WEIGHTS.is_file():
        print(plots.weight_grid(Path(settings.docs) / "weights.png", read_json(WEIGHTS)["layers"]))


if __name__ == "__main__":
    sys.exit(main())
