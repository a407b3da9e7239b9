"""Check the promises of an original repository's README, listed in ``tests/original_readme.txt``.

One promise per line, ``kind: text``; ``#`` starts a comment line, and an indented line continues the line above it:

- ``command: python search.py --max_iters=20 | tee search.txt``: a command line as in the README
- ``produces: search.txt``: a file, or glob pattern, that the command above it writes
- ``option: train.py --data``: an option in the output of ``-h``
- ``file: prune_model.ipynb``: a file in the package's folder
- ``name: main.iditer``: a name that a top-level script defines
- ``row: ResNet-56 | 0.75 | 93.18% | 32.82%``: a row of a results table; its first cell is a label

>>> PROMISES = read_promises(__file__)
>>> def test_original_readme_rows_are_published():
...     check_rows(PROMISES, published_records(PUBLISHED))
>>> def test_original_readme_commands_run(tmp_path):
...     folder = copy_package("redundancy_graph", tmp_path)
...     write_tiny_dataset(folder / "cifar10" / "dataset")
...     check_commands(PROMISES, folder, small={"prune_cifar10.py": "--epochs 1"})
"""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from common.reporting.published import PublishedTable
from common.testing.generated_docs import source_folder
from common.testing.pages import command_environment

KINDS = ("command", "produces", "option", "file", "name", "row")
NOT_COPIED = ("src", "tests", "benchmarks", "results", "docs", "runs", "data", "__pycache__", ".*", "README.md")
NUMBER = re.compile(r"(?<![\w.])(?<!\w-)[-+]?\d[\d,]*(?:\.\d+)?")  # not in ResNet-56, VGG16


@dataclass(frozen=True)
class Promise:
    """One line of ``original_readme.txt``: its kind, its text, and its line number."""

    kind: str
    text: str
    line: int


def read_promises(test_file: str | Path) -> tuple[Promise, ...]:
    """Read ``original_readme.txt`` next to a test file (or a file itself); an unknown kind raises AssertionError."""
    path = Path(test_file)
    path = path if path.suffix == ".txt" else path.parent / "original_readme.txt"
    promises: list[Promise] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            last = promises.pop()
            promises.append(Promise(last.kind, f"{last.text}\n{line}", last.line))
            continue
        kind, colon, text = line.partition(": ")
        assert colon and kind in KINDS, f"{path}, line {number}: expected one of {', '.join(KINDS)}, got {line!r}"
        promises.append(Promise(kind, text.strip(), number))
    assert promises, f"{path}: no promises"
    return tuple(promises)


def of_kind(promises: Iterable[Promise], kind: str) -> list[Promise]:
    """Return the promises of one kind; none at all raises AssertionError, so that no test is empty."""
    found = [promise for promise in promises if promise.kind == kind]
    assert found, f"no line begins with {kind!r}"
    return found


def copy_package(package: str, to: Path) -> Path:
    """Copy the scripts and notebooks of a package's folder into ``to/package`` and return that folder."""
    home = source_folder(package).parents[1]
    return Path(shutil.copytree(home, to / package, ignore=shutil.ignore_patterns(*NOT_COPIED)))


def check_files(promises: Iterable[Promise], package: str) -> None:
    """Check that each promised file exists in the package's folder."""
    home = source_folder(package).parents[1]
    missing = [promise for promise in of_kind(promises, "file") if not (home / promise.text).is_file()]
    assert not missing, f"missing files: {missing}"


def check_options(promises: Iterable[Promise], package: str) -> None:
    """Check that the output of ``-h`` of each script contains the promised options."""
    home = source_folder(package).parents[1]
    helps: dict[str, str] = {}
    missing = []
    for promise in of_kind(promises, "option"):
        script, option = promise.text.split()
        if script not in helps:
            call = [sys.executable, script, "-h"]
            helps[script] = subprocess.run(
                call, cwd=home, capture_output=True, text=True, timeout=60, check=True
            ).stdout
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", helps[script]):
            missing.append(promise)
    assert not missing, f"options missing in -h: {missing}"


