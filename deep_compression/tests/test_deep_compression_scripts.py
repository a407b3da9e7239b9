"""``run_cifar10.sh`` finishes every job of the plan on tiny data; a second call does nothing."""

from pathlib import Path

from common.campaign.plan import read_plan, select_jobs
from common.testing import check_script_runs_plan

HERE = Path(__file__).parents[1]


def test_script_runs_its_plan(tmp_path):
    out = check_script_runs_plan(HERE / "run_cifar10.sh", tmp_path, "--arch", "lenet5", per_class=6)
    assert len(list(out.glob("runs/dc/*/results/cifar10-*.json"))) == 12


def test_plan_contains_lenets():
    jobs = select_jobs(read_plan(HERE / "plan.toml"), ["mnist"])
    assert [job.name for job in jobs] == ["dc/lenet300_100-mnist", "dc/lenet5-mnist"]
