"""Fill the disk and kill a command in the middle of a write, at several points, and check that it ends with the same files.

A full disk is a limit on the size of files (RLIMIT_FSIZE), which needs no permissions and which writers in C++ and Rust meet as
well. The error number is EFBIG instead of ENOSPC. A kill is the signal SIGXFSZ, which a write beyond the limit raises if it is not
ignored: the file that was being written is left as it is.
"""

import csv
import gc
import io
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from common import atomic, runs
from common.cli import INVALID_INPUT
from common.testing.resume import LIMIT, start_fork_server

Main = Callable[[list[str]], int | None]
FULL = 100  # bytes that still fit into a file
ATTEMPTS = 4  # per requested kill, since a command may finish first
MEASURED = {"latency", "latency_ms", "commit", "environment", "device", "threads", "at"}  # and the keys with "seconds"
UNCOMPARED = {".log", ".html", ".md", ".lock"}  # contain times, or append
KILLED = -signal.SIGXFSZ
KILLS = "CHAOS_KILLS"  # environment variable for a longer test


def check_full_disk_and_kills(
    main: Main,
    words: Sequence[str],
    root: Path,
    *,
    kills: int = 3,
    preload: Sequence[str] = (),
    seed: int = 7,
    timed: Sequence[str] = (),
    nested: bool = False,
) -> Path:
    """Disturb a command at ``kills`` points, and compare its files with those of an undisturbed run.

    At each point the disk becomes full during a write, the command must end with one error line, and is started again with
    enough space, and killed during one of the next writes.

    Args:
        kills: Number of kills; the environment variable CHAOS_KILLS has precedence.
        main: Function of a test module or package that returns an exit status.
        words: Arguments, ending with the option that names the output folder; the folder is appended.
        root: Parent of the output folders.
        preload: Modules that all processes import beforehand.
        seed: Random seed of the points.
        timed: Names of files that contain times; only their existence is compared.
        nested: Whether the command starts others, which print error lines of their own.

    Returns:
        The folder of the last run.

    Raises:
        AssertionError: If files, a line or an exit status differ, or the command could not be killed often enough.
    """
    kills = int(os.environ.get(KILLS, kills))
    whole = root / "undisturbed"
    status, outcome = _start(preload, main, [*words, str(whole)])
    assert status == 0, f"the undisturbed command exits with status {status}: {outcome}"
    expected, writes = comparable_files(whole, timed), outcome["writes"]
    generator, killed, number = random.Random(seed), 0, 0
    step = max(1, writes // kills)
    for _ in range(ATTEMPTS * kills):
        folder = root / f"disturbed{number}"
        fault, kill = generator.randint(1, step + 1), generator.randint(2, step + 2)
        status, outcome = _start(preload, main, [*words, str(folder)], fault, kill, nested)
        assert status in (0, KILLED), f"after {killed} kills: status {status}: {outcome}"
        killed += status == KILLED
        if status == 0:
            _compare(comparable_files(folder, timed), expected, killed)
            number += 1
        if killed == kills:
            break
    assert killed == kills, f"the command finishes before it can be killed: {killed} of {kills} kills"
    status, outcome = _start(preload, main, [*words, str(folder)])
    assert status == 0, f"after the last kill, the command exits with status {status}: {outcome}"
    _compare(comparable_files(folder, timed), expected, killed)
    return folder


def comparable_files(folder: Path, timed: Sequence[str] = ()) -> dict[str, Any]:
    """Return {relative path: content} of all files below a folder, without times and what depends on the machine."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() or path.name.endswith(atomic.SUFFIX))
    return {
        str(path.relative_to(folder)): None if path.name in timed else _content(path, folder)
        for path in files
        if path.suffix not in UNCOMPARED
    }


def _content(path: Path, folder: Path) -> Any:
    if not path.is_file():
        return None
    data = path.read_bytes()
    text = data.replace(str(folder).encode(), b"OUT")
    if path.suffix == ".csv":
        return [_without_times(row) for row in csv.DictReader(io.StringIO(text.decode()))]
    if path.suffix == ".json" or (not path.suffix and data.startswith(b"{")):
        return _without_times(json.loads(text))
    return data


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_times(entry) for key, entry in value.items() if key not in MEASURED and "seconds" not in key
        }
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


def _compare(found: dict[str, Any], expected: dict[str, Any], kills: int) -> None:
    assert found.keys() == expected.keys(), (
        f"after {kills} kills, files differ: {sorted(found.keys() ^ expected.keys())}"
    )
    different = [name for name in expected if found[name] != expected[name]]
    assert not different, f"after {kills} kills, contents differ: {different}"


def _start(
    preload: Sequence[str], main: Main, words: list[str], fault: int = 0, kill: int = 0, nested: bool = False
) -> tuple[int | None, Any]:
    """Run the command in a process; return (exit status, what it sent, or the error)."""
    context = start_fork_server([*preload, __name__])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(main, words, fault, kill, nested, sender))
    child.start()
    sender.close()
    try:
        outcome = receiver.recv() if receiver.poll(LIMIT) else "no answer"
    except EOFError:
        outcome = "no answer"
    child.join(LIMIT)
    return child.exitcode, outcome


def _run(main: Main, words: list[str], fault: int, kill: int, nested: bool, sender: Connection) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # the collector would copy the memory that is shared with the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    printed = sys.stdout = sys.stderr = io.StringIO()  # a limit on files would also apply to redirected output
    runs.git_commit = lambda: None  # saves two processes per folder
    disk = _Disk()
    try:
        if fault:
            disk.fill_at(fault)
            status = main(words)
            lines = [line for line in printed.getvalue().splitlines() if line.startswith("error: ")]
            if disk.full:
                assert status == INVALID_INPUT and lines, (status, printed.getvalue()[-3000:])
                assert (nested or len(lines) == 1) and "Traceback" not in printed.getvalue(), printed.getvalue()[-3000:]
                assert any(words[-1] in line and "free some space" in line for line in lines), lines
            else:
                assert status == 0, (status, printed.getvalue()[-3000:])
            disk.empty()
            if disk.full:
                disk.fill_at(kill, deadly=True)
        status = main(words)
        if status:
            sender.send(printed.getvalue()[-3000:])
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}\n{printed.getvalue()[-3000:]}")
        raise
    if not status:
        sender.send({"writes": disk.writes})
    raise SystemExit(status)


class _Disk:
    """A disk that becomes full when a given number of files has been written."""

    def __init__(self) -> None:
        self.writes, self.full = 0, False
        self._limit, self._deadly = 0, False
        create = atomic.tempfile.mkdtemp

        def counted(*args: Any, **kwargs: Any) -> str:
            self.writes += 1
            if self.writes == self._limit:
                self.full = True
                if self._deadly:
                    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                _limit_files(FULL)
            return create(*args, **kwargs)

        atomic.tempfile.mkdtemp = counted  # type: ignore[assignment]

    def fill_at(self, write: int, deadly: bool = False) -> None:
        self._limit, self._deadly = self.writes + write, deadly

    def empty(self) -> None:
        self._limit = 0
        _limit_files(resource.RLIM_INFINITY)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
