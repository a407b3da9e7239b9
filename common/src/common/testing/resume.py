"""Kill a command at random (seeded) times and check that it resumes with bit-identical results."""

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

LIMIT = 600.0  # seconds for a command that is not killed
CALLS_PER_KILL = 8  # since a command may finish before it is killed


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
    """Kill a command ``kills`` times, resume it each time, and compare the result with that of an uninterrupted run.

    Args:
        main: Function of a test module or package that returns an exit status. It runs in single-threaded processes.
        words: Arguments, ending with the option that names the output folder; the folder is appended.
        outcome: Function of the output folder that returns what must be equal, such as file contents.
        root: Parent of the output folders.
        kills: Number of kills. If a run finishes before it is killed, its outcome is compared and the next kills use a new folder.
        preload: Modules that all processes import beforehand; only the first call in a session has an effect.
        between: Range of the kill times, as fractions of the uninterrupted duration.
        seed: Random seed of the kill times.

    Returns:
        The folder of the last run.

    Raises:
        AssertionError: If an outcome or exit status differs, or the command could not be killed often enough.
    """
    context = start_fork_server(preload)

    def run(folder: Path, fraction: float | None = None) -> tuple[int | None, float]:
        """Return (exit status, seconds). The time starts when the process has finished its imports."""
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_call, args=(main, [*words, str(folder)], sender))
        child.start()
        sender.close()
        receiver.poll(LIMIT)
        start = time.monotonic()
        child.join(LIMIT if fraction is None else fraction * duration)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        return child.exitcode, time.monotonic() - start

    status, duration = run(root / "whole")
    assert status == 0, f"the uninterrupted command exits with status {status}"
    expected = outcome(root / "whole")
    generator, killed, folder = random.Random(seed), 0, root / "killed0"
    for i in range(CALLS_PER_KILL * kills):
        status, seconds = run(folder, generator.uniform(*between))
        assert status in (0, -signal.SIGKILL), f"after {killed} kills, the command exits with status {status}"
        killed += status != 0
        if killed == kills:
            break
        if status == 0:  # not killed in time: use a new folder and the shorter duration
            assert outcome(folder) == expected, f"after {killed} kills in total, the outcome in {folder} differs"
            duration, folder = min(duration, seconds), root / f"killed{i + 1}"
    assert killed == kills, f"the command finishes before it can be killed: {killed} of {kills} kills"
    status, _ = run(folder)
    assert status == 0, f"after the last kill, the command exits with status {status}"
    assert outcome(folder) == expected, f"after {killed} kills, the outcome in {folder} differs"
    return folder


def start_fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start a fork server that has imported ``preload``, and wait until it is ready."""
    context = multiprocessing.get_context("forkserver")
    # What test modules import, and what the first optimizer imports.
    context.set_forkserver_preload([*preload, __name__, "pytest", "torch._dynamo"])
    ready = context.Process(target=time.sleep, args=(0,))
    ready.start()
    ready.join()
    return context


def _call(main: Callable[[list[str]], int | None], words: list[str], sender: Connection) -> None:
    sender.close()
    torch.set_num_threads(1)
    raise SystemExit(main(words))
