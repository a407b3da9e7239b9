"""How light a command starts: ``-h``, ``--version`` and a mistake without torch."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Runs in a process of its own: each command with each of the words; prints what it loaded and how it ended.
PROBE = """
import contextlib, io, json, os, runpy, sys
heavy = ("torch", "numpy", "torchvision", "matplotlib", "scipy", "sklearn", "PIL")
for command in json.loads(sys.argv[1]):
    for words, wanted in ((["-h"], 0), (["--version"], 0), (["--nonsense"], 2)):
        sys.argv = [*command[1 if command[0] == "-m" else 0:], *words]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                if command[0] == "-m":
                    runpy.run_module(command[1], run_name="__main__")
                else:
                    runpy.run_path(command[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code or 0
        loaded = [name for name in heavy if name in sys.modules]
        print(json.dumps([command, words, status == wanted, loaded, said.getvalue()[-300:]]), flush=True)
        if loaded:
            sys.exit(1)
"""


def heavy_starts(commands: Iterable[Sequence[str]], folder: Path) -> list[str]:
    """What is wrong with the start of commands such as ``["-m", "common.train"]`` or ``["main.py"]``, run in ``folder``.

    Each is called with ``-h``, ``--version`` and an option that it does not know; none of that may import torch or another
    heavy library, and they end with status 0, 0 and 2.
    """
    commands = [list(command) for command in commands]
    call = [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps(commands)]
    run = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    problems = [
        f"{' '.join(command)} {' '.join(words)}: {'loads ' + ', '.join(loaded) if loaded else 'ends otherwise'}: {said}"
        for command, words, good, loaded, said in lines
        if loaded or not good
    ]
    if not problems and len(lines) < 3 * len(commands):
        problems.append(f"the process ended: {run.stderr[-500:]}")
    return problems
