"""Render report.html: one self-contained file that loads nothing, for screens of any width, light and dark, and for print.

The page is ``templates/report.html.jinja`` with the values of :func:`_content`. Texts of the results, which may be strangers', are
escaped by the template; a content security policy allows no other scripts than the two of the page, and no request.
"""

import statistics
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from itertools import takewhile
from typing import Any

from compare import charts
from compare.changed_images import SHEET, read_sheet
from compare.findings import AXES, any_finetuned, count_threads, findings, middle_target, pluralize
from compare.result_set import SHOWN, ResultGroup, ResultSet, chain_groups, single_method_groups, with_short_names
from compare.text_report import (
    ABSENT,
    AFTER,
    AT_CHANCE,
    BEFORE,
    ONLY,
    RELATIVE,
    absent_lines,
    is_at_chance,
    method_notes,
    seeds_note,
)
from compare.values import COLUMNS, MARK, Row, dense_sides, dense_top1, format_target, table_rows

CLASSES_SHOWN = 20  # the largest number of columns of the per-class tables
IMAGE_BYTES = 700_000  # of all images on the page, which remains below 2 MB
TYPICAL_IMAGE = 6_000  # bytes of the image of one card, for the number of cards


def html_report(result_set: ResultSet) -> str:
    """Return the page of a comparison."""
    return _page().render(_content(with_short_names(result_set)))


@lru_cache(maxsize=1)
def _page() -> Any:
    """Return the template with its style and scripts."""
    from jinja2 import Environment, StrictUndefined  # torch requires it

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    scripts = [charts.javascript(), _template("page.js")]
    shared = {"style": _template("page.css"), "scripts": scripts, "policy": _policy(scripts)}
    return environment.from_string(_template("report.html.jinja"), globals=shared)


def _template(name: str) -> str:
    return files("compare").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: these scripts only, images that are part of the page, no requests."""
    digests = (b64encode(sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _content(result_set: ResultSet) -> dict[str, Any]:
    """Return the values of the template."""
    groups, chains = single_method_groups(result_set), chain_groups(result_set)
    first = result_set.results[0]
    notes = [f"{MARK.strip()} misses the target F: not in [0.98 F, F]."] * any(g.missed for g in [*groups, *chains])
    notes += [f"Note: {AT_CHANCE}."] * is_at_chance(result_set)
    notes += [f"Not in the table ({ABSENT}): {line}." for line in absent_lines(result_set)]
    return {
        "title": f"{first['arch']} on {first['dataset']}: comparison of compression methods",
        "tuning": "the same fine-tuning options"
        if any_finetuned([*groups, *chains])
        else "no fine-tuning after pruning",
        "seeds_note": seeds_note(result_set),
        "relative_note": RELATIVE,
        "incomplete": result_set.missing,
        "facts": _facts(result_set),
        "findings": findings(result_set),
        "unreachable": result_set.unreachable,
        "legend": charts.method_styles(groups),
        "references": {g.label for g in groups if g.is_reference},
        "dashes": charts.DASHES,
        "plots": _plots(result_set, groups),
        "table": _table(table_rows(result_set, groups)) if groups else None,
        "chains": _table(table_rows(result_set, chains)) if chains else None,
        "table_notes": notes,
        "widths": _widths(groups),
        "classes": _classes(groups),
        "changed": _changed(result_set, groups),
        "methods": method_notes(result_set),
        "reproduction": _reproduction(result_set),
        "commit": first["commit"],
    }


def _facts(result_set: ResultSet) -> dict[str, str]:
    first = result_set.results[0]
    side = dense_sides(result_set)[0]
    recipe, seeds = first["config"]["options"]["finetune"], sorted({result["seed"] for result in result_set.results})
    images = ResultGroup(tuple(result_set.results)).test_images
    facts = {
        "dense top-1": f"{dense_top1(result_set)} %",
        "dense MACs": f"{side['macs']:,}",
        "dense params": f"{side['params']:,}",
        "dense file": f"{side['bytes']:,} bytes",
        "seeds": f"{len(seeds)} (seed {seeds[0]})"
        if len(seeds) == 1
        else f"{len(seeds)} ({', '.join(map(str, seeds))})",
        "fine-tuning": pluralize(recipe["epochs"], "epoch") if recipe["epochs"] else "none",
    }
    if images:
        facts["test images"] = f"{images:,}"
    if "latency" in first:
        device = first["config"]["environment"]["device"].split(" ")[0][:12].upper()
        facts["latency on"] = f"{count_threads(first)}, {device}"
    return facts


def _plots(result_set: ResultSet, groups: Sequence[ResultGroup]) -> list[dict[str, Any]]:
    styles = charts.method_styles(groups)
    return [
        {
            "title": plot.title,
            "specification": charts.page_specification(plot, styles),
            "has_noise": any(row["low"] < row["high"] for row in plot.rows),
        }
        for plot in charts.comparison_plots(result_set)
    ]


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the columns of a table that have a value, and its rows, with the first column's mark as ``missed``."""
    shown = [i for i in range(1, len(COLUMNS)) if any(row.cells[i].text for row in rows)]
    lines = [
        {
            "name": _step_name(row.group) if row.group else row.cells[0].text,
            "missed": row.group is not None and row.group.missed,
            "cells": [row.cells[i] for i in shown],
            "command": charts.commands(row.group) if row.group else "",
        }
        for row in rows
    ]
    names = {} if AFTER in (COLUMNS[i] for i in shown) else {BEFORE: ONLY}
    return {"columns": [COLUMNS[0], *(names.get(COLUMNS[i], COLUMNS[i]) for i in shown)], "rows": lines}


