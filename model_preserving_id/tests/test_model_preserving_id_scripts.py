"""``run_cifar10.sh`` and ``run_imagenet.sh``: every job of the plan completes on tiny data; a second call runs nothing."""

from pathlib import Path

import pytest

from common.testing import check_script_runs_plan

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("script", ["run_cifar10.sh", "run_imagenet.sh"])
def test_script_runs_its_plan(tmp_path, script):
    out = check_script_runs_plan(HERE / script, tmp_path, "--arch", "lenet5", per_class=6)
    assert list(out.glob("runs/id/*/metrics.json"))
