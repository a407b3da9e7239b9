"""SIGKILL at seeded moments: the same command, called again in the same folder, has to end with the same bits."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

LIMIT = 600.0  # seconds for a command that nobody kills
TRIES = 8  # calls per kill, since a command may end before it is killed


def check_resume_after_kill(
    main: Callable[[list[str]], int | None],
    words: Sequence[str],
    outcome: Callable[[Path], Any],
    root: Path,
    *,
    kills: int,
    preload: Sequence[str] = (),
    between: tuple[float, float] = (0.1, 0.9),
    seed: int = 5,
) -> Path:
    """Kill a command ``kills`` times, call it again each time, and compare what it made in the end with an undisturbed run.

    main     a function of a test module or package (it is called in processes of one thread) that returns an exit status
    words    of the command line; the last one is the option that names the folder, which is added
    outcome  of the folder: what must be equal, such as files' bytes. Both outcomes must be equal even where a run ended
             before it was killed; the next kills begin in a new folder then
    preload  modules that every process has from the start, ``torch`` and the package's: the first use in a session counts
    between  where in the duration of the undisturbed run the kills fall

    Returns the folder of the last run. Raises AssertionError for another outcome, another exit status, too few kills.
    """
    context = forked(preload)

    def run(folder: Path, share: float | None = None) -> tuple[int | None, float]:
        """(status, seconds): the clock starts with the command, when its process has imported what it needs."""
        begun, begins = context.Pipe(duplex=False)
        child = context.Process(target=_call, args=(main, [*words, str(folder)], begins))
        child.start()
        begins.close()
        begun.poll(LIMIT)
        start = time.monotonic()
        child.join(LIMIT if share is None else share * span)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        return child.exitcode, time.monotonic() - start

    status, span = run(root / "whole")
    assert status == 0, f"left alone, the command ends with status {status}"
    whole = outcome(root / "whole")
    draw, killed, folder = random.Random(seed), 0, root / "killed0"
    for i in range(TRIES * kills):
        status, seconds = run(folder, draw.uniform(*between))
        assert status in (0, -signal.SIGKILL), f"called again after {killed} kills, it ends with status {status}"
        killed += status != 0
        if killed == kills:
            break
        if status == 0:  # in spite of all: the next ones begin anew, and the machine is faster than it was
            assert outcome(folder) == whole, f"after {killed} kills in all, {folder} holds something else"
            span, folder = min(span, seconds), root / f"killed{i + 1}"
    assert killed == kills, f"the command ends before it can be killed: {killed} of {kills} kills"
    status, _ = run(folder)
    assert status == 0, f"after the last kill, the command ends with status {status}"
    assert outcome(folder) == whole, f"after {killed} kills, {folder} holds something else"
    return folder


def forked(preload: Sequence[str]) -> ForkServerContext:
    """Processes forked from one that has imported ``preload``, and is ready: what follows can be timed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload, __name__, "pytest"])  # what test modules import
    ready = context.Process(target=time.sleep, args=(0,))
    ready.start()
    ready.join()
    return context


def _call(main: Callable[[list[str]], int | None], words: list[str], begins: Connection) -> None:
    begins.close()
    torch.set_num_threads(1)
    raise SystemExit(main(words))
