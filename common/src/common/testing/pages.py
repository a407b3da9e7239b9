"""Run the commands and the Python blocks of a page as printed."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

BLOCK = re.compile(r"^( *)```(bash|python)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def read_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the (language, text) of a page's blocks in bash and Python, in order."""
    text = page.read_text(encoding="utf-8")
    return [(language, textwrap.dedent(code)) for _, language, code in BLOCK.findall(text)]


def run_page(
    page: Path, folder: Path, small: Mapping[str, str] | None = None, skip: Sequence[str] = (), seconds: float = 600
) -> int:
    """Run the blocks of a page in order, in one folder, each in its own process, and return their number.

    Args:
        folder: Working folder, with the files that the page presupposes.
        small: {script, module after ``-m``, or subcommand of ``compression-papers``: options that are appended to its calls}.
        skip: Texts; a block that contains one of them is not run.
        seconds: Limit for one block.
    """
    environment = command_environment(folder, small or {})
    blocks = [(language, code) for language, code in read_blocks(page) if not any(text in code for text in skip)]
    assert blocks, f"{page}: no block to run"
    for language, code in blocks:
        command = ["bash", "-e", "-o", "pipefail", "-c", code] if language == "bash" else ["python", "-c", code]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{page}: exit status {done.returncode}\n{code}\n{done.stdout[-3000:]}"
    return len(blocks)


def command_environment(folder: Path, small: Mapping[str, str]) -> dict[str, str]:
    """Write wrappers of ``python`` and ``compression-papers`` next to a folder, and return the environment in which they are first.

    small: {script, module after ``-m``, or subcommand: options that are appended to its calls}; key "" is for all others.
    One thread per process.
    """
    choose = ['case "$name" in']
    for name, options in sorted(small.items(), reverse=True):  # "" last
        choose.append(f'  {shlex.quote(name) if name else "*"}) set -- "$@" {options} ;;')
    choose.append("esac")
    python = shlex.quote(sys.executable)
    main = "import sys; from common.command_line import main; sys.exit(main())"
    _write_script(folder, "python", ['name=${1##*/}; [ "$1" = -m ] && name=$2', *choose, f'exec {python} "$@"'])
    _write_script(
        folder,
        "compression-papers",
        ["name=$1", *choose, f'exec {python} -P -c {shlex.quote(main)} "$@"'],
    )
    path = f"{folder.parent / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WEIGHTS": str(folder / "none")}


def _write_script(folder: Path, name: str, lines: Sequence[str]) -> None:
    file = folder.parent / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    file.chmod(0o755)
