"""Read the results of a comparison from disk and aggregate them over the seeds: mean and sample standard deviation."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any

from common.errors import UserError, printable
from common.runs import CONFIG, METRICS, read_record
from compare.plan import UNREACHABLE_NAMES, planned_missing
from compare.record_form import (
    BASELINE,
    CONFIG_OF_RESULT,
    LATENCY_FILE,
    REPORTED,
    RESULT,
    UNREACHABLE_TARGET,
    check_form,
    damaged,
)
from compare.settings import PACKAGE

ResultRecord = dict[str, Any]  # metrics.json, with ``folder``, ``config`` and ``label_so_far``
ReadMetric = Callable[[ResultRecord], float | None]
NOT_RUN, NOT_DEFAULT, UNREACHED = "not run", "not run by default", "no target reached"
LATENCY = "latency.json"  # the times of all networks, measured at the end
EXTENDED = "_extended"  # suffix of the name of a paper's extended variant
SHOWN = 24  # the largest number of images with changed predictions that a result keeps
LONGEST_NAME = 120  # letters in a report

# {column of results.csv: function that reads it from a result}. Latencies are milliseconds per batch.
METRIC_READERS: dict[str, ReadMetric] = {
    "dense_top1": lambda result: result["baseline"]["top1"],
    "pruned_top1": lambda result: result["after_cut"]["top1"],
    "pruned_agreement": lambda result: result["after_cut"]["agreement"],
    "top1": lambda result: result["compressed"]["top1"],
    "agreement": lambda result: result["compressed"]["agreement"],
    "macs": lambda result: result["compressed"]["macs"],
    "macs_kept": lambda result: result["kept"]["macs"],
    "params": lambda result: result["compressed"]["params"],
    "nonzero_params": lambda result: result["compressed"]["nonzero_params"],
    "bytes": lambda result: result["compressed"]["bytes"],
    "bytes_kept": lambda result: result["kept"]["bytes"],
    "ms_batch1": lambda result: _milliseconds(result, "1"),
    "ms_batch64": lambda result: _milliseconds(result, "64"),
    "latency1_kept": lambda result: _relative_latency(result, "1"),
    "latency64_kept": lambda result: _relative_latency(result, "64"),
    "seconds": lambda result: result["seconds"],
}


ACCURACIES = ("dense_top1", "pruned_top1", "pruned_agreement", "top1", "agreement")  # percentages of the test images


def binomial_error(percent: float, count: int) -> float:
    """Return the standard error of a percentage of ``count`` images, in points.

    One hit and one miss are added to the images, so that the error is not 0 at 0 or 100 %.
    """
    p = (percent / 100 * count + 1) / (count + 2)
    return 100 * sqrt(p * (1 - p) / count)


def latency_record(result: ResultRecord, batch: str) -> dict[str, Any] | None:
    """Return what was measured of a latency (:meth:`common.timing.Timing.record`); None if nothing was, or without a control."""
    return result.get("latency", {}).get(batch)


def _relative_latency(result: ResultRecord, batch: str) -> float | None:
    """Return the latency as a fraction of the dense network's; None if it was not measured, or not on an idle machine."""
    record = latency_record(result, batch)
    return None if record is None or record.get("disturbed") else record["ratio"]


def _milliseconds(result: ResultRecord, batch: str) -> float | None:
    return None if _relative_latency(result, batch) is None else result["compressed"].get("latency_ms", {}).get(batch)


