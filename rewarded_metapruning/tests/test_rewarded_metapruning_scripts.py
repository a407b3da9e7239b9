"""``run_cifar10.sh`` and ``run_imagenet.sh``: every job of the plan finishes on tiny data; a second call does nothing."""

from pathlib import Path

import pytest

from common.testing import check_script_runs_plan

HERE = Path(__file__).parents[1]


@pytest.mark.slow
def test_cifar10_script_runs_plan_with_committed_results(tmp_path):
    out = check_script_runs_plan(HERE / "run_cifar10.sh", tmp_path, "--arch", "mobilenetv1-small")
    assert len(list(out.glob("runs/meta/*/results/small-*.json"))) == 5


def test_imagenet_script_passes_options_to_supporting_stages(tmp_path):
    """The search, which runs after the training of the PruningNet, has no ``--epochs``."""
    out = check_script_runs_plan(
        HERE / "run_imagenet.sh", tmp_path, "--arch", "resnet-small", "--epochs", "1", per_class=6
    )
    assert len(list(out.glob("runs/meta/*-evaluating/*/metrics.json"))) == 3
