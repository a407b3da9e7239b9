"""Sweeps: command and metric of a trial, invalid input, and a real experiment if nni is installed."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from common import locks, testing
from common.atomic import write_json
from common.errors import UserError
from compare import sweep, trial

WRITER = "import json, pathlib, sys; p = pathlib.Path(sys.argv[2]); p.mkdir(parents=True, exist_ok=True); (p / 'metrics.json').write_text(json.dumps({'compressed': {'top1': 10 * float(sys.argv[1])}}))"
COMMAND = ["python", "-c", WRITER, "{value}", "{out}/run"]


def test_trial_command_contains_value_and_folder():
    argv = sweep.fill_command(
        ["python", "-m", "x", "--k={value}", "--out", "{out}/a"], "0.5", sweep.trial_folder("/s", "0.5")
    )
    assert argv == [sys.executable, "-m", "x", "--k=0.5", "--out", "/s/value-0.5/a"]
    assert sweep.trial_folder("/s", "../../etc").parent == sweep.trial_folder("/s", "1").parent


def test_trial_runs_in_folder_of_sweep(tmp_path, monkeypatch):
    """Relative paths in a command stay valid in a trial, which NNI starts in a folder of its own."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "work.py").write_text(WRITER)
    settings = {
        "command": ["python", "work.py", "{value}", "{out}"],
        "out": str(tmp_path / "s"),
        "metric": sweep.METRIC,
    }
    write_json(tmp_path / "sweep.json", settings | {"values": ["3"], "folder": str(tmp_path / "here")})
    reported = []
    nni = types.SimpleNamespace(get_next_parameter=lambda: {"value": "3"}, report_final_result=reported.append)
    monkeypatch.setitem(sys.modules, "nni", nni)
    monkeypatch.setenv(sweep.SETTINGS, str(tmp_path / "sweep.json"))
    monkeypatch.chdir(tmp_path)
    assert trial.main() == 0 and reported == [30.0]
    assert sweep.working_folder({"folder": str(tmp_path / "gone")}) is None  # on another machine


@pytest.mark.parametrize("command", [[], ["python", "x.py", "{value}"], ["python", "x.py", "{out}"]])
def test_command_without_placeholder_raises(command, tmp_path, capsys):
    with pytest.raises(UserError, match="after -- does not contain"):
        sweep.check_command(command)
    assert sweep.main(["--values", "1", "--out", str(tmp_path / "s"), "--", *command]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "s").exists()


def test_metric_is_read_from_newest_file_that_contains_it(tmp_path):
    (tmp_path / "baseline").mkdir()
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "metrics.json").write_text(json.dumps({"compressed": {"top1": 90.5}}))
    (tmp_path / "baseline" / "metrics.json").write_text(json.dumps({"baseline": {"top1": 99.0}}))
    assert sweep.read_metric(tmp_path, "compressed.top1") == 90.5
    assert sweep.read_metric(tmp_path, "compressed.nothing") is None


def settings_of(tmp_path, **more) -> dict:
    """Settings of a sweep with the value 3, whose command is not run."""
    command = ["python", "-c", WRITER, "{value}", "{out}/run"]
    return {"id": "b", "command": command, "out": str(tmp_path), "metric": sweep.METRIC, "values": ["3"]} | more


def write_result(folder: Path, top1: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"compressed": {"top1": top1}}))


def run_trial(settings, status: int, result: float | None = None) -> float | None:
    record = sweep.begin_trial(settings, "3")
    if result is not None:
        write_result(sweep.trial_folder(settings["out"], "3") / "run", result)
    return sweep.end_trial(settings, "3", record, status)


def test_figure_counts_only_if_trial_wrote_it(tmp_path):
    """Results that were in the folder before are ignored, also if the command succeeds without writing any."""
    settings = settings_of(tmp_path)
    write_result(sweep.trial_folder(tmp_path, "3") / "run", 88.0)
    assert sweep.collect(settings)[0]["metric"] is None  # the trial did not start
    for status in (1, 0):
        assert run_trial(settings, status) is None
        assert sweep.collect(settings)[0]["metric"] is None
    assert run_trial(settings, 0, 30.0) == 30.0 and sweep.collect(settings)[0]["metric"] == 30.0
    assert run_trial(settings, 1, 31.0) is None and sweep.collect(settings)[0]["metric"] is None  # it failed in the end
    problems = [sweep.collect(settings | more)[0]["problem"] for more in ({}, {"id": "c"}, {"metric": "none"})]
    assert problems[:2] == ["its exit status is 1", "the trial did not start"]
    assert "None" not in (tmp_path / "sweep.csv").read_text() and "problem" not in (tmp_path / "sweep.csv").read_text()


