"""``run_cifar10.sh`` and ``run_imagenet.sh`` complete every job of the plan on tiny data, and skip them when called again."""

from pathlib import Path

import pytest

from common.campaign.plan import read_plan, resolve, select_jobs
from common.settings import parse
from common.testing import check_script_runs_plan
from decore.settings import InvestigatePolicies, PruneModel

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("script", [pytest.param("run_cifar10.sh", marks=pytest.mark.slow), "run_imagenet.sh"])
def test_script_runs_its_plan(tmp_path, script):
    out = check_script_runs_plan(HERE / script, tmp_path, "--arch", "lenet5", "--penalty", "50", per_class=6)
    assert list(out.glob("runs/decore/*/*/metrics.json"))


def test_commands_of_plan_have_valid_options():
    jobs = read_plan(HERE / "plan.toml")
    outputs = {job.name: Path("out") / job.out for job in jobs}
    for job in select_jobs(jobs, ["cifar10"]) + select_jobs(jobs, ["imagenet"]):
        words = resolve(job, outputs)
        if words[1] in ("prune_model.py", "investigate_policies.py"):
            cls = PruneModel if words[1] == "prune_model.py" else InvestigatePolicies
            assert parse(cls, words[2:]).network.weights
    penalties = [job.name for job in jobs if job.name.startswith("decore/vgg16-")]
    assert penalties == [f"decore/vgg16-{penalty}" for penalty in (50, 100, 200, 500, 4)]


def test_networks_trained_here_are_preferred(tmp_path, monkeypatch):
    (tmp_path / "densenet40.safetensors").touch()
    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    jobs = {job.name: job for job in read_plan(HERE / "plan.toml")}
    outputs = {name: Path("out") / job.out for name, job in jobs.items()}
    assert f"{tmp_path}/densenet40.safetensors" in resolve(jobs["decore/densenet40-70"], outputs)
    assert f"{tmp_path}/vgg16.pth" in resolve(jobs["decore/vgg16-50"], outputs)
    assert "dense/vgg16" not in jobs and "dense/densenet40" not in jobs