@dataclass(frozen=True)
class ResultSet:
    """The results of a comparison. A result is one method at one target with one seed.

    Attributes:
        out: Folder of the comparison.
        results: Finished results, each with its ``folder`` and ``config``.
        baselines: Metrics of the dense networks.
        unreachable: Targets that could not be reached, each with its ``folder`` and ``reason``.
        absent: {method without any result: reason}.
        missing: A sentence on results that commands have asked for and that are missing; empty if none is.
    """

    out: Path
    results: list[ResultRecord]
    baselines: list[ResultRecord]
    unreachable: list[ResultRecord]
    absent: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class ResultGroup:
    """The results of one method (or step of a chain) at one target, over all seeds."""

    results: tuple[ResultRecord, ...]

    @property
    def first(self) -> ResultRecord:
        return self.results[0]

    @property
    def label(self) -> str:
        return self.first["label"]

    @property
    def name(self) -> str:
        """Label; for a step of a chain, the labels of all methods up to this step: "ID + DECORE"."""
        return self.first["label_so_far"]

    @property
    def is_reference(self) -> bool:
        """Whether the method is a reference method, not a variant of a paper."""
        return self.first["variant"] == "reference"

    @property
    def missed(self) -> bool:
        """Whether any result misses its target."""
        return any(result["missed"] for result in self.results)

    @property
    def finetuned(self) -> bool:
        """Whether any result was fine-tuned after pruning."""
        return any(result["finetune_epochs"] for result in self.results)

    def has(self, metric: str) -> bool:
        """Whether the metric was measured in any result."""
        return bool(self.values(metric))

    def values(self, metric: str) -> list[float]:
        return [float(value) for result in self.results if (value := METRIC_READERS[metric](result)) is not None]

    def mean(self, metric: str) -> float:
        return statistics.mean(self.values(metric))

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over the seeds; None for a single seed."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def test_images(self) -> int | None:
        """Number of test images; None if it is not recorded (results of older versions)."""
        counts = {result.get("test_images") for result in self.results}
        return counts.pop() if len(counts) == 1 else None

    def noise(self, metric: str) -> float | None:
        """Standard deviation over the seeds; for a single seed, the standard error of the test set. None if unknown."""
        values, count = self.values(metric), self.test_images
        if len(values) == 1 and metric in ACCURACIES and count:
            return binomial_error(values[0], count)
        return self.std(metric)

    def mean_difference(self, metric: str) -> float:
        """Mean difference of an accuracy from that of the dense network of the same seed, in points."""
        read, dense = METRIC_READERS[metric], METRIC_READERS["dense_top1"]
        return statistics.mean(float(read(result) or 0) - float(dense(result) or 0) for result in self.results)

    def fraction_kept(self, size: str) -> float | None:
        """Mean fraction that is kept of the dense network's MACs, parameters or bytes; None if the latter has none."""
        pairs = [(result["compressed"][size], result["baseline"][size]) for result in self.results]
        return statistics.mean(small / dense for small, dense in pairs) if all(dense for _, dense in pairs) else None


def read_results(out: Path) -> ResultSet:
    """Read all results below the folder of a comparison. Raises UserError for results that are damaged or of an earlier version.

    Control characters in names, which a terminal would interpret, are replaced.
    """
    check_variants(out)
    files = sorted([*out.glob(f"seed*/*/{METRICS}"), *out.glob(f"seed*/*/step*/{METRICS}")])
    results: list[ResultRecord] = []
    baselines: list[ResultRecord] = []
    for file in [*sorted(out.glob(f"baseline/{METRICS}")), *files]:
        result = _read(file)
        if result.get("package") != PACKAGE and file.parent.name != "baseline":
            continue
        config = _read(file.parent / CONFIG)
        result |= {"folder": printable(file.parent.relative_to(out)), "config": config}
        if "method" in result:
            _check_result(file, result, results)
        else:
            check_form(file, result, BASELINE)
        (results if "method" in result else baselines).append(result)
    add_chain_labels(results)
    _add_latency(results, baselines, read_latency(out))
    unreachable = [_read_unreachable(file, out) for file in _unreachable(out)]
    return ResultSet(out, results, baselines, unreachable, missing=printable(planned_missing(out)))


def read_latency(out: Path) -> dict[str, Any] | None:
    """Read the times of a comparison; None if none were measured. Raises UserError if the file is damaged."""
    file = out / LATENCY
    if not file.is_file():
        return None
    record = read_record(file)
    check_form(file, record, LATENCY_FILE, "delete it")
    return record


