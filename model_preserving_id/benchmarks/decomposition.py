"""Compare the run time of interpolative decompositions of a tall matrix: interleaved in one process, medians.

    python benchmarks/decomposition.py [--threads 2] [--repeats 7] [--json results/speed-decomposition.json]
    python benchmarks/decomposition.py --tall --repeats 3 --json results/speed-decomposition-tall.json

this repository  interpolative_decomposition(Z, rank=256): streamed float64 Gram matrix, pivoted Cholesky
scipy qr         scipy.linalg.qr(Z, mode="economic", pivoting=True) in float64, and T from its R
scipy interpolative  scipy.linalg.interpolative.interp_decomp (randomized), with fewer repeats since it is slow

Z is 20000 x 512 float32 with a decaying spectrum; with --tall it is 100000 x 512, this repository
reads it in blocks of 4096 rows, and the interpolative module is not run. Targets: 3x and 20x. Errors are relative, in the
Frobenius norm. The rank found for a rank-deficient matrix is also printed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import interpolative, qr, solve_triangular

from common import cli
from common.device import set_threads
from common.markdown import markdown_table
from common.reporting.benchmark import BenchmarkValue, write_benchmark
from model_preserving_id import interpolative_decomposition

RANK = 256
BLOCK = 4096  # rows


def random_activations(rows: int, columns: int = 512, seed: int = 0) -> np.ndarray:
    """Return ReLU of random features, similar to a layer's outputs: (rows, columns) float32."""
    random = np.random.default_rng(seed)
    z = random.standard_normal((rows, 300), dtype=np.float32) @ random.standard_normal((300, columns), dtype=np.float32)
    return np.maximum(z * np.linspace(1.0, 0.05, columns, dtype=np.float32), 0)


def decompose_by_scipy_qr(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, r, order = qr(z.astype(np.float64), mode="economic", pivoting=True)
    return _from_r(r, order)


def decompose_by_scipy_interpolative(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order, projection = interpolative.interp_decomp(z.astype(np.float64), RANK)
    t = np.zeros((RANK, z.shape[1]))
    t[:, order[:RANK]] = np.eye(RANK)
    t[:, order[RANK:]] = projection
    return order[:RANK], t


def _from_r(r: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t = np.zeros((RANK, len(order)))
    t[:, order[:RANK]] = np.eye(RANK)
    t[:, order[RANK:]] = solve_triangular(r[:RANK, :RANK], r[:RANK, RANK:])
    return order[:RANK], t


def relative_error(z: np.ndarray, indices: np.ndarray, t: np.ndarray) -> float:
    return float(np.linalg.norm(z - z[:, indices] @ t) / np.linalg.norm(z))


def measure_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=cli.positive_int, default=7)
    parser.add_argument(
        "--slow-repeats", type=cli.positive_int, default=3, help="repeats of scipy.linalg.interpolative"
    )
    parser.add_argument("--tall", action="store_true", help="use a matrix of 100000 x 512 instead of 20000 x 512")
    parser.add_argument("--json", help="also write the times and ratios to this file")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    rows = 100_000 if args.tall else 20_000
    z = random_activations(rows)
    blocks = [z[i : i + BLOCK] for i in range(0, rows, BLOCK)] if args.tall else z
    methods: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "this repository": lambda: interpolative_decomposition(blocks, rank=RANK),
        "scipy qr": lambda: decompose_by_scipy_qr(z),
    }
    if not args.tall:
        methods["scipy interpolative"] = lambda: decompose_by_scipy_interpolative(z)
    errors = {name: relative_error(z, *method()) for name, method in methods.items()}  # also warms up
    series: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(args.repeats):
        for name, method in methods.items():
            if name != "scipy interpolative" or repeat < args.slow_repeats:
                series[name].append(measure_seconds(method))
    medians = {name: statistics.median(values) for name, values in series.items()}
    shown = [
        [name, f"{medians[name]:.2f}", f"{errors[name]:.4f}", " ".join(f"{v:.2f}" for v in values)]
        for name, values in series.items()
    ]
    print(markdown_table(["method", "seconds (median)", "error", "all"], shown))
    print(f"matrix of rank 300: {describe_rank_deficient()}; {torch.get_num_threads()} threads")
    quantity = (
        f"interpolative decomposition, {rows} x 512 to rank {RANK}{', in blocks of rows' if args.tall else ''}: speed"
    )
    ratios = [BenchmarkValue(quantity, "scipy pivoted QR", medians["scipy qr"] / medians["this repository"], 3.0)]
    if not args.tall:
        times = medians["scipy interpolative"] / medians["this repository"]
        ratios.append(BenchmarkValue(quantity, "scipy.linalg.interpolative", times, 20.0))
    ratios.append(
        BenchmarkValue(
            "interpolative decomposition: error",
            "pivoted QR",
            errors["this repository"] / errors["scipy qr"],
            1.0 + 1e-6,
            at_most=True,
        )
    )
    for ratio in ratios:
        print(
            f"{ratio.quantity} compared with {ratio.compared_with}: {ratio.value:.3g}x, {'reached' if ratio.reached else 'NOT reached'}"
        )
    if args.json:
        write_benchmark(args.json, "python benchmarks/decomposition.py" + " --tall" * args.tall, "s", series, ratios)


def describe_rank_deficient() -> str:
    """Return the rank that eps = 1e-5 finds for a matrix of rank 300, and the relative error."""
    random = np.random.default_rng(1)
    z = (random.standard_normal((20_000, 300)) @ random.standard_normal((300, 512))).astype(np.float32)
    indices, t = interpolative_decomposition(z, eps=1e-5)
    return f"eps 1e-5 keeps {len(indices)}, relative error {relative_error(z, indices, t):.1e}"


if __name__ == "__main__":
    sys.exit(main())
