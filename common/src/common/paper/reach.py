"""Measure on 140 networks what common.channels prunes, and torch-pruning alone: ``python -m common.paper.reach``.

All classifiers of torchvision and 60 small networks of timm (``pip install compression-papers-common[timm]``), with random
weights and without downloads. Each network is measured in its own process, with one thread (:mod:`common.paper.reach_networks`).
Results are added to ``results/reach.json`` after every network; ``python -m common.paper.tables`` generates the table.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.cli import positive_int
from common.errors import UserError
from common.markdown import markdown_table
from common.settings import command, option, settings

HOME = Path(__file__).resolve().parents[3]  # the package's folder in a checkout
REACH = HOME / "results" / "reach.json"
COMMAND = "python -m common.paper.reach"
SECONDS = 60  # limit of CPU time for pruning a network
MEMORY_GIB = 12
EXACT = 1e-9  # largest relative difference of outputs, in float64
ENOUGH = 0.4  # fraction of the MACs that a network should lose when half of every group is removed

TIMM = (
    # convolutional networks
    "convnext_atto",
    "convnextv2_atto",
    "cs3darknet_s",
    "cspresnet50",
    "dla34",
    "dpn48b",
    "ecaresnet26t",
    "efficientnet_lite0",
    "ese_vovnet19b_slim",
    "fasternet_t0",
    "fbnetc_100",
    "gernet_s",
    "ghostnet_050",
    "ghostnetv2_100",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "inception_next_atto",
    "lcnet_050",
    "legacy_seresnext26_32x4d",
    "mambaout_femto",
    "mixnet_s",
    "mobilenetv1_100",
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "nf_resnet26",
    "regnetz_005",
    "repghostnet_050",
    "repvgg_a0",
    "repvit_m0_9",
    "res2net50_14w_8s",
    "resnest14d",
    "resnet50_gn",
    "resnetblur18",
    "rexnet_100",
    "selecsls42",
    "semnasnet_050",
    "skresnet18",
    "starnet_s050",
    "tf_efficientnetv2_b0",
    "tinynet_e",
    "xception41",
    # with attention
    "cait_xxs24_224",
    "coat_lite_tiny",
    "convit_tiny",
    "crossvit_tiny_240",
    "deit_tiny_patch16_224",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientvit_b0",
    "eva02_tiny_patch14_224",
    "fastvit_t8",
    "levit_128s",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "pvt_v2_b0",
    "tiny_vit_5m_224",
    "xcit_nano_12_p16_224",
    # without convolutions and attention between positions
    "mixer_s32_224",
    "poolformer_s12",
    "resmlp_12_224",
)


@settings
class Reach:
    """Measure on 140 networks what common.channels prunes, and torch-pruning alone."""

    only: list[str] = option([], "networks to measure (default: all)", metavar="NAME")
    force: bool = option(False, "measure again networks that have a result")
    keep_torch_pruning: bool = option(False, "with --force: keep the results of torch-pruning")
    jobs: int = option(1, "networks measured at the same time", type=positive_int)
    out: Path = option(REACH, "JSON file to which results are added", metavar="FILE")


def reach(settings: Reach) -> None:
    """Measure the networks that have no result, and add each result to the file."""
    from common.atomic import write_json
    from common.paper.reach_networks import measure_in_process, network_names
    from common.runs import describe_environment

    networks = network_names()
    unknown = sorted(set(settings.only) - set(networks))
    if unknown:
        similar = get_close_matches(unknown[0], networks, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"choose one of {', '.join(networks)}"
        raise UserError(f"--only: unknown network {unknown[0]}; {hint}")
    if not find_spec("timm"):
        raise UserError("timm is not installed; install compression-papers-common[timm]")
    rows = _read_rows(settings.out)

    def measure(name: str) -> dict[str, Any]:
        kept = rows[name]["torch_pruning"] if settings.keep_torch_pruning and name in rows else None
        return measure_in_process(name, SECONDS, MEMORY_GIB, kept)

    names = [name for name in settings.only or networks if settings.force or name not in rows]
    pool = ThreadPoolExecutor(settings.jobs)
    try:
        for future in as_completed([pool.submit(measure, name) for name in names]):
            row = future.result()
            rows[row["network"]] = row
            print(summary_of_row(row), flush=True)
            environment = describe_environment("cpu")
            environment["versions"]["timm"] = version("timm")
            in_order = [rows[name] for name in networks if name in rows]
            write_json(settings.out, {"command": COMMAND, "rows": in_order, "environment": environment})
    finally:
        pool.shutdown(cancel_futures=True)
    print(*summary_lines(rows.values()), sep="\n")


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    from common.runs import read_record

    rows = read_record(path).get("rows") if path.exists() else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "network" in row for row in rows):
        raise UserError(f"{path}: not a file of {COMMAND}; choose another one with --out")
    return {row["network"]: row for row in rows}


def outcome(row: Mapping[str, Any]) -> str:
    """Classify what common.channels made of a network: pruned exactly, left alone, or the error."""
    found = row["common"]
    if "error" in found:
        return found["error"]
    if not found["groups"]:
        return "left alone" if found["excluded"] else "without groups and reasons"
    return "exact" if _is_exact(found) else "differs"


def summary_of_row(row: Mapping[str, Any]) -> str:
    """Format a result as one line for the terminal."""
    cells = dict(zip(HEADER, cells_of_row(row), strict=True))
    return f"{cells.pop('network')}: " + ", ".join(f"{name} {value}" for name, value in cells.items() if value != "")


def summary_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Summarize: fractions of the networks pruned exactly and that lose enough MACs, and the slowest network."""
    rows = list(rows)
    if not rows:
        return []
    outcomes = {row["network"]: outcome(row) for row in rows}
    exact, alone = (sum(found == name for found in outcomes.values()) for name in ("exact", "left alone"))
    safe = exact + alone
    enough = sum(_is_enough(row["common"]) for row in rows)
    theirs = [row["torch_pruning"] for row in rows]
    run = [found for found in theirs if "error" not in found]
    same = sum(map(_is_exact, run))
    timed = [row for row in rows if "seconds" in row["common"]]
    slowest = max(timed, key=lambda row: row["common"]["seconds"], default=None)
    lines = [
        f"{safe} of {len(rows)} networks ({_percent(safe / len(rows))}) are pruned exactly ({exact}) or left alone with a reason"
        f" ({alone}). Exactly: the outputs differ from those of the masked network by at most"
        f" {EXACT:g} of their largest value, in float64.",
        f"{enough} of {len(rows)} networks ({_percent(enough / len(rows))}) lose at least {_percent(ENOUGH)} of their MACs when half of"
        " every group is removed.",
        f"torch-pruning alone: {len(run)} of {len(rows)} pruned networks run; the outputs of {same} are those of the masked"
        f" network; {sum(_is_enough(found) for found in run)} lose at least {_percent(ENOUGH)} of their MACs.",
    ]
    others = [f"{name} ({found})" for name, found in outcomes.items() if found not in ("exact", "left alone")]
    if others:
        lines.insert(1, f"The others: {', '.join(others)}.")
    if slowest:
        lines.append(f"Slowest: {slowest['network']}, {slowest['common']['seconds']:.1f} s of one core.")
    return lines


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f} %"


