"""Check that today's parsers accept the commands stored in result files."""

import argparse
import importlib.util
import json
import os
import runpy
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from common import settings
from common.testing.generated_docs import source_folder
from common.testing.processes import record_python_calls


def check_stored_commands(package: str) -> int:
    """Parse every command in the result files of a package, as if it were typed in a package's folder: this one or another.

    Returns:
        The number of different commands.
    """
    home = source_folder(package).parents[1]
    commands = sorted({text for file in sorted(home.glob("results/*.json")) for text in _commands(_read(file))})
    rejected = {text: why for text in commands if (why := rejection_reason(home, shlex.split(text)))}
    assert not rejected, "\n".join(f"{text}\n  {why}" for text, why in rejected.items())
    return len(commands)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _commands(content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key.endswith("command") and isinstance(value, str):
                yield value
            else:
                yield from _commands(value)
    elif isinstance(content, list):
        for value in content:
            yield from _commands(value)


def rejection_reason(home: Path, words: list[str]) -> str:
    """Return the reason why a command is invalid; empty if it is valid."""
    words = words[1:] if words[0] == "python" else words
    if words[0].endswith(".sh"):
        with tempfile.TemporaryDirectory() as folder:
            done, calls = record_python_calls(shlex.join(["bash", str(home / words[0]), *words[1:]]), Path(folder))
        rejected = [rejection_reason(home, shlex.split(call.partition(": ")[2])) for call in calls]
        return "; ".join(filter(None, rejected)) if calls else f"it runs no command: {done.stderr}"
    module = words[1] if words[0] == "-m" else ""
    argv = words[2:] if module else words[1:]
    if not importlib.util.find_spec(module.partition(".")[0] or home.name):
        return ""  # of a package that is not installed: tested where it is
    run: Callable[[], Any] = lambda: (  # noqa: E731
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        if module
        else runpy.run_path(str(home / words[0]), run_name="__main__")
    )
    if not module and not (home / words[0]).is_file():
        others = [other for other in home.parent.glob("*/pyproject.toml") if (other.parent / words[0]).is_file()]
        if not others:
            return f"{words[0]}: no such file"
        return rejection_reason(others[0].parent, words)
    if not argv and words[0].startswith("benchmarks/"):
        return ""
    before = Path.cwd()
    try:
        os.chdir(home)
        with (
            mock.patch.object(sys, "argv", ["", *argv]),
            mock.patch.object(sys, "path", [*sys.path]),
            _parsing_only(),
            warnings.catch_warnings(action="ignore"),  # runpy warns of modules that are imported already
        ):
            sys.path.insert(0, str((home / words[0]).parent if not module else home))
            run()
    except _ArgumentsParsed:
        return ""
    except SystemExit as error:
        return f"exit status {error.code}"
    finally:
        os.chdir(before)
    return "it parsed no arguments"


class _ArgumentsParsed(BaseException):
    """The arguments were parsed and validated; the command has not started."""


@contextmanager
def _parsing_only() -> Iterator[None]:
    """End commands as soon as their arguments are validated (context manager)."""
    build = settings.build
    parse_args: Callable[..., Any] = argparse.ArgumentParser.parse_args
    depth = 0

    def build_only(cls: type, values: Mapping[str, Any]) -> Any:
        nonlocal depth
        depth += 1
        made: Any = build(cls, values)
        depth -= 1
        if depth == 0:
            raise _ArgumentsParsed
        return made

    def parse_only(self: argparse.ArgumentParser, *arguments: Any, **named: Any) -> Any:
        made: Any = parse_args(self, *arguments, **named)
        if sys._getframe(1).f_globals.get("__name__") == "common.settings":
            return made
        raise _ArgumentsParsed

    importers = [
        module for module in list(sys.modules.values()) if getattr(module, "__dict__", {}).get("build") is build
    ]
    patches: list[Any] = [mock.patch.object(module, "build", build_only) for module in importers]
    patches.append(mock.patch.object(argparse.ArgumentParser, "parse_args", parse_only))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
