"""The interpolative decomposition of a tall matrix against its peers: seconds, interleaved in one process, medians.

    python benchmarks/decomposition.py [--threads 2] [--repeats 7] [--json results/speed-decomposition.json]
    python benchmarks/decomposition.py --tall --repeats 3 --json results/speed-decomposition-tall.json

ours    interpolative_decomposition(Z, rank=256): streamed float64 Gram matrix, pivoted Cholesky
scipy   scipy.linalg.qr(Z, mode="economic", pivoting=True) in float64, and T from its R
interp  scipy.linalg.interpolative.interp_decomp (randomised), which is run less often since it is slow

Z is 20000 x 512 float32 with a decaying spectrum; with --tall it is 100000 x 512, ours reads it in blocks of 4096 rows, and interp
is left out. Floors: 3x and 20x. Errors are relative in the Frobenius norm; the exact rank of a deficient matrix is checked too.
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


def matrix(rows: int, columns: int = 512, seed: int = 0) -> np.ndarray:
    """relu of random features: the kind of matrix that a layer's outputs are. (rows, columns) float32."""
    random = np.random.default_rng(seed)
    z = random.standard_normal((rows, 300), dtype=np.float32) @ random.standard_normal((300, columns), dtype=np.float32)
    return np.maximum(z * np.linspace(1.0, 0.05, columns, dtype=np.float32), 0)


def by_scipy_qr(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, r, order = qr(z.astype(np.float64), mode="economic", pivoting=True)
    return _from_r(r, order)


def by_scipy_interpolative(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def error(z: np.ndarray, indices: np.ndarray, t: np.ndarray) -> float:
    return float(np.linalg.norm(z - z[:, indices] @ t) / np.linalg.norm(z))


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=cli.positive_int, default=7)
    parser.add_argument("--slow-repeats", type=cli.positive_int, default=3, help="of scipy.linalg.interpolative")
    parser.add_argument("--tall", action="store_true", help="100000 x 512 in place of 20000 x 512")
    parser.add_argument("--json", help="write the series and ratios to this file too")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    rows = 100_000 if args.tall else 20_000
    z = matrix(rows)
    blocks = [z[i : i + BLOCK] for i in range(0, rows, BLOCK)] if args.tall else z
    sides: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "ours": lambda: interpolative_decomposition(blocks, rank=RANK),
        "scipy qr": lambda: by_scipy_qr(z),
    }
    if not args.tall:
        sides["scipy interpolative"] = lambda: by_scipy_interpolative(z)
    errors = {name: error(z, *side()) for name, side in sides.items()}  # warms up, too
    series: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(args.repeats):
        for name, side in sides.items():
            if name != "scipy interpolative" or repeat < args.slow_repeats:
                series[name].append(timed(side))
    medians = {name: statistics.median(values) for name, values in series.items()}
    shown = [
        [name, f"{medians[name]:.2f}", f"{errors[name]:.4f}", " ".join(f"{v:.2f}" for v in values)]
        for name, values in series.items()
    ]
    print(markdown_table(["side", "seconds (median)", "error", "all"], shown))
    print(f"a matrix of rank 300: {deficient()}; {torch.get_num_threads()} threads")
    what = f"interpolative decomposition, {rows} x 512 to rank {RANK}{' in blocks of rows' if args.tall else ''}"
    ratios = [BenchmarkValue(what, "scipy pivoted QR", medians["scipy qr"] / medians["ours"], 3.0)]
    if not args.tall:
        times = medians["scipy interpolative"] / medians["ours"]
        ratios.append(BenchmarkValue(what, "scipy.linalg.interpolative", times, 20.0))
    ratios.append(
        BenchmarkValue("its error", "that of pivoted QR", errors["ours"] / errors["scipy qr"], 1.0 + 1e-6, at_most=True)
    )
    for ratio in ratios:
        print(
            f"{ratio.what} against {ratio.against}: {ratio.value:.3g}x, {'reached' if ratio.reached else 'NOT reached'}"
        )
    if args.json:
        write_benchmark(args.json, "python benchmarks/decomposition.py" + " --tall" * args.tall, "s", series, ratios)


def deficient() -> str:
    """What eps = 1e-5 finds on a matrix of known rank, and how well it is reproduced."""
    random = np.random.default_rng(1)
    z = (random.standard_normal((20_000, 300)) @ random.standard_normal((300, 512))).astype(np.float32)
    indices, t = interpolative_decomposition(z, eps=1e-5)
    return f"eps 1e-5 keeps {len(indices)}, relative error {error(z, indices, t):.1e}"


if __name__ == "__main__":
    sys.exit(main())
