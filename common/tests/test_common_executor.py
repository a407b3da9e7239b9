"""The executor: claims that one process holds, jobs whose ends are distinguished, and nothing left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import cli, executor
from common.errors import UserError
from common.executor import Processes, Result, call, claimed
from common.interruption import STOPPED, Stopped, graceful, stop_requested

LIMIT = 120.0  # seconds for what takes one on an idle machine


def wait_for(what) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- jobs, called in other processes


def claim_among(path: Path, name: str, count: int) -> bool:
    """Try once to claim; hold it until all others have tried."""
    with claimed(path) as mine:
        path.with_name(name).touch()
        wait_for(lambda: len(list(path.parent.glob("try*"))) == count)
        return mine


def claim_later(path: Path) -> bool:
    path.with_name("waiting").touch()
    with claimed(path, wait=True) as mine:
        path.with_name("got it").touch()
        return mine


def give(value):
    return value


def fail(error: BaseException):
    raise error


def environment(name: str) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get(name)


def work_until_stopped(folder: Path, name: str) -> None:
    """Work that keeps its state when it is told to stop, as training does."""
    with graceful():
        (folder / f"{name}.pid").write_text(str(os.getpid()))
        while not stop_requested():
            time.sleep(0.02)
        (folder / f"{name}.state").touch()


def work_without_end(folder: Path, name: str) -> None:
    """Work that listens to nothing but SIGKILL."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    time.sleep(3 * LIMIT)


COMMAND = """
import os, pathlib, signal, sys, time
def stop(*_):
    time.sleep(2.5)
    pathlib.Path(sys.argv[1] + ".state").touch()
    os._exit(75)
signal.signal(signal.SIGTERM, stop if len(sys.argv) == 3 else signal.SIG_IGN)
pathlib.Path(sys.argv[1] + ".pid").write_text(str(os.getpid()))
time.sleep(float(sys.argv[2]))
"""  # keeps its state when it is told to stop, and takes its time for that; with another word it ignores that


def command(file: Path) -> list[str]:
    return [sys.executable, "-c", COMMAND, str(file), str(3 * LIMIT)]


def all_jobs(folder: Path, stubborn: bool) -> None:
    with Processes() as processes:
        for name in ("a", "b"):
            processes.start(name, work_until_stopped, folder, name)
        processes.start("c", call, command(folder / "c"))
        if stubborn:
            processes.start("d", call, [*command(folder / "d"), "stubborn"])
        for name, result in processes.finish():
            (folder / f"{name}.result").write_text(result.state)


def parent(folder: str, stubborn: str = "") -> None:
    sys.exit(cli.run(lambda _: all_jobs(Path(folder), bool(stubborn))))


def started(folder: Path, *words: str) -> tuple[subprocess.Popen, list[int]]:
    """A parent in a process group of its own, and its and its jobs' processes."""
    code = "import sys; import test_common_executor; test_common_executor.parent(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    count = 3 + len(words)
    wait_for(
        lambda: sum(bool(file.read_text()) for file in folder.glob("*.pid")) == count or process.poll() is not None
    )
    group = [int(path.name) for path in Path("/proc").glob("[0-9]*") if session(path) == process.pid]
    assert len(group) > count, "the parent and a process for each job"
    return process, group


def session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return 0


# --- claims


def test_exactly_one_of_four_processes_gets_a_claim(tmp_path):
    with Processes() as processes:
        for i in range(4):
            processes.start(i, claim_among, tmp_path / "lock", f"try{i}", 4)
        assert sorted(result.value for _, result in processes.finish()) == [False, False, False, True]
    with claimed(tmp_path / "lock") as mine:
        assert mine


def test_waiting_process_gets_the_claim_of_a_killed_one(tmp_path):
    lock = tmp_path / "folder" / "lock"
    code = f"import time, pathlib, common.executor as e\nwith e.claimed(pathlib.Path({str(lock)!r})): print(1, flush=True); time.sleep({LIMIT})"
    with Processes() as processes, subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"1\n"
        file = lock.stat().st_ino
        processes.start(0, claim_later, lock)
        wait_for(lock.with_name("waiting").exists)
        assert processes.wait(0.5) == [] and not lock.with_name("got it").exists()
        with claimed(lock) as mine:
            assert not mine
        holder.kill()
        assert list(processes.finish()) == [(0, Result(0, True))]
    assert lock.stat().st_ino == file, "deleted: who waits would hold the old file, and another one the new"


# --- how jobs end


