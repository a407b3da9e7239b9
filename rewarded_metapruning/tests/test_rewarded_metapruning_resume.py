"""Processes: two under gloo give one's search; SIGKILL at seeded moments, the same command again ends with the same bits."""

import json
from pathlib import Path

import pytest
from rmp_helpers import write_image_folder

from common.testing import check_resume_after_kill, run_in_processes
from rewarded_metapruning import evaluate, search, train

PRELOAD = ["rewarded_metapruning.evaluating", "rewarded_metapruning.searching", "PIL.Image"]
COMMANDS = {"train": train.main, "search": search.main, "evaluate": evaluate.main}
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
    assert train.main([*words_of("train", root), "--save", str(root / "meta")]) == 0
    return root


def words_of(command: str, root: Path) -> list[str]:
    words = [
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
        words += ["--holdout", "0.25"]
    if command == "search":
        words += ["--max-iters", "3", "--population", "8", "--parents", "3", "--calibration-batches", "2"]
        return [*words, "--batch-size", "16", "--net-cache", str(root / "meta" / "checkpoint.pth.tar")]
    words += ["--epochs", "3", "--batch-size", "16"]
    return [*words, "--nev", NEV, "--beside", "unpruned"] if command == "evaluate" else words


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_it_goes_on_to_the_same_bits(command, root, tmp_path):
    def contents(folder: Path) -> list[bytes]:
        return [(folder / name).read_bytes() for name in RESULTS[command]]

    folder = check_resume_after_kill(
        COMMANDS[command],
        [*words_of(command, root), PLACES[command]],
        contents,
        tmp_path,
        kills=2,
        preload=PRELOAD,
        between=(0.3, 0.8),
    )
    if command == "search":
        nevs = [tuple(json.loads(line)["nev"]) for line in (folder / "tested-0.jsonl").read_text().splitlines()]
        assert len(nevs) == len(set(nevs)) == 24


def test_two_processes_give_one_s_search(root, tmp_path):
    words = words_of("search", root)
    assert search.main([*words, "--out", str(tmp_path / "one")]) == 0
    run_in_processes(search.main, [*words, "--out", str(tmp_path / "two")], preload=PRELOAD)
    assert (tmp_path / "two" / "search.json").read_bytes() == (tmp_path / "one" / "search.json").read_bytes()
    shares = [len((tmp_path / "two" / f"tested-{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
    assert shares == [12, 12]
