"""Sweeps: command and metric of a trial, invalid input, and a real experiment if nni is installed."""

import importlib.util
import json
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

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
