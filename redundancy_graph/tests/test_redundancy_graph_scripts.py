"""``run_cifar10.sh`` and ``run_imagenet.sh``, called or sourced, complete every job of the plan on tiny data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.testing import check_script_runs_plan, run_script

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("script", [pytest.param("run_cifar10.sh", marks=pytest.mark.slow), "run_imagenet.sh"])
def test_script_runs_its_plan(tmp_path, script):
    out = check_script_runs_plan(HERE / script, tmp_path, "--arch", "resnet20", per_class=6)
    assert list(out.glob("runs/graph/*/resnet20-0.7/metrics.json"))


def test_unknown_script_options_are_passed_to_commands(tmp_path):
    """Replacing the data set also removes the option of its folder."""
    words = ("--epochs", "1", "--dataset", "digits", "--arch", "resnet20", "--batch-size", "128", "--device", "cpu")
    status, printed = run_script(HERE / "run_cifar10.sh", *words, "--minutes", "0.1", "--out", tmp_path / "out")
    assert status in (0, 75), printed
    assert "no command of this plan knows" not in printed
    log = min((tmp_path / "out" / "jobs" / "dense").glob("*/log.txt"))
    command = log.read_text().splitlines()[1]
    assert "--epochs 1 --dataset digits --arch resnet20 --batch-size 128" in command and "--dataset-dir" not in command


def test_sourcing_preserves_shell_state(tmp_path):
    code = f"""
        cd {tmp_path}; before=$(set +o; pwd; declare -F; compgen -v | sort)
        source {HERE / "run_cifar10.sh"} --dry-run --out {tmp_path / "out"} > listed; result=$?
        after=$(set +o; pwd; declare -F; compgen -v | grep -v -e ^before$ -e ^result$ | sort)
        [ "${{before//before/}}" = "${{after//before/}}" ] && echo unaltered
        echo alive $result; grep -c "graph/" listed
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.stdout.split() == ["unaltered", "alive", "0", "12"], done
