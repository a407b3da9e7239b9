"""The three stages as commands, in process: what they leave, that the next one reads it, that a second call goes on."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rmp_helpers import write_image_folder

from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model
from common.cost import count_cost
from common.data import load_dataset
from common.errors import UserError
from common.formats import load_network
from common.models import create_model
from common.runs import open_stage
from common.target import Target
from common.testing import run_method
from common.trained_model import Limits, TrainedModel
from common.training import TrainOptions
from rewarded_metapruning import evaluate, evaluating, method, network_cost, search, train
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.recipes import SearchSettings, recipe_of
from rewarded_metapruning.search_file import nev_of_rank, read_search
from rewarded_metapruning.searching import window_of
from rewarded_metapruning.settings import CONV_LINEAR, Evaluate, Search, Train, normalize_dashes, parse_stage
from rewarded_metapruning.space import find_space

HOLDOUT = ["--holdout", "0.25"]
TRAIN = [*HOLDOUT, "--epochs", "2", "--batch_size=16"]
SEARCH = [
    *HOLDOUT,
    "--max_iters=3",
    "--population",
    "6",
    "--parents",
    "3",
    "--calibration-batches",
    "2",
    "--batch-size",
    "16",
]
EVALUATE = ["--epochs", "1", "--batch-size", "16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Pictures, and a PruningNet trained on them."""
    root = write_image_folder(tmp_path_factory.mktemp("stages"))
    assert train.main([*common(root), *TRAIN, "--save", str(root / "meta")]) == 0
    return root


def common(root: Path, arch: str = "resnet-small") -> list[str]:
    return ["--arch", arch, "--dataset", f"folder:{root}", "--device", "cpu", "--workers", "0"]


def search_words(root: Path, out: Path) -> list[str]:
    return [*common(root), *SEARCH, "--net_cache", str(root / "meta" / "checkpoint.pth.tar"), "--out", str(out)]


@pytest.fixture(scope="module")
def found(root) -> Path:
    assert search.main(search_words(root, root / "search")) == 0
    return root / "search" / "search.json"


def test_training_leaves_a_run_folder_and_the_original_s_files(root):
    folder = root / "meta"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "log.csv",
        "metrics.json",
        "model.safetensors",
        "checkpoint.pth.tar",
        "model_best.pth.tar",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["length"] == 7 and 0 <= metrics["unpruned_top1"] <= 100
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and float(rows[0]["learning_rate"]) == 0.1
    assert (folder / "checkpoint.pth.tar").read_bytes() == (folder / "model_best.pth.tar").read_bytes()


def test_a_finished_training_is_skipped_and_other_options_are_refused(root, capsys):
    before = (root / "meta" / "model.safetensors").stat().st_mtime_ns
    words = [*common(root), *TRAIN, "--save", str(root / "meta")]
    assert train.main(words) == 0
    assert (root / "meta" / "model.safetensors").stat().st_mtime_ns == before
    assert train.main([*words, "--learning-rate", "0.2"]) == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_full_width_is_measured_after_every_nth_epoch_and_the_last(root, tmp_path):
    """The same network as with a measurement after each."""
    words = [*common(root), *TRAIN, "--save", str(tmp_path / "meta"), "--evaluate-every", "2"]
    assert train.main(words) == 0
    with open(tmp_path / "meta" / "log.csv", newline="") as file:
        first, last = (row["unpruned_top1"] for row in csv.DictReader(file))
    assert first == "" and float(last) == json.loads((root / "meta" / "metrics.json").read_text())["unpruned_top1"]
    name = "checkpoint.pth.tar"
    assert (tmp_path / "meta" / name).read_bytes() == (root / "meta" / name).read_bytes()


