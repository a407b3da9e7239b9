"""Notebooks without a kernel: each cell runs here, and every command in it ends as soon as it has read its options."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

from common import cli
from common.errors import UserError


class _Read(UserError):
    """A command has read its options; ``cli.run`` makes a status of it."""


def code_cells(path: Path | str) -> list[str]:
    """Sources of the code cells of a notebook; AssertionError unless it is of format 4, has an id per cell, and no outputs."""
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and all("id" in cell for cell in notebook["cells"]), f"{path}: not of format 4.5"
    kept = [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert not kept, f"{path}: outputs are stored in {kept}; clear them before a commit"
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def options_of(path: Path | str) -> list[tuple[str, Namespace]]:
    """Run all code cells of a notebook, in order: (name of the command, the options it read) of every command that it calls.

    Imports are real, IPython's display is not. Nothing is trained, measured or written by a command that goes through
    :func:`common.cli.run`. AssertionError for a command that refuses its options, and whatever a cell raises.
    """
    calls: list[tuple[str, Namespace]] = []
    read = cli.Parser.parse_args

    def parse(self: cli.Parser, *arguments: Any) -> Namespace:
        try:
            calls.append((self.prog, read(self, *arguments)))
        except UserError as error:
            raise AssertionError(f"{path}: {error}") from error
        raise _Read("the options are read")

    display = {name: mock.MagicMock() for name in ("IPython", "IPython.display")}
    scope: dict[str, Any] = {"__name__": "__main__"}
    with mock.patch.object(cli.Parser, "parse_args", parse), mock.patch.dict(sys.modules, display):
        for i, source in enumerate(code_cells(path)):
            exec(compile(source, f"{path}, code cell {i}", "exec"), scope)
    return calls
