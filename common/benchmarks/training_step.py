"""Measure the training step of ResNet-20, batch 128: the full loop of common.training, a plain loop, and the step alone.

    python benchmarks/training_step.py [--threads 2] [--repeats 15]

plain  as in most training scripts: default memory format, one prepared batch
bare   channels-last, one prepared batch
full   the loop of common.training: images are selected, cropped, flipped and normalized, metrics are accumulated

The three are timed alternately in one process. Targets for the medians: plain / full at least 1.05, full / bare at most 1.03.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F

from common.data.memory import MemoryImages
from common.markdown import markdown_table
from common.models import create_model
from common.reporting.benchmark import BenchmarkValue, time_interleaved, write_benchmark
from common.training import Hooks, TrainOptions, make_optimizer
from common.training.step import Step

BATCH = 128
OPTIONS = TrainOptions(batch_size=BATCH)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads")
    parser.add_argument("--repeats", type=int, default=15, help="number of measurements of each side")
    parser.add_argument("--json", help="file for the series and values (JSON)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = {"plain": bare_step(torch.contiguous_format), "bare": bare_step(torch.channels_last), "full": full_step()}
    times = time_interleaved(sides, args.repeats)
    medians = {name: statistics.median(series) for name, series in times.items()}
    rows = [[name, f"{medians[name]:.1f}", " ".join(f"{t:.0f}" for t in times[name])] for name in sides]
    print(markdown_table(["side", "ms per step (median)", "all"], rows))
    case = "training step, ResNet-20, batch 128"
    full, bare = f"{case}: time with the full loop", "same step without the loop"
    values = [
        BenchmarkValue(f"{case}: speed", "plain loop", medians["plain"] / medians["full"], 1.05),
        BenchmarkValue(full, bare, medians["full"] / medians["bare"], 1.03, at_most=True),
    ]
    print(
        f"plain / full {values[0].value:.3f} (at least 1.05), full / bare {values[1].value:.3f} (at most 1.03), {args.threads} threads"
    )
    if args.json:
        write_benchmark(args.json, "python benchmarks/training_step.py", "ms", times, values)


def bare_step(memory_format: torch.memory_format):
    """Return a function that takes a training step on a prepared batch."""
    model = create_model("resnet20").to(memory_format=memory_format).train()
    optimizer = make_optimizer(model, OPTIONS)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=memory_format)
    labels = torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def full_step():
    """Return a function that takes a training step of common.training, including the input pipeline."""
    images = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
    data = MemoryImages(images, torch.randint(0, 10, (5000,)), (0.5,) * 3, (0.25,) * 3, padding=4, flip=True)
    model = create_model("resnet20").to(memory_format=torch.channels_last).train()
    step = Step(
        model,
        make_optimizer(model, OPTIONS),
        torch.amp.GradScaler("cpu", enabled=False),
        OPTIONS,
        Hooks(),
        torch.device("cpu"),
    )

    def endless():
        epoch = 0
        while True:
            yield from data.batches(BATCH, augment=True, shuffle=True, epoch=epoch, channels_last=True)
            epoch += 1

    batches = endless()

    def one() -> None:
        step(next(batches), 0.1)

    return one


if __name__ == "__main__":
    main()