def _add_latency(
    results: Sequence[ResultRecord], baselines: Sequence[ResultRecord], record: Mapping[str, Any] | None
) -> None:
    """Add the times to the results that they were measured of, in place."""
    if record is None:
        return
    for dense in baselines:
        dense["baseline"] = {**dense["baseline"], "latency_ms": record["dense_ms"]}
    for result in results:
        timed = record["results"].get(result["folder"])
        if timed is not None:
            result["baseline"] = {**result["baseline"], "latency_ms": record["dense_ms"]}
            result["compressed"] = {**result["compressed"], "latency_ms": timed["ms"]}
            result["latency"] = timed["relative"]


def _read(file: Path) -> dict[str, Any]:
    try:
        return _printable(read_record(file))
    except RecursionError as error:
        raise damaged(file, "tables in more than a hundred tables") from error


def _read_unreachable(file: Path, out: Path) -> ResultRecord:
    record = _read(file)
    check_form(file, record, UNREACHABLE_TARGET)
    return {**record, "folder": printable(file.parent.relative_to(out))}


def _printable(value: Any) -> Any:
    """Replace the control characters in all texts of a record."""
    if isinstance(value, dict):
        return {printable(key): _printable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_printable(part) for part in value]
    return printable(value) if isinstance(value, str) else value


def _check_result(file: Path, result: ResultRecord, others: Sequence[ResultRecord]) -> None:
    """Raise UserError, naming the file, unless a result has the entries that tables read and is no copy of another one."""
    check_form(file, result, RESULT)
    chain = result["chain"]
    if result["axis"] is not None and (result["axis"] not in result["targets"] or result["target"] is None):
        raise damaged(file, f"no target for {result['axis']!r}")
    if chain and not 1 <= (result["step"] or 0) <= len(chain):
        raise damaged(file, f"'step' is {result['step']}, of {len(chain)} steps")
    same = next((other for other in others if _identity(other) == _identity(result)), None)
    if same is not None:
        raise UserError(f"{file}: the same method, target and seed as in {same['folder']}; delete one of these folders")


def _identity(result: ResultRecord) -> tuple:
    return (result["method"], result["chain"], result["step"], result["targets"], result["seed"])


def check_reported(result_set: ResultSet) -> None:
    """Raise UserError, naming the file, unless the results have the entries that only the report reads."""
    for result in result_set.results:
        folder = result_set.out / result["folder"]
        check_form(folder / METRICS, result, REPORTED)
        check_form(folder / CONFIG, result["config"], CONFIG_OF_RESULT)
        changed, classes = result.get("changed"), len(result_set.results[0]["classes"])
        counts = [len(result["classes"]), *map(len, result["per_class"].values())]
        if counts != [classes] * len(counts):
            raise damaged(
                folder / METRICS, f"{counts} classes and values per class, not {classes} as in the first result"
            )

        if changed and not _is_consistent(changed, classes):
            raise damaged(folder / METRICS, f"'changed' is not lists of equal length, of classes below {classes}")


def _is_consistent(changed: Mapping[str, Any], classes: int) -> bool:
    lists = [changed[name] for name in ("label", "dense", "predicted")]
    fits = all(len(one) == len(changed["index"]) <= SHOWN for one in lists)
    return fits and all(number < classes for one in lists for number in one)


def check_variants(out: Path) -> None:
    """Raise UserError if a result was written before a paper's method and its extension had separate names."""
    for config in (*out.glob(f"seed*/*/{CONFIG}"), *out.glob(f"seed*/*/step*/{CONFIG}")):
        content = read_record(config)
        if not isinstance(content.get("options"), dict):
            raise UserError(f"{config}: not a configuration of a run; delete its folder and run the comparison again")
        if content.get("package") == PACKAGE and content["options"].keys() & {"method", "variant"} == {"method"}:
            raise UserError(
                f"{config.parent}: a result of an earlier version, which does not say which variant of the method it is; "
                f"run: python scripts/migrate_results.py {out}"
            )


