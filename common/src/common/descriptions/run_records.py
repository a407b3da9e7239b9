"""Facts and costs from the records of a run: config.json, metrics.json, and reports next to a network's file.

The records may come from anyone: every value is checked where it is read, and a missing or invalid one is left out.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.checkpoint_header import INDEX
from common.descriptions.description import Number
from common.errors import UserError
from common.runs import CONFIG, INPUT_FILES, METRICS, MODEL, read_json

Record = Mapping[str, Any]
NOTHING: Record = {}
LARGEST = 1e30
NARROWER = "narrower"  # channels before the compression, by layer, of layers that became narrower
COSTS = {
    "top1": "top-1 (%)",
    "metric": "metric",
    "macs": "MACs",
    "params": "parameters",
    "nonzero_params": "nonzero parameters",
    "bytes": "bytes of the file",
}


def read_record(path: Path, *names: str) -> Record:
    """Read a JSON table that has these names; an empty one if the file is missing, damaged or something else."""
    try:
        content = read_json(path)
    except (UserError, OSError):
        return NOTHING
    return content if isinstance(content, dict) and set(names) <= set(content) else NOTHING


def records_of_network(path: Path) -> tuple[Record, Record]:
    """Return the configuration of the run that wrote a network's file, and the metrics of this file; empty if unknown."""
    name = path.name.removesuffix(INDEX)
    report = read_record(path.with_name(f"{name}.json"), "metrics", "widths", "method")
    if report:
        return NOTHING, report_metrics(report)
    beside = read_record(path.with_name(Path(name).stem + ".json"), "schema", "package")
    if beside:  # of a file that was copied with its metrics, as those in weights/
        return beside, beside
    config, metrics = read_record(path.with_name(CONFIG), "options"), read_record(path.with_name(METRICS), "schema")
    measured = text(metrics.get("file")) or MODEL
    is_measured = name == measured or (measured == MODEL and Path(name).stem == Path(MODEL).stem)
    return config, metrics if is_measured else NOTHING


def report_metrics(report: Record) -> Record:
    """Convert the report of ``compress`` to the form of metrics.json."""
    networks = table(report.get("metrics"))
    return {
        "baseline": networks.get("baseline"),
        "compressed": networks.get("compressed"),
        "label": report.get("method"),
        "target_text": report.get("target"),
        "note": report.get("note"),
        "seconds": report.get("seconds"),
        NARROWER: {str(name): before for name, before, _ in report_widths(report)},
    }


def report_widths(report: Record) -> list[tuple[str, Number, Number]]:
    """Return (layer, channels before, channels after) of the narrower layers in the report of ``compress``."""
    rows = report.get("widths")
    found = [row for row in rows if isinstance(row, list) and len(row) == 3] if isinstance(rows, list) else []
    return [(str(row[0]), *row[1:]) for row in found if number(row[1]) is not None and number(row[2]) is not None]


def run_facts(config: Record, metrics: Record) -> list[tuple[str, str]]:
    """Return (name, text) of the method, the sources, the command and the circumstances of a run."""
    options, environment = table(config.get("options")), table(config.get("environment"))
    found = {
        "method": _method(metrics, options),
        "data": _data(metrics, options),
        "weights": _weights(config, options),
        "training": _training(options),
        "command": command_of(config, metrics),
        "run": _circumstances(metrics, environment),
        "target missed": ", ".join(map(str, metrics["missed"])) if isinstance(metrics.get("missed"), list) else "",
        "note": text(metrics.get("note")) or "",
    }
    return [(name, value) for name, value in found.items() if value]


def command_of(config: Record, metrics: Record) -> str:
    """Return the command that wrote a run folder, as it can be typed; empty if no record has it."""
    found = metrics.get("command") or config.get("command")
    if isinstance(found, list) and all(isinstance(word, str) for word in found):
        return shlex.join(found)
    return text(found) or ""


def _method(metrics: Record, options: Record) -> str:
    label = text(metrics.get("label")) or text(metrics.get("method")) or text(options.get("method")) or ""
    name = text(metrics.get("method"))
    label += f" ({name})" if name and name != label else ""
    targets = table(metrics.get("targets")) or table(options.get("targets"))
    axes = {"macs": "MACs", "bytes": "bytes"}
    goals = [
        f"{100 * value:g} % of the {axes[axis]}" for axis in axes if (value := number(targets.get(axis))) is not None
    ]
    goals += [given] if (given := text(metrics.get("target_text"))) else []
    return ", ".join([label, *goals]) if label else ""


