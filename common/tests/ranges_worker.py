"""Try invalid values and conflicting options of all commands; print a JSON object.

    python ranges_worker.py CONFLICTS PACKAGE_FOLDER...

Each value of each number must be rejected with exit status 2 and one line that states the range, before the command starts and
without torch; so must the conflicts, a JSON list of (settings class, arguments, part of the error).
"""

import contextlib
import dataclasses
import importlib
import io
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.cli import INVALID_INPUT, range_of
from common.settings import command

NO_NUMBERS = ("nan", "inf", "-inf", "1e400", str(10**23), str(-(10**23)), "9" * 5000, "much", "0x10")


def settings_classes(home: Path) -> Iterator[type]:
    """Return the settings classes in a package's folder: commands and sections."""
    for file in sorted((home / "src").rglob("*.py")):
        if "\n@settings\n" in file.read_text(encoding="utf-8"):
            name = ".".join(file.relative_to(home / "src").with_suffix("").parts)
            module = importlib.import_module(name)
            yield from (cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == name)


def numbers(cls: type) -> Iterator[tuple[dataclasses.Field, type]]:
    """Return the options that are numbers or contain numbers, and the type of the numbers."""
    hints: dict[str, Any] = vars(cls).get("__option_types__", {})
    for field in dataclasses.fields(cls) if hints else ():
        kinds = {int, float} & set(parts(hints[field.name]))
        if "option" in field.metadata and kinds:
            yield field, kinds.pop()


def parts(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(hint):
        yield from parts(inner)


def arguments(field: dataclasses.Field, name: str, value: str) -> list[str]:
    count = field.metadata["option"][3].get("nargs")
    return [name, *[value] * count] if isinstance(count, int) else [f"{name}={value}", *(["7"] if count == "+" else [])]


def problem(cls: type, words: list[str], limits: str) -> str:
    """Return what is wrong with the response of a command to an invalid value; empty if nothing is."""
    errors, started = io.StringIO(), []
    with contextlib.redirect_stderr(errors):
        status = command(cls, started.append, words, "prog")
    error = errors.getvalue()
    if status != INVALID_INPUT or started:
        return f"exit status {status}"
    good = error.startswith("error: ") and error.count("\n") == 1 and len(error) < 300 and limits in error
    return "" if good else error


def conflicts(table: list[tuple[str, str, str]]) -> Iterator[str]:
    """Return what is wrong with the responses to conflicting options."""
    for place, words, part in table:
        module, _, name = place.rpartition(".")
        if wrong := problem(getattr(importlib.import_module(module), name), words.split(), part):
            yield f"{place} {words}: {wrong}"


def main(table: str, *homes: str) -> None:
    tried, problems = 0, list(conflicts(json.loads(table)))
    for cls in (cls for home in homes for cls in settings_classes(Path(home))):
        for field, kind in numbers(cls):
            name = next(iter(field.metadata["option"][1]), f"--{field.name.replace('_', '-')}")
            argument = field.metadata["option"][3]
            where, limits = (
                f"{cls.__module__}.{cls.__name__} {name}",
                range_of(argument.get("type"), argument.get("action")),
            )
            if limits is None or not max(abs(limits.low), abs(limits.high)) < 1e10:
                problems.append(f"{where}: the range is {limits}")
                continue
            values = [*NO_NUMBERS, *(value for value in ("-1", "0") if int(value) not in limits)]
            for value in [*values, "1.5"] if kind is int else values:
                given = f"layer={value}" if limits.named else value
                tried += 1
                if wrong := problem(cls, arguments(field, name, given), str(limits)):
                    problems.append(f"{where} {value[:30]}: {wrong}")
    print(json.dumps({"tried": tried, "problems": problems, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
