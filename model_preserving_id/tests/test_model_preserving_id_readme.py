"""Generated tables, here and in the root's README, are up to date with the result files."""

from pathlib import Path

from common.campaign.plan import read_plan, select_jobs
from common.testing import check_generated_docs
from model_preserving_id.paper.published import PUBLISHED
from model_preserving_id.paper.tables import TABLES

PLAN = Path(__file__).parents[1] / "plan.toml"


def test_generated_pages_are_current():
    check_generated_docs("model_preserving_id", TABLES)


def test_published_rows_name_source_and_row():
    rows = [line for line in TABLES["model_preserving_id.missing_class"]().splitlines() if "(published)" in line]
    assert len(rows) == 9 and all(", iteration " in row for row in rows)
    assert all(source and network for source, network, _ in PUBLISHED)
    assert any("Neuron Merging" in source and "93.16 %" in result for source, _, result in PUBLISHED)


def test_accuracy_without_fine_tuning_is_in_the_column_before_fine_tuning():
    for name in ("runs", "missing_class"):
        header = TABLES[f"model_preserving_id.{name}"]().splitlines()[0].split(" | ")
        assert "top-1 before fine-tuning (%)" in header and "top-1 (%)" not in header


def test_plan_has_networks_of_paper():
    """VGG-16 on CIFAR-10, whose weights are in ../weights; VGG-16 and MobileNetV1 on ImageNet."""
    runs = [
        " ".join(job.command) for tag in ("after-variants", "imagenet") for job in select_jobs(read_plan(PLAN), [tag])
    ]
    for arch, data in (("vgg16", "cifar10"), ("vgg16_imagenet", "imagenet"), ("mobilenet_v1", "imagenet")):
        assert any(f"--arch {arch} " in run and f"--dataset {data} " in run for run in runs)
