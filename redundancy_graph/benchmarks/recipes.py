"""Influence of weight decay and shortcut type on the MACs that a threshold removes, for four otherwise equal small networks.

    python benchmarks/recipes.py --dataset-dir CIFAR --reference resnet20.th --json results/settings-training.json

ResNet-20 with option-A shortcuts (as in the shared weights) or 3x3 convolutions (as in the original code), with a weight decay of
1e-4 (shared weights) or 5e-4 (original code), is trained for 15 epochs on 10,000 images. Then the MACs removed at each threshold are
measured, with feature maps matched by name and, as in the original code, by position (B2). About ten minutes per network on one
core; existing networks are not trained again. --reference: fully trained weights of a ResNet-20, for comparison.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from settings import matched_by_position, removed

from common import cli
from common.atomic import write_json
from common.checkpoint import save_model
from common.data import DataBundle, load_dataset
from common.device import set_threads
from common.markdown import markdown_table
from common.models import create_model
from common.training import TrainOptions, fit
from redundancy_graph.group_similarity import measure_similarities
from redundancy_graph.settings import SelectionOptions
from redundancy_graph.weights import read_network

THRESHOLDS = (0.75, 0.7, 0.65)
IMAGES = 10_000
RECIPES = [(shortcut, decay) for shortcut in ("pad", "conv3x3") for decay in (1e-4, 5e-4)]
KINDS = {"pad": "option-A shortcuts", "conv3x3": "3x3 shortcuts"}


def trained(data: DataBundle, folder: Path, shortcut: str, decay: float) -> Path:
    """Return the checkpoint of one recipe; train the network if it does not exist."""
    file = folder / f"{shortcut}-{decay}" / "model.safetensors"
    if not file.is_file():
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
        options = TrainOptions(
            epochs=15, weight_decay=decay, schedule="multi-step", milestones=(9, 12), learning_rate=0.1, amp=True
        )
        torch.manual_seed(0)
        model = create_model("resnet20", shortcut=shortcut)
        fit(model, data.train.subset(order[:IMAGES]), options, folder=file.parent)
        save_model(file, model, normalize=(data.mean, data.std))
    return file


def rows_of(network: str, name: str, file: Path, data: DataBundle) -> list[dict]:
    start = read_network("resnet20", file, data)
    found = {
        "by name": measure_similarities(start, SelectionOptions(), 100, 0),
        "by position (B2)": matched_by_position(start, 100),
    }
    return [
        {"network": network, "name": f"{name}; {matching}", "removed": removed(start, similarities, THRESHOLDS)}
        for matching, similarities in found.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-dir", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the four networks")
    parser.add_argument("--reference", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", default=None, help="file for the results")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = load_dataset("cifar10", args.dataset_dir, normalize="cifar10")
    rows = []
    for shortcut, decay in RECIPES:
        file = trained(data, args.out, shortcut, decay)
        rows += rows_of("ResNet-20, 15 epochs", f"{KINDS[shortcut]}, weight decay {decay:g}", file, data)
    if args.reference:
        own = load_dataset("cifar10", args.dataset_dir)
        rows += rows_of("ResNet-20, shared weights", "option-A shortcuts, weight decay 0.0001", args.reference, own)
    table = [[row["network"], row["name"], *row["removed"].values()] for row in rows]
    print(markdown_table(["network", "", *THRESHOLDS], table))
    if args.json:
        record = {"network": "ResNet-20", "thresholds": list(THRESHOLDS), "settings": rows}
        write_json(args.json, {**record, "data_fingerprint": data.fingerprint})


if __name__ == "__main__":
    sys.exit(main())