def test_finished_result_of_same_command_counts_when_sweep_is_repeated(tmp_path):
    """A command that resumes does not write what is finished; another command's results do not count. Folders may be moved."""
    assert run_trial(settings_of(tmp_path / "old"), 0, 30.0) == 30.0
    for file in (tmp_path / "old").iterdir():
        file.rename(tmp_path / file.name)
    assert run_trial(settings_of(tmp_path, id="c"), 0) == 30.0
    other = settings_of(tmp_path, command=["python", "-c", "pass", "{value}", "{out}"])
    assert run_trial(other, 0) is None and sweep.collect(other)[0]["problem"] == "the command wrote no such value"
    trial_file = sweep.trial_folder(tmp_path, "3") / "trial.json"
    trial_file.write_text('{"before": [')
    assert sweep.collect(other)[0]["metric"] is None and run_trial(other, 0) is None


def test_sweep_whose_trials_fail_names_them_and_exits_with_status_2(tmp_path, capsys, monkeypatch):
    def run_experiment(settings, out, content):
        for value in settings.values:
            sweep.end_trial(content, value, sweep.begin_trial(content, value), 0 if value == "1" else 3)

    monkeypatch.setattr(sweep, "_run_experiment", run_experiment)
    for value in ("1", "2"):
        write_result(tmp_path / f"value-{value}", 50.0)
    assert sweep.main(["--values", "1", "2", "--out", str(tmp_path), "--", *COMMAND]) == 2
    printed = capsys.readouterr()
    assert "50" not in printed.out
    assert "1 (the command wrote no such value), 2 (its exit status is 3)" in testing.single_error_line(2, printed.err)


@pytest.mark.parametrize("values", [["1", "1"], ["a b", "a_b"]])
def test_values_with_same_folder_raise(values, tmp_path, capsys):
    assert sweep.main(["--values", *values, "--out", str(tmp_path / "s"), "--", *COMMAND]) == 2
    testing.single_error_line(2, capsys.readouterr().err, values[1].split()[0])
    assert not (tmp_path / "s").exists()


def test_second_sweep_in_folder_raises(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.0)
    with testing.locked_by_another_process(tmp_path):
        assert sweep.main(["--values", "1", "--out", str(tmp_path), "--", *COMMAND]) == 2
    testing.single_error_line(2, capsys.readouterr().err, f"{tmp_path}: another command")


def test_missing_nni_error_names_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nni", None)
    monkeypatch.setitem(sys.modules, "nni.experiment", None)
    assert sweep.main(["--values", "1", "--out", str(tmp_path), "--", *COMMAND]) == 2
    assert "constraints-nni.txt" in capsys.readouterr().err


def test_manager_environment_contains_address_and_startup_time(monkeypatch):
    monkeypatch.setenv("NODE_OPTIONS", "--no-warnings")
    environment = sweep.manager_environment("/a folder/manager.js", "127.0.0.1")
    assert environment["NODE_OPTIONS"] == '--no-warnings --require "/a folder/manager.js"'
    assert environment["COMPARE_LISTEN"] == "127.0.0.1" and int(environment["COMPARE_STARTUP_SECONDS"]) >= 60


needs_nni = pytest.mark.skipif(
    importlib.util.find_spec("nni") is None,
    reason="nni is not installed: it requires older libraries; bash run_tests.sh -e nni tests it in its own environment",
)


