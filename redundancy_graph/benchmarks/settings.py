"""MACs that a threshold removes from one trained network, under settings that the authors used or may have used.

    python benchmarks/settings.py --arch resnet56 --pretrained resnet56.th --dataset-dir CIFAR --json results/settings-resnet56.json

Settings: the defaults; other seeds and numbers of images; batch norm in train mode (B1), augmented images (B6), both; all layers of a
residual stream; and feature maps matched to layers by position instead of by name (B2), which only matters if shortcuts contain
convolutions.
"""

import re
import sys
from collections.abc import Sequence

from torch import nn

from common.atomic import write_json
from common.checkpoint import file_digest
from common.device import choose_device, set_threads
from common.markdown import markdown_table
from common.options import HardwareOptions
from common.settings import command, option, section, settings
from common.trained_model import TrainedModel
from redundancy_graph.decision import decide_group, summarize
from redundancy_graph.features import choose_images, collect_hashes
from redundancy_graph.group_similarity import compute_similarities, layers_to_hash, measure_similarities
from redundancy_graph.settings import (
    ORIGINAL_DATASET_DIRS,
    SelectionOptions,
    SourceOptions,
    mini_batch_option,
    threshold_option,
)
from redundancy_graph.weights import open_network

SETTINGS = {
    "by name, eval mode, seed 0": {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "1000 images": {"mini_batch": 1000},
    "train-mode batch norm (B1)": {"bn_mode": "train"},
    "augmented images (B6)": {"augment": True},
    "both": {"bn_mode": "train", "augment": True},
    "all layers of a residual stream": {"similarity_layer": "all"},
}


def authors_order(layers: Sequence[str]) -> list[str]:
    """Sort layers from module order to the order of execution in the original code: a block's shortcut first."""

    def place(name: str) -> tuple[int, int]:
        block = re.sub(r"\.(shortcut|downsample)\..*", "", name)
        first = min(i for i, other in enumerate(layers) if other == name or other.startswith(f"{block}."))
        return (first, 0) if block != name else (layers.index(name), 1)

    return sorted(layers, key=place)


def matched_by_position(start: TrainedModel, mini_batch: int) -> list:
    """Measure similarities with B2: the i-th layer in module order gets the feature maps of the i-th executed layer."""
    model = start.model
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    images = choose_images(start.data.train, mini_batch, 0)
    hashes = collect_hashes(model, images, layers, workers=start.workers)
    mixed = {
        name: hashes[source][:, : model.get_submodule(name).out_channels]
        for name, source in zip(layers, authors_order(layers), strict=True)
    }
    return compute_similarities(
        model, start.groups, {name: mixed[name] for name in layers_to_hash(model, start.groups)}
    )


def removed(start: TrainedModel, similarities: list, thresholds: Sequence[float]) -> dict[str, float]:
    """Return the percentage of MACs removed at each threshold."""
    found = {t: summarize(start, [decide_group(one, t) for one in similarities], t, None, "512") for t in thresholds}
    return {str(t): one["macs_removed"] for t, one in found.items()}


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
    set_threads(args.run.threads)
    start = open_network(args, choose_device(args.run.device))
    rows = []
    for name, changes in SETTINGS.items():
        own = {"mini_batch": args.mini_batch, "seed": 0} | changes
        mini_batch, seed = own.pop("mini_batch"), own.pop("seed")
        similarities = measure_similarities(start, SelectionOptions(**own), mini_batch, seed)
        rows.append({"name": name, "removed": removed(start, similarities, args.threshold)})
    by_position = matched_by_position(start, args.mini_batch)
    rows.append({"name": "feature maps by position (B2)", "removed": removed(start, by_position, args.threshold)})
    print(markdown_table(["", *args.threshold], [[row["name"], *row["removed"].values()] for row in rows]))
    if args.json:
        record = {
            "network": args.name or start.name,
            "weights_digest": file_digest(start.file),
            "thresholds": args.threshold,
        }
        write_json(args.json, {**record, "data_fingerprint": start.data.fingerprint, "settings": rows})


if __name__ == "__main__":
    sys.exit(main())
