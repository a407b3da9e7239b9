"""What decides how many MACs a threshold removes? The same trained network under settings that the authors had, or may have had.

    python benchmarks/settings.py --arch resnet56 --pretrained resnet56.th --dataset-dir CIFAR --json results/settings-resnet56.json

Rows: ours; other seeds and numbers of pictures; batch norm in train mode (B1), augmented pictures (B6), both; all layers of a
stream deciding together; and maps handed to layers by position instead of by name (B2), which only matters where a shortcut has
a convolution.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from torch import nn

from common import cli
from common.atomic import write_json
from common.device import choose_device, set_threads
from common.results import markdown_table
from redundancy_graph.budget import Budget, Settings, measure
from redundancy_graph.decide import decide, gather_evidence, layers_to_hash
from redundancy_graph.features import choose_pictures, collect_hashes
from redundancy_graph.generate import DATASET_DIR, build_parser
from redundancy_graph.options import load_subject
from redundancy_graph.subject import Subject

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


def matched_by_position(subject: Subject, settings: Settings) -> list:
    """B2: the i-th layer in module order gets the maps of the i-th layer that ran, cut to as many as it has filters."""
    model = subject.model
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    pictures = choose_pictures(subject.data.train, settings.mini_batch, settings.seed)
    hashes = collect_hashes(model, pictures, layers)
    mixed = {
        name: hashes[source][:, : model.get_submodule(name).out_channels]
        for name, source in zip(layers, authors_order(layers), strict=True)
    }
    return gather_evidence(model, subject.groups, {name: mixed[name] for name in layers_to_hash(model, subject.groups)})


def removed(subject: Subject, evidence: list, thresholds: Sequence[float]) -> dict[str, float]:
    """Percent of the MACs that each threshold removes."""
    budget = Budget(subject, evidence)
    reports = {t: budget.report([decide(one, t) for one in evidence], t, None) for t in thresholds}
    return {str(t): report["macs_removed"] for t, report in reports.items()}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = build_parser()
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", default=None, help="write the figures to this file too")
    parser.add_argument("--name", default=None, help="what the network is called in the table")
    parser.set_defaults(threshold=[0.75, 0.7, 0.65])
    args = parser.parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    subject = load_subject(args, DATASET_DIR)
    rows = []
    for name, changes in SETTINGS.items():
        evidence = measure(subject, Settings(**{"mini_batch": args.mini_batch, **changes}), device=device)
        rows.append({"name": name, "removed": removed(subject, evidence, args.threshold)})
    by_position = matched_by_position(subject, Settings(mini_batch=args.mini_batch))
    rows.append({"name": "maps by position (B2)", "removed": removed(subject, by_position, args.threshold)})
    print(markdown_table(["", *args.threshold], [[row["name"], *row["removed"].values()] for row in rows]))
    if args.json:
        record = {"network": args.name or subject.name, "weights_digest": subject.digest, "thresholds": args.threshold}
        write_json(args.json, {**record, "data_fingerprint": subject.data.fingerprint, "settings": rows})


if __name__ == "__main__":
    sys.exit(main())
