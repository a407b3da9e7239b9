"""Several processes in a test: two that train together, what they must equal, and what a shell script calls."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import torch

from common.data import Batch, ImageSet
from common.distributed import process_group
from common.testing.resume import LIMIT, forked


def torchrun(script: Path, *words: str | Path, processes: int = 2) -> str:
    """Standard output of a script under torchrun with gloo; AssertionError with the end of its errors if it fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(script), *map(str, words)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run_in_processes(
    body: Callable[..., int | None], *arguments: object, count: int = 2, preload: Sequence[str] = ()
) -> None:
    """``body(*arguments)`` in each of ``count`` processes with torchrun's environment; faster, since torch is imported once.

    They are one gloo group from beginning to end, which the commands in ``body`` join. body: a function of a test module or
    package; it returns an exit status. preload: see :func:`check_resume_after_kill`. Raises AssertionError with the statuses if
    one is not 0; the others are ended then, since they would wait for it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = forked(preload)
    children = [context.Process(target=_rank, args=(i, count, port, body, arguments)) for i in range(count)]
    for child in children:
        child.start()
    running = {child.sentinel for child in children}
    while running and not any(child.exitcode for child in children):
        ended = wait(running, LIMIT)
        if not ended:
            break
        running -= set(ended)
    statuses = [child.exitcode for child in children]
    for child in children:
        child.kill()
        child.join()
    assert statuses == [0] * count, statuses


def _rank(rank: int, count: int, port: int, body: Callable[..., int | None], arguments: Sequence[object]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group(torch.device("cpu")):
        status = body(*arguments)
    raise SystemExit(status)


def split_batches(pictures: ImageSet, batch_size: int, epoch: int, seed: int = 1) -> list[tuple[Batch, ...]]:
    """The batches of an epoch, each as the two parts that two processes would get."""
    parts = (
        pictures.batches(batch_size, augment=True, shuffle=True, seed=seed, epoch=epoch, rank=rank, world_size=2)
        for rank in (0, 1)
    )
    return list(zip(*parts, strict=True))


def record_python_calls(code: str, folder: Path, status: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What a bash script did, and its calls of python as "FOLDER: OPTIONS"; a stand-in notes them and ends with ``status``.

    code: bash. folder: empty, for the stand-in; python is looked for there first.
    """
    fake, calls = folder / "python", folder / "calls"
    fake.write_text(f'#!/bin/sh\necho "$PWD: $*" >> {calls}\nexit {status}\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment)
    return done, calls.read_text().splitlines() if calls.is_file() else []
