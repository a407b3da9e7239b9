"""A user's mistake: one line on standard error, status 2, and nothing half-written."""

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
    """The one line that refused; AssertionError unless the status is 2, there is no other line, and it holds all ``words``.

    error: all of standard error. words: separated by blanks, each somewhere in the line.
    """
    assert status == INVALID_INPUT, f"status {status}: {error}"
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), f"not one line that begins with 'error: ': {error}"
    missing = [word for word in words.split() if word not in lines[0]]
    assert not missing, f"{missing} not in {lines[0]!r}"
    return lines[0]


def leftover_files(root: Path, *patterns: str) -> set[Path]:
    """Everything below a folder that looks like a result, or like half of one: temporary files, and ``patterns``."""
    return {path for pattern in ("*.part", *RESULTS, *patterns) for path in root.rglob(pattern)}


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """The disk is full after so many files: the one writer of files fails at its last step, the flush."""
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
    """Python scripts with a mistake among their options, started from another folder: see :func:`refusal`.

    commands: script and options of each; all at once, since each start imports torch.
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
