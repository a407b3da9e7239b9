"""Describe files of records: JSON, CSV, lines of JSON, plans of campaigns, and text."""

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from common.descriptions.description import Bars, Description, Number, Table, amount
from common.descriptions.run_records import (
    COSTS,
    command_of,
    network_costs,
    number,
    read_record,
    recorded_widths,
    report_metrics,
    report_widths,
    run_facts,
    table,
    text,
)
from common.errors import UserError
from common.runs import CONFIG, METRICS, NETWORKS

FINISHED = "finished"
# Names in the records of all runs, which are described together.
COMMON = (
    "schema",
    "package",
    "arch",
    "dataset",
    "seed",
    "device",
    "commit",
    "seconds",
    "agreement",
    "data_fingerprint",
)
LISTED = 12  # rows of a table
JOBS = 24  # rows of a table of jobs
JOB_STATES = ("running", "failed", "unfinished", "done", "waiting")  # in the order of the table
COLUMNS = 7  # of a table
FACTS = 16
TEXT_LIMIT = 300  # letters of a value
FILE_LIMIT = 64 * 2**20
TAIL = 2**16  # bytes at the end of a text file
FRACTION = re.compile(r"(\d{1,9})/(\d{1,9})")


def describe_json(path: Path, content: Any) -> Description:
    """Describe the content of a JSON file by its form."""
    if isinstance(content, list):
        return Description("list", [("entries", f"{len(content):,}")], tables=_tables({"entries": content}))
    if not isinstance(content, dict):
        return Description("single value", [("value", str(content)[:TEXT_LIMIT])])
    for names, describe in FORMS:
        if set(names) <= set(content):
            return describe(path, content)
    return describe_table(path, content)


def describe_table(path: Path, content: Mapping[str, Any], kind: str = "table of values") -> Description:
    """Describe any table: command, circumstances and single values, quantities of layers, and lists of tables."""
    facts = {"network": name} if (name := text(content.get("arch"))) else {}
    facts |= dict(run_facts({}, content) + run_facts(content, {}))
    costs = network_costs(content) or network_costs({"baseline": content})
    shown = {*facts, *NETWORKS, "command", "environment", *(COSTS if costs else ()), *COMMON}
    facts |= _single_values(content, shown - ({"seed"} if "data" not in facts else set()))
    return Description(kind, list(facts.items()), costs, _bars(content), _tables(content))


def _single_values(content: Mapping[str, Any], without: Collection[str]) -> dict[str, str]:
    """Return the first single values of a table, and of the tables in it, as text. without: names that are left out."""
    found: dict[str, str] = {}
    for name, value in content.items():
        inner = value.items() if isinstance(value, dict) and name not in without else [("", value)]
        for key, single in islice(inner, FACTS):
            if (
                name not in without
                and key not in COMMON
                and isinstance(single, str | int | float | bool)
                and not _is_fraction(single)
            ):
                label = f"{name} {key}".strip().replace("_", " ")
                found[label[:24]] = amount(number(single)) or str(single)[:TEXT_LIMIT]
    return dict(list(found.items())[:FACTS])


def _is_fraction(value: Any) -> bool:
    return isinstance(value, str) and FRACTION.fullmatch(value) is not None


def _bars(content: Mapping[str, Any]) -> list[Bars]:
    """Return the widths in a table, under any name: {layer: [kept, dense]}, or {layer: "kept/dense"}."""
    widths = recorded_widths(content)
    if widths:
        return [Bars("channels per layer", widths)]
    inner = [value for value in content.values() if isinstance(value, dict)]
    for values in (*inner, *(value for entry in inner for value in entry.values() if isinstance(value, dict))):
        pairs = [FRACTION.fullmatch(value) if isinstance(value, str) else None for value in values.values()]
        if pairs and all(pairs):
            rows = zip(values, pairs, strict=True)
            return [Bars("channels per layer", [(name, int(pair[1]), int(pair[2])) for name, pair in rows if pair])]
    return []


def _tables(content: Mapping[str, Any]) -> list[Table]:
    """Return the lists of tables in a table, with their first columns and rows."""
    return [
        rows_table(name, value)
        for name, value in list(content.items())[:100]
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    ][:2]


def rows_table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), limit: int = LISTED
) -> Table:
    """Return the first rows of a list of tables. columns: names of the columns; default: the first single values."""
    found = [name for name in columns if any(name in row for row in rows)]
    if not columns:
        singles = {
            name: None for row in rows[:LISTED] for name, value in row.items() if isinstance(value, str | int | float)
        }
        found = [name for name in singles if name != "command"][:COLUMNS]
    return Table(
        f"{title}{_first(len(rows), limit)}", found, [[_cell(row.get(name)) for name in found] for row in rows[:limit]]
    )