def test_search_writes_every_candidate_best_first(root, found, capsys):
    content = read_search(found)
    rows = content["candidates"]
    assert content["finished"] and content["generations"] == 3 and len(rows) == 18
    assert [row["rank"] for row in rows] == list(range(1, 19))
    assert [row["reward"] for row in rows] == sorted((row["reward"] for row in rows), reverse=True)
    space = find_space("resnet-small", 2, (3, 16, 16))
    cost = space_cost(space)
    dense = cost.macs([space.unpruned], CONV_LINEAR)[0]
    for row in rows:
        assert 0.49 * dense <= row["macs"] <= 0.5 * dense
        assert row["macs"] == count_cost(space.build(row["nev"]), (3, 16, 16)).macs
    assert content["selected_on"] == "holdout"
    assert search.main(search_words(root, found.parent)) == 0
    printed = capsys.readouterr().out
    assert "No.1: " in printed and "held-out training pictures; 18 are known already" in printed


def test_interrupted_search_resumes_to_the_same_file_and_evaluates_nothing_twice(root, found, tmp_path, monkeypatch):
    evaluated = []
    evaluate_one = CandidateEvaluator.__call__

    def failing(self, nev):
        if len(evaluated) == 8:
            raise KeyboardInterrupt
        evaluated.append(nev)
        return evaluate_one(self, nev)

    monkeypatch.setattr(CandidateEvaluator, "__call__", failing)
    words = search_words(root, tmp_path / "s")
    assert search.main(words) == 130
    assert not read_search(tmp_path / "s" / "search.json")["finished"]
    monkeypatch.setattr(
        CandidateEvaluator, "__call__", lambda self, nev: evaluated.append(nev) or evaluate_one(self, nev)
    )
    assert search.main(words) == 0
    assert (tmp_path / "s" / "search.json").read_bytes() == found.read_bytes()
    assert len(evaluated) == len(set(evaluated)) == 18


def test_more_generations_go_on_from_the_same_folder(root, tmp_path):
    words = search_words(root, tmp_path / "s")
    assert search.main([*words, "--max-iters", "1"]) == 0
    first = {tuple(row["nev"]) for row in read_search(tmp_path / "s" / "search.json")["candidates"]}
    assert search.main(words) == 0
    content = read_search(tmp_path / "s" / "search.json")
    assert len(content["candidates"]) == 18
    assert {tuple(row["nev"]) for row in content["candidates"] if row["generation"] == 0} == first


def test_selecting_on_the_test_pictures_says_so(root, tmp_path, capsys):
    words = [*search_words(root, tmp_path / "s"), "--max-iters", "1", "--select-on", "test", "--plots"]
    assert search.main(words) == 0
    assert "the TEST pictures, as the original does" in capsys.readouterr().out
    assert read_search(tmp_path / "s" / "search.json")["selected_on"] == "test"
    assert (tmp_path / "s" / "rewards.png").stat().st_size > 5000 < (tmp_path / "s" / "candidates.png").stat().st_size