def check_names(promises: Iterable[Promise], package: str) -> None:
    """Check that each promised name can be imported from a top-level script, as in ``from main import iditer``."""
    home = source_folder(package).parents[1]
    scopes: dict[str, dict[str, Any]] = {}
    missing = []
    for promise in of_kind(promises, "name"):
        module, _, name = promise.text.partition(".")
        if module not in scopes:
            with mock.patch.object(sys, "path", [str(home), *sys.path]):
                scopes[module] = runpy.run_path(str(home / f"{module}.py"), run_name=module)
        if name not in scopes[module]:
            missing.append(promise)
    assert not missing, f"names that cannot be imported: {missing}"


def check_rows(promises: Iterable[Promise], records: Iterable[Iterable[float]]) -> None:
    """Check that all numbers of each promised row are in one record, that is, one row of the published data.

    records: Numbers of each published row: see :func:`published_records` and :func:`numbers_in`.
    """
    known = [{round(float(value), 6) for value in record} for record in records]
    missing = [
        promise
        for promise in of_kind(promises, "row")
        if not any(row_numbers(promise.text) <= record for record in known)
    ]
    assert not missing, f"rows that are not in the published data: {missing}"


def row_numbers(text: str) -> set[float]:
    """Return the numbers of a table row without its first cell, which is a label; units and signs such as % are dropped."""
    cells = text.partition("|")[2]
    assert cells.strip(" |"), f"expected 'label | number | ...', got {text!r}"
    return {round(float(number.replace(",", "")), 6) for number in NUMBER.findall(cells.replace("−", "-"))}


def numbers_in(value: Any) -> Iterator[float]:
    """Yield all numbers in nested data: dataclasses, mappings (also their keys), sequences and texts."""
    if isinstance(value, str):
        yield from (float(number.replace(",", "")) for number in NUMBER.findall(value))
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from numbers_in(item)
    elif isinstance(value, Sequence | set | frozenset):
        for item in value:
            yield from numbers_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from numbers_in(vars(value))


def published_records(tables: Iterable[PublishedTable]) -> Iterator[set[float]]:
    """Yield the numbers of each row of published tables, with its drops of top-1 and top-5, and of each dense network."""
    for table in tables:
        dense = [value for value in (table.top1, table.top5, table.macs, table.params) if value is not None]
        yield {0.0, *dense}
        for row in table.rows:
            record = set(numbers_in(row))
            for before, after in ((table.top1, row.top1), (table.top5, row.top5)):
                if before is not None and after is not None:
                    record.add(round(before - after, 2))
            yield record


def check_commands(
    promises: Iterable[Promise],
    folder: Path,
    small: Mapping[str, str] | None = None,
    fill: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> None:
    """Run each promised command in bash, verbatim, and check its exit status and the files promised below it.

    ``python`` is a wrapper that appends options to the promised ones. One thread per process.

    Args:
        promises: Lines of the kinds command and produces, in order; others are ignored.
        folder: Copy of the package's folder (:func:`copy_package`) with its data.
        small: {script, or module after ``-m``: options that are appended to its calls}. Key "" is for all others.
        fill: {placeholder of the README, such as "<savedir>": text}.
        seconds: Limit for one command.
    """
    environment = command_environment(folder, small or {})
    of_kind(promises := list(promises), "command")
    for promise in promises:
        text = promise.text
        for placeholder, value in (fill or {}).items():
            text = text.replace(placeholder, value)
        if promise.kind == "command":
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", text],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds,
            )
            assert done.returncode == 0, f"{promise}: exit status {done.returncode}\n{done.stdout[-3000:]}"
        elif promise.kind == "produces":
            assert any(folder.glob(text)), f"{promise}: not written; files: {sorted(_files(folder))}"


def _files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
