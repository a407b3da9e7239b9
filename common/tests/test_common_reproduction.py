"""The page docs/reproduction.md is up to date, and its statuses are determined from plans, results and tests."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from common.paper import reproduction
from common.paper.reproduction import ADDITIONS, PAGE, ROOT, TABLES, join_commands, read_rows, table
from common.reporting.results import stale_blocks
from common.testing.stored_commands import rejection_reason

PLAN = """
[[job]]
name = "p/vgg16-{penalty}"
run = "python prune.py --arch vgg16 --weights {weights:vgg16} --dataset cifar10 --dataset-dir {data:cifar10} --penalty {penalty} --out {out}"
epochs = 90
each = { penalty = [5, 50] }
tags = ["cifar10"]

[[job]]
name = "dense/vgg16"
run = "python -m common.train --arch vgg16 --dataset cifar10 --out {out}"
"""
MORE = """
[[jobs]]
jobs = "p/*"
published = "paper, table 1"

[[command]]
package = "paper"
dataset = "mnist"
network = "lenet5"
published = "paper"
run = "python other.py"
results = "other-*.json"
contains = "alds"
test = "paper/tests/test_other.py::test_other_runs"
"""


def checkout(root: Path, **results: dict) -> Path:
    for folder in ("docs", "paper/results", "paper/tests"):
        (root / folder).mkdir(parents=True)
    (root / "paper" / "plan.toml").write_text(PLAN)
    (root / "docs" / ADDITIONS.name).write_text(MORE)
    for name, content in results.items():
        (root / "paper" / "results" / f"{name.replace('_', '-')}.json").write_text(json.dumps(content))
    return root


def statuses(root: Path) -> list[str]:
    return [row.status for row in read_rows(root)]


def test_page_is_up_to_date_and_linked():
    assert stale_blocks(PAGE, TABLES) == [], "run python -m common.paper.reproduction"
    assert "](docs/reproduction.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_page_contains_every_job_of_the_papers():
    rows = {(row.package, row.dataset, row.network) for row in read_rows()}
    expected = {("deep_compression", "cifar10", "vgg19"), ("deep_compression", "mnist", "lenet5")}
    expected |= {("decore", "imagenet", "resnet50"), ("rewarded_metapruning", "imagenet", "mobilenetv2")}
    assert expected <= rows


def test_commands_of_page_have_valid_options():
    for entry in tomllib.loads(ADDITIONS.read_text(encoding="utf-8"))["command"]:
        assert not rejection_reason(ROOT / entry["package"], shlex.split(entry["run"])), entry["run"]


def test_status_without_results_depends_on_tests(tmp_path):
    root = checkout(tmp_path)
    assert statuses(root) == ["not run", "not run"]
    (root / "paper" / "tests" / "test_paper_scripts.py").write_text('check_script_runs_plan(HERE / "run_cifar10.sh")')
    (root / "paper" / "tests" / "test_other.py").write_text("def test_other_runs(tmp_path):\n    pass\n")
    assert statuses(root) == ["on small data", "on small data"]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"run_vgg16_5": {"dataset": "cifar10", "epochs": 3}}, "shortened: 3 of 90 epochs, 1 of 2 runs"),
        ({f"run_vgg16_{p}": {"dataset": "cifar10", "epochs": 3} for p in (5, 50)}, "shortened: 3 of 90 epochs"),
        ({"run_vgg16_5": {"dataset": "cifar10", "epochs": 90}}, "in full: 1 of 2 runs"),
        ({f"run_vgg16_{p}": {"dataset": "cifar10", "epochs": 90} for p in (5, 50)}, "in full"),
        ({"run_vgg16_5": {"dataset": "digits", "epochs": 90}}, "not run"),
        ({"run_vgg16_500": {"dataset": "cifar10", "epochs": 90}}, "not run"),
    ],
)
def test_status_with_results_depends_on_data_set_and_epochs(tmp_path, results, expected):
    assert statuses(checkout(tmp_path, **results))[0] == expected


@pytest.mark.parametrize(
    ("images", "expected"),
    [(500, "shortened: 500 of 5,000 calibration images, 1 of 2 runs"), (5000, "in full: 1 of 2 runs")],
)
def test_status_counts_calibration_images_if_the_plan_has_them(tmp_path, images, expected):
    root = checkout(tmp_path, run_vgg16_5={"dataset": "cifar10", "images": images})
    file = root / "docs" / ADDITIONS.name
    first, jobs, rest = file.read_text(encoding="utf-8").partition("[[jobs]]\n")
    file.write_text(f"{first}{jobs}images = 5000\n{rest}", encoding="utf-8")
    assert statuses(root)[0] == expected


def test_result_of_command_must_contain_text(tmp_path):
    root = checkout(tmp_path, other_a={"methods": ["pca"]})
    assert statuses(root)[1] == "not run"
    (root / "paper" / "results" / "other-b.json").write_text('{"methods": ["alds"]}')
    assert statuses(root)[1] == "in full"


def test_row_has_source_hours_and_command_without_local_paths(tmp_path):
    row = read_rows(checkout(tmp_path))[0]
    assert (row.package, row.dataset, row.network, row.published) == ("paper", "cifar10", "vgg16", "paper, table 1")
    assert row.cpu == pytest.approx(2 * (60 + 90 * 954) / 3600)
    assert (
        table([row])
        .splitlines()[-1]
        .endswith(
            "| `python prune.py --arch vgg16 --weights data/weights/vgg16.safetensors --dataset cifar10 "
            "--dataset-dir data/cifar10 --penalty {5,50}` |"
        )
    )


def test_commands_with_different_options_are_listed():
    commands = [["python", "a.py", "--k", "1"], ["python", "a.py", "--k", "2"], ["python", "b.py"]]
    assert join_commands(commands) == "`python a.py --k {1,2}`, `python b.py`"


def test_check_reports_stale_page(tmp_path, monkeypatch, capsys):
    page = tmp_path / PAGE.name
    page.write_text("<!-- results:reproduction:begin -->\n<!-- results:reproduction:end -->\n")
    monkeypatch.setattr(reproduction, "PAGE", page)
    assert reproduction.main(["--check"]) == 2 and "not up to date" in capsys.readouterr().err
    assert reproduction.main([]) == 0 == reproduction.main(["--check"])