def _step_name(group: ResultGroup) -> str:
    return f"{group.first['step']}. {group.name}" if group.first["chain"] else group.name


# ------------------------------------------------------------------------------------------------------ layers and classes


def _widths(groups: Sequence[ResultGroup]) -> dict[str, Any] | None:
    """Return the mean fraction of each layer's channels that is kept at the middle target of MACs, or else of latency, by method."""
    axis = next((axis for axis in ("macs", "latency") if any(g.first["axis"] == axis for g in groups)), None)
    if axis is None:
        return None
    pruned = [g for g in groups if g.first["axis"] == axis]
    target = middle_target(sorted({g.first["target"] for g in pruned}))
    shown = [g for g in pruned if g.first["target"] == target]
    styles = charts.method_styles(groups)
    layers = list(dict.fromkeys(layer for g in shown for layer in g.first["widths"]))
    prefix = common_prefix(layers)
    rows = []
    for layer in layers:
        cells = [_width(g, layer) for g in shown]
        dense = next(cell["dense"] for cell in cells if cell)
        rows.append({"name": layer.removeprefix(prefix), "dense": dense, "cells": cells})
    methods = [{"name": g.label, "color": styles[g.label].color} for g in shown]
    return {"target": f"{100 * target:g} % of the {AXES[axis]}", "prefix": prefix, "methods": methods, "rows": rows}


def _width(g: ResultGroup, layer: str) -> dict[str, Any] | None:
    found = [result["widths"][layer] for result in g.results if layer in result["widths"]]
    if not found:
        return None
    kept, dense = statistics.mean(one[0] for one in found), found[0][1]
    percent = round(min(100.0, 100 * kept / dense))
    return {"percent": percent, "dense": dense, "title": f"{g.label}, {layer}: {kept:g} of {dense:g} channels"}


def common_prefix(layers: Sequence[str]) -> str:
    """Return the modules that all layers are in: "model.backbone." for layers of a wrapped network; empty if there are none."""
    parts = [layer.split(".")[:-1] for layer in layers]
    same = takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return "".join(f"{names[0]}." for names in same) if len(layers) > 1 else ""


def _classes(groups: Sequence[ResultGroup]) -> dict[str, Any] | None:
    """Return accuracy and agreement per class at the middle target of each axis."""
    shown = _at_middle_targets(groups)
    if not shown:
        return None
    classes = shown[0].first["classes"]
    worst = [] if len(classes) <= CLASSES_SHOWN else _worst(shown, len(classes))
    columns = worst or list(range(len(classes)))
    dense = [_class_mean(shown[:1], "dense_top1", i) for i in columns]
    top1, agreement = [_class_row("dense network", dense, dense)], [_class_row("dense network", [100.0] * len(columns))]
    for g in shown:
        name = f"{g.label}, {format_target(g)}"
        own = [_class_mean([g], "dense_top1", i) for i in columns]
        top1.append(_class_row(name, [_class_mean([g], "top1", i) for i in columns], own))
        agreement.append(_class_row(name, [_class_mean([g], "agreement", i) for i in columns]))
    return {
        "names": [str(classes[i]) for i in columns],
        "note": f"The {len(columns)} classes with the largest losses are shown. " if worst else "",
        "tables": {"Top-1 per class (%)": top1, "Agreement with the dense network per class (%)": agreement},
    }


