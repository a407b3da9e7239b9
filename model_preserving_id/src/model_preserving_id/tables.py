"""The tables of the README, made from ``results/*.json``: ``python -m common.results README.md --tables model_preserving_id.tables``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.benchmark import speed_table
from common.results import markdown_table
from common.runs import read_json

RESULTS = Path(__file__).resolve().parents[2] / "results"
NAMES = {
    "id": "ID with T (the paper)",
    "id-t": "ID, T against the original (`--compensation t`)",
    "id-weights": "ID, weights solved anew (`--compensation weights`)",
    "without-t": "ID's channels without T",
    "l1": "largest L1 norm",
    "random": "random",
}

CHOICES: dict[
    str, tuple[str, dict[str, Any]]
] = {  # rows of benchmarks/resnet56_choices.py: what they show, and their settings
    "base": ("500 pictures, Frobenius score, one shot, inner channels", {}),
    "score-pivot": ("the paper's pivots as score", {"score": "pivot"}),
    "score-measured": ("the measured change of the outputs as score", {"score": "measured"}),
    "frac": ("the same fraction in every layer", {"how": "frac"}),
    "eps": ("the same eps in every layer", {"how": "eps"}),
    "iditer": ("layer by layer, statistics measured anew", {"how": "iditer"}),
    "pictures-100": ("100 pictures", {"pictures": 100}),
    "pictures-2000": ("2000 pictures", {"pictures": 2000}),
    "pictures-5000": ("5000 pictures", {"pictures": 5000}),
    "streams-exact": ("streams that shrink exactly, too", {"streams": "exact"}),
    "streams-conv": ("streams, too, through 1x1 convolutions", {"streams": "conv"}),
    "refresh-bn": ("batch-norm statistics measured anew", {"refresh_bn": True}),
    "round-8": ("widths in multiples of 8", {"round_to": 8}),
    "t": ("T against the original", {"compensation": "t"}),
    "weights": ("weights against the original", {"compensation": "weights"}),
}


def curve_table() -> str:
    """Top-1 / agreement of every method at every share of the MACs."""
    records = [read_json(file) for file in sorted(RESULTS.glob("curve-resnet56-*.json"))]
    if not records:
        return "Not measured yet: `python benchmarks/resnet56_curve.py` does it."
    targets = sorted({record["target"] for record in records}, reverse=True)
    rows = []
    for method, name in NAMES.items():
        found = {record["target"]: record for record in records if record["method"] == method}
        if found:
            cells = [f"{found[t]['top1']:.2f} / {found[t]['agreement']:.2f}" if t in found else "" for t in targets]
            sizes = sorted({f"{one['pictures']} / {one['test_pictures']}" for one in found.values()})
            rows.append([name, *cells, ", ".join(sizes)])
    return markdown_table(["method", *(f"{100 * t:g} % of the MACs" for t in targets), "pruning / test pictures"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "model_preserving_id.curve": curve_table,
    "model_preserving_id.speed": lambda: speed_table(RESULTS),
}
