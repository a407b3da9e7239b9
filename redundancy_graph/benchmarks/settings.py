"""MACs that a threshold removes from one trained network, under settings that the authors used or may have used.

    python benchmarks/settings.py --arch resnet56 --pretrained resnet56.th --dataset-dir CIFAR --json results/settings-resnet56.json

Settings: the defaults, also with the FLOPs of thop instead of the MACs; other seeds and numbers of images; batch norm in train mode (B1),
augmented images (B6), both; all layers of a residual stream; and feature maps matched to layers by position instead of by name (B2),
which only matters if shortcuts contain convolutions, alone and with B1 and B6, as in the original code.
"""

import re
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from common.atomic import write_json
from common.checkpoint import file_digest
from common.cost import count_cost
from common.device import choose_device, set_threads
from common.markdown import markdown_table
from common.methods import Decision
from common.options import HardwareOptions
from common.pipeline import apply_decision
from common.runs import describe_environment
from common.settings import command, option, section, settings
from common.trained_model import TrainedModel
from redundancy_graph.decision import count_macs, decide_group
from redundancy_graph.features import choose_images, collect_hashes
from redundancy_graph.group_similarity import compute_similarities, layers_to_hash, measure_similarities
from redundancy_graph.paper.tables import AS_ORIGINAL
from redundancy_graph.settings import (
    ORIGINAL_DATASET_DIRS,
    SelectionOptions,
    SourceOptions,
    mini_batch_option,
    threshold_option,
)
from redundancy_graph.weights import open_network

SETTINGS: dict[str, dict[str, Any]] = {
    "by name, eval mode, seed 0": {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "1000 images": {"mini_batch": 1000},
    "train-mode batch norm (B1)": {"bn_mode": "train"},
    "augmented images (B6)": {"augment": True},
    "B1 and B6": {"bn_mode": "train", "augment": True},
    "all layers of a residual stream": {"similarity_layer": "all"},
}
BY_POSITION: dict[str, dict[str, Any]] = {
    "feature maps by position (B2)": {},
    AS_ORIGINAL: {"bn_mode": "train", "augment": True},
}


def authors_order(layers: Sequence[str]) -> list[str]:
    """Sort layers from module order to the order of execution in the original code: a block's shortcut first."""

    def place(name: str) -> tuple[int, int]:
        block = re.sub(r"\.(shortcut|downsample)\..*", "", name)
        first = min(i for i, other in enumerate(layers) if other == name or other.startswith(f"{block}."))
        return (first, 0) if block != name else (layers.index(name), 1)

    return sorted(layers, key=place)


def matched_by_position(start: TrainedModel, mini_batch: int, **options: Any) -> list:
    """Measure similarities with B2: the i-th layer in module order gets the feature maps of the i-th executed layer.

    options: ``bn_mode`` and ``augment`` of :func:`collect_hashes`.
    """
    model = start.model
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    images = choose_images(start.data.train, mini_batch, 0)
    hashes = collect_hashes(model, images, layers, workers=start.workers, **options)
    mixed = {
        name: hashes[source][:, : model.get_submodule(name).out_channels]
        for name, source in zip(layers, authors_order(layers), strict=True)
    }
    return compute_similarities(
        model, start.groups, {name: mixed[name] for name in layers_to_hash(model, start.groups)}
    )


def removed(start: TrainedModel, similarities: list, thresholds: Sequence[float]) -> dict[str, float]:
    """Return the percentage of MACs removed at each threshold."""
    found = {}
    for t in thresholds:
        kept = {one.group: decide_group(one, t).kept for one in similarities}
        found[str(t)] = round(100 * (1 - count_macs(start, kept, "512") / start.cost.dense), 2)
    return found


def thop_flops_removed(start: TrainedModel, similarities: list, thresholds: Sequence[float]) -> dict[str, float]:
    """Return the percentage of the FLOPs removed at each threshold, as counted by thop in the original code."""
    dense, found = count_cost(start.model, start.data.input_shape, "thop").macs, {}
    for t in thresholds:
        pruned = apply_decision(start, Decision({one.group: decide_group(one, t).kept for one in similarities}))
        found[str(t)] = round(100 * (1 - count_cost(pruned, start.data.input_shape, "thop").macs / dense), 2)
    return found


@settings
class Benchmark:
    """Measure the MACs that a threshold removes, under several settings."""

    arch: str = option("vgg16", "model architecture")
    pretrain_dir: str = option("./cifar10/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(ORIGINAL_DATASET_DIRS["cifar10"], "dataset saved directory")
    mini_batch: int = mini_batch_option()
    threshold: list[float] = threshold_option(0.75, 0.7, 0.65)
    json: str | None = option(None, "file for the results")
    name: str | None = option(None, "name of the network in the table")
    source: SourceOptions = section(SourceOptions)
    run: HardwareOptions = section(HardwareOptions)


def main(argv: Sequence[str] | None = None) -> int:
    return command(Benchmark, benchmark, argv)


def benchmark(args: Benchmark) -> None:
    began = time.monotonic()
    set_threads(args.run.threads)
    start = open_network(args, choose_device(args.run.device))
    rows = []
    for name, changes in SETTINGS.items():
        own = {"mini_batch": args.mini_batch, "seed": 0} | changes
        mini_batch, seed = own.pop("mini_batch"), own.pop("seed")
        similarities = measure_similarities(start, SelectionOptions(**own), mini_batch, seed)
        rows.append({"name": name, "removed": removed(start, similarities, args.threshold)})
        if not changes:
            flops = thop_flops_removed(start, similarities, args.threshold)
            rows.append({"name": "the same, FLOPs counted by thop", "removed": flops})
    for name, options in BY_POSITION.items():
        similarities = matched_by_position(start, args.mini_batch, **options)
        rows.append({"name": name, "removed": removed(start, similarities, args.threshold)})
    print(markdown_table(["", *args.threshold], [[row["name"], *row["removed"].values()] for row in rows]))
    if args.json:
        record = {
            "network": args.name or start.name,
            "command": shlex.join(["python", *sys.argv]),
            "seconds": round(time.monotonic() - began, 1),
            "environment": describe_environment(start.device),
            "weights_digest": file_digest(start.file),
            "thresholds": args.threshold,
        }
        write_json(args.json, {**record, "data_fingerprint": start.data.fingerprint, "settings": rows})


if __name__ == "__main__":
    sys.exit(main())
