"""Measure the time per training epoch on CIFAR-10's 50,000 images, by network and batch size, with and without a CUDA graph.

    python benchmarks/epoch_seconds.py [--device cuda] [--images 20000] [--networks vgg16 resnet56] [--batches 128 500]

Images are random. The first epoch warms up, and the last one is measured. Times with fewer images are scaled to 50,000; on a
CPU, a few hundred are enough.
"""

import argparse
import itertools
import json
import shlex
import sys
import time
from dataclasses import replace

import torch

from common.atomic import write_json
from common.data import MemoryImages
from common.device import choose_device
from common.models import create_model
from common.runs import describe_environment
from common.training import Hooks, TrainOptions, fit

CIFAR10 = 50_000
NETWORKS = ("vgg16", "resnet56", "resnet110", "densenet40")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda or cuda:N")
    parser.add_argument("--images", type=int, default=20_000, help="number of random images")
    parser.add_argument("--epochs", type=int, default=2, help="number of epochs; the last one is measured")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="architectures")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 500], help="batch sizes")
    parser.add_argument(
        "--graphs", nargs="+", default=["off", "auto"], choices=["off", "auto"], help="use of CUDA graphs"
    )
    parser.add_argument("--float32", action="store_true", help="disable mixed precision")
    parser.add_argument("--profile", type=int, metavar="N", help="print the N most expensive operations of each case")
    parser.add_argument("--json", help="file for the measurements (JSON)")
    args = parser.parse_args()
    device = choose_device(args.device)
    images = torch.randint(0, 256, (args.images, 3, 32, 32), dtype=torch.uint8)
    data = MemoryImages(images, torch.arange(args.images) % 10, padding=4, flip=True)
    rows: list[dict] = []
    graphs = args.graphs if device.type == "cuda" else ["off"]
    for batch, graph, arch in itertools.product(args.batches, graphs, args.networks):
        row = {"network": arch, "batch": batch, "graph": graph, "amp": not args.float32}
        options = TrainOptions(
            epochs=args.epochs, batch_size=batch, learning_rate=0.01, nesterov=True, amp=not args.float32, graph=graph
        )
        try:
            row |= measured(arch, data, device, options)
        except RuntimeError as error:  # continue with the other cases
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(row), flush=True)
        if args.profile and "error" not in row:
            print(profiled(arch, data, device, options, args.profile), flush=True)
        rows.append(row)
        if args.json:  # after each case, so that an interruption loses nothing
            command = f"python benchmarks/epoch_seconds.py {shlex.join(sys.argv[1:])}"
            write_json(args.json, {"command": command, "rows": rows, "environment": describe_environment(device)})


def measured(arch: str, data: MemoryImages, device: torch.device, options: TrainOptions) -> dict:
    """Return the seconds of the last epoch, scaled to 50,000 images, the seconds before it, and the GPU memory in MiB."""
    torch.manual_seed(0)
    ends: list[float] = []

    def note(epoch: int) -> dict:
        ends.append(time.monotonic())
        return {}

    start = time.monotonic()
    rows = fit(create_model(arch), data, options, device=device, hooks=Hooks(after_epoch=note))
    scale = CIFAR10 / len(data)
    found = {
        "seconds": round(scale * (ends[-1] - ends[-2] if options.epochs > 1 else ends[-1] - start), 3),
        "start": round((ends[-2] if options.epochs > 1 else start) - start, 2),
        "loss": rows[-1]["train_loss"],
    }
    if device.type == "cuda":
        found["mib"] = torch.cuda.max_memory_allocated(device) // 2**20
        torch.cuda.reset_peak_memory_stats(device)
        found["device"] = torch.cuda.get_device_name(device)
    return found


def profiled(
    arch: str, data: MemoryImages, device: torch.device, options: TrainOptions, rows: int, steps: int = 10
) -> str:
    """Return a table of the most expensive operations: kernels on CUDA, else operators. Without a CUDA graph, which hides them."""
    cuda = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    few = data.subset(torch.arange(min(len(data), steps * options.batch_size)))
    eager = replace(options, epochs=1, graph="off")
    model = create_model(arch)
    fit(model, few, eager, device=device)  # warms up
    with torch.profiler.profile(activities=[activity]) as profile:
        fit(model, few, eager, device=device)
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=90)


if __name__ == "__main__":
    main()