def _at_middle_targets(groups: Sequence[ResultGroup]) -> list[ResultGroup]:
    """Return the groups at the middle target of their axis, for sections that have room for one target."""
    axes = {g.first["axis"] for g in groups} - {None}
    targets: dict[str | None, float | None] = {None: None}  # methods without a target have one result
    targets |= {
        axis: middle_target(list({g.first["target"] for g in groups if g.first["axis"] == axis})) for axis in axes
    }
    return [g for g in groups if g.first["target"] == targets[g.first["axis"]]]


def _class_mean(groups: Sequence[ResultGroup], name: str, index: int) -> float:
    return statistics.mean(result["per_class"][name][index] for g in groups for result in g.results)


def _worst(groups: Sequence[ResultGroup], count: int) -> list[int]:
    """Return the classes with the largest losses of top-1."""
    loss = [min(_class_mean([g], "top1", i) - _class_mean([g], "dense_top1", i) for g in groups) for i in range(count)]
    return sorted(sorted(range(count), key=loss.__getitem__)[:CLASSES_SHOWN])


def _class_row(name: str, values: Sequence[float], reference: Sequence[float] | None = None) -> dict[str, Any]:
    """Return a row of a per-class table; the more points a cell loses compared with the reference (default: 100), the darker it is."""
    lost = [max(0.0, (100.0 if reference is None else reference[i]) - value) for i, value in enumerate(values)]
    return {
        "name": name,
        "cells": [(f"{v:.1f}", round(min(0.55, one / 40), 2)) for v, one in zip(values, lost, strict=True)],
    }


# ------------------------------------------------------------------------------------------------------------------ images


def _changed(result_set: ResultSet, groups: Sequence[ResultGroup]) -> list[dict[str, Any]]:
    """Return the images whose prediction changed, by method, for the first seed at the middle target; none for older results."""
    shown = [g for g in _at_middle_targets(groups) if g.first.get("changed")]
    cards = min(SHOWN, IMAGE_BYTES // (TYPICAL_IMAGE * max(1, len(shown))))
    found = []
    left = IMAGE_BYTES
    for g in shown:
        result, changed = g.first, g.first["changed"]
        images = read_sheet(result_set.out / result["folder"] / SHEET, changed, cards)
        images = images if sum(map(len, images)) <= left else []
        left -= sum(map(len, images))
        entry = {"name": f"{g.label}, {format_target(g)}", "seed": result["seed"], "cards": _cards(result, images)}
        found.append({**entry, **{name: changed[name] for name in ("count", "lost", "gained")}})
    return found


def _cards(result: Mapping[str, Any], images: Sequence[str]) -> list[dict[str, Any]]:
    """Return the image, its classes and its position in the test set, for each image."""
    changed, classes = result["changed"], result["classes"]
    numbers = zip(*(changed[name] for name in ("index", "label", "dense", "predicted")), strict=True)
    cards = []
    for image, (index, label, dense, predicted) in zip(images, numbers, strict=False):
        verdict = "now wrong" if dense == label else "now right" if predicted == label else "wrong in both"
        names = {"label": str(classes[label]), "dense": str(classes[dense]), "predicted": str(classes[predicted])}
        cards.append({"image": image, "index": index, "verdict": verdict, **names})
    return cards


# ----------------------------------------------------------------------------------------------------------- reproduction


def _reproduction(result_set: ResultSet) -> dict[str, Any]:
    first: dict[str, Any] = result_set.results[0]
    environment = first["config"]["environment"]
    recipe = first["config"]["options"]["finetune"]
    unused = ("step_size", "gamma", "milestones") if recipe.get("schedule") == "cosine" else ()
    shown = ", ".join(f"{k} {v}" for k, v in recipe.items() if v not in (False, [], None) and k not in unused)
    return {
        "environment": environment,
        "threads": count_threads(first),
        "fingerprint": first["config"]["data_fingerprint"],
        "tuning": f"Fine-tuning options: {shown}." if recipe["epochs"] else "No network was fine-tuned.",
        "results": [r for r in result_set.results if not (r["chain"] and r["step"] < len(r["chain"]))],
    }