def _first(count: int, limit: int) -> str:
    """Return a remark for the title of a table that is not complete."""
    return f" (first {limit} of {count:,})" if count > limit else ""


def _cell(value: Any) -> str:
    found = number(value)
    if found is not None:
        return amount(found)
    return "" if value is None or isinstance(value, dict | list) else str(value)[:160]


def _metrics(path: Path, content: Mapping[str, Any]) -> Description:
    """Describe metrics.json, also of a run that was copied to results/ or weights/."""
    config = content if "options" in content else read_record(path.with_name(CONFIG), "options")
    facts = [("network", name)] if (name := text(content.get("arch"))) else []
    facts += run_facts(config, content)
    file = text(content.get("file"))
    facts += [("file", file)] if file else []
    if not any(table(content.get(name)) for name in NETWORKS):
        single = _single_values(content, {"options", "environment", "label", "command", "variant", *COMMON})
        facts += list(single.items())
    kind = f"metrics of a finished run of {content['package']}"
    log = content.get("log")
    tables = _tables({"log": log[-LISTED:]}) if isinstance(log, list) else []
    return Description(kind, facts, network_costs(content), _bars(content), tables, FINISHED)


def _config(path: Path, content: Mapping[str, Any]) -> Description:
    metrics = read_record(path.with_name(METRICS), "schema")
    facts = [("network", name)] if (name := text(table(content.get("options")).get("arch"))) else []
    facts += run_facts(content, metrics) + [("options", _options(table(content.get("options"))))]
    environment = table(content.get("environment"))
    versions = ", ".join(f"{name} {version}" for name, version in table(environment.get("versions")).items() if version)
    facts += [("versions", versions)] if versions else []
    state = FINISHED if metrics else "not finished"
    return Description(f"configuration of a run of {content['package']}, {state}", facts, network_costs(metrics))


def _options(options: Mapping[str, Any]) -> str:
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value not in (None, False) and value != [] and value != {}:
            shown = (
                " ".join(map(str, value))
                if isinstance(value, list)
                else json.dumps(value)
                if isinstance(value, dict)
                else value
            )
            words.append(f"{option} {str(shown)[:TEXT_LIMIT]}")
    return " ".join(words)


def _decision(path: Path, content: Mapping[str, Any]) -> Description:
    """Describe decision.json: the channels that a method keeps."""
    metrics = read_record(path.with_name(METRICS), "schema")
    dense = {layer: full for layer, _, full in recorded_widths(metrics)}
    kept = {name: channels for name, channels in table(content["kept"]).items() if isinstance(channels, list)}
    rows: list[tuple[str, Number, Number | None]] = [
        (name, len(channels), dense.get(name)) for name, channels in kept.items()
    ]
    facts = run_facts(read_record(path.with_name(CONFIG), "options"), metrics)
    facts += list(_single_values(table(content["report"]), ["policy"]).items())
    return Description(
        "decision of a method: the channels to keep", facts, bars=[Bars("channels per layer", rows)] if rows else []
    )


def _report(path: Path, content: Mapping[str, Any]) -> Description:
    """Describe the report of ``compress``, which is stored next to the network."""
    metrics = report_metrics(content)
    facts = run_facts({}, metrics) + [("file", str(content["file"])[:TEXT_LIMIT])]
    examples = number(content.get("examples"))
    facts += (
        [("measured on", f"{amount(examples)} examples{'' if content.get('labeled') else ' without labels'}")]
        if examples
        else []
    )
    widths = [(name, after, before) for name, before, after in report_widths(content)]
    excluded = list(table(content.get("excluded")).items())
    tables = (
        [Table("left alone", ("layer", "reason"), [(name, str(reason)) for name, reason in excluded[:LISTED]])]
        if excluded
        else []
    )
    bars = [Bars("channels of the layers that became narrower", widths)] if widths else []
    return Description("report of a compression", facts, network_costs(metrics), bars, tables, FINISHED)


def _campaign(path: Path, content: Mapping[str, Any]) -> Description:
    """Describe the jobs of a campaign folder, with their states."""
    from common.campaign.campaign_folder import CampaignFolder
    from common.campaign.job_states import job_state

    folder = CampaignFolder(path.parent)
    try:
        jobs = folder.jobs()
    except UserError:
        return describe_table(path, content, "list of jobs")
    rows = sorted(
        ((job["name"], *job_state(folder, job)) for job in jobs),
        key=lambda row: JOB_STATES.index(row[1]) if row[1] in JOB_STATES else len(JOB_STATES),
    )
    states = Counter(state for _, state, _ in rows)
    facts = [("jobs", ", ".join(f"{count} {state}" for state, count in states.items()))]
    return Description(
        "jobs of a campaign", facts, tables=[Table(f"jobs{_first(len(rows), JOBS)}", ("job", "state", ""), rows[:JOBS])]
    )