@needs_nni
def test_preloaded_script_changes_only_startup_time_of_tuner(tmp_path):
    """In node: a server for every address listens on one; a timeout is longer only while NNI waits for its tuner."""
    import nni_node

    waits = (
        "console.log(setTimeout(() => 0, 10000).unref()._idleTimeout, setTimeout(() => 0, 9999).unref()._idleTimeout);"
    )
    (tmp_path / "tuner_command_channel.js").write_text(waits)
    (tmp_path / "main.js").write_text(
        f"{waits} require('./tuner_command_channel.js');"
        "const s = require('http').createServer().listen(0, () => { console.log(s.address().address); s.close(); });"
        "require('timers/promises').setTimeout(10).then(() => console.log('promised'));"
    )
    node = Path(next(iter(nni_node.__path__))) / "node"
    script = str(Path(sweep.__file__).with_name("manager.js"))
    done = subprocess.run(
        [node, "main.js"],
        cwd=tmp_path,
        env=sweep.manager_environment(script, "127.0.0.1"),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "10000 9999",
        f"{1000 * sweep.STARTUP_SECONDS} 9999",
        "127.0.0.1",
        "promised",
    ], done.stderr


@needs_nni
def test_experiment_runs_every_value_and_portal_listens_locally(tmp_path, capsys):
    """Each trial also records the addresses on which the portal's port is open."""
    record = (
        "import psutil, pathlib; pathlib.Path(sys.argv[3]).write_text(' '.join(sorted({c.laddr.ip for c in psutil.net_connections()"
        " if c.status == 'LISTEN' and c.laddr.port == 18231})))"
    )
    command = ["python", "-c", f"{WRITER}; {record}", "{value}", "{out}/run", "{out}/listeners"]
    assert sweep.main(["--values", "1", "2.5", "--out", str(tmp_path), "--port", "18231", "--", *command]) == 0
    assert [trial["metric"] for trial in sweep.collect(json.loads((tmp_path / "sweep.json").read_text()))] == [
        10.0,
        25.0,
    ]
    assert "25.0" in capsys.readouterr().out
    assert [file.read_text() for file in tmp_path.glob("value-*/listeners")] == ["127.0.0.1"] * 2


@needs_nni
def test_port_in_use_raises(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert sweep.main(["--values", "1", "--out", str(tmp_path), "--port", port, "--", *COMMAND]) == 2
    assert capsys.readouterr().err.splitlines()[-1].count(port) == 1


@needs_nni
@pytest.mark.parametrize(("number", "whom"), [("SIGTERM", "sweep"), ("SIGKILL", "sweep"), ("SIGKILL", "manager")])
def test_everything_ends_with_sweep_or_manager(number, whom, tmp_path):
    """Manager, tuner, trial, the trial's command (a shell) and what that has started; the sweep reports it in one line."""
    import psutil

    port = str(18300 + 2 * ["SIGTERM", "SIGKILL"].index(number) + 4 * (whom == "manager"))
    command = ["bash", "-c", "sleep 600 & sleep 601; echo {value} {out}"]
    words = ["--values", "1", "2", "--port", port, "--out", str(tmp_path / "out"), "--", *command]
    with open(tmp_path / "printed", "w") as printed:
        process = subprocess.Popen([sys.executable, "-m", "compare.sweep", *words], stdout=printed, stderr=printed)
    started: list[psutil.Process] = []
    for _ in range(600):
        started = psutil.Process(process.pid).children(recursive=True)
        if sum(child.name() == "sleep" for child in started) == 2:
            break
        time.sleep(0.5)
    names = [" ".join(child.cmdline()) for child in started]
    assert all(any(part in name for name in names) for part in ("main.js", "-m nni", "compare.trial", "sleep 601")), (
        names
    )
    manager = next(child.pid for child, name in zip(started, names, strict=True) if "main.js" in name)
    os.kill(process.pid if whom == "sweep" else manager, getattr(signal, number))
    status = process.wait(120)
    _, left = psutil.wait_procs(started, timeout=60)
    for child in left:
        child.kill()
    assert not left, left
    expected = {("SIGTERM", "sweep"): 75, ("SIGKILL", "sweep"): -signal.SIGKILL, ("SIGKILL", "manager"): 2}
    assert status == expected[number, whom], (tmp_path / "printed").read_text()[-3000:]
    if status != -signal.SIGKILL:
        lines = [
            line for line in (tmp_path / "printed").read_text().splitlines() if line.startswith(("error: ", "stopped"))
        ]
        assert len(lines) == 1, lines