def _data(metrics: Record, options: Record) -> str:
    dataset = text(metrics.get("dataset")) or text(options.get("dataset"))
    if not dataset:
        return ""
    folder, seed = text(options.get("dataset_dir")), number(options.get("seed"))
    return dataset + (f" in {folder}" if folder else "") + (f", seed {seed}" if seed is not None else "")


def _weights(config: Record, options: Record) -> str:
    """Describe the network that the run started with: its file and digest."""
    digests = table(config.get("files"))
    for name in INPUT_FILES:
        file = text(options.get(name))
        if file:
            digest = text(digests.get(name))
            return file + (f" (SHA-256 {digest}...)" if digest else "")
    digest = next((d for n in ("start_digest", "weights_digest") if (d := text(options.get(n)))), "")
    return f"of a network with the digest {digest}" if digest else ""


def _training(options: Record) -> str:
    """Describe the training hyperparameters."""
    recipe = table(options.get("finetune")) or table(options.get("training")) or options
    epochs = number(recipe.get("epochs"))
    if not epochs:
        return ""
    names = {"batch_size": "batch size", "learning_rate": "learning rate", "optimizer": "", "schedule": ""}
    found = [f"{what} {recipe[name]}".strip() for name, what in names.items() if _is_shown(recipe.get(name))]
    return ", ".join([f"{epochs:g} epoch{'s' * (epochs != 1)}", *found])


def _is_shown(value: Any) -> bool:
    return number(value) is not None or (isinstance(value, str) and value != "")


def _circumstances(metrics: Record, environment: Record) -> str:
    seconds, commit = number(metrics.get("seconds")), text(metrics.get("commit")) or text(environment.get("commit"))
    device = text(metrics.get("device")) or text(environment.get("device"))
    parts = [duration(seconds)] if seconds is not None else []
    parts += [f"on {device}"] if device else []
    return " ".join(parts) + (f"{', ' if parts else ''}commit {commit[:12]}" if commit else "")


def duration(seconds: Number) -> str:
    """Format a duration."""
    if not 0 <= seconds < 1e12:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def network_costs(metrics: Record) -> list[tuple[str, Number | None, Number | None]]:
    """Return (name, dense, compressed) of accuracy and cost; only one network for the result of a training."""
    dense, pruned, small = (table(metrics.get(name)) for name in ("baseline", "after_cut", "compressed"))
    if not small:
        dense, small = {}, dense
    rows = []
    for key, name in COSTS.items():
        if number(small.get(key)) is not None and not (
            key == "nonzero_params" and small.get(key) == small.get("params")
        ):
            rows.append((name, number(dense.get(key)), number(small[key])))
        if key == "top1" and number(pruned.get(key)) not in (None, small.get(key)):
            rows.append(("top-1 before fine-tuning (%)", None, number(pruned[key])))
        for also, label in (("agreement", "agreement (%)"), ("output_change", "change of the outputs (%)")):
            if key == "metric" and number(small.get(also)) is not None:
                rows.append((label, None, number(small[also])))
    before, after = table(dense.get("latency_ms")), table(small.get("latency_ms"))
    for batch, value in after.items():
        if number(value) is not None:
            rows.append((f"ms, batch {batch[:10]}", number(before.get(batch)), number(value)))
    return rows


def recorded_widths(metrics: Record) -> list[tuple[str, Number, Number | None]]:
    """Return (layer, kept, dense) from metrics.json: {layer: [kept, dense]}; empty if it does not record the widths."""
    found: list[tuple[str, Number, Number | None]] = []
    for layer, pair in table(metrics.get("widths")).items():
        if not isinstance(pair, list) or len(pair) != 2 or any(number(value) is None for value in pair):
            return []
        found.append((layer, pair[0], pair[1]))
    return found


def table(value: Any) -> Record:
    """Return a value if it is a table of names, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    """Return a value if it is a text, otherwise None."""
    return value if isinstance(value, str) else None


def number(value: Any) -> Number | None:
    """Return a value if it is a number of reasonable size, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < LARGEST else None


def numbers(values: Any) -> Sequence[Number]:
    """Return the numbers of a list."""
    return [value for value in values if number(value) is not None] if isinstance(values, list) else []
