"""Time of similarity and filter selection of one layer, compared with the pairwise loop of the original code.

The loop is reimplemented from a description (hashes recomputed for every pair and image, one table row each, mean per pair, k tried
from the largest degree downwards); no code is copied. Both run completely, alternately in one process, and must keep the same filters.

    python benchmarks/similarity.py                    64 filters of 32x32, 100 images, 7 runs of each side; two minutes
    python benchmarks/similarity.py --images 10      ten seconds
"""

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.fftpack import dct

from common.device import set_threads
from common.reporting.benchmark import BenchmarkValue, write_benchmark
from redundancy_graph import filter_similarity, select_filters

FLOOR = 100


def make_maps(images: int, filters: int, size: int, seed: int = 0) -> np.ndarray:
    """Create smooth random feature maps (N, C, H, W) float32, some of them similar, as in a trained layer."""
    random = np.random.default_rng(seed)
    bases = random.standard_normal((images, max(1, filters // 3), size, size))
    bases = np.cumsum(np.cumsum(bases, axis=2), axis=3) / size
    chosen = random.integers(0, bases.shape[1], filters)
    noise = np.cumsum(random.standard_normal((images, filters, size, size)), axis=3)
    return (bases[:, chosen] + random.uniform(0.01, 0.4, (filters, 1, 1)) * noise).astype(np.float32)


def loop_hash(feature_map: np.ndarray) -> np.ndarray:
    low = dct(dct(feature_map, axis=0), axis=1)[:8, :8]
    return low >= low.mean()


def loop_selection(maps: np.ndarray, l1_norms: np.ndarray, threshold: float) -> list[int]:
    """Select filters with the pairwise loop: both hashes are recomputed for every pair and image."""
    images, filters = maps.shape[:2]
    table = []
    for i in range(filters):
        for j in range(i + 1, filters):
            for n in range(images):
                different = int((loop_hash(maps[n, i]) != loop_hash(maps[n, j])).sum())
                table.append((i, j, 1 - different / 64))
    sums: dict[tuple[int, int], list[float]] = {}
    for i, j, value in table:
        sums.setdefault((i, j), []).append(value)
    neighbors: dict[int, set[int]] = {i: set() for i in range(filters)}
    for (i, j), values in sums.items():
        if sum(values) / len(values) >= threshold:
            neighbors[i].add(j)
            neighbors[j].add(i)
    return loop_decomposition(neighbors, l1_norms)


def loop_decomposition(neighbors: dict[int, set[int]], l1_norms: np.ndarray) -> list[int]:
    while any(neighbors.values()):
        k = max(map(len, neighbors.values()))
        while not (core := loop_core(neighbors, k)):
            k -= 1
        while core:
            component, frontier = set(), {min(core)}
            while frontier:
                component |= frontier
                frontier = {j for i in frontier for j in neighbors[i] & core} - component
            core -= component
            removed = component - {max(sorted(component), key=lambda i: l1_norms[i])}
            neighbors = {i: others - removed for i, others in neighbors.items() if i not in removed}
    return sorted(neighbors)


def loop_core(neighbors: dict[int, set[int]], k: int) -> set[int]:
    core = set(neighbors)
    while weak := {i for i in core if len(neighbors[i] & core) < k}:
        core -= weak
    return core


def this_repository(maps: np.ndarray, l1_norms: np.ndarray, threshold: float) -> list[int]:
    return select_filters(filter_similarity(maps), l1_norms, threshold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of a feature map")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", default=None, help="file for series and ratio")
    args = parser.parse_args()
    set_threads(args.threads)
    maps = make_maps(args.images, args.filters, args.size)
    l1_norms = np.random.default_rng(1).random(args.filters)
    this_repository(maps, l1_norms, args.threshold)  # warm up
    sides = {"this repository": this_repository, "pairwise loop": loop_selection}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        kept = {}
        for name, side in sides.items():
            start = time.perf_counter()
            kept[name] = side(maps, l1_norms, args.threshold)
            seconds[name].append(time.perf_counter() - start)
        if kept["this repository"] != kept["pairwise loop"]:
            raise SystemExit(f"the kept sets differ: {kept}")
    print(
        f"{args.filters} filters of {args.size}x{args.size}, {args.images} images, {torch.get_num_threads()} threads;",
        end=" ",
    )
    print(f"both keep the same {len(kept['this repository'])} filters at {args.threshold}")
    for name, series in seconds.items():
        values = " ".join(f"{1000 * value:.2f}" for value in series)
        print(f"{name:14s} median {1000 * statistics.median(series):10.2f} ms of {len(series)} runs: {values}")
    ratio = statistics.median(seconds["pairwise loop"]) / statistics.median(seconds["this repository"])
    if args.json:
        layer = (
            f"similarity and selection, {args.filters} filters of {args.size}x{args.size}, {args.images} images: speed"
        )
        milliseconds = {name: [1000 * value for value in series] for name, series in seconds.items()}
        value = BenchmarkValue(layer, "pairwise loop (same kept set)", ratio, FLOOR)
        write_benchmark(
            args.json,
            f"python benchmarks/similarity.py --images {args.images} --threads {torch.get_num_threads()}",
            "ms",
            milliseconds,
            [value],
        )
    print(f"ratio {ratio:.0f} (floor {FLOOR}): {'ok' if ratio >= FLOOR else 'BELOW THE FLOOR'}")


if __name__ == "__main__":
    main()
