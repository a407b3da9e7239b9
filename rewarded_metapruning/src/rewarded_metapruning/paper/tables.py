"""The tables of the README, made from ``results/*.json`` and from the paper's printed numbers.

python -m rewarded_metapruning.paper.tables           rewrite the README's tables and pictures; --check writes nothing
python -m rewarded_metapruning.paper.tables --costs   count the published vectors anew: results/costs.json
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
from rewarded_metapruning.paper.published import LOGGED, OTHERS
from rewarded_metapruning.paper.settings import HOME
from rewarded_metapruning.scale import ALL_SCALES, FULL
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PACKAGE
from rewarded_metapruning.tradeoff import reward
from rewarded_metapruning.vectors import PUBLISHED

RESULTS, README = HOME / "results", HOME / "README.md"
COSTS = RESULTS / "costs.json"
LABELS = {"chosen": "searched vector", "random": "random vectors, same budget", "unpruned": "unpruned"}


def setting_of(record: dict[str, Any]) -> str:
    """What a result was made with, for tables: network, data, entries that were drawn, the PruningNet's optimiser."""
    low, high = record.get("scales", ALL_SCALES)
    drawn = "all entries" if (low, high) == (0, FULL) else f"entries {low} to {high}"
    return f"{record['arch']} on {record['dataset']}, {drawn}, {record['meta'].get('optimizer', 'sgd').replace('sgd', 'SGD').replace('adam', 'Adam')}"


def results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Every result file, in order of network and seed."""
    return sorted((read_json(f) for f in folder.glob("small-*.json")), key=lambda r: (setting_of(r), r["seed"]))


def count_published() -> dict[str, Any]:
    """The costs of the published and the unpruned vectors, each in closed form and counted on the built network."""
    from common.cost import count_cost
    from rewarded_metapruning.closed_form import create_pruned, network_cost
    from rewarded_metapruning.space import find_space

    rows = []
    for arch, published in PUBLISHED.items():
        space = find_space(arch)
        forms = [
            ("unpruned", space.unpruned, False, _baseline(arch)),
            ("published", published.nev, False, published.macs),
        ]
        if arch == "mobilenetv1":
            forms.append(("published, as the original builds it", published.nev, True, published.macs))
        for label, nev, rotated, claimed in forms:
            model = create_pruned(arch, nev, rotated=rotated)
            counted = count_cost(model, space.shape, "rewarded_metapruning")
            rows.append(
                {
                    "network": published.title,
                    "vector": label,
                    "claimed": claimed,
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


def _baseline(arch: str) -> str:
    """MobileNetV2's printed baseline is that of the original network, not of the wider one that is pruned."""
    return f"{PUBLISHED[arch].baseline_macs:g}" + (" (1.0x network)" if arch == "mobilenetv2" else "")


def cost_table() -> str:
    """Published vectors: what the paper claims, and what they cost; all in millions."""
    if not COSTS.is_file():
        return "Not counted yet: `python -m rewarded_metapruning.paper.tables --costs`."
    header = ["network", "vector", "published", "paper's rule", "counted on the network", "conv + linear", "params"]
    rows = [
        [
            r["network"],
            r["vector"],
            r["claimed"],
            *(f"{r[key]:.3f}" for key in ("paper", "counted", "conv_linear", "params")),
        ]
        for r in read_json(COSTS)["rows"]
    ]
    return markdown_table(header, rows)


