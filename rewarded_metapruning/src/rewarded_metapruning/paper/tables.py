"""Generate the README's tables from ``results/*.json`` and from published values.

python -m rewarded_metapruning.paper.tables           rewrite the README's tables and plots; --check only compares
python -m rewarded_metapruning.paper.tables --costs   recount the costs of the published vectors: results/costs.json
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.markdown import markdown_table
from common.reporting.benchmark import speed_table
from common.reporting.results import tables_command
from common.runs import describe_environment, read_json
from rewarded_metapruning.paper.published import BASELINE, LOGGED, OWN, PUBLISHED_RESULTS, TITLES, published_macs
from rewarded_metapruning.paper.settings import HOME
from rewarded_metapruning.published_vectors import PUBLISHED
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PACKAGE
from rewarded_metapruning.tradeoff import reward

RESULTS, README = HOME / "results", HOME / "README.md"
COSTS = RESULTS / "costs.json"
LABELS = {"chosen": "searched vector", "random": "random vectors, same target", "unpruned": "unpruned"}
WEIGHTS = {"scratch": "trained from scratch", "generated": "generated"}
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
ROTATED = "published, rotated as in the original code"


def describe_setting(record: dict[str, Any]) -> str:
    """Return network, data set, sampled entries and optimizer of the PruningNet of a result, as a table cell."""
    low, high = record.get("scale_range", ALL_SCALES)
    entries = "all entries" if (low, high) == (0, FULL) else f"entries {low} to {high}"
    return f"{record['arch']} on {record['dataset']}, {entries}, {OPTIMIZERS[record['meta'].get('optimizer', 'sgd')]}"


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Read all results of the comparison, sorted by setting and seed."""
    return sorted((read_json(f) for f in folder.glob("small-*.json")), key=lambda r: (describe_setting(r), r["seed"]))


def count_published() -> dict[str, Any]:
    """Compute the costs of published and unpruned vectors, in closed form and counted on the built network."""
    from common.cost import count_cost
    from rewarded_metapruning.closed_form import create_pruned, network_cost
    from rewarded_metapruning.space import find_space

    rows = []
    for arch, published in PUBLISHED.items():
        space, macs_of_published = find_space(arch), published_macs(arch, OWN)
        forms = [
            ("unpruned", space.unpruned, False, _published_baseline(arch)),
            ("published", published, False, macs_of_published),
        ]
        if arch == "mobilenetv1":
            forms.append((ROTATED, published, True, macs_of_published))
        for label, nev, rotated, macs in forms:
            model = create_pruned(arch, nev, rotated=rotated)
            counted = count_cost(model, space.shape, "rewarded_metapruning")
            rows.append(
                {
                    "network": TITLES[arch],
                    "vector": label,
                    "published": macs,
                    "paper": network_cost(arch, nev, rotated=rotated),
                    "counted": counted.macs / MILLION,
                    "conv_linear": network_cost(arch, nev, CONV_LINEAR, rotated),
                    "params": counted.params / MILLION,
                }
            )
    return {
        "command": "python -m rewarded_metapruning.paper.tables --costs",
        "rows": rows,
        "environment": describe_environment("cpu"),
    }


def _published_baseline(arch: str) -> str:
    """Return the published MACs of the unpruned network; for MobileNetV2, those of the 1.0x network, not of the pruned one."""
    return str(published_macs(arch, BASELINE)) + (" (1.0x network)" if arch == "mobilenetv2" else "")


def cost_table() -> str:
    """Return the table of published and recomputed costs of the published vectors, in millions."""
    if not COSTS.is_file():
        return "Not counted yet: `python -m rewarded_metapruning.paper.tables --costs`."
    header = [
        "network",
        "vector",
        "MACs, published",
        "MACs, paper's rule",
        "MACs, counted on the network",
        "MACs, conv + linear",
        "params",
    ]
    rows = [
        [
            r["network"],
            r["vector"],
            r["published"],
            *(f"{r[key]:.3f}" for key in ("paper", "counted", "conv_linear", "params")),
        ]
        for r in read_json(COSTS)["rows"]
    ]
    return markdown_table(header, rows)


def small_table(folder: Path = RESULTS) -> str:
    """Return the table of mean and standard deviation over seeds, by role."""
    records = read_results(folder)
    if not records:
        return "Not measured yet: `python -m rewarded_metapruning.paper.search_vs_random`."
    rows = []
    for setting in sorted({describe_setting(r) for r in records}):
        of_these = [r for r in records if describe_setting(r) == setting]
        for role, label in LABELS.items():
            found = [n for r in of_these for n in r["networks"] if n["role"] == role]
            cells: list = [setting, label, len(of_these), len(found)]
            cells += [
                _format_mean_std([n["top1"] for n in found]),
                _format_mean_std([n["candidate_top1"] for n in found]),
            ]
            cells += [
                _format_mean_std([n["macs"] / MILLION for n in found], 3),
                _format_mean_std([n["params"] / 1000 for n in found], 1),
            ]
            rows.append(cells)
        differences = seed_differences(of_these)
        rows.append(
            [
                setting,
                "searched minus random, by seed",
                len(of_these),
                "",
                _format_mean_std(differences),
                "",
                "",
                "",
            ]
        )
    return markdown_table(
        [
            "setting",
            "vectors",
            "seeds",
            "networks",
            "top-1, trained (%)",
            "top-1, generated (%)",
            "MACs (millions)",
            "params (thousands)",
        ],
        rows,
    )


