"""Compare the speed of evaluating candidates with the original code's loop, and of two processes with one.

The original loop is rewritten from its description: for every candidate, it rebuilds the PruningNet, resets its batch norms,
generates all weights again for every batch, and recalibrates and validates through a DataLoader that loads and augments one image
at a time. Both sides evaluate the same vectors with the same generated weights on the same images, with one thread each.

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
from rewarded_metapruning.pruning_net import PruningNet, sample_nev
from rewarded_metapruning.space import NEV, SearchSpace, find_space

FLOOR, PARALLEL_FLOOR = 2.0, 1.6
OURS, ORIGINAL = "this repository", "original code's loop"
BATCHES, BATCH_SIZE = 8, 125


class SingleImages(Dataset):
    """Images that are loaded one at a time, as in torchvision's data sets."""

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


def evaluate_as_original(space: SearchSpace, weights: dict, train: SingleImages, held: SingleImages, nev: NEV) -> float:
    """Return the top-1 of one candidate in percent, evaluated as in the original code."""
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
        correct = 0
        for images, labels in DataLoader(held, BATCH_SIZE):
            correct += int((net(images, nev).argmax(1) == labels).sum())
    return 100 * correct / len(held)


def prepare(arch: str, seed: int = 0) -> tuple[SearchSpace, PruningNet, DataBundle]:
    """Create the search space, an untrained PruningNet and the digits with a held-out part."""
    data = load_dataset("digits").holdout(0.2)
    space = find_space(arch, data.num_classes, data.input_shape)
    torch.manual_seed(seed)
    return space, PruningNet(space).eval(), data


def worker(arch: str, count: int, ready, go, done) -> None:
    """Evaluate ``count`` candidates in a process of one thread, when all processes are ready."""
    torch.set_num_threads(1)
    space, net, data = prepare(arch)
    evaluator = CandidateEvaluator(net, data.train, data.test, batches=BATCHES, batch_size=BATCH_SIZE)
    evaluator(sample_nev(space, (0,)))
    ready.put(None)
    go.wait()
    for i in range(count):
        evaluator(sample_nev(space, (1, i)))
    done.put(None)


def parallel_seconds(arch: str, processes: int, count: int) -> float:
    """Measure the seconds in which ``processes`` processes evaluate ``count`` candidates, without start-up and warm-up."""
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
    parser.add_argument("--candidates", type=int, default=24, help="candidates per timing of one and two processes")
    parser.add_argument("--skip-processes", action="store_true", help="skip the comparison of two processes with one")
    parser.add_argument("--json", default=None, help="JSON file to write the results to")
    args = parser.parse_args()
    set_threads(1)
    space, net, data = prepare(args.arch)
    weights = net.state_dict()
    evaluator = CandidateEvaluator(net, data.train, data.test, batches=BATCHES, batch_size=BATCH_SIZE)
    train, held = SingleImages(data.train, True), SingleImages(data.test, False)
    functions = {
        OURS: evaluator,
        ORIGINAL: lambda nev: evaluate_as_original(space, weights, train, held, nev),
    }
    for evaluate in functions.values():
        evaluate(space.unpruned)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(args.repeats):
        nev = sample_nev(space, (2, i))
        for name, evaluate in functions.items():
            start = time.perf_counter()
            evaluate(nev)
            seconds[name].append(time.perf_counter() - start)
    what = f"evaluation of a candidate, {args.arch}, {BATCHES * BATCH_SIZE} + {len(held)} images: speed"
    value = statistics.median(seconds[ORIGINAL]) / statistics.median(seconds[OURS])
    ratios = [BenchmarkValue(what, "loop of the original code, reimplemented", value, FLOOR)]
    if not args.skip_processes:
        for _ in range(args.repeats):
            for processes, name in ((1, "one process"), (2, "two processes")):
                seconds.setdefault(name, []).append(parallel_seconds(args.arch, processes, args.candidates))
        value = statistics.median(seconds["one process"]) / statistics.median(seconds["two processes"])
        ratios.append(
            BenchmarkValue(
                f"evaluation of {args.candidates} candidates, two single-threaded processes: speed",
                "one process",
                value,
                PARALLEL_FLOOR,
            )
        )
    for name, series in seconds.items():
        values = " ".join(f"{1000 * value:.0f}" for value in series)
        print(f"{name:15s} median {1000 * statistics.median(series):8.1f} ms of {len(series)} runs: {values}")
    for ratio in ratios:
        verdict = "ok" if ratio.reached else "BELOW THE FLOOR"
        print(
            f"{ratio.quantity} compared with {ratio.compared_with}: {ratio.value:.2f}x (floor {ratio.bound:g}): {verdict}"
        )
    if args.json:
        milliseconds = {name: [1000 * value for value in series] for name, series in seconds.items()}
        command = "python benchmarks/search_speed.py" + (" --skip-processes" if args.skip_processes else "")
        write_benchmark(args.json, command, "ms", milliseconds, ratios)


if __name__ == "__main__":
    main()
