"""Measure training images per second: common.data, in memory, and torchvision's ImageFolder + DataLoader with two workers.

Both read a folder of 32 x 32 PNG files, shuffle, crop with padding 4, flip and normalize into batches on the CPU:

    python common/benchmarks/input_pipeline.py --dataset-dir /path/to/cifar10    # train/CLASS/*.png, test/CLASS/*.png

Without such a folder, a temporary one is created. The rounds of both sides alternate; a torchvision round reads only part of
the images, because all would take too long. The time of a round starts at its first batch and excludes starting workers.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from common import cli
from common.data import load_dataset
from common.data.cifar import CIFAR10_CLASSES
from common.normalization import IMAGENET
from common.reporting.benchmark import BenchmarkValue, write_benchmark

FLOOR = 10


def images_per_second(batches: Iterable) -> float:
    """Return images per second after the first batch. A batch is (images (B, C, H, W), labels, ...)."""
    iterator = iter(batches)
    next(iterator)
    count, start = 0, time.perf_counter()
    for images, *_ in iterator:
        count += len(images)
    return count / (time.perf_counter() - start)


def torchvision_loader(folder: Path, count: int, batch_size: int, workers: int) -> DataLoader:
    """Create a loader with the usual CIFAR augmentation and ``count`` random images per epoch."""
    recipe = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    images = ImageFolder(str(folder), recipe)
    sampler = RandomSampler(images, num_samples=min(count, len(images)))
    return DataLoader(images, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def write_images(root: Path, per_class: int = 400) -> None:
    """Write smooth random images, with about the PNG size of CIFAR images: train/CLASS/*.png and a few in test/."""
    random = np.random.default_rng(0)
    for side, count in (("train", per_class), ("test", 10)):
        for name in CIFAR10_CLASSES:
            folder = root / side / name
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                noise = random.integers(-8, 9, (32, 32, 3))
                pixels = np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)) + noise
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


def compare(root: Path, rounds: int, count: int, batch_size: int, workers: int) -> dict[str, list[float]]:
    """Measure both sides alternately, print a table, and return {side: images per second of each round}."""
    start = time.perf_counter()
    train = load_dataset("cifar10", root).train
    first_start = time.perf_counter() - start
    start = time.perf_counter()
    load_dataset("cifar10", root)
    second_start = time.perf_counter() - start
    peer = torchvision_loader(root / "train", count, batch_size, workers)
    options = {"augment": True, "shuffle": True}
    columns: dict[str, list[float]] = {"torchvision": [], "common.data": [], "common.data, channels last": []}
    for epoch in range(rounds):
        columns["torchvision"].append(images_per_second(peer))
        columns["common.data"].append(images_per_second(train.batches(batch_size, epoch=epoch, **options)))
        last = train.batches(batch_size, epoch=epoch, channels_last=True, **options)
        columns["common.data, channels last"].append(images_per_second(last))
    threads = torch.get_num_threads()
    print(f"{len(train)} training images in {root}; batch size {batch_size}; common.data: {threads} threads;")
    print(f"torchvision: {workers} worker processes of one thread; images per second:\n")
    print("| round | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
        print(f"| {number} | " + " | ".join(f"{value:,.0f}" for value in row) + " |")
    medians = [median(values) for values in columns.values()]
    print("| median | " + " | ".join(f"{value:,.0f}" for value in medians) + " |")
    print("| ratio | " + " | ".join(f"{value / medians[0]:.1f}x" for value in medians) + " |")
    print(f"\nfloor {FLOOR}x; loading all images took {first_start:.2f} s, then {second_start:.2f} s from the cache")
    return columns


def save(path: str, columns: dict[str, list[float]]) -> None:
    """Write the result file."""
    ratio = median(columns["common.data, channels last"]) / median(columns["torchvision"])
    quantity = "input pipeline, 32x32, channels last: images per second"
    value = BenchmarkValue(quantity, "torchvision ImageFolder + DataLoader", ratio, FLOOR)
    write_benchmark(path, "python benchmarks/input_pipeline.py", "images per second", columns, [value])


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset-dir", type=Path, default=Path("data/cifar10"), help="CIFAR-10 as image folders")
    parser.add_argument("--rounds", type=cli.positive_int, default=7, help="number of rounds per side")
    parser.add_argument(
        "--images", type=cli.positive_int, default=12_800, help="number of images per torchvision round"
    )
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="number of images per batch")
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes of torchvision")
    parser.add_argument("--threads", type=cli.positive_int, default=1, help="number of torch threads in this process")
    parser.add_argument("--json", help="file for the series and values (JSON)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sizes = args.rounds, args.images, args.batch_size, args.workers
    if (args.dataset_dir / "train").is_dir():
        columns = compare(args.dataset_dir, *sizes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")  # temporary as well
            write_images(Path(folder))
            columns = compare(Path(folder), *sizes)
    if args.json:
        save(args.json, columns)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return an exit status."""
    return cli.run(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
