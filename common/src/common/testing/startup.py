"""Check that ``-h``, ``--version`` and option errors do not import torch."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Runs in a separate process: calls each command with each option; prints loaded libraries and exit statuses.
PROBE = """
import contextlib, io, json, os, runpy, sys
heavy = ("torch", "numpy", "torchvision", "matplotlib", "scipy", "sklearn", "PIL")
for command in json.loads(sys.argv[1]):
    for words, expected in ((["-h"], 0), (["--version"], 0), (["--nonsense"], 2), (["--threads", "nan"], 2)):
        sys.argv = [*command[1 if command[0] == "-m" else 0:], *words]
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                if command[0] == "-m":
                    runpy.run_module(command[1], run_name="__main__")
                else:
                    runpy.run_path(command[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code or 0
        loaded = [name for name in heavy if name in sys.modules]
        print(json.dumps([command, words, status == expected, loaded, printed.getvalue()[-300:]]), flush=True)
        if loaded:
            sys.exit(1)
"""


def find_heavy_starts(commands: Iterable[Sequence[str]], folder: Path) -> list[str]:
    """List the problems at the start of commands such as ``["-m", "common.train"]`` or ``["main.py"]``, run in ``folder``.

    Each is called with ``-h``, ``--version``, an unknown option and an invalid value. It must not import torch or another heavy library and must
    exit with status 0, 0, 2 and 2.
    """
    commands = [list(command) for command in commands]
    call = [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps(commands)]
    run = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    problems = [
        f"{' '.join(command)} {' '.join(words)}: {'loads ' + ', '.join(loaded) if loaded else 'unexpected exit status'}: {printed}"
        for command, words, good, loaded, printed in lines
        if loaded or not good
    ]
    if not problems and len(lines) < 4 * len(commands):
        problems.append(f"the process crashed: {run.stderr[-500:]}")
    return problems
