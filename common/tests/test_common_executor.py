"""The executor: exclusive claims, results of jobs, signals, and no process left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from common import cli, executor
from common.errors import UserError
from common.executor import JobResult, ProcessPool, claim_file, run_command
from common.interruption import STOPPED, Stopped, defer_signals, stop_requested

LIMIT = 120.0  # seconds; on an idle machine one is enough


def wait_for(condition) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


# --- jobs that run in other processes


def claim_among(path: Path, name: str, count: int) -> bool:
    """Try once to claim the file; keep the claim until all others have tried."""
    with claim_file(path) as mine:
        path.with_name(name).touch()
        wait_for(lambda: len(list(path.parent.glob("try*"))) == count)
        return mine


def claim_later(path: Path) -> bool:
    path.with_name("waiting").touch()
    with claim_file(path, wait=True) as mine:
        path.with_name("got it").touch()
        return mine


def return_value(value):
    return value


def raise_error(error: BaseException):
    raise error


def environment(name: str) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get(name)


def work_until_stopped(folder: Path, name: str) -> None:
    """Save the state when stopped, as training does."""
    with defer_signals():
        (folder / f"{name}.pid").write_text(str(os.getpid()))
        while not stop_requested():
            time.sleep(0.02)
        (folder / f"{name}.state").touch()


def work_without_end(folder: Path, name: str) -> None:
    """Ignore every signal except SIGKILL."""
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
"""  # when stopped, saves its state after a delay; with another argument, ignores the signal


def command(file: Path) -> list[str]:
    return [sys.executable, "-c", COMMAND, str(file), str(3 * LIMIT)]


def all_jobs(folder: Path, stubborn: bool) -> None:
    with ProcessPool() as processes:
        for name in ("a", "b"):
            processes.start(name, work_until_stopped, folder, name)
        processes.start("c", run_command, command(folder / "c"))
        if stubborn:
            processes.start("d", run_command, [*command(folder / "d"), "stubborn"])
        for name, result in processes.finish():
            (folder / f"{name}.result").write_text(result.state)


def parent(folder: str, stubborn: str = "") -> None:
    sys.exit(cli.run(lambda _: all_jobs(Path(folder), bool(stubborn))))


def started(folder: Path, *words: str) -> tuple[subprocess.Popen, list[int]]:
    """Start a parent in its own process group; return it and the ids of all its processes."""
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


def test_exactly_one_of_four_processes_gets_claim(tmp_path):
    with ProcessPool() as processes:
        for i in range(4):
            processes.start(i, claim_among, tmp_path / "lock", f"try{i}", 4)
        assert sorted(result.value for _, result in processes.finish()) == [False, False, False, True]
    with claim_file(tmp_path / "lock") as mine:
        assert mine


def test_waiting_process_gets_claim_of_killed_process(tmp_path):
    lock = tmp_path / "folder" / "lock"
    code = f"import time, pathlib, common.executor as e\nwith e.claim_file(pathlib.Path({str(lock)!r})): print(1, flush=True); time.sleep({LIMIT})"
    with ProcessPool() as processes, subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"1\n"
        file = lock.stat().st_ino
        processes.start(0, claim_later, lock)
        wait_for(lock.with_name("waiting").exists)
        assert processes.wait(0.5) == [] and not lock.with_name("got it").exists()
        with claim_file(lock) as mine:
            assert not mine
        holder.kill()
        assert list(processes.finish()) == [(0, JobResult(0, True))]
    assert lock.stat().st_ino == file, "the lock file was deleted: two processes could hold the lock"


# --- results of jobs


