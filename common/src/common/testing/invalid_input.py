"""Check the response to invalid input: one line on standard error, exit status 2, no partially written files."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from common import atomic
from common.cli import INVALID_INPUT

RESULTS = ("metrics.json", "model.safetensors")


def single_error_line(status: int, error: str, words: str = "") -> str:
    """Check that a command failed with exit status 2 and a single error line, and return the line.

    Args:
        status: Exit status.
        error: Standard error.
        words: Words separated by blanks, each of which the line must contain.
    """
    assert status == INVALID_INPUT, f"status {status}: {error}"
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), (
        f"expected one line that begins with 'error: ', got: {error}"
    )
    missing = [word for word in words.split() if word not in lines[0]]
    assert not missing, f"{missing} not in {lines[0]!r}"
    return lines[0]


def leftover_files(root: Path, *patterns: str) -> set[Path]:
    """Find results, temporary files and files that match ``patterns`` below a folder."""
    return {path for pattern in ("*.part", *RESULTS, *patterns) for path in root.rglob(pattern)}


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Simulate a full disk after ``after`` written files: the next flush fails (context manager)."""
    flush, flushed = os.fsync, 0

    def fail(descriptor: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with mock.patch.object(atomic.os, "fsync", fail):
        yield


def assert_scripts_fail(commands: Sequence[Sequence[str | Path]], folder: Path, words: str) -> None:
    """Check that scripts with an invalid option, started from another folder, fail as in :func:`single_error_line`.

    commands: Script and options of each; they run in parallel, because each imports torch.
    """
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, *map(str, command)], stdout=pipe, stderr=pipe, text=True, cwd=folder)
        for command in commands
    ]
    for process in started:
        out, error = process.communicate(timeout=600)
        single_error_line(process.returncode, error, words)
        assert out == "", out