def _is_exact(found: Mapping[str, Any]) -> bool:
    return found["difference"] is not None and found["difference"] <= EXACT


def _is_enough(found: Mapping[str, Any]) -> bool:
    return "error" not in found and found["macs_removed"] >= ENOUGH


HEADER = (
    "network",
    "input",
    "MACs (millions)",
    "groups",
    "not listed",
    "MACs removed",
    "largest difference",
    "seconds",
    "torch-pruning: MACs removed",
    "its largest difference",
    "its seconds",
)


def cells_of_row(row: Mapping[str, Any]) -> list[str]:
    """Format a result as the cells of the table."""
    ours, theirs = row["common"], row["torch_pruning"]
    size = "x".join(map(str, row.get("input", ())[1:])) + (f" (usual: {row['usual']})" if "usual" in row else "")
    excluded = sum(len(entry["groups"]) for entry in ours.get("excluded", []))
    return [
        row["network"],
        size,
        f"{row['macs'] / 1e6:,.0f}" if "macs" in row else "",
        str(ours.get("groups", "")),
        str(excluded or "") if "groups" in ours else "",
        *_result_cells(ours),
        *_result_cells(theirs),
    ]


def _result_cells(found: Mapping[str, Any]) -> list[str]:
    """Format the fraction of the MACs removed, the difference and the seconds; an error takes the place of the first."""
    seconds = f"{found['seconds']:.1f}" if "seconds" in found else ""
    if "error" in found:
        return [found["error"], "", seconds]
    difference = found["difference"]
    return [
        _percent(found["macs_removed"]),
        "-" if difference is None else f"{difference:.0e}" if difference else "0",
        seconds,
    ]


