"""The pictures of the README, made from ``results/*.json``: ``python -m deep_compression.figures``.

python -m deep_compression.figures --weights runs/cifar10/resnet20-0/density0.3-epochs5/bits4   count its weights anew first
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import cli
from common.atomic import write_json
from common.errors import UserError
from common.formats import load_network
from common.runs import read_json
from deep_compression import plots, tables
from deep_compression.pruning import prunable_weights
from deep_compression.published import TITLES
from deep_compression.stages import PACKAGE

WEIGHTS = tables.RESULTS / "weights-resnet20.json"
DOCS = tables.RESULTS.parent / "docs"


def cifar_figure(path: Path) -> Path:
    """Accuracy against file size of the CIFAR-10 networks. Raises UserError without result files."""
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
    """Histograms of some layers of a finished point of `deep_compression.cifar10` (its folder ``bitsB``), from its checkpoints.

    Layers are spread evenly over the network. Raises UserError if the folder holds no such run.
    """
    files = [
        folder.parent.parent / "dense.safetensors",
        folder.parent / "prune/model.safetensors",
        folder / "encode/model.dcz",
    ]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"--weights {folder}: {file} is missing; name the folder bitsB of a run of deep_compression.cifar10"
            )
    dense, pruned, shared = (prunable_weights(load_network(file)) for file in files)
    names = list(dense)
    layers = []
    for name in (names[round(i * (len(names) - 1) / (shown - 1))] for i in range(shown)):
        living = pruned[name][pruned[name] != 0].double().numpy()
        edges = np.linspace(-1, 1, bins + 1) * np.quantile(np.abs(living), 0.995)
        layers.append({
            "name": name, "density": 100 * len(living) / dense[name].numel(), "edges": edges.round(6).tolist(),
            "dense": np.histogram(dense[name].double().numpy(), edges)[0].tolist(), "pruned": np.histogram(living, edges)[0].tolist(),
            "values": sorted({round(v, 6) for v in shared[name][shared[name] != 0].tolist() if abs(v) <= edges[-1]}),
        })  # fmt: skip
    return {"command": f"python -m deep_compression.figures --weights {'/'.join(folder.parts[-4:])}", "layers": layers}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m deep_compression.figures", description=__doc__, package=PACKAGE)
    parser.add_argument("--out", default=str(tables.RESULTS), help="folder of the pictures")
    parser.add_argument("--docs", default=str(DOCS), help="folder of the picture of weights")
    parser.add_argument("--weights", default=None, metavar="FOLDER", help="count the weights of this run anew")
    args = parser.parse_args(argv)
    if args.weights:
        write_json(WEIGHTS, weight_counts(Path(args.weights)))
    print(cifar_figure(Path(args.out) / "cifar10.png"))
    if WEIGHTS.is_file():
        print(plots.weight_grid(Path(args.docs) / "weights.png", read_json(WEIGHTS)["layers"]))


if __name__ == "__main__":
    sys.exit(main())