def _job(path: Path, content: Mapping[str, Any]) -> Description:
    facts = run_facts({}, content) + [
        (name, str(content[name])[:TEXT_LIMIT]) for name in ("at", "identity") if name in content
    ]
    return Description("record of a finished job of a campaign", facts, status=FINISHED)


def _benchmark(path: Path, content: Mapping[str, Any]) -> Description:
    facts = run_facts(content, {}) + [("command", command_of(content, {})), ("unit", str(content["unit"])[:40])]
    medians = [(name, amount(value)) for name, value in table(content["medians"]).items() if number(value) is not None]
    tables = [Table(f"medians ({str(content['unit'])[:40]})", ("", "median"), medians)]
    values = (
        [value for value in content["values"] if isinstance(value, dict)] if isinstance(content["values"], list) else []
    )
    tables += [rows_table("values", values, ("value", "unit", "quantity"))] if values else []
    return Description("result of a benchmark", list(dict(facts).items()), tables=tables)


FORMS = (
    (("method", "target", "metrics", "widths", "file"), _report),
    (("schema", "package"), _metrics),
    (("package", "options", "environment"), _config),
    (("kept", "report"), _decision),
    (("jobs",), _campaign),
    (("identity", "command", "seconds"), _job),
    (("unit", "medians", "values"), _benchmark),
)


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > FILE_LIMIT:
        raise UserError(f"{path}: larger than {FILE_LIMIT} bytes")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header. Raises UserError if it is damaged or too large."""
    _check_size(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path}: damaged: a row has another number of cells than the header")
    return rows


def read_log(path: Path) -> list[dict[str, float]]:
    """Read the numbers of a training log, one dictionary per row. Raises UserError."""
    return [
        {name: value for name, cell in row.items() if (value := _float(cell)) is not None} for row in read_csv(path)
    ]


def _float(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def describe_csv(path: Path) -> Description:
    """Describe a CSV file: rows and columns, the last rows, and the best values of a training log. Raises UserError."""
    rows = read_csv(path)
    columns = list(rows[0]) if rows else []
    facts = [("rows", f"{len(rows):,}"), ("columns", ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else ""))]
    facts += run_facts(read_record(path.with_name(CONFIG), "options"), read_record(path.with_name(METRICS), "schema"))
    for column in [name for name in columns if name.endswith("top1")][:3]:
        best = max((value for row in rows if (value := _float(row[column])) is not None), default=None)
        facts += [(f"best {column}", f"{best:.2f} %")] if best is not None else []
    shown = [
        [f"{float(row[name]):.6g}" if _float(row[name]) is not None else row[name][:40] for name in columns[:COLUMNS]]
        for row in rows[-LISTED:]
    ]
    title = f"last {len(shown)} rows" if len(rows) > LISTED else "rows"
    kind = "log of a run" if path.name == "log.csv" else "table"
    return Description(kind, facts, tables=[Table(title, columns[:COLUMNS], shown)] if shown else [])


def describe_lines(path: Path) -> Description:
    """Describe a file with one JSON table per line. Raises UserError."""
    _check_size(path)
    rows, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        rows += [row] if isinstance(row, dict) else []
        damaged += row is None
    facts = [("lines", f"{len(rows):,}" + (f", and {damaged:,} damaged ones" if damaged else ""))]
    return Description("lines of records", facts, tables=[rows_table("records", rows)] if rows else [])


def describe_plan(path: Path) -> Description:
    """Describe a plan of a campaign. Raises UserError."""
    from common.campaign.plan import read_plan

    _check_size(path)
    jobs = read_plan(path)
    packages = Counter(job.package for job in jobs)
    tags = Counter(tag for job in jobs for tag in job.tags)
    facts = [("jobs", f"{len(jobs):,}: " + ", ".join(f"{count} of {name}" for name, count in packages.items()))]
    facts += [("tags", ", ".join(f"{tag} ({count})" for tag, count in tags.items()))] if tags else []
    facts.append(("run it with", f"python -m common.campaign run {path}"))
    rows = [
        (job.name, ", ".join(job.needs), f"{job.priority:g}", " ".join(job.command[: 2 + (job.command[1] == "-m")]))
        for job in jobs[:JOBS]
    ]
    more = _first(len(jobs), JOBS)
    return Description(
        "plan of a campaign", facts, tables=[Table(f"jobs{more}", ("job", "needs", "priority", "command"), rows)]
    )


def describe_text(path: Path, kind: str) -> Description:
    """Describe a text file: its number of bytes and its last lines."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - TAIL))
        lines = file.read(TAIL).decode("utf-8", "replace").splitlines()
    shown = [[line.expandtabs(4)] for line in lines[-LISTED:]]
    return Description(f"{kind}, {size:,} bytes", tables=[Table("last lines", ("",), shown)] if shown else [])
