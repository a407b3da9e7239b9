"""report.html: one file that needs nothing else, can be read without JavaScript, read out, printed, and cited."""

import statistics
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from compare.charts import Point, Style, dense_mark, legend_mark, plot, strip, styles
from compare.findings import counted, findings, middle, threads, trained
from compare.rows import Group, Rows, chained, method_order, single
from compare.text import budget, methods_note, seeds_note, spread

CLASSES_SHOWN = 20  # with more of them, per-class tables would not be read


def html(rows: Rows) -> str:
    """The page of a comparison."""
    groups, chains = single(rows), chained(rows)
    first = rows.metrics[0]
    labels = method_order([*groups, *chains])
    look = styles(labels, [g.label for g in [*groups, *chains] if g.first["paper"] is None])
    title = f"{first['arch']} on {first['dataset']}: compression methods side by side"
    tuned = "is fine-tuned by the same recipe" if trained([*groups, *chains]) else "no network is trained after the cut"
    sections = [
        _findings(rows),
        _plots(groups, look, rows),
        _table(groups, chains, seeds_note(rows)),
        _chain_section(chains),
        _widths(groups, look),
        _classes(groups),
        _methods(rows),
        _reproduce(rows),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>Every method starts from the same trained network, gets the same budget, and {tuned}. {escape(seeds_note(rows))} Nothing is picked,
and every figure was measured on the network read back from disk.</p>
{_facts(rows)}
<nav aria-label="Sections"><a href="#findings">Findings</a><a href="#plots">Plots</a><a href="#table">Table</a>{'<a href="#chains">Chains</a>' if chains else ""}<a href="#widths">Widths</a><a href="#classes">Classes</a><a href="#methods">Methods</a><a href="#again">How to make it again</a></nav>
</header>
<main>
{"".join(sections)}
</main>
<footer><p>Made by <code>python -m compare</code>, commit {escape(str(first["commit"]))}. This file loads nothing from anywhere.</p></footer>
<script>
{_asset("sort.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("compare").joinpath(name).read_text(encoding="utf-8")


def _facts(rows: Rows) -> str:
    first, sides = rows.metrics[0], [row["baseline"] for row in rows.baselines] or [rows.metrics[0]["baseline"]]
    recipe, seeds = first["config"]["options"]["finetune"], sorted({row["seed"] for row in rows.metrics})
    tops = [side["top1"] for side in sides]
    deviation = f" ± {statistics.stdev(tops):.2f}" if len(set(tops)) > 1 else ""
    facts = {
        "dense top-1": f"{statistics.mean(tops):.2f}{deviation} %",
        "dense MACs": f"{sides[0]['macs']:,}",
        "dense params": f"{sides[0]['params']:,}",
        "dense file": f"{sides[0]['bytes']:,} bytes",
        "seeds": f"{len(seeds)} (number {', '.join(map(str, seeds))})"
        if len(seeds) == 1
        else f"{len(seeds)} ({', '.join(map(str, seeds))})",
        "fine-tuning": counted(recipe["epochs"], "epoch") if recipe["epochs"] else "none",
    }
    if "latency_ms" in first["compressed"]:
        device = first["config"]["environment"]["device"].split(" ")[0].upper()
        facts["latency on"] = f"{threads(first)}, {device}"
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{cells}</dl>'


def _findings(rows: Rows) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in findings(rows))
    refused = "".join(
        f'<li><span class="warn">Not reached</span> {escape(one["folder"])}: {escape(one["reason"])}</li>'
        for one in rows.refused
    )
    return f'<section id="findings"><h2>What the figures say</h2><ul>{items}{refused}</ul></section>'


# ------------------------------------------------------------------------------------------------------------------- plots


def _plots(groups: Sequence[Group], look: dict[str, Style], rows: Rows) -> str:
    if not groups:
        return ""
    dense = statistics.mean(float(row["baseline"]["top1"]) for row in rows.metrics)
    macs = [g for g in groups if g.first["axis"] == "macs"]
    drawn = []
    if trained(macs):
        drawn.append(
            _figure("Accuracy against MACs, after fine-tuning", macs, look, "macs_kept", "top1", "MACs kept, %", dense)
        )
        drawn.append(
            _figure("Accuracy against MACs, as cut", macs, look, "macs_kept", "cut_top1", "MACs kept, %", dense)
        )
    elif macs:
        drawn.append(
            _figure("Accuracy against MACs, no fine-tuning", macs, look, "macs_kept", "top1", "MACs kept, %", dense)
        )
        drawn.append(
            _figure(
                "Agreement with the dense network",
                macs,
                look,
                "macs_kept",
                "agreement",
                "MACs kept, %",
                100.0,
                "agreement, %",
            )
        )
    drawn.append(
        _figure(
            "Accuracy against the size of the file",
            groups,
            look,
            "bytes_kept",
            "top1",
            "bytes kept, % (logarithmic)",
            dense,
        )
    )
    if macs and all(g.has("latency64_kept") for g in macs):
        drawn.append(
            _figure(
                f"Accuracy against latency, batch 64 on {threads(rows.metrics[0])}",
                macs,
                look,
                "latency64_kept",
                "top1",
                "time of a batch, % of the dense network's",
                dense,
            )
        )
    items = "".join(
        f"<li>{legend_mark(look[label])}{escape(label)}{' (yardstick)' if _is_yardstick(label, groups) else ''}</li>"
        for label in method_order(groups)
    )
    items += f"<li>{dense_mark()}the dense network</li>"
    return (
        f'<section id="plots"><h2>Accuracy against cost</h2><ul class="legend" aria-label="Legend">{items}</ul>'
        f'<div class="plots">{"".join(drawn)}</div><p class="soft">Bars are sample deviations over the seeds; a point of one seed has none. Costs are shares of the '
        "dense network's, and time was measured in turns with it.</p></section>"
    )


def _is_yardstick(label: str, groups: Sequence[Group]) -> bool:
    return any(g.label == label and g.first["paper"] is None for g in groups)


def _figure(
    title: str, groups: Sequence[Group], look, x: str, y: str, x_label: str, dense: float, y_label: str = "top-1, %"
) -> str:
    series: dict[str, list[Point]] = {}
    for g in groups:
        dx, dy = 100 * (g.deviation(x) or 0.0), g.deviation(y) or 0.0
        said = f"{budget(g)}: {g.mean(y):.2f} % at {100 * g.mean(x):.1f} %"
        series.setdefault(g.label, []).append(Point(100 * g.mean(x), g.mean(y), dx if dx > 0.05 else 0.0, dy, said))
    drawing = plot(series, look, x_label=x_label, y_label=y_label, title=title, dense=dense, log_x=x == "bytes_kept")
    return f"<figure><h3>{escape(title)}</h3>{drawing}</figure>"


# ------------------------------------------------------------------------------------------------------------------- table

COLUMNS = {
    "top-1 as cut %": ("cut_top1", 2),
    "top-1 %": ("top1", 2),
    "agreement %": ("agreement", 2),
    "MACs kept %": ("macs_kept", 2),
    "params, thousands": ("nonzero_params", 1),
    "file, kB": ("bytes", 1),
    "ms, batch 1": ("ms_batch1", 1),
    "ms, batch 64": ("ms_batch64", 1),
    "% of dense ms": ("latency64_kept", 1),
}
SCALES = {"macs_kept": 100.0, "bytes_kept": 100.0, "latency64_kept": 100.0, "nonzero_params": 1e-3, "bytes": 1e-3}
SAME = 5e-4  # deviations of costs below it, as a share, are not shown: all seeds have the same


def _table(groups: Sequence[Group], chains: Sequence[Group], note: str) -> str:
    if not groups:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("method", "budget", "seeds", *COLUMNS))
    body = "".join(_table_row(g) for g in groups)
    timed = f" Latency on {threads(groups[0].first)}." if any(g.has("latency64_kept") for g in groups) else ""
    missed = (
        '<p class="soft"><span class="warn">!</span> misses its budget by more than 2 %.</p>'
        if any(g.missed for g in [*groups, *chains])
        else ""
    )
    return (
        '<section id="table"><h2>Every figure</h2><div class="scroll" tabindex="0" role="region" aria-label="All methods and budgets">'
        f'<table class="sortable"><caption>{escape(note)}{timed}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{missed}</section>'
    )


def _table_row(g: Group) -> str:
    mark = ' <span class="warn" title="misses its budget by more than 2 %">!</span>' if g.missed else ""
    target = -g.first["target"] if g.first["axis"] == "bytes" else g.first["target"]
    cells = [
        f'<th scope="row">{escape(g.name)}{mark}</th>',
        f'<td class="left" data-value="{target:g}">{escape(budget(g))}</td>',
        f"<td>{len(g.rows)}</td>",
    ]
    for name, digits in COLUMNS.values():
        if g.has(name):
            cells.append(f'<td data-value="{g.mean(name):.6g}">{escape(_cell(g, name, digits))}</td>')
        else:
            cells.append("<td>–</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _cell(g: Group, name: str, digits: int) -> str:
    if name == "cut_top1" and not g.first["finetune_epochs"]:
        return "–"
    if name not in SCALES:
        return spread(g, name, digits)
    deviation, mean = g.deviation(name), g.mean(name)
    shown = f" ± {SCALES[name] * deviation:,.{digits}f}" if deviation and deviation > SAME * mean else ""
    return f"{SCALES[name] * mean:,.{digits}f}{shown}"


def _chain_section(chains: Sequence[Group]) -> str:
    if not chains:
        return ""
    columns = {"top-1 %": ("top1", 2), "agreement %": ("agreement", 2), "MACs kept %": ("macs_kept", 2)}
    columns |= {"bytes kept %": ("bytes_kept", 2), "file, kB": ("bytes", 1)}
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("network", "budget", *columns))
    body = []
    for g in chains:
        cells = [
            f'<th scope="row">{g.first["step"]}. {escape(g.name)}</th>',
            f'<td class="left">{escape(budget(g))}</td>',
            *(f"<td>{escape(_cell(g, name, digits))}</td>" for name, digits in columns.values()),
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<section id="chains"><h2>One after the other</h2><p>Each step starts from the file that the one before it left, fine-tuned. Budgets are shares of the '
        'dense network.</p><div class="scroll" tabindex="0" role="region" aria-label="Steps of chains">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


# ------------------------------------------------------------------------------------------------------------------ layers


def _widths(groups: Sequence[Group], look: dict[str, Style]) -> str:
    macs = [g for g in groups if g.first["axis"] == "macs"]
    if not macs:
        return ""
    target = middle(sorted({g.first["target"] for g in macs}))
    rows = []
    for g in (one for one in macs if one.first["target"] == target):
        shares = []
        for layer, (_, dense) in g.first["widths"].items():
            left = statistics.mean(row["widths"][layer][0] for row in g.rows if layer in row["widths"])
            shares.append((layer, min(1.0, left / dense), f"{layer}: {left:g} of {dense} channels"))
        narrowest = min(shares, key=lambda one: one[1])
        title = f"{g.label}: share of channels kept in {len(shares)} layers; narrowest is {narrowest[0]} with {100 * narrowest[1]:.0f} %"
        rows.append(f"<p>{escape(g.label)}</p>{strip(shares, look[g.label].color, title)}")
    return (
        f'<section id="widths"><h2>Where the channels go</h2><p>Share of each layer\'s channels that is kept at {100 * target:g} % of the MACs, from the '
        f'network\'s input (left) to its output, mean over the seeds; the frame is the dense width.</p><div class="strips">{"".join(rows)}</div></section>'
    )


def _classes(groups: Sequence[Group]) -> str:
    targets = {
        axis: middle([g.first["target"] for g in groups if g.first["axis"] == axis])
        for axis in {g.first["axis"] for g in groups}
    }
    shown = [g for g in groups if g.first["target"] == targets[g.first["axis"]]]
    if not shown:
        return ""
    classes = shown[0].first["classes"]
    worst = [] if len(classes) <= CLASSES_SHOWN else _worst(shown, len(classes))
    columns = worst or list(range(len(classes)))
    head = "".join(f'<th scope="col">{escape(str(classes[i]))}</th>' for i in columns)
    body = [_class_row("dense network", [_class_mean(shown[:1], "dense_top1", i) for i in columns], None)]
    for g in shown:
        dense = [_class_mean([g], "dense_top1", i) for i in columns]
        body.append(_class_row(f"{g.label}, {budget(g)}", [_class_mean([g], "top1", i) for i in columns], dense))
    agreement = [
        _class_row(
            f"{g.label}, {budget(g)}", [_class_mean([g], "agreement", i) for i in columns], [100.0] * len(columns)
        )
        for g in shown
    ]
    note = f"The {len(columns)} classes that lose most are shown. " if worst else ""

    def table(name: str, rows: list[str]) -> str:
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table class="sortable"><caption>{name}</caption>'
            f'<thead><tr><th scope="col">network</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        )

    return (
        f'<section id="classes"><h2>Class by class</h2><p>{note}A mean can hide a class that is lost. Darker cells lose more points against the dense network.</p>'
        f"{table('Top-1 of each class, %', body)}<p></p>{table('Agreement with the dense network in each class, %', agreement)}</section>"
    )


def _class_mean(groups: Sequence[Group], name: str, index: int) -> float:
    return statistics.mean(row["per_class"][name][index] for g in groups for row in g.rows)


def _worst(groups: Sequence[Group], count: int) -> list[int]:
    loss = [min(_class_mean([g], "top1", i) - _class_mean([g], "dense_top1", i) for g in groups) for i in range(count)]
    return sorted(sorted(range(count), key=loss.__getitem__)[:CLASSES_SHOWN])


def _class_row(name: str, values: Sequence[float], against: Sequence[float] | None) -> str:
    cells = []
    for i, value in enumerate(values):
        lost = max(0.0, against[i] - value) if against else 0.0
        shade = min(0.55, lost / 40)
        style = f' style="background:rgba(213,94,0,{shade:.2f})"' if shade > 0.004 else ""
        cells.append(f"<td{style}>{value:.1f}</td>")
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


# ------------------------------------------------------------------------------------------------------------------- again


def _methods(rows: Rows) -> str:
    items = "".join(f"<li>{escape(line)}.</li>" for line in methods_note(rows))
    return f'<section id="methods"><h2>What to know of each method</h2><ul>{items}</ul></section>'


def _reproduce(rows: Rows) -> str:
    first: dict[str, Any] = rows.metrics[0]
    about = first["config"]["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    recipe = first["config"]["options"]["finetune"]
    unused = ("step_size", "gamma", "milestones") if recipe.get("schedule") == "cosine" else ()
    shown = ", ".join(f"{k} {v}" for k, v in recipe.items() if v not in (False, [], None) and k not in unused)
    recipe_said = f"The recipe of fine-tuning: {shown}." if recipe["epochs"] else "No network was fine-tuned."
    ends = [row for row in rows.metrics if not (row["chain"] and row["step"] < len(row["chain"]))]
    lines = "".join(
        f'<tr><th scope="row">{escape(row["folder"])}</th><td>{row["seed"]}</td><td>{escape(str(row["commit"]))}</td>'
        f'<td>{row["seconds"]:.0f}</td><td class="command"><code>{escape(row["command"])} --out DIR</code></td></tr>'
        for row in ends
    )
    return (
        '<section id="again"><h2>How to make each point again</h2>'
        f"<p>Python {escape(about['python'])}, {escape(versions)}; {escape(about['device'])}, {threads(first)}; "
        f"data fingerprint <code>{escape(str(first['config']['data_fingerprint']))}</code>. Same machine and thread count, same bits.</p>"
        f"<p>{escape(recipe_said)}</p>"
        f"<details><summary>{len(ends)} rows: command, seed, commit, seconds</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Commands"><table><thead><tr><th scope="col" class="left">folder</th><th scope="col">seed</th>'
        f'<th scope="col">commit</th><th scope="col">seconds</th><th scope="col" class="left">command</th></tr></thead><tbody>{lines}</tbody></table></div></details></section>'
    )