def seed_differences(records: Sequence[dict[str, Any]]) -> list[float]:
    """Return, per seed, the top-1 of the searched vector minus the mean of the random ones, after training, in points."""
    found = []
    for record in records:
        by_role = {role: [n["top1"] for n in record["networks"] if n["role"] == role] for role in LABELS}
        found.append(by_role["chosen"][0] - statistics.mean(by_role["random"]))
    return found


def variants_table(folder: Path = RESULTS) -> str:
    """Return the table of the paper's and the extended variant, mean and standard deviation over seeds, without fine-tuning."""
    records = [read_json(file) for file in sorted(folder.glob("variants-*.json"))]
    if not records:
        return "Not measured yet: `python -m rewarded_metapruning.paper.variants`."
    rows = []
    for setting in sorted({(r["arch"], r["dataset"], r["target"]) for r in records}):
        of_these = [r for r in records if (r["arch"], r["dataset"], r["target"]) == setting]
        for position, first in enumerate(of_these[0]["rows"]):
            found = [r["rows"][position] for r in of_these]
            dense = of_these[0]["rows"][0]
            cells: list = [
                f"{setting[0]} on {setting[1]}",
                first.get("label", first["variant"]),
                WEIGHTS[first["weights"]],
            ]
            cells += [len(found), _format_mean_std([row["top1"] for row in found])]
            cells += [_format_mean_std([100 * row[key] / dense[key] for row in found], 1) for key in ("macs", "params")]
            seconds = [row["cpu_seconds"] for row in found if row["cpu_seconds"] is not None]  # None: it was resumed
            rows.append([*cells, round(statistics.mean(seconds)) if seconds else "-"])
    return markdown_table(
        [
            "network",
            "variant",
            "weights",
            "seeds",
            "top-1 before fine-tuning (%)",
            "MACs kept (%)",
            "params kept (%)",
            "CPU time (s)",
        ],
        rows,
    )


def stages_table(folder: Path = RESULTS) -> str:
    """Return the table of each stage's duration and outcome, by seed."""
    records = read_results(folder)
    if not records:
        return "Not measured yet."
    header = [
        "setting",
        "seed",
        "PruningNet (s)",
        "top-1 at full width, generated (%)",
        "candidates",
        "best reward, first generation",
        "best reward, last generation",
        "networks (s)",
    ]
    rows = []
    for r in records:
        rewards = r["search"]["history"]
        rows.append(
            [
                describe_setting(r),
                r["seed"],
                round(r["meta"]["seconds"]),
                f"{r['meta']['unpruned_top1']:.1f}",
                r["search"]["tested"],
                f"{rewards[0]['best_so_far']:.4f}",
                f"{rewards[-1]['best_so_far']:.4f}",
                round(sum(n["seconds"] for n in r["networks"])),
            ]
        )
    return markdown_table(header, rows)


def _format_mean_std(values: Sequence[float], digits: int = 2) -> str:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {std:.{digits}f}"


def published_table() -> str:
    """Return the published results of the paper and of other methods, with their sources; none of them was run here."""
    rows = [
        [network, f"**{r.method}**" if r.method == OWN else r.method, f"{r.error:.2f}", r.macs, r.source(network, row)]
        for network, results in PUBLISHED_RESULTS.items()
        for row, r in enumerate(results, 1)
    ]
    return markdown_table(["network", "method", "top-1 error (%)", "MACs (millions)", "published in"], rows)


def logged_table() -> str:
    """Return the table of the logged candidates with their logged and recomputed rewards."""
    rows = []
    for arch, logged in LOGGED.items():
        for rank, (macs, top1, logged_reward) in enumerate(logged, 1):
            recomputed = reward(top1, macs, 70.6, 4100)
            cells = [f"{macs:.2f}", f"{top1:.2f}", f"{logged_reward:.4f}", f"{recomputed:.4f}"]
            rows.append([TITLES[arch], rank, *cells])
    return markdown_table(
        [
            "network",
            "logged rank",
            "MACs, logged (millions)",
            "top-1, logged (%)",
            "reward, logged",
            "reward, this repository",
        ],
        rows,
    )


TABLES: dict[str, Callable[[], str]] = {
    "rewarded_metapruning.costs": cost_table,
    "rewarded_metapruning.variants": variants_table,
    "rewarded_metapruning.small": small_table,
    "rewarded_metapruning.stages": stages_table,
    "rewarded_metapruning.published": published_table,
    "rewarded_metapruning.logged": logged_table,
    "rewarded_metapruning.speed": lambda: speed_table(RESULTS),
}


def draw_plots(folder: Path = RESULTS) -> list[Path]:
    """Draw the README's plots from the result files."""
    from rewarded_metapruning.paper.readme_figures import plot_accuracy_against_macs
    from rewarded_metapruning.plots import plot_rewards

    records = read_results(folder)
    if not records:
        return []
    first = [r for r in records if describe_setting(r) == describe_setting(records[0])]  # all entries, as in the paper
    files = [folder / "rewards.png", folder / "accuracy.png"]
    plot_rewards(files[0], first)
    plot_accuracy_against_macs(files[1], first)
    return files


def write_costs() -> None:
    """Recount the published vectors and write results/costs.json."""
    write_json(COSTS, count_published())


def main(argv: Sequence[str] | None = None) -> int:
    make = {"--costs": (write_costs, f"recount the costs of the published vectors and write {COSTS.name}")}
    return tables_command(PACKAGE, README, TABLES, argv, make=make, draw=draw_plots)


if __name__ == "__main__":
    sys.exit(main())
