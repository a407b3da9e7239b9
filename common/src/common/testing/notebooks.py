"""Run notebooks: completely, in a kernel; or in this process, where their commands end after parsing their options."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
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


def run_notebook(
    path: Path | str, folder: Path | str, replace: Mapping[str, str] | None = None, seconds: float = 300
) -> list[dict[str, Any]]:
    """Run all code cells in a new ipykernel of this Python, as a user does, and return all outputs.

    Args:
        folder: Working directory of the kernel.
        replace: {text in a cell: text that makes it fast}; each must occur.
        seconds: Limit for one cell.

    Returns:
        Contents of the kernel's messages: {"name": "stdout", "text": ...} of printed text, {"data": {MIME type: ...}} of
        displayed objects. Plots have the type "image/png".

    Raises:
        AssertionError: If a cell fails (with its traceback), or a text to replace does not occur.
    """
    from jupyter_client.manager import start_new_kernel

    cells, outputs = code_cells(path), []
    for old, new in (replace or {}).items():
        assert any(old in source for source in cells), f"{path}: {old!r} does not occur in a code cell"
        cells = [source.replace(old, new) for source in cells]
    # A kernel shows plots itself; MPLBACKEND, which tests set, would prevent that.
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    manager, client = start_new_kernel(cwd=str(folder), env=environment)
    try:
        for i, source in enumerate(cells):
            reply = client.execute_interactive(
                source,
                timeout=seconds,
                allow_stdin=False,
                output_hook=lambda message: outputs.append(message["content"]),
            )["content"]
            assert reply["status"] == "ok", (
                f"{path}, code cell {i}: {chr(10).join(reply.get('traceback', ['aborted']))}"
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return [output for output in outputs if "text" in output or "data" in output]
