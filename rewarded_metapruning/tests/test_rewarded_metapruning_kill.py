"""Processes: two under gloo give one's search; SIGKILL at seeded moments, the same command again ends with the same bits."""

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from rmp_helpers import write_pictures

from rewarded_metapruning import evaluate, search, train

KILLS = 2
COMMANDS = {"train": train.main, "search": search.main, "evaluate": evaluate.main}
NEV = "20,20,20,20,20,20,20"
RESULTS = {
    "train": ["model.safetensors", "checkpoint.pth.tar"],
    "search": ["search.json"],
    "evaluate": ["unpruned/model.safetensors", "checkpoint.pth.tar"],
}
PLACES = {"train": "--save", "search": "--out", "evaluate": "--save"}


def run_in_child(command: str, words: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    raise SystemExit(COMMANDS[command](words))


@pytest.fixture(scope="module")
def context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rewarded_metapruning.evaluate", "rewarded_metapruning.search", "PIL.Image"])
    return context


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_pictures(tmp_path_factory.mktemp("kill"))
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
    words += ["--holdout", "0.25"]
    if command == "search":
        words += ["--max-iters", "3", "--population", "8", "--parents", "3", "--calibration-batches", "2"]
        return [*words, "--batch-size", "16", "--net-cache", str(root / "meta" / "checkpoint.pth.tar")]
    words += ["--epochs", "3", "--batch-size", "16"]
    return [*words, "--nev", NEV, "--beside", "unpruned"] if command == "evaluate" else words


def contents(folder: Path, command: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RESULTS[command]]


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_it_goes_on_to_the_same_bits(command, context, root, tmp_path):
    def run(folder: Path, seconds: float | None) -> int:
        words = [*words_of(command, root), PLACES[command], str(folder)]
        child = context.Process(target=run_in_child, args=(command, words, {}))
        child.start()
        child.join(seconds)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return child.exitcode

    start = time.monotonic()
    assert run(tmp_path / "whole", None) == 0
    span = time.monotonic() - start
    draw, kills, tries, folder = random.Random(5), 0, 0, 0
    while kills < KILLS:
        tries += 1
        assert tries <= 8 * KILLS, "the command ends before it can be killed"
        start = time.monotonic()
        status = run(tmp_path / f"killed{folder}", draw.uniform(0.3, 0.8) * span)
        kills += status == -signal.SIGKILL
        if status == 0:
            folder, span = folder + 1, min(span, time.monotonic() - start)
    assert run(tmp_path / f"killed{folder}", None) == 0
    assert contents(tmp_path / f"killed{folder}", command) == contents(tmp_path / "whole", command)
    if command == "search":
        lines = (tmp_path / f"killed{folder}" / "tested-0.jsonl").read_text().splitlines()
        nevs = [tuple(json.loads(line)["nev"]) for line in lines]
        assert len(nevs) == len(set(nevs)) == 24


def test_two_processes_give_one_s_search(context, root, tmp_path):
    words = words_of("search", root)
    assert search.main([*words, "--out", str(tmp_path / "one")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment["MASTER_PORT"] = str(port)
        arguments = ("search", [*words, "--out", str(tmp_path / "two")], environment)
        children.append(context.Process(target=run_in_child, args=arguments))
        children[-1].start()
    for child in children:
        child.join(240)
    assert [child.exitcode for child in children] == [0, 0]
    assert (tmp_path / "two" / "search.json").read_bytes() == (tmp_path / "one" / "search.json").read_bytes()
    shares = [len((tmp_path / "two" / f"tested-{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
    assert shares == [12, 12]
