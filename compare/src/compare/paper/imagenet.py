"""Networks for ImageNet, pruned without training: two comparisons of one network whose halves of the images exchange roles.

    python -m compare.paper.imagenet runs/mobilenet_v2-a runs/mobilenet_v2-b --name MobileNetV2

adds two finished comparisons to ``results/imagenet-mobilenetv2.json``. Every network is read back from its file and evaluated on the half
with which it was not pruned, so that every image is evaluated once, and which images are right is kept: differences between
methods are tested image by image. Results that the file has and the two comparisons have not stay in it.
:mod:`compare.paper.tables` makes tables and a plot of these files.
"""

import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common import cli
from common.atomic import write_json
from common.data import DataBundle, load_data
from common.errors import UserError
from common.formats import load_network
from common.markdown import markdown_table
from common.measure import evaluate
from common.progress import track
from common.runs import read_json
from common.settings import parse
from common.trained_model import with_preprocessing_of
from compare.paper.result_files import network_file
from compare.result_set import read_results
from compare.settings import PACKAGE, Compare
from compare.significance import LEVEL

RESULTS = Path(__file__).resolve().parents[3] / "results"
PREFIX = "imagenet-"
NETWORK = "model.safetensors"
SHORT_TARGET = 0.8  # of the table with one column per network
AT_CHANCE = 1.0  # top-1 (%) up to which a method is left out of it


@dataclass(frozen=True)
class Pruned:
    """One method at one target, on the images of both halves.

    Attributes:
        right: (N,) bool, whether the predicted class is the label.
        agrees: (N,) bool, whether it is that of the dense network.
        macs: Fraction of the dense MACs that is left, of each half.
        seconds: CPU time for pruning, measuring and evaluating, of each half.
        machines: On which, without repeats.
    """

    label: str
    target: float
    right: np.ndarray
    agrees: np.ndarray
    macs: tuple[float, ...]
    seconds: tuple[float, ...]
    machines: tuple[str, ...] = ()

    @property
    def top1(self) -> float:
        return 100 * float(self.right.mean())


@dataclass(frozen=True)
class NetworkResults:
    """The results of one network: ``right`` (N,) of the dense one, and of every method at every target."""

    name: str
    right: np.ndarray
    macs: int
    pruned: tuple[Pruned, ...]
    unfinished: tuple[str, ...]  # results of one half only, and folders of targets that cannot be reached

    @property
    def top1(self) -> float:
        return 100 * float(self.right.mean())

    def at(self, target: float) -> dict[str, Pruned]:
        """Return {label: result} of a target."""
        return {one.label: one for one in self.pruned if one.target == target}

    def best_at(self, target: float) -> Pruned | None:
        return max(self.at(target).values(), key=lambda one: one.top1, default=None)


def add_halves(folders: Sequence[Path | str], name: str, results: Path = RESULTS) -> Path:
    """Evaluate all networks of two comparisons, image by image, and write a file in ``results``.

    Args:
        name: Name of the network in the table; the name of the file has its letters and digits.

    Raises:
        UserError: If a folder has no finished result; if the two have the same test images or different dense networks, or other
            images or another network than the results in the file.
    """
    halves = [_read_half(Path(folder)) for folder in folders]
    prints = [half["data_fingerprint"] for half in halves]
    if len(set(prints)) < len(prints):
        raise UserError(
            f"{folders[-1]}: has the test images of {folders[0]}; run the second comparison with --swap-split"
        )
    if len({half["dense"]["digest"] for half in halves}) > 1:
        raise UserError(f"{folders[-1]}: another dense network than in {folders[0]}")
    file = network_file(results, PREFIX, name)
    if file.is_file():
        halves = [_with_earlier(one, two, file) for one, two in zip(halves, read_json(file)["halves"], strict=True)]
    write_json(file, {"network": name, "halves": halves})
    return file


