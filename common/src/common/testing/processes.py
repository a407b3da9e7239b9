"""Run several processes in a test, and record the Python calls of shell scripts."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

import torch

from common.data import Batch, ImageSet
from common.distributed import process_group
from common.testing.resume import LIMIT, start_fork_server


@contextmanager
def locked_by_another_process(folder: Path) -> Iterator[subprocess.Popen]:
    """Lock a run folder in another process, which is yielded and killed at the end (context manager)."""
    code = "import pathlib, sys; from common.locks import lock_folder; lock = lock_folder(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"{code}; print('locked', flush=True); sys.stdin.read()", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def torchrun(script: Path, *words: str | Path, processes: int = 2) -> str:
    """Run a script under torchrun with gloo and return its standard output; a failure raises AssertionError."""
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
    """Call ``body(*arguments)`` in ``count`` processes with the environment of torchrun, importing torch only once.

    The processes form one gloo group, which the commands in ``body`` join. If one fails, the others are killed, because they
    would wait for it.

    Args:
        body: Function of a test module or package that returns an exit status.
        preload: See :func:`check_resume_after_kill`.

    Raises:
        AssertionError: If an exit status is not 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = start_fork_server(preload)
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


def split_batches(images: ImageSet, batch_size: int, epoch: int, seed: int = 1) -> list[tuple[Batch, ...]]:
    """Return the batches of an epoch, each as the two parts that two processes receive."""
    parts = (
        images.batches(batch_size, augment=True, shuffle=True, seed=seed, epoch=epoch, rank=rank, world_size=2)
        for rank in (0, 1)
    )
    return list(zip(*parts, strict=True))


def record_python_calls(code: str, folder: Path, status: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run bash code with a fake ``python`` that records its calls and exits with ``status``.

    Args:
        code: Bash code.
        folder: Empty folder for the fake; first on the path.

    Returns:
        The finished process and the calls as "FOLDER: ARGUMENTS".
    """
    fake, calls = folder / "python", folder / "calls"
    fake.write_text(f'#!/bin/sh\necho "$PWD: $*" >> {calls}\nexit {status}\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment)
    return done, calls.read_text().splitlines() if calls.is_file() else []