def reach_page(record: Mapping[str, Any]) -> str:
    """Format the page with the summary, one row per network, and the reasons why channels are not listed."""
    rows = record["rows"]
    environment = record["environment"]
    smaller = [f"{row['network']} ({row['input'][1]} instead of {row['usual']})" for row in rows if "usual" in row]
    return "\n".join(
        [
            "# Which networks can be pruned",
            "",
            f"Generated by `{COMMAND}` and `python -m common.paper.tables`.",
            "",
            *(f"- {line}" for line in summary_lines(rows)),
            "",
            ABOUT,
            "",
            f"Measured on {environment['device']}, with "
            + ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
            + ".",
            "",
            f"With smaller images, because they have more than 20 billion MACs: {', '.join(smaller) or 'none'}.",
            "",
            markdown_table(HEADER, map(cells_of_row, rows)),
            "## Why channels are not listed",
            "",
            "Sorted by the mean fraction of a network's MACs in the layers that produce these channels (in the first one of"
            " coupled layers).",
            "",
            reasons_table(rows),
        ]
    )


ABOUT = """\
Each network has random weights. Half of the channels of every group are removed at random. *Largest difference*: of the
pruned network's outputs from those of the network in which the same channels are masked, relative to the largest value, in
float64. *Not listed*: sets of coupled channels that are left alone, with reasons below. *Seconds*: CPU time of one thread for
listing the groups and pruning them, or for torch-pruning's pruner and its step; limits are 60 s and 12 GiB. MACs include
attention.

torch-pruning alone: `BasePruner` with a pruning ratio of 0.5, magnitude importance, the classifier ignored, and the heads of
attention layers given, as in its examples. Its difference is that from the network in which the removed inputs of all
convolutions and linear layers are set to zero. It is not zero by design where normalization layers lose channels over which
they normalize, and undefined (-) where the outputs have another shape."""


def reasons_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Format the kinds of reason by the mean fraction of a network's MACs that they concern, with the networks."""
    rows, kinds = list(rows), dict[str, dict[str, Any]]()
    for row in rows:
        for entry in row["common"].get("excluded", []):
            kind = kinds.setdefault(entry["reason"], {"fraction": 0.0, "sets": 0, "networks": []})
            kind["fraction"] += entry["macs"] / row["macs"] / len(rows)
            kind["sets"] += len(entry["groups"])
            kind["networks"].append(row["network"])
            kind["example"] = entry["example"]
    lines = [
        [kind["example"], f"{_percent(kind['fraction'], 1)}", str(kind["sets"]), shorten(kind["networks"])]
        for kind in sorted(kinds.values(), key=lambda kind: -kind["fraction"])
    ]
    return markdown_table(["reason (one example)", "MACs", "sets of channels", "networks"], lines)


def shorten(names: Sequence[str], shown: int = 4) -> str:
    """Join the first names of a list, and the number of the others."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure networks and return an exit status."""
    return command(Reach, reach, argv, COMMAND)


if __name__ == "__main__":
    sys.exit(main())
