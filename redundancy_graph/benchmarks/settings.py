"""What decides how many MACs a threshold removes? The same trained network under settings that the authors had, or may have had.

    python benchmarks/settings.py --arch resnet56 --pretrained resnet56.th --dataset-dir CIFAR --json results/settings-resnet56.json

Rows: ours; other seeds and numbers of pictures; batch norm in train mode (B1), augmented pictures (B6), both; all layers of a
stream deciding together; and maps handed to layers by position instead of by name (B2), which only matters where a shortcut has
a convolution.
"""

import re
import sys
from collections.abc import Sequence

from torch import nn

from common.atomic import write_json
from common.checkpoint import file_digest
from common.device import choose_device, set_threads
from common.markdown import markdown_table
from common.options import RunOptions
from common.settings import command, option, section, settings
from common.trained_model import TrainedModel
from redundancy_graph.decision import decide_group, report
from redundancy_graph.evidence import gather, gather_evidence, layers_to_hash
from redundancy_graph.features import choose_pictures, collect_hashes
from redundancy_graph.settings import SEED_DIRS, Decisions, Source, mini_batch_option, threshold_option
from redundancy_graph.weights import open_network

SETTINGS = {
    "by name, eval mode, seed 0": {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "1000 pictures": {"mini_batch": 1000},
    "train-mode batch norm (B1)": {"bn_mode": "train"},
    "augmented pictures (B6)": {"augment": True},
    "both": {"bn_mode": "train", "augment": True},
    "all layers of a stream decide": {"decider": "all"},
}


def authors_order(layers: Sequence[str]) -> list[str]:
    """Layers, given in module order, in the order in which the authors' networks run them: a block's shortcut first."""

    def place(name: str) -> tuple[int, int]:
        block = re.sub(r"\.(shortcut|downsample)\..*", "", name)
        first = min(i for i, other in enumerate(layers) if other == name or other.startswith(f"{block}."))
        return (first, 0) if block != name else (layers.index(name), 1)

    return sorted(layers, key=place)


def matched_by_position(start: TrainedModel, mini_batch: int) -> list:
    """B2: the i-th layer in module order gets the maps of the i-th layer that ran, cut to as many as it has filters."""
    model = start.model
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    pictures = choose_pictures(start.data.train, mini_batch, 0)
    hashes = collect_hashes(model, pictures, layers, workers=start.workers)
    mixed = {
        name: hashes[source][:, : model.get_submodule(name).out_channels]
        for name, source in zip(layers, authors_order(layers), strict=True)
    }
    return gather_evidence(model, start.groups, {name: mixed[name] for name in layers_to_hash(model, start.groups)})


def removed(start: TrainedModel, evidence: list, thresholds: Sequence[float]) -> dict[str, float]:
    """Percent of the MACs that each threshold removes."""
    found = {t: report(start, [decide_group(one, t) for one in evidence], t, None, "512") for t in thresholds}
    return {str(t): one["macs_removed"] for t, one in found.items()}


@settings
class Benchmark:
    """What decides how many MACs a threshold removes?"""

    arch: str = option("vgg16", "model architecture")
    pretrain_dir: str = option("./cifar10/pre-train/", "pre-trained model saved directory")
    dataset_dir: str = option(SEED_DIRS["cifar10"], "dataset saved directory")
    mini_batch: int = mini_batch_option()
    threshold: list[float] = threshold_option(0.75, 0.7, 0.65)
    json: str | None = option(None, "write the figures to this file too")
    name: str | None = option(None, "what the network is called in the table")
    source: Source = section(Source)
    run: RunOptions = section(RunOptions)


def main(argv: Sequence[str] | None = None) -> int:
    return command(Benchmark, benchmark, argv)


def benchmark(args: Benchmark) -> None:
    set_threads(args.run.threads)
    start = open_network(args, choose_device(args.run.device))
    rows = []
    for name, changes in SETTINGS.items():
        own = {"mini_batch": args.mini_batch, "seed": 0} | changes
        mini_batch, seed = own.pop("mini_batch"), own.pop("seed")
        evidence = gather(start, Decisions(**own), mini_batch, seed)
        rows.append({"name": name, "removed": removed(start, evidence, args.threshold)})
    by_position = matched_by_position(start, args.mini_batch)
    rows.append({"name": "maps by position (B2)", "removed": removed(start, by_position, args.threshold)})
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
