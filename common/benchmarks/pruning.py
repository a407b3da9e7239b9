"""Measure the removal of half of every channel group of ResNet-56, next to torch-pruning, which checks nothing.

    python benchmarks/pruning.py [--threads 1] [--repeats 7]

groups  channel_groups, the first call for a network: traces it and tries which groups can be pruned
again   channel_groups, later calls
keep    keep_channels: traces, removes, and compares with the masked network in float64
peer    torch-pruning's MagnitudePruner: traces and removes

All are timed alternately in one process.
"""

import argparse
import copy
import statistics

import torch
import torch_pruning as tp

from common.channels import channel_groups, keep_channels, listing
from common.markdown import markdown_table
from common.models import create_model
from common.reporting.benchmark import BenchmarkValue, time_interleaved, write_benchmark

PEER = "torch-pruning, MagnitudePruner"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--repeats", type=int, default=7, help="number of measurements of each side")
    parser.add_argument("--json", help="file for the series and values (JSON)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, image = create_model("resnet56").eval(), torch.zeros(1, 3, 32, 32)
    kept = {group.name: range(0, group.size, 2) for group in channel_groups(model, image)}

    def first_groups() -> None:
        listing._known.clear()
        channel_groups(model, image)

    sides = {
        "groups": first_groups,
        "again": lambda: channel_groups(model, image),
        "keep": lambda: keep_channels(model, image, kept),
        "peer": lambda: prune_with_torch_pruning(model, image),
    }
    times = time_interleaved(sides, args.repeats)
    medians = {name: statistics.median(series) for name, series in times.items()}
    rows = [[name, f"{medians[name]:.0f}", " ".join(f"{t:.0f}" for t in times[name])] for name in sides]
    print(markdown_table(["side", "ms (median)", "all"], rows))
    case = "half of every channel group of ResNet-56"
    quantities = {
        "groups": "time to list the groups, first call",
        "again": "time to list the groups, later calls",
        "keep": "time to remove the channels and compare all tensors with the masked network",
    }
    values = [
        BenchmarkValue(f"{case}: {text}", PEER, medians[name] / medians["peer"], 0) for name, text in quantities.items()
    ]
    for value in values:
        print(f"{value.quantity}: {value.measured} {PEER}")
    if args.json:
        write_benchmark(args.json, "python benchmarks/pruning.py", "ms", times, values)


def prune_with_torch_pruning(model: torch.nn.Module, image: torch.Tensor) -> None:
    """Remove half of the channels of a copy as torch-pruning's README does; its classifier is left alone."""
    model = copy.deepcopy(model)
    classifiers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    importance = tp.importance.MagnitudeImportance(p=1)
    tp.pruner.MagnitudePruner(model, image, importance, pruning_ratio=0.5, ignored_layers=classifiers).step()


if __name__ == "__main__":
    main()
