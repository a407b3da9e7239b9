"""Sweeps: the command of a trial, what is read from its files, mistakes; and a real experiment where nni is installed."""

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


def test_the_command_of_a_trial():
    words = sweep.filled(
        ["python", "-m", "x", "--k={value}", "--out", "{out}/a"], "0.5", sweep.trial_folder("/s", "0.5")
    )
    assert words == [sys.executable, "-m", "x", "--k=0.5", "--out", "/s/value-0.5/a"]
    assert sweep.trial_folder("/s", "../../etc").parent == sweep.trial_folder("/s", "1").parent


def test_a_trial_runs_where_the_sweep_was_started(tmp_path, monkeypatch):
    """The paths of a command mean the same in a trial; NNI starts it in a folder of its own."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "work.py").write_text(WRITER)
    settings = {
        "command": ["python", "work.py", "{value}", "{out}"],
        "out": str(tmp_path / "s"),
        "figure": sweep.FIGURE,
    }
    write_json(tmp_path / "sweep.json", settings | {"values": ["3"], "folder": str(tmp_path / "here")})
    told = []
    nni = types.SimpleNamespace(get_next_parameter=lambda: {"value": "3"}, report_final_result=told.append)
    monkeypatch.setitem(sys.modules, "nni", nni)
    monkeypatch.setenv(sweep.SETTINGS, str(tmp_path / "sweep.json"))
    monkeypatch.chdir(tmp_path)
    assert trial.main() == 0 and told == [30.0]
    assert sweep.working_folder({"folder": str(tmp_path / "gone")}) is None  # on another machine


@pytest.mark.parametrize("command", [[], ["python", "x.py", "{value}"], ["python", "x.py", "{out}"]])
def test_a_command_without_its_places_is_refused(command, tmp_path, capsys):
    with pytest.raises(UserError, match="after -- must hold"):
        sweep.check_command(command)
    assert sweep.main(["--values", "1", "--out", str(tmp_path / "s"), "--", *command]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "s").exists()


def test_the_newest_file_that_has_the_figure_counts(tmp_path):
    (tmp_path / "baseline").mkdir()
    (tmp_path / "row").mkdir()
    (tmp_path / "row" / "metrics.json").write_text(json.dumps({"compressed": {"top1": 90.5}}))
    (tmp_path / "baseline" / "metrics.json").write_text(json.dumps({"baseline": {"top1": 99.0}}))
    assert sweep.figure_in(tmp_path, "compressed.top1") == 90.5
    assert sweep.figure_in(tmp_path, "compressed.nothing") is None


def test_without_nni_one_line_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nni", None)
    monkeypatch.setitem(sys.modules, "nni.experiment", None)
    assert sweep.main(["--values", "1", "--out", str(tmp_path), "--", *COMMAND]) == 2
    assert "constraints-nni.txt" in capsys.readouterr().err


def test_the_manager_is_told_where_to_listen_and_how_long_to_wait(monkeypatch):
    monkeypatch.setenv("NODE_OPTIONS", "--no-warnings")
    told = sweep.manager_environment("/a folder/manager.js", "127.0.0.1")
    assert told["NODE_OPTIONS"] == '--no-warnings --require "/a folder/manager.js"'
    assert told["COMPARE_LISTEN"] == "127.0.0.1" and int(told["COMPARE_PATIENCE"]) >= 60


needs_nni = pytest.mark.skipif(
    importlib.util.find_spec("nni") is None,
    reason="nni is not installed: it wants older libraries, so bash run_tests.sh -e nni tests it in its own environment",
)


@needs_nni
def test_the_preloaded_script_changes_the_tuners_ten_seconds_and_no_other_time(tmp_path):
    """In node itself: a server asked for every address gets one; a timeout is longer where NNI's tuner is waited for."""
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
    said = subprocess.run(
        [node, "main.js"],
        cwd=tmp_path,
        env=sweep.manager_environment(script, "127.0.0.1"),
        capture_output=True,
        text=True,
    )
    assert said.stdout.splitlines() == ["10000 9999", f"{1000 * sweep.PATIENCE} 9999", "127.0.0.1", "promised"], (
        said.stderr
    )


@needs_nni
def test_an_experiment_runs_every_value_and_its_portal_stays_at_home(tmp_path, capsys):
    """Each trial also notes who listens on the portal's port."""
    look = (
        "import psutil, pathlib; pathlib.Path(sys.argv[3]).write_text(' '.join(sorted({c.laddr.ip for c in psutil.net_connections()"
        " if c.status == 'LISTEN' and c.laddr.port == 18231})))"
    )
    command = ["python", "-c", f"{WRITER}; {look}", "{value}", "{out}/run", "{out}/listeners"]
    assert sweep.main(["--values", "1", "2.5", "--out", str(tmp_path), "--port", "18231", "--", *command]) == 0
    assert [row["figure"] for row in sweep.collect(json.loads((tmp_path / "sweep.json").read_text()))] == [10.0, 25.0]
    assert "25.0" in capsys.readouterr().out
    assert [file.read_text() for file in tmp_path.glob("value-*/listeners")] == ["127.0.0.1"] * 2


@needs_nni
def test_a_port_in_use_is_one_line(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert sweep.main(["--values", "1", "--out", str(tmp_path), "--port", port, "--", *COMMAND]) == 2
    assert capsys.readouterr().err.splitlines()[-1].count(port) == 1