def test_job_results_are_distinguished_and_independent():
    python = [sys.executable, "-c"]
    jobs = {
        (return_value, 0): JobResult(0, 0),
        (return_value, None): JobResult(0),
        (return_value, 0.5): JobResult(0, 0.5),
        (return_value, True): JobResult(0, True),
        (return_value, JobResult(2, "value", "reason")): JobResult(2, "value", "reason"),
        (return_value, 3): JobResult(3, 3),
        (raise_error, UserError("no such file")): JobResult(2, reason="no such file"),
        (raise_error, Stopped("later")): JobResult(STOPPED, reason="later"),
        (raise_error, ZeroDivisionError("by 0")): JobResult(1, reason="ZeroDivisionError: by 0"),
        (raise_error, SystemExit(2)): JobResult(2),
        (os._exit, 3): JobResult(3, reason="exit status 3", crashed=True),
        (signal.raise_signal, signal.SIGKILL): JobResult(-9, reason="signal SIGKILL", crashed=True),
        (run_command, (*python, "pass")): JobResult(0, 0),
        (run_command, (*python, "raise SystemExit(75)")): JobResult(75, 75),
        (run_command, (*python, "import os; os.kill(os.getpid(), 9)")): JobResult(-9, -9),
    }
    states = "finished finished finished finished invalid failed invalid stopped failed invalid crashed crashed finished stopped failed"
    found: dict = {}
    with ProcessPool() as processes:
        for job in jobs:
            processes.start(job, *job)
            if len(processes.jobs) == 3:
                found |= dict(processes.wait())
        found |= dict(processes.finish())
    assert found == jobs
    assert [found[job].state for job in jobs] == states.split()


def test_processes_are_reused_and_replaced_after_kill(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def one() -> tuple[int, str | None]:
        processes.start("job", environment, "OMP_NUM_THREADS")
        ((_, result),) = processes.finish()
        return result.value

    with ProcessPool(threads=3) as processes:
        (first, threads), (second, _) = one(), one()
        assert first == second != os.getpid() and threads == "3"
        os.kill(first, signal.SIGKILL)  # its pipe stays open for a moment
        assert one()[0] not in (first, os.getpid())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with ProcessPool(threads=3) as processes:
        assert one()[1] == "2"


def test_unresponsive_job_is_ended_after_grace_period(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "GRACE", 1.0)
    with ProcessPool() as processes:
        processes.start("d", work_without_end, tmp_path, "d")
        wait_for((tmp_path / "d.pid").exists)
        processes.stop()
        assert processes.stopping and [(job, result.state) for job, result in processes.finish()] == [("d", "stopped")]
    assert not runs(int((tmp_path / "d.pid").read_text()))


def test_parent_error_ends_jobs(tmp_path):
    with pytest.raises(ZeroDivisionError), ProcessPool() as processes:
        processes.start("d", work_without_end, tmp_path, "d")
        wait_for(lambda: (tmp_path / "d.pid").exists() and (tmp_path / "d.pid").read_text())
        raise ZeroDivisionError
    assert not runs(int((tmp_path / "d.pid").read_text()))


# --- signals


@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_stops_jobs_and_keeps_state(tmp_path, number, to):
    process, group = started(tmp_path)
    to(process.pid, number)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == STOPPED and errors.endswith("stopped; the same command resumes\n"), errors
    assert "Traceback" not in errors and errors.count("stopping after the current epochs") == 1
    assert [(tmp_path / f"{name}.state").exists() for name in "abc"] == [True] * 3
    assert [(tmp_path / f"{name}.result").read_text() for name in "abc"] == ["stopped"] * 3
    wait_for(lambda: not any(map(runs, group)))


def test_parent_sigkill_leaves_no_process_running(tmp_path):
    process, group = started(tmp_path, "stubborn")
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(runs, group)))


def test_second_signal_ends_unresponsive_jobs(tmp_path):
    process, group = started(tmp_path, "stubborn")
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: len(list(tmp_path.glob("*.result"))) == 3)
    assert process.poll() is None and runs(int((tmp_path / "d.pid").read_text()))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == cli.INTERRUPTED and "Traceback" not in errors, errors
    wait_for(lambda: not any(map(runs, group)))


def test_sigterm_from_group_and_parent_counts_once_for_command(tmp_path):
    """The command has time to save its state."""
    with ProcessPool() as processes:
        processes.start("c", run_command, command(tmp_path / "c"))
        wait_for(lambda: (tmp_path / "c.pid").exists() and (tmp_path / "c.pid").read_text())
        parent = psutil.Process(int((tmp_path / "c.pid").read_text())).ppid()
        for _ in range(2):
            os.kill(parent, signal.SIGTERM)
            time.sleep(1)
        assert [result.state for _, result in processes.finish()] == ["stopped"]
    assert (tmp_path / "c.state").exists()


def test_import_does_not_load_torch_or_numpy():
    code = "import sys, common.executor; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
