"""Run notebooks without a kernel: each cell runs in this process, and its commands end after parsing their options."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

from common import cli
from common.errors import UserError


class _Parsed(UserError):
    """Raised after a command has parsed its options; ``cli.run`` converts it to an exit status."""


def code_cells(path: Path | str) -> list[str]:
    """Return the sources of a notebook's code cells, after checking the format (4.5) and that no outputs are stored."""
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and all("id" in cell for cell in notebook["cells"]), f"{path}: not of format 4.5"
    kept = [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert not kept, f"{path}: outputs are stored in {kept}; clear them before a commit"
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def parse_notebook_options(path: Path | str) -> list[tuple[str, Namespace]]:
    """Run all code cells of a notebook and return (command name, parsed options) of every command that they call.

    Imports are real; IPython's display is mocked. Commands that use :func:`common.cli.run` do not train, measure or write
    anything. Invalid options raise AssertionError; other errors of a cell are passed on.
    """
    calls: list[tuple[str, Namespace]] = []
    read = cli.Parser.parse_args

    def parse(self: cli.Parser, *arguments: Any) -> Namespace:
        try:
            calls.append((self.prog, read(self, *arguments)))
        except UserError as error:
            raise AssertionError(f"{path}: {error}") from error
        raise _Parsed("the options are parsed")

    display = {name: mock.MagicMock() for name in ("IPython", "IPython.display")}
    scope: dict[str, Any] = {"__name__": "__main__"}
    with mock.patch.object(cli.Parser, "parse_args", parse), mock.patch.dict(sys.modules, display):
        for i, source in enumerate(code_cells(path)):
            exec(compile(source, f"{path}, code cell {i}", "exec"), scope)
    return calls
