"""Sweeps: the command of a trial, what is read from its files, mistakes; and a real experiment where nni is installed."""

import importlib.util
import json
import sys

import pytest

from common.errors import UserError
from compare import sweep

WRITER = "import json, pathlib, sys; p = pathlib.Path(sys.argv[2]); p.mkdir(parents=True, exist_ok=True); (p / 'metrics.json').write_text(json.dumps({'compressed': {'top1': 10 * float(sys.argv[1])}}))"
COMMAND = ["python", "-c", WRITER, "{value}", "{out}/run"]


def test_the_command_of_a_trial():
    words = sweep.filled(
        ["python", "-m", "x", "--k={value}", "--out", "{out}/a"], "0.5", sweep.trial_folder("/s", "0.5")
    )
    assert words == [sys.executable, "-m", "x", "--k=0.5", "--out", "/s/value-0.5/a"]
    assert sweep.trial_folder("/s", "../../etc").parent == sweep.trial_folder("/s", "1").parent


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


@pytest.mark.skipif(importlib.util.find_spec("nni") is None, reason="nni is not installed: tox run -e nni has it")
def test_an_experiment_runs_every_value(tmp_path, capsys):
    assert sweep.main(["--values", "1", "2.5", "--out", str(tmp_path), "--port", "18231", "--", *COMMAND]) == 0
    assert [row["figure"] for row in sweep.collect(json.loads((tmp_path / "sweep.json").read_text()))] == [10.0, 25.0]
    assert "25.0" in capsys.readouterr().out
