"""Run folders of the three stages that commit b50e727 finished can be read, plotted, skipped and continued.

The folders in ``data/finished_run`` were written by TRAIN, SEARCH, EVALUATE and RESNET20. The network of the first three is
``rmp_finished_network.py``. The files ``model_best.pth.tar`` (identical to ``checkpoint.pth.tar``) are omitted, and both files
of ``evaluating-resnet20``.
"""

import csv
from pathlib import Path

import pytest
import torch
from rmp_finished_network import build

from common.checkpoint import load_model, read_tensors
from common.cost import count_cost
from common.data import load_dataset
from common.formats import load_network
from common.measure import evaluate
from common.runs import open_stage, read_json
from common.testing.finished import copy_finished_run
from rewarded_metapruning import final_training, plots, reward, search, train_chosen, train_pruning_net
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.custom_network import build_custom_space
from rewarded_metapruning.evaluation_cache import EvaluationCache
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.pruning_net_files import read_pruning_net
from rewarded_metapruning.search_file import read_nev, read_scale_range, read_search
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER
from rewarded_metapruning.space import find_space

NAME = "rmp_finished_network:build"
OWN = f"--model {NAME} --dataset digits --device cpu"
TRAIN = (  # after python train.py
    f"{OWN} --epochs 12 --batch-size 64 --optimizer adam --learning-rate 0.003 --label-smoothing 0 --save training"
)
SEARCH = (  # after python search.py
    f"{OWN} --net-cache training/checkpoint.pth.tar --max-iters 3 --population 6 --parents 3 --calibration-batches 2"
    " --batch-size 64 --target-macs 0.5 --out searching"
)
EVALUATE = f"{OWN} --nev-file searching/search.json --epochs 2 --batch-size 64 --save evaluating"  # python evaluate.py
RESNET20 = (  # after python evaluate.py
    "--arch resnet20 --dataset digits --device cpu --nev 1,1,1,1,1,1,1,1,1,1,1,1 --epochs 1 --batch-size 64"
    " --save evaluating-resnet20"
)
CHOSEN, SMALL = "evaluating/chosen-46f9ad43", "evaluating-resnet20/chosen-4324a3d2"
SHAPE, FOUND = (3, 32, 32), 18


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Copy the folders and change into the copy, so that relative paths are the recorded ones."""
    monkeypatch.chdir(tmp_path)  # restores the folder afterwards
    return copy_finished_run(__file__, tmp_path)


@pytest.fixture(scope="module")
def space():
    return build_custom_space(NAME, 10, SHAPE)


def written(place: Path) -> dict[Path, tuple[int, bytes]]:
    """Return the modification time and content of each file that a training wrote."""
    names = ("model.safetensors", "metrics.json", "log.csv")
    files = [
        file for folder in ("training", CHOSEN, SMALL) for file in (place / folder).iterdir() if file.name in names
    ]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_both_files_hold_same_pruning_net(space):
    nets = [read_pruning_net(Path("training") / name, space) for name in ("model.safetensors", "checkpoint.pth.tar")]
    first, second = (saved.net.state_dict() for saved in nets)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert [saved.scale_range for saved in nets] == [(0, 30), (0, 30)]
    assert nets[0].net.plain_network(space.unpruned)(torch.zeros(2, *SHAPE)).shape == (2, 10)


def test_search_file_has_cost_and_reward_of_every_candidate(space):
    content = read_search("searching/search.json")
    rows, cost = content["candidates"], space_cost(space)
    assert content["finished"] and len(rows) == FOUND and read_scale_range("searching/search.json") == (0, 30)
    assert int(cost.macs([space.unpruned])[0]) / MILLION == content["base_macs"] == 0.073306
    for rank, row in enumerate(rows, 1):
        nev = read_nev("searching/search.json", rank, space)
        assert list(nev) == row["nev"] and int(cost.macs([nev], CONV_LINEAR)[0]) == row["macs"]
        assert content["budget"]["least"] <= row["macs"] <= content["budget"]["most"]
        assert reward(row["top1"], row["macs_paper"], 100, content["base_macs"]) == pytest.approx(row["reward"])
    cache = EvaluationCache(Path("searching"), None).known
    assert {nev: metrics.top1 for nev, metrics in cache.items()} == {tuple(row["nev"]): row["top1"] for row in rows}


@pytest.mark.parametrize("folder, factory", [(CHOSEN, build), (SMALL, None)])
def test_trained_network_matches_recorded_macs_and_accuracy(folder, factory):
    recorded, model = (
        read_json(f"{folder}/metrics.json")["compressed"],
        load_network(f"{folder}/model.safetensors", factory),
    )
    assert recorded["macs"] == count_cost(model, SHAPE).macs == {CHOSEN: 34_590, SMALL: 682_064}[folder]
    assert recorded["macs_paper"] == count_cost(model, SHAPE, PAPER).macs
    header = model.checkpoint_header["normalize"]
    test = load_dataset("digits").test.normalized(header["mean"], header["std"])
    assert evaluate(model, test).top1 == pytest.approx(recorded["top1"], abs=1)


def test_trained_networks_match_their_vectors(space):
    for folder, of in ((CHOSEN, space), (SMALL, find_space("resnet20"))):
        metrics = read_json(f"{folder}/metrics.json")
        assert int(space_cost(of).macs([tuple(metrics["nev"])], CONV_LINEAR)[0]) == metrics["compressed"]["macs"]
        assert final_training.Variant("chosen", tuple(metrics["nev"])).folder == folder.rpartition("/")[2]
    assert tuple(read_json(f"{CHOSEN}/metrics.json")["nev"]) == read_nev("searching/search.json", 1, space)
    flat, model = read_tensors("evaluating/checkpoint.pth.tar"), load_model(f"{CHOSEN}/model.safetensors", build)
    assert all(torch.equal(flat[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("folder", ["training", "searching", CHOSEN, SMALL])
def test_folder_opens_as_same_run(place, folder):
    config, before = read_json(f"{folder}/config.json"), written(place)
    run = open_stage(folder, "rewarded_metapruning", config["options"], fingerprint=config["data_fingerprint"])
    assert run.finished == (folder != "searching") and written(place) == before


def test_same_commands_skip_and_other_options_fail(place, monkeypatch, capsys):
    monkeypatch.setattr("rewarded_metapruning.pruning_net_training.fit", None)  # nothing is trained
    monkeypatch.setattr(final_training, "fit", None)
    monkeypatch.setattr(CandidateEvaluator, "__call__", None)  # nothing is evaluated
    before, found = written(place), read_search("searching/search.json")
    assert train_pruning_net.main(TRAIN.split()) == 0
    assert search.main(SEARCH.split()) == 0
    assert f"{FOUND} are cached" in capsys.readouterr().out
    assert read_search("searching/search.json") == found
    assert train_chosen.main(EVALUATE.split()) == 0
    assert train_chosen.main(RESNET20.split()) == 0
    assert written(place) == before
    for main, words in ((train_pruning_net.main, TRAIN), (train_chosen.main, EVALUATE)):
        assert main([*words.split(), "--learning-rate", "0.2"]) == 2
        assert "--learning-rate" in capsys.readouterr().err
    assert search.main([*SEARCH.split(), "--mutation", "0.2"]) == 2
    assert "--mutation 0.1" in capsys.readouterr().err


def test_more_generations_continue_search(monkeypatch):
    evaluated = []
    evaluate_one = CandidateEvaluator.__call__
    monkeypatch.setattr(
        CandidateEvaluator, "__call__", lambda self, nev: evaluated.append(nev) or evaluate_one(self, nev)
    )
    old = {tuple(row["nev"]): row["reward"] for row in read_search("searching/search.json")["candidates"]}
    assert search.main([*SEARCH.split(), "--max-iters", "4"]) == 0
    new = {tuple(row["nev"]): row["reward"] for row in read_search("searching/search.json")["candidates"]}
    assert old.items() <= new.items() and new.keys() - old.keys() == set(evaluated) and 0 < len(evaluated) <= 6


def test_search_is_plotted(place):
    content = read_search("searching/search.json")
    with open("searching/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    best = [row["best_so_far"] for row in plots.reward_history(content)]
    assert best == pytest.approx([float(row["best_reward"]) for row in rows], abs=1e-6) and len(best) == 3
    plots.plot_rewards(place / "rewards.png", [content])
    plots.plot_candidates(place / "candidates.png", content)
    assert all((place / f"{name}.png").stat().st_size > 5000 for name in ("rewards", "candidates"))
