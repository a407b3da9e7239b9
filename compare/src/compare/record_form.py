"""The form of the files from which a report is made: they may be damaged, edited, or of another program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError

REMEDY = "delete its folder and run the comparison again"
ANY = "*"  # key of a table with any keys, but at least one
Form = Any  # a function from a value to whether it fits; or a dict, list or OptionalEntry of forms, for a table, list or optional entry


@dataclass(frozen=True)
class OptionalEntry:
    """An entry of a table that may be missing."""

    form: Form


def number(low: float, high: float) -> Callable[[Any], bool]:
    """Return a form: a number in [low, high], and not NaN."""
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def plain(value: Any) -> bool:
    """A value that is shown as it is."""
    return value is None or isinstance(value, str | int | float | list)


def one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def or_none(form: Form) -> Callable[[Any], bool]:
    return lambda value: value is None or not _difference(value, form, "")


def width(value: Any) -> bool:
    """The channels of a layer, and those in the dense network."""
    return isinstance(value, list) and len(value) == 2 and number(0, 1e9)(value[0]) and number(1, 1e9)(value[1])


PERCENT, COUNT, FRACTION, SECONDS = number(0, 100), number(0, 1e18), number(1e-12, 1e3), number(0, 1e12)
TIMES = {"1": OptionalEntry(number(1e-9, 1e9)), "64": OptionalEntry(number(1e-9, 1e9))}
RATIO = number(1e-9, 1e9)
RELATIVE = {"ratio": RATIO, "low": RATIO, "high": RATIO, "disturbed": OptionalEntry(text)}
RELATIVES = {"1": OptionalEntry(RELATIVE), "64": OptionalEntry(RELATIVE)}
SIZE = {"macs": COUNT, "params": COUNT, "nonzero_params": COUNT, "bytes": COUNT}
DENSE = {"top1": PERCENT, **SIZE, "latency_ms": OptionalEntry(TIMES)}
NETWORK = {**DENSE, "agreement": PERCENT}
TARGETS = {axis: OptionalEntry(number(1e-12, 1)) for axis in ("macs", "latency", "bytes")}
BASELINE = {"baseline": DENSE}
RESULT = {  # metrics.json of a result
    "method": text,
    "label": text,
    "variant": one_of("paper", "extended", "reference"),
    "arch": or_none(text),
    "dataset": text,
    "seed": whole(0, 2**63),
    "chain": or_none([text]),
    "step": or_none(whole(1, 1000)),
    "axis": or_none(one_of("macs", "latency", "bytes")),  # None: the method has no target
    "targets": TARGETS,
    "target": or_none(number(1e-12, 1e3)),
    "missed": [text],
    "finetune_epochs": COUNT,
    "weights": text,
    "trains": flag,
    "paper": or_none(text),
    "note": OptionalEntry(or_none(text)),
    "seconds": SECONDS,
    "commit": or_none(text),
    "command": text,
    "kept": {"macs": FRACTION, "bytes": FRACTION},
    "baseline": DENSE,
    "after_cut": {"top1": PERCENT, "agreement": PERCENT},
    "compressed": NETWORK,
    "latency": OptionalEntry(RELATIVES),
    "test_images": OptionalEntry(whole(1, 10**12)),  # missing in results of older versions
}
CLASS = whole(0, 10**6)
CHANGED = {
    "count": COUNT,
    "lost": COUNT,
    "gained": COUNT,
    "index": [COUNT],
    "label": [CLASS],
    "dense": [CLASS],
    "predicted": [CLASS],
}
REPORTED = {  # what only report.html shows
    "classes": [plain],
    "per_class": {"top1": [PERCENT], "dense_top1": [PERCENT], "agreement": [PERCENT]},
    "widths": {ANY: width},
    "changed": OptionalEntry(CHANGED),
}
CONFIG_OF_RESULT = {  # config.json of a result
    "options": {
        "finetune": {"epochs": COUNT, "batch_size": COUNT, "learning_rate": number(0, 1e9), "schedule": text, "distill": OptionalEntry(or_none(PERCENT))}
    },
    "environment": {"device": text, "threads": whole(0, 10**6), "python": text, "versions": {ANY: or_none(text)}},
    "data_fingerprint": or_none(text),
}  # fmt: skip
LATENCY_FILE = {  # latency.json
    "environment": {"device": text},
    "dense_ms": TIMES,
    "results": OptionalEntry({ANY: {"digest": text, "ms": TIMES, "relative": RELATIVES}}),
}
UNREACHABLE_TARGET = {"reason": text}
PLAN = {  # plan.json
    "jobs": [{"methods": [text], "targets": TARGETS, "seed": whole(0, 2**63), "accept_unreachable": flag}],
}


def check_form(file: Path, record: Mapping[str, Any], form: Form, remedy: str = REMEDY) -> None:
    """Raise UserError, which names the file, the entry and a remedy, if a record does not have a form."""
    found = _difference(record, form, "")
    if found:
        raise damaged(file, found, remedy)


def damaged(file: Path, problem: str, remedy: str = REMEDY) -> UserError:
    return UserError(f"{file}: damaged: {problem}; {remedy}")


def _difference(value: Any, form: Form, name: str) -> str:
    """Return the first entry that does not fit, and its value; empty if all fit."""
    if isinstance(form, dict) and isinstance(value, dict):
        inner = form if ANY not in form else dict.fromkeys(value, form[ANY])
        for key, part in inner.items():
            optional, part = (True, part.form) if isinstance(part, OptionalEntry) else (False, part)
            if key not in value and not optional:
                return f"no {name}{key!r}"
            found = _difference(value[key], part, f"{name}{key!r}, ") if key in value else ""
            if found:
                return found
        return "" if inner else _shown(value, name)
    if isinstance(form, list) and isinstance(value, list):
        return next((found for one in value if (found := _difference(one, form[0], name))), "")
    return "" if callable(form) and form(value) else _shown(value, name)


def _shown(value: Any, name: str) -> str:
    if isinstance(value, dict | list):
        shown = "an empty list or table" if not value else "a list or table"
    else:
        shown = repr(value)[:40] if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return f"{name.removesuffix(', ')} is {shown}"
