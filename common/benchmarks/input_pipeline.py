"""Training pictures a second: ours in memory against torchvision's ImageFolder + DataLoader with two workers.

Both read one folder of 32 x 32 PNG files, shuffle, crop with padding 4, flip and normalize into batches on the CPU:

    python common/benchmarks/input_pipeline.py --dataset-dir /path/to/cifar10    # train/CLASS/*.png, test/CLASS/*.png

Without such a folder it makes one. The sides take turns; a round of torchvision's reads a part of the pictures, since
all would take long. A round's clock starts at its first batch: starting workers is not counted against torchvision.
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
    """Pictures a second after the first batch; a batch is (images (B, C, H, W), labels, ...)."""
    iterator = iter(batches)
    next(iterator)
    count, start = 0, time.perf_counter()
    for images, *_ in iterator:
        count += len(images)
    return count / (time.perf_counter() - start)


def torchvision_loader(folder: Path, pictures: int, batch_size: int, workers: int) -> DataLoader:
    """The usual CIFAR recipe; `pictures` of them an epoch, drawn at random."""
    recipe = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    images = ImageFolder(str(folder), recipe)
    sampler = RandomSampler(images, num_samples=min(pictures, len(images)))
    return DataLoader(images, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def make_pictures(root: Path, per_class: int = 400) -> None:
    """Smooth random pictures, which PNG packs about as CIFAR's: train/CLASS/*.png and a few under test."""
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


def compare(root: Path, rounds: int, pictures: int, batch_size: int, workers: int) -> dict[str, list[float]]:
    start = time.perf_counter()
    train = load_dataset("cifar10", root).train
    first_start = time.perf_counter() - start
    start = time.perf_counter()
    load_dataset("cifar10", root)
    second_start = time.perf_counter() - start
    peer = torchvision_loader(root / "train", pictures, batch_size, workers)
    options = {"augment": True, "shuffle": True}
    columns: dict[str, list[float]] = {"torchvision": [], "ours": [], "ours, channels last": []}
    for epoch in range(rounds):
        columns["torchvision"].append(images_per_second(peer))
        columns["ours"].append(images_per_second(train.batches(batch_size, epoch=epoch, **options)))
        last = train.batches(batch_size, epoch=epoch, channels_last=True, **options)
        columns["ours, channels last"].append(images_per_second(last))
    print(f"{len(train)} training pictures in {root}; batches of {batch_size}; {torch.get_num_threads()} threads here,")
    print(f"{workers} worker processes (a thread each) for torchvision, none for ours; pictures a second:\n")
    print("| round | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
        print(f"| {number} | " + " | ".join(f"{value:,.0f}" for value in row) + " |")
    medians = [median(values) for values in columns.values()]
    print("| median | " + " | ".join(f"{value:,.0f}" for value in medians) + " |")
    print("| ratio | " + " | ".join(f"{value / medians[0]:.1f}x" for value in medians) + " |")
    print(f"\nfloor {FLOOR}x; loading all pictures took {first_start:.2f} s, then {second_start:.2f} s from the cache")
    return columns


def keep(path: str, columns: dict[str, list[float]]) -> None:
    ratio = median(columns["ours, channels last"]) / median(columns["torchvision"])
    figure = BenchmarkValue(
        "input pipeline, 32x32, channels-last", "torchvision ImageFolder + DataLoader", ratio, FLOOR
    )
    write_benchmark(path, "python benchmarks/input_pipeline.py", "pictures a second", columns, [figure])


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset-dir", type=Path, default=Path("data/cifar10"), help="CIFAR-10 as class folders")
    parser.add_argument("--rounds", type=cli.positive_int, default=7, help="of both sides, in turns")
    parser.add_argument("--pictures", type=cli.positive_int, default=12_800, help="in a round of torchvision's")
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="pictures in a batch")
    parser.add_argument("--workers", type=int, default=2, help="torchvision's worker processes")
    parser.add_argument("--threads", type=cli.positive_int, default=1, help="torch's threads in this process")
    parser.add_argument("--json", help="write the series and ratios to this file too")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sizes = args.rounds, args.pictures, args.batch_size, args.workers
    if (args.dataset_dir / "train").is_dir():
        columns = compare(args.dataset_dir, *sizes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")  # nothing of it stays
            make_pictures(Path(folder))
            columns = compare(Path(folder), *sizes)
    if args.json:
        keep(args.json, columns)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the command."""
    return cli.run(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