def small_table(folder: Path = RESULTS) -> str:
    """Mean and deviation over seeds of each role, trained equally long."""
    records = results(folder)
    if not records:
        return "Not measured yet: `python -m rewarded_metapruning.paper.small_scale`."
    rows = []
    for setting in sorted({setting_of(r) for r in records}):
        of_these = [r for r in records if setting_of(r) == setting]
        for role, label in LABELS.items():
            found = [n for r in of_these for n in r["networks"] if n["role"] == role]
            cells: list = [setting, label, len(of_these), len(found)]
            cells += [_spread([n["top1"] for n in found]), _spread([n["judged_top1"] for n in found])]
            cells += [_spread([n["macs"] / MILLION for n in found], 3), _spread([n["params"] / 1000 for n in found], 1)]
            rows.append(cells)
        differences = seed_differences(of_these)
        rows.append(
            [
                setting,
                "searched minus random, by seed",
                len(of_these),
                "",
                _spread(differences),
                "",
                "",
                "",
            ]
        )
    return markdown_table(
        ["setting", "", "seeds", "networks", "top-1 %, trained", "top-1 %, generated", "M MACs", "k params"], rows
    )


def seed_differences(records: Sequence[dict[str, Any]]) -> list[float]:
    """Per seed: trained top-1 of the searched vector minus the mean of the random ones, in points."""
    found = []
    for record in records:
        by_role = {role: [n["top1"] for n in record["networks"] if n["role"] == role] for role in LABELS}
        found.append(by_role["chosen"][0] - statistics.mean(by_role["random"]))
    return found


def stages_table(folder: Path = RESULTS) -> str:
    """What each stage did and how long it took."""
    records = results(folder)
    if not records:
        return "Not measured yet."
    header = [
        "setting",
        "seed",
        "PruningNet, s",
        "full width, generated %",
        "candidates",
        "best reward: first",
        "last",
        "networks, s",
    ]
    rows = []
    for r in records:
        rewards = r["search"]["history"]
        rows.append(
            [
                setting_of(r),
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


def _spread(values: Sequence[float], digits: int = 2) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def published_table() -> str:
    """The paper's result tables, its own rows and those of others; none of them was run here."""
    rows = []
    for arch, published in PUBLISHED.items():
        found = [("unpruned", published.baseline_error, published.baseline_macs), *OTHERS[arch]]
        found.append(("**rewarded meta-pruning**", published.error, published.macs))
        rows += [[published.title, method, "published", f"{error:.2f}", macs] for method, error, macs in found]
    return markdown_table(["network", "method", "", "top-1 error %", "M MACs"], rows)


def logged_table() -> str:
    """The logged candidates scored again."""
    rows = []
    for arch, logged in LOGGED.items():
        for place, (macs, top1, worth) in enumerate(logged, 1):
            ours = reward(top1, macs, 70.6, 4100)
            rows.append([PUBLISHED[arch].title, place, f"{macs:.2f}", f"{top1:.2f}", f"{worth:.4f}", f"{ours:.4f}"])
    return markdown_table(
        ["network", "logged rank", "M MACs, logged", "top-1 %, logged", "reward, logged", "reward, ours"], rows
    )


TABLES: dict[str, Callable[[], str]] = {
    "rewarded_metapruning.costs": cost_table,
    "rewarded_metapruning.small": small_table,
    "rewarded_metapruning.stages": stages_table,
    "rewarded_metapruning.published": published_table,
    "rewarded_metapruning.logged": logged_table,
    "rewarded_metapruning.speed": lambda: speed_table(RESULTS),
}


def draw(folder: Path = RESULTS) -> list[Path]:
    """The README's pictures, from the result files."""
    from rewarded_metapruning.paper.figures import accuracy_against_macs
    from rewarded_metapruning.plots import rewards

    records = results(folder)
    if not records:
        return []
    first = [r for r in records if setting_of(r) == setting_of(records[0])]  # the paper's range
    files = [folder / "rewards.png", folder / "accuracy.png"]
    rewards(files[0], first)
    accuracy_against_macs(files[1], first)
    return files


def count_costs() -> None:
    write_json(COSTS, count_published())


def main(argv: Sequence[str] | None = None) -> int:
    make = {"--costs": (count_costs, f"count the published vectors anew into {COSTS.name}")}
    return tables_command(PACKAGE, README, TABLES, argv, make=make, draw=draw)


if __name__ == "__main__":
    sys.exit(main())
