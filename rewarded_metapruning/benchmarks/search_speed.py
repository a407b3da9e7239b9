"""Candidates per second: ours against the original's way; and two processes of one thread against one such process.

The peer is written from the description of the original's search: it builds the pruning network anew for every candidate, resets
its norms, generates all weights again for every batch, recalibrates and validates through a DataLoader that reads and augments one
picture at a time. Both sides evaluate the same vectors with the same generated weights on the same pictures, one thread each.

    python benchmarks/search_speed.py                          resnet-small, digits, about three minutes on two free cores
    python benchmarks/search_speed.py --json results/speed-search.json
"""

import argparse
import multiprocessing
import statistics
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common.data import DataBundle, MemoryImages, load_dataset
from common.device import set_threads
from common.reporting.benchmark import BenchmarkValue, write_benchmark
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.space import NEV, SearchSpace, find_space

FLOOR, PARALLEL_FLOOR = 2.0, 1.6
BATCHES, BATCH_SIZE = 8, 125


class Pictures(Dataset):
    """One picture at a time, as torchvision's data sets give them."""

    def __init__(self, images: MemoryImages, augment: bool) -> None:
        self.images = images.images.permute(0, 2, 3, 1).numpy()
        self.labels = images.labels.tolist()
        steps = [transforms.ToPILImage()]
        if augment:
            steps += [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(images.mean, images.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(np.ascontiguousarray(self.images[index])), self.labels[index]


def original(space: SearchSpace, weights: dict, train: Pictures, held: Pictures, nev: NEV) -> float:
    """Top-1 in percent of one candidate, the original's way."""
    net = PruningNet(space)
    net.load_state_dict(weights)
    for table in net.norms.values():
        table.mean.zero_()
        table.var.fill_(1)
        table.count.zero_()
    with torch.no_grad():
        net.train()
        for number, (images, _) in enumerate(DataLoader(train, BATCH_SIZE, shuffle=True)):
            if number == BATCHES:
                break
            net(images, nev)
        net.eval()
        right = 0
        for images, labels in DataLoader(held, BATCH_SIZE):
            right += int((net(images, nev).argmax(1) == labels).sum())
    return 100 * right / len(held)


def make(arch: str, seed: int = 0) -> tuple[SearchSpace, PruningNet, DataBundle]:
    data = load_dataset("digits").holdout(0.2)
    space = find_space(arch, data.num_classes, data.input_shape)
    torch.manual_seed(seed)
    return space, PruningNet(space).eval(), data


def worker(arch: str, count: int, ready, go, done) -> None:
    """One of several processes of one thread: evaluates its share when all are ready."""
    torch.set_num_threads(1)
    space, net, data = make(arch)
    evaluator = CandidateEvaluator(net, data.train, data.test, batches=BATCHES, batch_size=BATCH_SIZE)
    evaluator(draw(space, (0,)))
    ready.put(None)
    go.wait()
    for i in range(count):
        evaluator(draw(space, (1, i)))
    done.put(None)


def parallel_seconds(arch: str, processes: int, count: int) -> float:
    """Seconds in which so many processes evaluate ``count`` candidates, started and warm before the clock runs."""
    context = multiprocessing.get_context("spawn")
    ready, done, go = context.Queue(), context.Queue(), context.Event()
    children = [
        context.Process(target=worker, args=(arch, count // processes, ready, go, done)) for _ in range(processes)
    ]
    for child in children:
        child.start()
    for _ in children:
        ready.get()
    start = time.perf_counter()
    go.set()
    for _ in children:
        done.get()
    seconds = time.perf_counter() - start
    for child in children:
        child.join()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet-small")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=24, help="candidates of a timing of processes")
    parser.add_argument("--skip-processes", action="store_true", help="only ours against the original's way")
    parser.add_argument("--json", default=None, help="write the figures to this file too")
    args = parser.parse_args()
    set_threads(1)
    space, net, data = make(args.arch)
    weights = net.state_dict()
    evaluator = CandidateEvaluator(net, data.train, data.test, batches=BATCHES, batch_size=BATCH_SIZE)
    train, held = Pictures(data.train, True), Pictures(data.test, False)
    evaluator(space.unpruned)
    original(space, weights, train, held, space.unpruned)
    seconds: dict[str, list[float]] = {"ours": [], "original's way": []}
    for i in range(args.repeats):
        nev = draw(space, (2, i))
        for name, side in (("ours", evaluator), ("original's way", lambda n: original(space, weights, train, held, n))):
            start = time.perf_counter()
            side(nev)
            seconds[name].append(time.perf_counter() - start)
    what = f"a candidate, {args.arch}, {BATCHES * BATCH_SIZE} + {len(held)} pictures"
    value = statistics.median(seconds["original's way"]) / statistics.median(seconds["ours"])
    ratios = [BenchmarkValue(what, "the original's loop, rewritten", value, FLOOR)]
    if not args.skip_processes:
        for _ in range(args.repeats):
            for processes, name in ((1, "one process"), (2, "two processes")):
                seconds.setdefault(name, []).append(parallel_seconds(args.arch, processes, args.candidates))
        value = statistics.median(seconds["one process"]) / statistics.median(seconds["two processes"])
        ratios.append(
            BenchmarkValue(
                f"{args.candidates} candidates, two processes of one thread", "one such process", value, PARALLEL_FLOOR
            )
        )
    for name, series in seconds.items():
        values = " ".join(f"{1000 * value:.0f}" for value in series)
        print(f"{name:15s} median {1000 * statistics.median(series):8.1f} ms of {len(series)} runs: {values}")
    for ratio in ratios:
        verdict = "ok" if ratio.reached else "BELOW THE FLOOR"
        print(f"{ratio.what} against {ratio.against}: {ratio.value:.2f}x (floor {ratio.bound:g}): {verdict}")
    if args.json:
        milliseconds = {name: [1000 * value for value in series] for name, series in seconds.items()}
        command = "python benchmarks/search_speed.py" + (" --skip-processes" if args.skip_processes else "")
        write_benchmark(args.json, command, "ms", milliseconds, ratios)


if __name__ == "__main__":
    main()