def _with_earlier(half: dict[str, Any], earlier: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add the results that only ``earlier`` has. The dense network must be the same, and right for the same images."""
    if half["dense"] != earlier["dense"] or half["images"] != earlier["images"]:
        raise UserError(f"{file}: its results are of another network or other images; delete it to start again")
    new = {(row["method"], row["target"]) for row in half["rows"]}
    rows = [row for row in earlier["rows"] if (row["method"], row["target"]) not in new]
    used = sorted({row["run"] for row in rows})
    place = {run: i for i, run in enumerate(used)}
    rows = [{**row, "run": place[row["run"]]} for row in rows]
    rows += [{**row, "run": row["run"] + len(used)} for row in half["rows"]]
    runs = [earlier["runs"][run] for run in used] + half["runs"]
    finished = {row["folder"] for row in rows}
    unreachable = {*half["unreachable"], *earlier["unreachable"]} - finished
    return {**half, "runs": runs, "rows": rows, "unreachable": sorted(unreachable)}


def _read_half(folder: Path) -> dict[str, Any]:
    result_set = read_results(folder)
    if not result_set.results:
        raise UserError(f"{folder}: no finished result; run python -m compare first")
    config = result_set.results[0]["config"]
    data = _test_images(folder, config["command"])
    predicted = _predictions(folder / "baseline" / NETWORK, data)
    labels = data.test.labels
    rows = []
    for result in track(result_set.results, "evaluate"):
        own = _predictions(folder / result["folder"] / NETWORK, data)
        rows.append(
            {
                **{key: result[key] for key in ("folder", "method", "label", "target", "commit", "cpu_seconds")},
                **{key: result["compressed"][key] for key in ("macs", "params", "top1", "agreement")},
                "right": _pack(own == labels),
                "agrees": _pack(own == predicted),
                "run": 0,
            }
        )
    dense = result_set.baselines[0]["baseline"]
    return {
        "runs": [{key: config[key] for key in ("command", "environment")}],
        "data_fingerprint": config["data_fingerprint"],
        "images": len(labels),
        "dense": {
            "digest": config["options"]["start_digest"],
            "top1": dense["top1"],
            "macs": dense["macs"],
            "right": _pack(predicted == labels),
        },
        "rows": rows,
        "unreachable": [one["folder"] for one in result_set.unreachable],
    }


def _test_images(folder: Path, words: str) -> DataBundle:
    """Load the test images of a comparison's command, prepared as the dense network's file records."""
    options = parse(Compare, shlex.split(words)[3:], package=PACKAGE)
    return with_preprocessing_of(load_network(folder / "baseline" / NETWORK), load_data(options.data))


def _predictions(file: Path, data: DataBundle) -> Tensor:
    if not file.is_file():
        raise UserError(f"{file}: no such file; the comparison must be complete")
    return evaluate(load_network(file), data.test, workers=0).predictions


def _pack(flags: Tensor) -> str:
    return np.packbits(flags.cpu().numpy()).tobytes().hex()


def _unpack(digits: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=count).astype(bool)


def read_network(file: Path) -> NetworkResults:
    """Read a file of :func:`add_halves`. Methods come in the order of the first half."""
    record = read_json(file)
    halves = record["halves"]
    rows = [{(row["label"], row["target"]): row for row in half["rows"]} for half in halves]
    counts, macs = [half["images"] for half in halves], halves[0]["dense"]["macs"]
    pruned = []
    for label, target in rows[0]:
        found = [half[label, target] for half in rows if (label, target) in half]
        if len(found) < len(rows):
            continue
        flags = {
            key: np.concatenate([_unpack(one[key], count) for one, count in zip(found, counts, strict=True)])
            for key in ("right", "agrees")
        }
        left = tuple(one["macs"] / macs for one in found)
        machines = dict.fromkeys(
            half["runs"][one["run"]]["environment"]["device"] for one, half in zip(found, halves, strict=True)
        )
        seconds = tuple(one["cpu_seconds"] for one in found)
        pruned.append(Pruned(label, target, **flags, macs=left, seconds=seconds, machines=tuple(machines)))
    complete = {(one.label, one.target) for one in pruned}
    unfinished = {
        f"{label} at {100 * target:g} %" for half in rows for label, target in half if (label, target) not in complete
    }
    unfinished |= {folder for half in halves for folder in half["unreachable"]}
    right = np.concatenate([_unpack(half["dense"]["right"], count) for half, count in zip(halves, counts, strict=True)])
    return NetworkResults(record["network"], right, macs, tuple(pruned), tuple(sorted(unfinished)))


def read_networks(results: Path = RESULTS) -> list[NetworkResults]:
    """Read all files of :func:`add_halves`, by the MACs of the dense networks."""
    return sorted(map(read_network, results.glob(f"{PREFIX}*.json")), key=lambda one: one.macs)


def paired_p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of McNemar's exact two-sided test that two networks are equally often right on the same images.

    Args:
        a, b: (N,) bool, whether the first and the second network are right.
    """
    from scipy.special import bdtr  # the distribution function of the binomial distribution

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if only_a + only_b else 1.0


def network_table(one: NetworkResults) -> str:
    """Format the results of a network: a row per method, top-1 and agreement at every target, CPU time, and what the tests say."""
    targets = sorted({result.target for result in one.pruned}, reverse=True)
    best = {target: one.best_at(target) for target in targets}
    rows: list[list[object]] = [["dense", *[f"{one.top1:.1f}"] * len(targets), ""]]
    for label in dict.fromkeys(result.label for result in one.pruned):
        found = {target: one.at(target).get(label) for target in targets}
        cells = [_cell(found[target], best[target]) for target in targets]
        seconds = statistics.mean(s for result in found.values() if result for s in result.seconds)
        rows.append([label, *cells, f"{seconds:.0f}"])
    header = ["method", *(f"{100 * target:g} % of the MACs" for target in targets), "CPU time (s)"]
    lines = [f"- {_finding(one, target)}" for target in targets]
    on: dict[str, dict[str, None]] = {}
    for result in one.pruned:
        for machine in result.machines:
            on.setdefault(machine, {})[result.label] = None
    if len(on) > 1:
        lines.append("- CPU times on " + "; on ".join(f"{machine}: {', '.join(on[machine])}" for machine in on) + ".")
    if one.unfinished:
        lines.append(f"- Without a result on both halves: {', '.join(one.unfinished)}.")
    return f"{markdown_table(header, rows)}\n" + "\n".join(lines)


def _cell(result: Pruned | None, best: Pruned | None, agreement: bool = True) -> str:
    if result is None or best is None:
        return ""
    text = f"{result.top1:.1f}" + (f" ({100 * result.agrees.mean():.1f})" if agreement else "")
    return text if _is_worse(result, best) else f"**{text}**"


def _is_worse(result: Pruned, best: Pruned) -> bool:
    return result is not best and paired_p_value(best.right, result.right) < LEVEL


def _finding(one: NetworkResults, target: float) -> str:
    best = one.best_at(target)
    assert best is not None
    others = [other.label for other in one.at(target).values() if other is not best and not _is_worse(other, best)]
    equal = (
        f"; not significantly less accurate: {', '.join(others)}"
        if others
        else "; all others are significantly less accurate"
    )
    p = paired_p_value(one.right, best.right)
    loss = f"{one.top1 - best.top1:.1f} points below the dense network" + ("" if p < LEVEL else ", not significantly")
    return f"At {100 * target:g} % of the MACs, {best.label} is the most accurate: {best.top1:.1f} %, {loss}{equal}."


def all_tables(results: Path = RESULTS) -> str:
    """Format the tables of all networks, under headings."""
    found = read_networks(results)
    return (
        "\n".join(f"### {one.name}, {one.macs / 1e6:.0f} million MACs\n\n{network_table(one)}\n" for one in found)
        or "Not run yet."
    )


def short_table(target: float = SHORT_TARGET, results: Path = RESULTS) -> str:
    """Format top-1 at one target: a row per method, without those of which all networks are at 1 % or less; a column per network."""
    found = read_networks(results)
    if not found:
        return "Not run yet."
    at = [one.at(target) for one in found]
    labels = dict.fromkeys(label for row in at for label in row)
    rows = [["dense", *(f"{one.top1:.1f}" for one in found)]]
    for label in labels:
        pruned = [row.get(label) for row in at]
        if any(one is not None and one.top1 > AT_CHANCE for one in pruned):
            best = [one.best_at(target) for one in found]
            rows.append([label, *(_cell(one, b, agreement=False) for one, b in zip(pruned, best, strict=True))])
    return markdown_table([f"top-1 (%) with {100 * target:g} % of the MACs", *(one.name for one in found)], rows)


def draw(file: Path, results: Path = RESULTS) -> list[Path]:
    """Draw top-1 against MACs, one panel per network; return the file, or nothing without results."""
    found = read_networks(results)
    if not found:
        return []
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(2, len(found))
    rows, legend_columns = -(-len(found) // columns), columns + 1
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns, 3.6 * rows), squeeze=False)
    labels = list(dict.fromkeys(result.label for one in found for result in one.pruned))
    for panel, one in zip(panels.flat, found, strict=False):
        panel.axhline(one.top1, color="0.6", linestyle=":", linewidth=1)
        for i, label in enumerate(labels):
            points = sorted((100 * statistics.mean(r.macs), r.top1) for r in one.pruned if r.label == label)
            if points:
                panel.plot(
                    *zip(*points, strict=True),
                    marker="os^vDP*X<>"[i % 10],
                    markersize=4,
                    linewidth=1.2,
                    color=f"C{i}",
                    label=label,
                )
        panel.set_title(f"{one.name} (dense {one.top1:.1f} %)", fontsize=10)
        panel.set_xlabel("MACs (%)")
        panel.set_ylabel("top-1 (%)")
        panel.set_ylim(0, None)
    for panel in list(panels.flat)[len(found) :]:
        panel.axis("off")
    handles, names = max((panel.get_legend_handles_labels() for panel in panels.flat), key=lambda pair: len(pair[1]))
    figure.legend(handles, names, loc="lower center", ncols=legend_columns, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.04 + 0.03 * -(-len(names) // legend_columns), 1, 1))
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return [file]


def main(argv: Sequence[str] | None = None) -> int:
    def body(argv: Sequence[str] | None) -> None:
        parser = cli.Parser(
            prog="python -m compare.paper.imagenet",
            description="Add two finished comparisons of one network, whose halves of the images exchange roles, to results/.",
            package=PACKAGE,
        )
        parser.add_argument("runs", nargs=2, metavar="RUN", help="folders of the two comparisons")
        parser.add_argument("--name", required=True, help="name of the network in the table")
        args = parser.parse_args(argv)
        print(add_halves(args.runs, args.name))

    return cli.run(body, argv)


if __name__ == "__main__":
    sys.exit(main())
