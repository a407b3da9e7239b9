"""Run the commands and the Python blocks of a page as printed.

A page's commands are, in the order of the page,

- its fenced blocks in bash and Python, and
- its inline code, also in tables, that begins with ``python``, ``bash``, ``source``, ``compression-papers`` or ``torchrun``.

Inline code with ``...``, ``<name>`` or a word in capitals such as ``FILE`` is a pattern, and not a command. Inline code without
arguments, such as ``python -m common.train``, is the name of a command: it is called with ``-h``, unless the test says that
it is to be run.
"""

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CODE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<block>.*?)^(?P=indent)```|(?<!`)`(?P<inline>(?:[^`\n]|\n(?!\n))+)`(?!`)",
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = ("python", "bash", "source", "compression-papers", "torchrun")
PATTERN = re.compile(r"\.\.\.|<\w+>|(?<![\w$.-])[A-Z][A-Z_]*(?![\w:=-])")


@dataclass(frozen=True)
class Command:
    """A command or Python block of a page.

    Attributes:
        language: "bash" or "python".
        is_name: It is inline code without arguments.
    """

    language: str
    text: str
    is_name: bool = False


def read_commands(page: Path, fill: Mapping[str, str] | None = None) -> list[Command]:
    """Return a page's commands in order, each once. fill: {placeholder in inline code, such as "FILE": text}."""
    found: dict[Command, None] = {}  # in order
    for code in CODE.finditer(page.read_text(encoding="utf-8")):
        if code["language"] in ("bash", "python"):
            found[Command(code["language"], textwrap.dedent(code["block"]))] = None
        elif code["inline"] is not None:
            text = " ".join(code["inline"].split()).replace("\\|", "|")
            for placeholder, value in (fill or {}).items():
                text = re.sub(rf"\b{placeholder}\b", value, text)
            words = text.split()
            if words and words[0] in PROGRAMS and not PATTERN.search(text):
                found[Command("bash", text, _is_name(words))] = None
    return list(found)


def _is_name(words: Sequence[str]) -> bool:
    return len(words) <= (3 if words[1:2] == ["-m"] else 2)


def run_page(
    page: Path,
    folder: Path,
    small: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
    seconds: float = 300,
    *,
    fill: Mapping[str, str] | None = None,
    complete: Sequence[str] = (),
    given: str = "",
    places: Mapping[str, str] | None = None,
) -> int:
    """Run a page's commands in order, in one folder, each in its own process, and return their number.

    The time of each command is printed (``pytest -s``). All commands run, also after a failed one; then failures raise AssertionError.

    Args:
        folder: Working folder, with the files that the page presupposes.
        small: See :func:`command_environment`.
        skip: Texts; a command that contains one of them is not run.
        seconds: Limit for one command.
        fill: See :func:`read_commands`.
        complete: Texts; a name that contains one of them is run, not called with ``-h``.
        given: Python code that precedes each Python block: what its names stand for.
        places: {text: folder of the commands that contain it, relative to ``folder``}.
    """
    environment = command_environment(folder, small or {})
    commands = [command for command in read_commands(page, fill) if not any(text in command.text for text in skip)]
    assert commands, f"{page}: no command to run"
    failures = []
    for command in commands:
        text = command.text
        place = next((place for part, place in (places or {}).items() if part in text), ".")
        if command.is_name and not any(whole in text for whole in complete):
            text += " -h"
        start, before = time.monotonic(), _processor_seconds()
        status, output = _run(command.language, given, text, folder / place, environment, seconds)
        took = f"{time.monotonic() - start:6.1f} s, {_processor_seconds() - before:5.1f} s of one core"
        print(f"{took}: {' '.join(text.split())[:150]}", flush=True)
        if status:
            failures.append(f"{page}: {status}\n{text}\n{output[-3000:]}")
    assert not failures, "\n".join(failures)
    return len(commands)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(
    language: str, given: str, text: str, folder: Path, environment: Mapping[str, str], seconds: float
) -> tuple[str, str]:
    """Run a command or Python block; return what is wrong (empty if nothing is) and the output."""
    bash = ["bash", "-e", "-o", "pipefail", "-c", text]
    with subprocess.Popen(
        bash if language == "bash" else ["python", "-c", given + text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return f"not finished after {seconds:g} s", output
    return (f"exit status {process.returncode}" if process.returncode else ""), output


def command_environment(folder: Path, small: Mapping[str, str]) -> dict[str, str]:
    """Write wrappers of ``python`` and ``compression-papers`` next to a folder, and return the environment in which they are first.

    small: {script, module after ``-m``, or subcommand, and optionally the next words: options that are appended to its calls, except
    to those with ``-h``}; key "" is for all others, the longest key counts. One thread per process.
    """
    choose = ['case "$call " in', '  *" -h ") ;;']
    for name, options in sorted(small.items(), reverse=True):  # longer ones first, "" last
        choose.append(f'  {shlex.quote(name + " ") if name else ""}*) set -- "$@" {options} ;;')
    choose.append("esac")
    python = shlex.quote(sys.executable)
    main = "import sys; from common.command_line import main; sys.exit(main())"
    names = 'call=$*; if [ "$1" = -m ]; then call=${call#-m }; else call=${1##*/}${call#"$1"}; fi'
    _write_script(folder, "python", [names, *choose, f'exec {python} "$@"'])
    _write_script(
        folder,
        "compression-papers",
        ["call=$*", *choose, f'exec {python} -P -c {shlex.quote(main)} "$@"'],
    )
    path = f"{folder.parent / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WEIGHTS": str(folder / "none")}


def _write_script(folder: Path, name: str, lines: Sequence[str]) -> None:
    file = folder.parent / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    file.chmod(0o755)