def absent_methods(result_set: ResultSet, known: Mapping[str, bool]) -> dict[str, str]:
    """Return {method without any result: reason}. known: {name of a method: whether it is run by default}."""
    tried = {name for one in result_set.unreachable for name in Path(one["folder"]).name.partition("-")[0].split("+")}
    found = {}
    for name, default in known.items():
        if any(name == result["method"] for result in result_set.results):
            continue
        found[name] = UNREACHED if name in tried else NOT_RUN if default else NOT_DEFAULT
    return found


def add_chain_labels(results: Sequence[ResultRecord]) -> None:
    """Set ``label_so_far``: the labels of a chain's methods up to the result's step."""
    labels = {result["method"]: result["label"] for result in results}
    for result in results:
        before = result["chain"][: result["step"] - 1] if result["chain"] else []
        result["label_so_far"] = " + ".join([*(labels.get(name, name) for name in before), result["label"]])


def with_short_names(result_set: ResultSet) -> ResultSet:
    """Return the results with names that fit in a table; different names stay different."""
    results = [
        {
            **result,
            **{key: _short(result[key]) for key in ("label", "arch", "dataset") if result[key]},
            **({"classes": [_short(name) for name in result["classes"]]} if "classes" in result else {}),
            **(
                {"widths": {_short(name): width for name, width in result["widths"].items()}}
                if "widths" in result
                else {}
            ),
        }
        for result in result_set.results
    ]
    add_chain_labels(results)
    return replace(result_set, results=results)


def _short(name: object) -> str:
    text = str(name)
    return (
        text
        if len(text) <= LONGEST_NAME
        else f"{text[:60]}... ({sha256(text.encode()).hexdigest()[:8]}, {len(text):,} letters)"
    )


def _unreachable(out: Path) -> list[Path]:
    return sorted(file for name in UNREACHABLE_NAMES for file in out.glob(f"seed*/*/{name}"))


def single_method_groups(result_set: ResultSet) -> list[ResultGroup]:
    """Group the results of single methods, sorted by axis, target (largest first) and method (see :func:`method_key`)."""
    return _grouped([result for result in result_set.results if not result["chain"]])


def chain_groups(result_set: ResultSet) -> list[ResultGroup]:
    """Group the results of chain steps, sorted by chain."""
    return _grouped([result for result in result_set.results if result["chain"]])


def _grouped(results: Iterable[ResultRecord]) -> list[ResultGroup]:
    found: dict[tuple, list[ResultRecord]] = {}
    for result in results:
        found.setdefault(_key(result), []).append(result)
    return [ResultGroup(tuple(sorted(found[key], key=lambda result: result["seed"]))) for key in sorted(found)]


def _key(result: ResultRecord) -> tuple:
    chain = tuple(result["chain"] or ())
    aims = tuple((axis != "macs", -target) for axis, target in sorted(result["targets"].items(), reverse=True))
    return (chain, aims, result["step"] or 0, *method_key(result))


def method_key(result: ResultRecord) -> tuple:
    """Sort key of a method: papers before reference methods; a paper's method, and directly below it its extended variant."""
    name, variant = result["method"], result["variant"]
    return (variant == "reference", name.removesuffix(EXTENDED), variant != "paper", result["label"], name)


def csv_rows(result_set: ResultSet) -> list[dict[str, Any]]:
    """Return one flat row per result."""
    return [
        {
            "method": result["method"],
            "variant": result["variant"],
            "label": result["label_so_far"],
            "chain": "+".join(result["chain"] or []),
            "step": result["step"],
            "seed": result["seed"],
            "axis": result["axis"],
            "target": result["target"],
            "missed": " ".join(result["missed"]),
            "finetune_epochs": result["finetune_epochs"],
            **{name: _rounded(read(result)) for name, read in METRIC_READERS.items()},
            "weights": result["weights"],
            "trains": result["trains"],
            "commit": result["commit"],
            "folder": result["folder"],
            "command": result["command"],
        }
        for result in result_set.results
    ]


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value
