"""The promises of the original code's README, ``original_readme.txt``: commands on tiny data, options, files and table rows."""

import shlex
from pathlib import Path

import pytest
import torch
from rg_helpers import ARCHS

from common.models import create_model
from common.settings import parse
from common.testing import write_image_folder, write_tiny_dataset
from common.testing.original_readme import (
    Promise,
    check_commands,
    check_files,
    check_options,
    check_rows,
    copy_package,
    numbers_in,
    of_kind,
    read_promises,
)
from redundancy_graph.layer_names import tensors_to_original
from redundancy_graph.paper.published import FIRST, PUBLISHED
from redundancy_graph.settings import GeneratePruneInfo, PruneCifar10, PruneImagenet

PROMISES = read_promises(__file__)
FEW = "--device cpu --threads 1 --mini-batch 2"
SMALL = {  # run_cifar10.sh and run_imagenet.sh are run completely in test_redundancy_graph_scripts.py
    "generate_prune_info.py": FEW,
    "prune_cifar10.py": f"{FEW} --epochs 1 --batch-size 10 --no-latency",
    "prune_imagenet.py": f"{FEW} --epochs 0 --workers 0 --no-latency",
    "common.campaign": "--dry-run",
}


def test_original_readme_files_exist() -> None:
    check_files(PROMISES, "redundancy_graph")


def test_original_readme_options_are_listed() -> None:
    check_options(PROMISES, "redundancy_graph")


def test_original_readme_rows_are_published() -> None:
    rows = [row for row in PUBLISHED if row.source == FIRST]
    values = [
        (row.threshold, row.top1, row.top5, row.drop, row.top5_drop, row.flops_drop, row.params_drop) for row in rows
    ]
    check_rows(PROMISES, [set(numbers_in(row)) for row in values])


SETTINGS = {
    "generate_prune_info.py": GeneratePruneInfo,
    "prune_cifar10.py": PruneCifar10,
    "prune_imagenet.py": PruneImagenet,
}
SLOW = ("resnet56", "resnet110", "densenet40", "resnet50")


def test_original_readme_commands_have_valid_options() -> None:
    """Of all networks, also of those whose commands run in the slow test."""
    found = []
    for _, script, *words in (shlex.split(promise.text) for promise in of_kind(PROMISES, "command")):
        if script in SETTINGS:
            found.append(parse(SETTINGS[script], words).arch)
    assert set(found) == set(ARCHS) and len(found) == 2 * len(ARCHS)


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_original_readme_commands_run(tmp_path: Path, slow: bool) -> None:
    """With the authors' networks and data in the folders of the original code, and no option but those that save time."""
    folder = copy_package("redundancy_graph", tmp_path)
    for image in write_tiny_dataset(folder / "cifar10" / "dataset", per_class=1).glob("test/*/[12].png"):
        image.unlink()
    (write_image_folder(folder / "imagenet" / "dataset", train=1, test=1) / "test").rename(
        folder / "imagenet" / "dataset" / "val"
    )
    for arch, (arguments, _) in ARCHS.items():
        weights = folder / ("imagenet" if arch == "resnet50" else "cifar10") / "pre-train" / f"{arch}-weights.pth"
        weights.parent.mkdir(exist_ok=True)
        torch.manual_seed(0)
        tensors = create_model(arch, num_classes=2 if arch == "resnet50" else 10, **arguments).state_dict()
        torch.save(tensors_to_original(arch, tensors), weights)
    check_commands(commands_of(slow), folder, SMALL, seconds=300)


def commands_of(slow: bool) -> list[Promise]:
    """Return the promised commands for the networks of the slow test, or the others, with the files that they produce."""
    chosen: list[Promise] = []
    belongs = False
    for promise in PROMISES:
        if promise.kind == "command":
            belongs = any(f"--arch {arch} " in promise.text for arch in SLOW) is slow
        if promise.kind in ("command", "produces") and belongs:
            chosen.append(promise)
    return chosen