def test_the_chosen_network_is_trained_saved_and_read_back(root, found, tmp_path, capsys):
    """The search's file is used as it is; another paper's cut works on what comes out."""
    words = [*common(root), *EVALUATE, "--nev-file", str(found), "--rank", "2", "--save", str(tmp_path)]
    assert evaluate.main([*words, "--beside", "unpruned", "random:2"]) == 0
    space = find_space("resnet-small", 2, (3, 16, 16))
    nev = nev_of_rank(found, 2, space)
    (folder,) = tmp_path.glob("chosen-*")
    model = load_model(folder / "model.safetensors")
    cost = space_cost(space)
    assert count_cost(model, (3, 16, 16)).macs == cost.macs([nev], CONV_LINEAR)[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["nev"] == list(nev) and metrics["compressed"]["macs_paper"] == cost.macs([nev])[0]
    randoms = [json.loads((f / "metrics.json").read_text()) for f in tmp_path.glob("random-*")]
    assert len(randoms) == 2 and len({tuple(m["nev"]) for m in randoms} | {nev}) == 3
    chosen = metrics["compressed"]["macs"]
    assert all(0.98 * chosen <= m["compressed"]["macs"] <= chosen for m in randoms)
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"checkpoint.pth.tar", "model_best.pth.tar"}
    assert "| unpruned" in capsys.readouterr().out
    group = channel_groups(model, torch.zeros(1, 3, 16, 16))[0]
    smaller = keep_channels(model, torch.zeros(1, 3, 16, 16), {group.name: range(max(1, group.size // 2))})
    assert count_cost(smaller, (3, 16, 16)).macs < chosen


def test_generated_weights_are_the_start_if_asked_for(root, found, tmp_path):
    words = [*common(root), "--nev-file", str(found), "--save", str(tmp_path / "g"), "--epochs", "0"]
    assert evaluate.main([*words, "--init", "generated", "--net-cache", str(root / "meta" / "model.safetensors")]) == 0
    (folder,) = (tmp_path / "g").glob("chosen-*")
    model = load_model(folder / "model.safetensors")
    space = find_space("resnet-small", 2, (3, 16, 16))
    net = load_model(root / "meta" / "model.safetensors")
    expected = net.plain_network(nev_of_rank(found, 1, space)).state_dict()
    assert torch.equal(model.conv1.weight, expected["conv1.weight"])
    assert json.loads((folder / "metrics.json").read_text())["init"] == "generated"


def test_vectors_are_taken_from_the_command_line_too(root, tmp_path):
    words = [*common(root, "mobilenetv2-small"), *EVALUATE, "--save", str(tmp_path)]
    nev = "network_encoding_vector = np.array([3, 9, 12, 12, 20, 20, 5, 6, 7, 8, 9])"
    assert evaluate.main([*words, "--nev", nev]) == 0
    (folder,) = tmp_path.glob("chosen-*")
    assert json.loads((folder / "metrics.json").read_text())["nev"] == [3, 9, 12, 12, 20, 20, 5, 6, 7, 8, 9]
    assert network_cost("mobilenetv2-small", (3, 9, 12, 12, 20, 20, 5, 6, 7, 8, 9)) > 0


def test_underscores_of_the_original_are_understood():
    assert normalize_dashes(["--max_iters=20", "--net_cache", "a_b.tar", "-j", "3"]) == [
        "--max-iters=20",
        "--net-cache",
        "a_b.tar",
        "-j",
        "3",
    ]


def test_paper_s_settings_are_the_defaults():
    for arch, meta, final in (
        ("resnet50", (32, 256, 0.1, "multi-step", 1e-4), (320, 512, 0.2, "multi-step", 1e-4)),
        ("mobilenetv1", (64, 512, 0.25, "linear", 4e-5), (320, 2048, 0.5, "linear", 4e-5)),
        ("mobilenetv2", (64, 512, 0.25, "linear", 0.0), (400, 1024, 0.5, "linear", 4e-5)),
    ):
        for stage, expected in ((Train, meta), (Evaluate, final)):
            settings = parse_stage(stage, ["--arch", arch, "--data", "./ImageNet2012"])
            recipe = settings.recipe
            assert (
                recipe.epochs,
                recipe.batch_size,
                recipe.learning_rate,
                recipe.schedule,
                recipe.weight_decay,
            ) == expected
            assert (recipe.momentum, recipe.label_smoothing, settings.data.dataset) == (0.9, 0.1, "imagenet")
            if recipe.schedule == "multi-step":
                assert recipe.milestones == (recipe.epochs // 4, recipe.epochs // 2, 3 * recipe.epochs // 4)
    parsed = parse_stage(Search, []).searching
    assert (parsed.population, parsed.parents, parsed.mutation, parsed.max_iters) == (50, 10, 0.1, 20)
    assert (parsed.base_acc, parsed.base_macs, parsed.batch_size, parsed.calibration_batches) == (70.6, 4100, 1000, 100)
    space = find_space("resnet50")
    budget = window_of(parsed, space_cost(space), recipe_of("resnet50"))
    assert (budget.least, budget.most) == (1950 * 10**6, 2050 * 10**6)
    parsed = parse_stage(Search, ["--arch", "mobilenetv2"]).searching
    budget = window_of(parsed, space_cost(find_space("mobilenetv2")), recipe_of("mobilenetv2"))
    assert (budget.least, budget.most) == (0, 330 * 10**6)


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> TrainedModel:
    """A resnet20 that was not trained, with few images."""
    data = load_dataset("digits")
    small = data.holdout(0.1)
    data = replace(data, train=small.test, test=data.test.subset(torch.arange(40)), fingerprint="0" * 16)
    torch.manual_seed(0)
    return TrainedModel("resnet20", create_model("resnet20").eval(), data)


HOW = method.MetaPruning(
    TrainOptions(epochs=1, batch_size=64, optimizer="adam", learning_rate=0.003),
    SearchSettings(4, 2, 2, 2),
    generations=1,
)
SHORT = replace(method.METHOD, decide=partial(method.decide, HOW))


def test_as_compare_calls_it(dense, tmp_path):
    """resnet20 by its channel groups; the result is an ordinary resnet20 checkpoint within the target, and is not made twice."""
    before = {name: tensor.clone() for name, tensor in dense.model.state_dict().items()}
    metrics = run_method(SHORT, dense, 0.6, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.model.state_dict().items())
    model = load_network(tmp_path / metrics["file"])
    assert Target(0.6).met(count_cost(model, (3, 32, 32)).macs / 40_551_040)
    assert model.architecture["arch"] == "resnet20" and model.checkpoint_header["normalize"] is not None
    low, high = method.limits_around(0.6)  # what the PruningNet has drawn, and nothing else
    found = read_search(tmp_path / "search" / "search.json")["candidates"]
    assert (low, high) != (0, 30) and all(low <= entry <= high for row in found for entry in row["nev"])
    assert metrics["nev"] == found[0]["nev"] and metrics["compressed"]["macs"] == found[0]["macs"]
    assert metrics == run_method(SHORT, dense, 0.6, tmp_path)
    assert (method.METHOD.weights, method.METHOD.trains, method.METHOD.axis) == ("generated", True, "macs")


def test_force_searches_again(dense, tmp_path):
    def decided(force: bool) -> list[int]:
        stage = open_stage(tmp_path, "compare", {}, force=force, log=lambda line: None)
        return SHORT.decide(dense, Target(0.6), stage).report["nev"]

    best, memory = decided(False), tmp_path / "search" / "tested-0.jsonl"
    lines = memory.read_text()
    memory.write_text(lines.splitlines()[0] + "\n")
    assert decided(False) == best and sorted(memory.read_text().splitlines()) == sorted(lines.splitlines())
    memory.write_text("not json\n")
    assert decided(True) == best and memory.read_text() == lines


def test_what_the_method_cannot_start_from_is_refused_before_anything_is_trained(dense, tmp_path):
    def refused(start: TrainedModel, target: float = 0.5) -> str:
        with pytest.raises(UserError) as error:
            SHORT.decide(start, Target(target), open_stage(tmp_path, "compare", {}))
        return str(error.value)

    group = dense.groups[0]
    smaller = keep_channels(dense.model, dense.example, {group.name: range(group.size // 2)})
    assert "full width; this resnet20 differs in" in refused(replace(dense, model=smaller))
    nameless = create_model("resnet20")
    del nameless.architecture
    assert "names no architecture" in refused(replace(dense, model=nameless))
    assert "cannot keep to limits" in refused(replace(dense, limits=Limits(min_channels=4)))
    assert "--target-macs 0.005: no vector of resnet20" in refused(dense, 0.005)
    assert not (tmp_path / "pruning-net").exists()


def test_rotated_vectors_give_the_network_that_the_original_trained():
    space = find_space("mobilenetv1")
    words = ["--arch", "mobilenetv1", "--nev", "published"]
    plain, rotated = (
        evaluating.chosen_nev(parse_stage(Evaluate, [*words, *more]).vector, space) for more in ([], ["--rotated"])
    )
    cost = space_cost(space)
    assert [round(int(cost.macs([nev])[0]) / 1e6, 3) for nev in (plain, rotated)] == [295.605, 295.343]
