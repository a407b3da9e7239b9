"""Processes: a search in two processes equals one in a single process; killed commands, and those that fill the disk, resume bit-identical."""

import json
from pathlib import Path

import pytest
from rmp_helpers import write_image_folder

from common import trained_model
from common.testing import check_full_disk_and_kills, check_resume_after_kill, run_in_processes
from common.testing.fixed_latency import fixed_latency
from rewarded_metapruning import search, train_chosen, train_pruning_net

PRELOAD = ["rewarded_metapruning.final_training", "rewarded_metapruning.search_stage", "PIL.Image"]


def untimed(words: list[str]) -> int:
    trained_model.measure_latency = fixed_latency  # nothing is written during the measurement
    return train_chosen.main(words)


COMMANDS = {"train": train_pruning_net.main, "search": search.main, "evaluate": untimed}
NEV = "20,20,20,20,20,20,20"
RESULTS = {
    "train": ["model.safetensors", "checkpoint.pth.tar"],
    "search": ["search.json"],
    "evaluate": ["unpruned/model.safetensors", "checkpoint.pth.tar"],
}
PLACES = {"train": "--save", "search": "--out", "evaluate": "--save"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_image_folder(tmp_path_factory.mktemp("kill"))
    assert train_pruning_net.main([*arguments("train", root), "--save", str(root / "meta")]) == 0
    return root


def arguments(command: str, root: Path) -> list[str]:
    argv = [
        "--arch",
        "resnet-small",
        "--dataset",
        f"folder:{root}",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--workers",
        "0",
    ]
    if command != "evaluate":
        argv += ["--holdout", "0.25"]
    if command == "search":
        argv += ["--max-iters", "3", "--population", "8", "--parents", "3", "--calibration-batches", "2"]
        return [*argv, "--batch-size", "16", "--net-cache", str(root / "meta" / "checkpoint.pth.tar")]
    argv += ["--epochs", "3", "--batch-size", "16"]
    return [*argv, "--nev", NEV, "--also-train", "unpruned"] if command == "evaluate" else argv


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_command_resumes_bit_identical(command, root, tmp_path):
    def contents(folder: Path) -> list[bytes]:
        return [(folder / name).read_bytes() for name in RESULTS[command]]

    folder = check_resume_after_kill(
        COMMANDS[command],
        [*arguments(command, root), PLACES[command]],
        contents,
        tmp_path,
        kills=2,
        preload=PRELOAD,
        between=(0.3, 0.8),
    )
    if command == "search":
        nevs = [tuple(json.loads(line)["nev"]) for line in (folder / "tested-0.jsonl").read_text().splitlines()]
        assert len(nevs) == len(set(nevs)) == 24
    words = [*arguments(command, root), PLACES[command]]
    check_full_disk_and_kills(COMMANDS[command], words, tmp_path, preload=PRELOAD)


def test_search_in_two_processes_equals_one(root, tmp_path):
    argv = arguments("search", root)
    assert search.main([*argv, "--out", str(tmp_path / "one")]) == 0
    run_in_processes(search.main, [*argv, "--out", str(tmp_path / "two")], preload=PRELOAD)
    assert (tmp_path / "two" / "search.json").read_bytes() == (tmp_path / "one" / "search.json").read_bytes()
    counts = [len((tmp_path / "two" / f"tested-{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
    assert counts == [12, 12]
