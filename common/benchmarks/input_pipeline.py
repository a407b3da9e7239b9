"""Training images per second: in-memory image sets compared with torchvision's ImageFolder + DataLoader (two workers).

Both read one folder of 32 x 32 PNG files, shuffle, crop with padding 4, flip and normalize into batches on the CPU:

    python common/benchmarks/input_pipeline.py --dataset-dir /path/to/cifar10    # train/CLASS/*.png, test/CLASS/*.png

Without such a folder, random images are written to a temporary one. Rounds of both alternate; torchvision reads only a part of
the images per round, to save time. A round is timed from its first batch, so that torchvision's start of workers is not counted.
"""

import argparse
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
from common.data.normalization import IMAGENET
from common.reporting.benchmark import BenchmarkValue, write_benchmark

FLOOR = 10


def images_per_second(batches: Iterable) -> float:
    """Return the images per second after the first batch; a batch is (images (B, C, H, W), labels, ...)."""
    iterator = iter(batches)
    next(iterator)
    count, start = 0, time.perf_counter()
    for images, *_ in iterator:
        count += len(images)
    return count / (time.perf_counter() - start)


def torchvision_loader(folder: Path, num_images: int, batch_size: int, workers: int) -> DataLoader:
    """Return a loader with the usual CIFAR augmentation and `num_images` random images per epoch."""
    recipe = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    images = ImageFolder(str(folder), recipe)
    sampler = RandomSampler(images, num_samples=min(num_images, len(images)))
    return DataLoader(images, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def write_images(root: Path, per_class: int = 400) -> None:
    """Write smooth random images, which PNG compresses about as well as CIFAR's: train/CLASS/*.png, a few in test."""
    random = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", 10)):
        for name in CIFAR10_CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                noise = random.integers(-8, 9, (32, 32, 3))
                pixels = np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)) + noise
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


def compare(root: Path, rounds: int, num_images: int, batch_size: int, workers: int) -> dict[str, list[float]]:
    start = time.perf_counter()
    train = load_dataset("cifar10", root).train
    first_start = time.perf_counter() - start
    start = time.perf_counter()
    load_dataset("cifar10", root)
    second_start = time.perf_counter() - start
    peer = torchvision_loader(root / "train", num_images, batch_size, workers)
    options = {"augment": True, "shuffle": True}
    columns: dict[str, list[float]] = {"torchvision": [], "ours": [], "ours, channels last": []}
    for epoch in range(rounds):
        columns["torchvision"].append(images_per_second(peer))
        columns["ours"].append(images_per_second(train.batches(batch_size, epoch=epoch, **options)))
        last = train.batches(batch_size, epoch=epoch, channels_last=True, **options)
        columns["ours, channels last"].append(images_per_second(last))
    print(
        f"{len(train)} training images in {root}; batch size {batch_size}; {torch.get_num_threads()} threads in this process;"
    )
    print(f"torchvision: {workers} worker processes with one thread each; images per second:\n")
    print("| round | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
        print(f"| {number} | " + " | ".join(f"{value:,.0f}" for value in row) + " |")
    medians = [median(values) for values in columns.values()]
    print("| median | " + " | ".join(f"{value:,.0f}" for value in medians) + " |")
    print("| ratio | " + " | ".join(f"{value / medians[0]:.1f}x" for value in medians) + " |")
    print(f"\ntarget {FLOOR}x; loading all images took {first_start:.2f} s, and {second_start:.2f} s from the cache")
    return columns


def save_results(path: str, columns: dict[str, list[float]]) -> None:
    ratio = median(columns["ours, channels last"]) / median(columns["torchvision"])
    value = BenchmarkValue("input pipeline, 32x32, channels-last", "torchvision ImageFolder + DataLoader", ratio, FLOOR)
    write_benchmark(path, "python benchmarks/input_pipeline.py", "images per second", columns, [value])


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--dataset-dir", type=Path, default=Path("data/cifar10"), help="folder with CIFAR-10 as class folders"
    )
    parser.add_argument("--rounds", type=cli.positive_int, default=7, help="number of rounds, which alternate")
    parser.add_argument("--images", type=cli.positive_int, default=12_800, help="images per round of torchvision")
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="images per batch")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of torchvision")
    parser.add_argument("--threads", type=cli.positive_int, default=1, help="threads of torch in this process")
    parser.add_argument("--json", help="file for the series and ratios")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sizes = args.rounds, args.images, args.batch_size, args.workers
    if (args.dataset_dir / "train").is_dir():
        columns = compare(args.dataset_dir, *sizes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")  # removed with the folder
            write_images(Path(folder))
            columns = compare(Path(folder), *sizes)
    if args.json:
        save_results(args.json, columns)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