def test_ends_of_jobs_are_distinguished_and_stop_no_other():
    python = [sys.executable, "-c"]
    jobs = {
        (give, 0): Result(0, 0),
        (give, None): Result(0),
        (give, 0.5): Result(0, 0.5),
        (give, True): Result(0, True),
        (give, Result(2, "given", "why")): Result(2, "given", "why"),
        (give, 3): Result(3, 3),
        (fail, UserError("no such file")): Result(2, why="no such file"),
        (fail, Stopped("later")): Result(STOPPED, why="later"),
        (fail, ZeroDivisionError("by 0")): Result(1, why="ZeroDivisionError: by 0"),
        (fail, SystemExit(2)): Result(2),
        (os._exit, 3): Result(3, why="exit status 3", died=True),
        (signal.raise_signal, signal.SIGKILL): Result(-9, why="signal SIGKILL", died=True),
        (call, (*python, "pass")): Result(0, 0),
        (call, (*python, "raise SystemExit(75)")): Result(75, 75),
        (call, (*python, "import os; os.kill(os.getpid(), 9)")): Result(-9, -9),
    }
    states = "finished finished finished finished invalid failed invalid stopped failed invalid crashed crashed finished stopped failed"
    found: dict = {}
    with Processes() as processes:
        for job in jobs:
            processes.start(job, *job)
            if len(processes.jobs) == 3:
                found |= dict(processes.wait())
        found |= dict(processes.finish())
    assert found == jobs
    assert [found[job].state for job in jobs] == states.split()


def test_processes_are_used_again_and_replaced_when_they_are_killed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def one() -> tuple[int, str | None]:
        processes.start("job", environment, "OMP_NUM_THREADS")
        ((_, result),) = processes.finish()
        return result.value

    with Processes(threads=3) as processes:
        (first, threads), (second, _) = one(), one()
        assert first == second != os.getpid() and threads == "3"
        os.kill(first, signal.SIGKILL)  # its pipe stays open for a moment
        assert one()[0] not in (first, os.getpid())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Processes(threads=3) as processes:
        assert one()[1] == "2"


def test_job_that_does_not_stop_is_ended_after_its_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "GRACE", 1.0)
    with Processes() as processes:
        processes.start("d", work_without_end, tmp_path, "d")
        wait_for((tmp_path / "d.pid").exists)
        processes.stop()
        assert processes.stopping and [(job, result.state) for job, result in processes.finish()] == [("d", "stopped")]
    assert not runs(int((tmp_path / "d.pid").read_text()))


def test_error_of_the_parent_ends_its_jobs(tmp_path):
    with pytest.raises(ZeroDivisionError), Processes() as processes:
        processes.start("d", work_without_end, tmp_path, "d")
        wait_for(lambda: (tmp_path / "d.pid").exists() and (tmp_path / "d.pid").read_text())
        raise ZeroDivisionError
    assert not runs(int((tmp_path / "d.pid").read_text()))


# --- signals


@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_stops_all_jobs_with_their_state_kept(tmp_path, number, to):
    process, group = started(tmp_path)
    to(process.pid, number)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == STOPPED and errors.endswith("stopped; the same command resumes\n"), errors
    assert "Traceback" not in errors and errors.count("stopping after the current epochs") == 1
    assert [(tmp_path / f"{name}.state").exists() for name in "abc"] == [True] * 3
    assert [(tmp_path / f"{name}.result").read_text() for name in "abc"] == ["stopped"] * 3
    wait_for(lambda: not any(map(runs, group)))


def test_sigkill_of_the_parent_leaves_nothing_running(tmp_path):
    process, group = started(tmp_path, "stubborn")
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(runs, group)))


def test_second_signal_ends_what_does_not_stop(tmp_path):
    process, group = started(tmp_path, "stubborn")
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: len(list(tmp_path.glob("*.result"))) == 3)
    assert process.poll() is None and runs(int((tmp_path / "d.pid").read_text()))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == cli.INTERRUPTED and "Traceback" not in errors, errors
    wait_for(lambda: not any(map(runs, group)))


def test_repeated_sigterm_of_group_and_parent_counts_once(tmp_path):
    """The command gets the time to keep its state."""
    with Processes() as processes:
        processes.start("c", call, command(tmp_path / "c"))
        wait_for(lambda: (tmp_path / "c.pid").exists() and (tmp_path / "c.pid").read_text())
        status = Path(f"/proc/{(tmp_path / 'c.pid').read_text()}/stat").read_text()
        for _ in range(2):
            os.kill(int(status.rpartition(")")[2].split()[1]), signal.SIGTERM)
            time.sleep(1)
        assert [result.state for _, result in processes.finish()] == ["stopped"]
    assert (tmp_path / "c.state").exists()


def test_import_is_light():
    code = "import sys, common.executor; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
