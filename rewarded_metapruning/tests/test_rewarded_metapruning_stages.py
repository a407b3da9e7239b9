"""The three stages as commands, in process: written files, their use by the next stage, and resuming."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
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
from common.pipeline import compress
from common.runs import open_stage
from common.target import Target
from common.testing import run_method, single_error_line
from common.testing.fixed_latency import take_macs_for_latency
from common.testing.limits import check_limits_obeyed, limited_start
from common.trained_model import TrainedModel
from common.training import TrainOptions
from rewarded_metapruning import final_training, method, network_cost, search, train_chosen, train_pruning_net
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.method import METHOD, PAPER_SETTINGS, build_start_space, decide
from rewarded_metapruning.recipes import EvolutionSettings, find_recipe
from rewarded_metapruning.scale import FULL, width
from rewarded_metapruning.search_file import read_nev, read_search
from rewarded_metapruning.search_stage import select_window
from rewarded_metapruning.settings import (
    CONV_LINEAR,
    SearchWidths,
    TrainChosen,
    TrainPruningNet,
    normalize_dashes,
    parse_stage,
)
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
    """Write images and train a PruningNet on them."""
    root = write_image_folder(tmp_path_factory.mktemp("stages"))
    assert train_pruning_net.main([*common(root), *TRAIN, "--save", str(root / "meta")]) == 0
    return root


def common(root: Path, arch: str = "resnet-small") -> list[str]:
    return ["--arch", arch, "--dataset", f"folder:{root}", "--device", "cpu", "--workers", "0"]


def search_words(root: Path, out: Path) -> list[str]:
    return [*common(root), *SEARCH, "--net_cache", str(root / "meta" / "checkpoint.pth.tar"), "--out", str(out)]


@pytest.fixture(scope="module")
def found(root) -> Path:
    assert search.main(search_words(root, root / "search")) == 0
    return root / "search" / "search.json"


def test_training_writes_run_folder_and_original_files(root):
    folder = root / "meta"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "log.csv",
        "metrics.json",
        "model.safetensors",
        "checkpoint.pth.tar",
        "model_best.pth.tar",
        "model_best.pth",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["length"] == 7 and 0 <= metrics["unpruned_top1"] <= 100
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and float(rows[0]["learning_rate"]) == 0.1
    best = [(folder / name).read_bytes() for name in ("model_best.pth.tar", "model_best.pth")]
    assert best == 2 * [(folder / "checkpoint.pth.tar").read_bytes()]


def test_finished_training_is_skipped_and_other_options_fail(root, capsys):
    before = (root / "meta" / "model.safetensors").stat().st_mtime_ns
    words = [*common(root), *TRAIN, "--save", str(root / "meta")]
    assert train_pruning_net.main(words) == 0
    assert (root / "meta" / "model.safetensors").stat().st_mtime_ns == before
    assert train_pruning_net.main([*words, "--learning-rate", "0.2"]) == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_full_width_is_measured_after_every_nth_and_last_epoch(root, tmp_path):
    """The network is the same as with a measurement after each epoch."""
    words = [*common(root), *TRAIN, "--save", str(tmp_path / "meta"), "--evaluate-every", "2"]
    assert train_pruning_net.main(words) == 0
    with open(tmp_path / "meta" / "log.csv", newline="") as file:
        first, last = (row["unpruned_top1"] for row in csv.DictReader(file))
    assert first == "" and float(last) == json.loads((root / "meta" / "metrics.json").read_text())["unpruned_top1"]
    name = "checkpoint.pth.tar"
    assert (tmp_path / "meta" / name).read_bytes() == (root / "meta" / name).read_bytes()


def test_search_writes_candidates_best_first(root, found, capsys):
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
    assert "No.1: " in printed and "held-out training images; 18 are cached" in printed


def test_interrupted_search_resumes_without_reevaluation(root, found, tmp_path, monkeypatch):
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


def test_unfinished_search_requires_option(root, tmp_path, monkeypatch, capsys):
    """A search that was interrupted after its first generation; its best vector so far is trained with --unfinished only."""
    evaluate_one, evaluated = CandidateEvaluator.__call__, []

    def failing(self, nev):
        evaluated.append(nev)
        if len(evaluated) == 8:
            raise KeyboardInterrupt
        return evaluate_one(self, nev)

    monkeypatch.setattr(CandidateEvaluator, "__call__", failing)
    assert search.main(search_words(root, tmp_path / "s")) == 130
    file = tmp_path / "s" / "search.json"
    words = [*common(root), "--epochs", "1", "--nev-file", str(file), "--save", str(tmp_path / "final")]
    capsys.readouterr()
    error = single_error_line(train_chosen.main(words), capsys.readouterr().err, "search.json finished search.py")
    assert "--unfinished" in error and "(generations: 1)" in error and not (tmp_path / "final").exists()
    assert train_chosen.main([*words, "--unfinished"]) == 0
    assert "the best so far: the search is not finished (generations: 1)" in capsys.readouterr().out


def test_more_generations_continue_in_same_folder(root, tmp_path):
    words = search_words(root, tmp_path / "s")
    assert search.main([*words, "--max-iters", "1"]) == 0
    first = {tuple(row["nev"]) for row in read_search(tmp_path / "s" / "search.json")["candidates"]}
    assert search.main(words) == 0
    content = read_search(tmp_path / "s" / "search.json")
    assert len(content["candidates"]) == 18
    assert {tuple(row["nev"]) for row in content["candidates"] if row["generation"] == 0} == first


def test_selection_on_test_images_is_reported(root, tmp_path, capsys):
    words = [*search_words(root, tmp_path / "s"), "--max-iters", "1", "--select-on", "test", "--plots"]
    assert search.main(words) == 0
    assert "the TEST images, as in the original code" in capsys.readouterr().out
    assert read_search(tmp_path / "s" / "search.json")["selected_on"] == "test"
    assert (tmp_path / "s" / "rewards.png").stat().st_size > 5000 < (tmp_path / "s" / "candidates.png").stat().st_size


def test_chosen_network_is_trained_and_saved(root, found, tmp_path, capsys):
    """The vector comes from the search file, and the saved network can be pruned by other methods."""
    words = [*common(root), *EVALUATE, "--nev-file", str(found), "--rank", "2", "--save", str(tmp_path)]
    assert train_chosen.main([*words, "--also-train", "unpruned", "random:2"]) == 0
    space = find_space("resnet-small", 2, (3, 16, 16))
    nev = read_nev(found, 2, space)
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
    files = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert files == {"checkpoint.pth.tar", "model_best.pth.tar", "model_best.pth"}
    assert "| unpruned" in capsys.readouterr().out
    group = channel_groups(model, torch.zeros(1, 3, 16, 16))[0]
    smaller = keep_channels(model, torch.zeros(1, 3, 16, 16), {group.name: range(max(1, group.size // 2))})
    assert count_cost(smaller, (3, 16, 16)).macs < chosen


def test_init_generated_starts_from_generated_weights(root, found, tmp_path):
    words = [*common(root), "--nev-file", str(found), "--save", str(tmp_path / "g"), "--epochs", "0"]
    assert (
        train_chosen.main([*words, "--init", "generated", "--net-cache", str(root / "meta" / "model.safetensors")]) == 0
    )
    (folder,) = (tmp_path / "g").glob("chosen-*")
    model = load_model(folder / "model.safetensors")
    space = find_space("resnet-small", 2, (3, 16, 16))
    net = load_model(root / "meta" / "model.safetensors")
    expected = net.plain_network(read_nev(found, 1, space)).state_dict()
    assert torch.equal(model.conv1.weight, expected["conv1.weight"])
    assert json.loads((folder / "metrics.json").read_text())["init"] == "generated"


def test_nev_option_overrides_search_file(root, tmp_path):
    words = [*common(root, "mobilenetv2-small"), *EVALUATE, "--save", str(tmp_path)]
    nev = "network_encoding_vector = np.array([3, 9, 12, 12, 20, 20, 5, 6, 7, 8, 9])"
    assert train_chosen.main([*words, "--nev", nev]) == 0
    (folder,) = tmp_path.glob("chosen-*")
    assert json.loads((folder / "metrics.json").read_text())["nev"] == [3, 9, 12, 12, 20, 20, 5, 6, 7, 8, 9]
    assert network_cost("mobilenetv2-small", (3, 9, 12, 12, 20, 20, 5, 6, 7, 8, 9)) > 0


def test_underscores_in_option_names_are_accepted():
    assert normalize_dashes(["--max_iters=20", "--net_cache", "a_b.tar", "-j", "3"]) == [
        "--max-iters=20",
        "--net-cache",
        "a_b.tar",
        "-j",
        "3",
    ]


def test_defaults_are_published_settings():
    for arch, meta, final in (
        ("resnet50", (32, 256, 0.1, "multi-step", 1e-4), (320, 512, 0.2, "multi-step", 1e-4)),
        ("mobilenetv1", (64, 512, 0.25, "linear", 4e-5), (320, 2048, 0.5, "linear", 4e-5)),
        ("mobilenetv2", (64, 512, 0.25, "linear", 0.0), (400, 1024, 0.5, "linear", 4e-5)),
    ):
        for stage, expected in ((TrainPruningNet, meta), (TrainChosen, final)):
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
    parsed = parse_stage(SearchWidths, []).search
    assert (parsed.population, parsed.parents, parsed.mutation, parsed.max_iters) == (50, 10, 0.1, 20)
    assert (parsed.base_acc, parsed.base_macs, parsed.batch_size, parsed.calibration_batches) == (70.6, 4100, 1000, 100)
    space = find_space("resnet50")
    window = select_window(parsed, space_cost(space), find_recipe("resnet50"))
    assert (window.least, window.most) == (1950 * 10**6, 2050 * 10**6)
    parsed = parse_stage(SearchWidths, ["--arch", "mobilenetv2"]).search
    window = select_window(parsed, space_cost(find_space("mobilenetv2")), find_recipe("mobilenetv2"))
    assert (window.least, window.most) == (0, 330 * 10**6)


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> TrainedModel:
    """Create an untrained resnet20 with few images."""
    data = load_dataset("digits")
    small = data.holdout(0.1)
    data = replace(data, train=small.test, test=data.test.subset(torch.arange(40)), fingerprint="0" * 16)
    torch.manual_seed(0)
    return TrainedModel("resnet20", create_model("resnet20").eval(), data)


SMALL = {
    "training": TrainOptions(epochs=1, batch_size=64, optimizer="adam", learning_rate=0.003),
    "evolution": EvolutionSettings(4, 2, 2, 2),
    "generations": 1,
}
SHORT = replace(method.EXTENDED, decide=partial(method.decide, replace(method.SHORT, **SMALL)))


def test_paper_method_trains_from_scratch(dense, tmp_path, monkeypatch):
    """All entries are sampled, the PruningNet is shared by the targets, and the winner is trained as by evaluate.py."""
    recipes = []
    fit = final_training.fit
    monkeypatch.setattr(
        final_training,
        "fit",
        lambda model, train, recipe, **how: recipes.append(recipe) or fit(model, train, recipe, **how),
    )
    settings = replace(method.MetaPruningSettings(), **SMALL, final_epochs={"digits": 1})
    one = replace(method.METHOD, decide=partial(method.decide, settings))
    first = run_method(one, dense, 0.6, tmp_path / "0.6", shared=tmp_path / "shared")
    net = (tmp_path / "shared" / "pruning-net" / "model.safetensors").stat().st_mtime_ns
    second = run_method(one, dense, 0.5, tmp_path / "0.5", shared=tmp_path / "shared")
    assert (tmp_path / "shared" / "pruning-net" / "model.safetensors").stat().st_mtime_ns == net
    for metrics, target in ((first, 0.6), (second, 0.5)):
        model = load_network(tmp_path / f"{target}" / metrics["file"])
        assert Target(target).is_met_by(count_cost(model, (3, 32, 32)).macs / 40_551_040)
        assert model.architecture["arch"] == "resnet20"
        found = read_search(tmp_path / f"{target}" / "search" / "search.json")["candidates"]
        (chosen,) = (tmp_path / f"{target}").glob("chosen-*")
        trained = load_model(chosen / "model.safetensors").state_dict()
        assert metrics["nev"] == found[0]["nev"] == json.loads((chosen / "metrics.json").read_text())["nev"]
        assert all(torch.equal(trained[name], tensor) for name, tensor in model.state_dict().items())
    recipe = recipes[0]
    assert len(recipes) == 2 and (recipe.epochs, recipe.optimizer, recipe.learning_rate) == (1, "sgd", 0.1)
    assert (recipe.schedule, recipe.momentum, recipe.label_smoothing) == ("linear", 0.9, 0.1)


def test_methods_state_their_settings():
    """The paper's variant has the paper's settings; what is shortened is in its note, with the values."""
    paper, short = method.MetaPruningSettings(), method.SHORT
    assert (paper.spread, paper.training.optimizer, paper.training.learning_rate) == (None, "sgd", 0.1)
    assert paper.evolution == EvolutionSettings(50, 10, 25, 25, 0.1) and paper.final is not None
    shortened = (paper.training.epochs, paper.generations, paper.calibration[0] * paper.calibration[1])
    assert shortened == (20, 4, 375) and (paper.final_epochs["digits"], paper.final.epochs) == (6, 30)
    for words in ("20 epochs of the PruningNet", "4 generations of 50", "on 375 images", "6 on digits, else 30"):
        assert words in method.METHOD.note
    assert short.final is None and short.spread == 6 and short.training.optimizer == "adam"
    assert method.EXTENDED.note.startswith("differs from the paper: ")
    found = [(m.label, m.variant, m.weights, m.default) for m in (method.METHOD, method.EXTENDED)]
    assert found == [
        ("rewarded meta-pruning (paper)", "paper", "scratch", False),
        ("rewarded meta-pruning (extended)", "extended", "generated", True),
    ]


def test_method_prunes_resnet20(dense, tmp_path):
    """The result is a plain resnet20 checkpoint within the target; a second call reuses it."""
    before = {name: tensor.clone() for name, tensor in dense.model.state_dict().items()}
    metrics = run_method(SHORT, dense, 0.6, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.model.state_dict().items())
    model = load_network(tmp_path / metrics["file"])
    assert Target(0.6).is_met_by(count_cost(model, (3, 32, 32)).macs / 40_551_040)
    assert model.architecture["arch"] == "resnet20" and model.checkpoint_header["normalize"] is not None
    low, high = method.scale_range_around(0.6, 6)  # the entries that the PruningNet was trained on
    found = read_search(tmp_path / "search" / "search.json")["candidates"]
    assert (low, high) != (0, 30) and all(low <= entry <= high for row in found for entry in row["nev"])
    assert metrics["nev"] == found[0]["nev"] and metrics["compressed"]["macs"] == found[0]["macs"]
    assert metrics == run_method(SHORT, dense, 0.6, tmp_path)
    assert (SHORT.weights, SHORT.trains, SHORT.axis) == ("generated", True, "macs")


def test_force_searches_again(dense, tmp_path):
    def decide(force: bool) -> list[int]:
        stage = open_stage(tmp_path, "compare", {}, force=force, log=lambda line: None)
        return SHORT.decide(dense, Target(0.6), stage).report["nev"]

    best, cache = decide(False), tmp_path / "search" / "tested-0.jsonl"
    lines = cache.read_text()
    cache.write_text(lines.splitlines()[0] + "\n")
    assert decide(False) == best and sorted(cache.read_text().splitlines()) == sorted(lines.splitlines())
    cache.write_text("not json\n")
    assert decide(True) == best and cache.read_text() == lines


def test_unsupported_start_raises_before_training(dense, tmp_path):
    def message(start: TrainedModel, target: float = 0.5) -> str:
        with pytest.raises(UserError) as error:
            SHORT.decide(start, Target(target), open_stage(tmp_path, "compare", {}))
        return str(error.value)

    group = dense.groups[0]
    smaller = keep_channels(dense.model, dense.example, {group.name: range(group.size // 2)})
    assert "full width; this resnet20 differs in" in message(replace(dense, model=smaller))
    nameless = create_model("resnet20")
    del nameless.architecture
    assert "names no architecture" in message(replace(dense, model=nameless))
    assert "--target-macs 0.005: no vector of resnet20" in message(dense, 0.005)
    assert not (tmp_path / "pruning-net").exists()


def latency_search(root: Path, out: Path, *more: str) -> int:
    return search.main([*search_words(root, out), "--target-latency", "0.8", "--latency-batch-size", "4", *more])


def test_search_within_latency_aims_again_until_the_network_meets_it(root, tmp_path, monkeypatch, capsys):
    """A network takes longer than predicted: the first attempt misses the target."""
    predicted, measured = (lambda macs: 0.4 + 0.6 * macs), (lambda macs: 0.5 + 0.5 * macs)
    take_macs_for_latency(monkeypatch, predicted, measured)
    assert latency_search(root, tmp_path) == 0
    content = read_search(tmp_path / "search.json")
    reached, budget = content["latency_target"], content["budget"]
    assert content["finished"] and reached["attempts"] > 1 and 0.95 * 0.8 <= reached["ratio"] <= 0.8
    assert (reached["target"], reached["batch_size"], reached["round_to"]) == (0.8, 4, 1)
    space = find_space("resnet-small", content["num_classes"], content["shape"])
    dense = int(space_cost(space).macs([space.unpruned], CONV_LINEAR)[0])
    fractions = [row["macs"] / dense for row in content["candidates"]]
    assert len(fractions) == 18 and budget["rule"] == "latency" and budget["most"] < 0.8
    assert all(budget["least"] <= predicted(macs) <= budget["most"] for macs in fractions)
    assert reached["ratio"] == pytest.approx(measured(fractions[0]), abs=1e-4)
    tested = [json.loads(line)["nev"] for line in (tmp_path / "tested-0.jsonl").read_text().splitlines()]
    assert len(tested) == len({tuple(nev) for nev in tested})  # none is evaluated twice
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "log.csv",
        "latency-target.json",
        "search.json",
        "tested-0.jsonl",
    }
    before = (tmp_path / "search.json").read_bytes()
    monkeypatch.setattr("common.latency_target.meet.time_against", None)  # nothing is measured again
    assert latency_search(root, tmp_path) == 0 and (tmp_path / "search.json").read_bytes() == before
    capsys.readouterr()
    status = latency_search(root, tmp_path, "--latency-batch-size", "8")
    assert "--latency-batch-size 4, not 8" in single_error_line(status, capsys.readouterr().err)
    words = [*common(root), *EVALUATE, "--nev-file", str(tmp_path / "search.json"), "--save", str(tmp_path / "final")]
    assert train_chosen.main(words) == 0
    said = f"whose network takes {100 * reached['ratio']:.1f} % of the unpruned network's time (measured by the search, batch size 4)"
    assert said in capsys.readouterr().out


def test_search_that_misses_latency_is_not_finished(root, tmp_path, monkeypatch, capsys):
    """The nearest measured fraction is named, and the next stage does not take the vector for a result."""
    take_macs_for_latency(monkeypatch, measured=lambda macs: 0.9)
    status = latency_search(root, tmp_path, "--max_iters", "1")
    message = "--target-latency 0.8: no network of this method, as measured, keeps 0.76 to 0.8 of the latency; the nearest keep 0.9000"
    assert message in single_error_line(status, capsys.readouterr().err)
    assert not read_search(tmp_path / "search.json")["finished"]
    words = [*common(root), *EVALUATE, "--nev-file", str(tmp_path / "search.json"), "--save", str(tmp_path / "final")]
    assert train_chosen.main(words) == 2 and "not finished" in capsys.readouterr().err
    take_macs_for_latency(monkeypatch)
    assert latency_search(root, tmp_path, "--max_iters", "1", "--force") == 0


@pytest.mark.parametrize("more", [["--target-macs", "0.5"], ["--macs-max", "0.5"]])
def test_limits_of_latency_and_macs_exclude_each_other(root, tmp_path, capsys, more):
    status = latency_search(root, tmp_path, *more)
    assert "exclude each other" in single_error_line(status, capsys.readouterr().err)


@pytest.mark.parametrize("one", ["paper", "extended"])
def test_method_meets_latency_and_trains_once(one, dense, tmp_path, monkeypatch):
    """The predicted time is limited, not the MACs; the network is trained when it is met, and the PruningNet before the first attempt."""
    trained = {"net": 0, "network": 0}
    for module, name in ((method, "train_pruning_net"), (method, "train_variant")):
        function, key = getattr(module, name), "net" if name == "train_pruning_net" else "network"

        def counted(*args, function=function, key=key, **how):
            trained[key] += not args[0].finished if key == "net" else 1
            return function(*args, **how)

        monkeypatch.setattr(module, name, counted)
    predicted = lambda macs: 0.4 + 0.6 * macs  # noqa: E731
    take_macs_for_latency(monkeypatch, predicted, lambda macs: 0.5 + 0.5 * macs)
    paper = replace(method.MetaPruningSettings(), **SMALL, final_epochs={"digits": 1})
    settings = {"paper": paper, "extended": replace(method.SHORT, **SMALL)}[one]
    tried = replace(method.METHOD, decide=partial(method.decide, settings))
    stage = open_stage(tmp_path, "compare", {}, log=lambda line: None)
    metrics = compress(tried, dense, Target(0.8, "latency", 0.05), stage, latency=False)
    reached = metrics["latency_target"]
    assert 0.95 * 0.8 <= reached["ratio"] <= 0.8 and reached["attempts"] > 1
    assert reached["ratio"] == pytest.approx(0.5 + 0.5 * metrics["compressed"]["macs"] / 40_551_040, abs=1e-4)
    assert trained == {"net": 1, "network": one == "paper"}
    searches = [read_search(file) for file in tmp_path.glob("widths-1/attempt-*/search/search.json")]
    assert len(searches) == reached["attempts"]
    for content in searches:
        budget, times = content["budget"], [predicted(row["macs"] / 40_551_040) for row in content["candidates"]]
        assert budget["rule"] == "latency" and budget["least"] <= min(times) <= max(times) <= budget["most"]


def test_rotated_vector_matches_original_network():
    space = find_space("mobilenetv1")
    words = ["--arch", "mobilenetv1", "--nev", "published"]
    plain, rotated = (
        final_training.select_nev(parse_stage(TrainChosen, [*words, *more]).vector, space)
        for more in ([], ["--rotated"])
    )
    cost = space_cost(space)
    assert [round(int(cost.macs([nev])[0]) / 1e6, 3) for nev in (plain, rotated)] == [295.605, 295.343]


BRIEFLY = replace(
    PAPER_SETTINGS,
    training=replace(PAPER_SETTINGS.training, epochs=1),
    generations=2,
    evolution=EvolutionSettings(population=4, parents=2, mutants=2, crossovers=1),
    final=replace(PAPER_SETTINGS.final, epochs=1),
)


@pytest.mark.parametrize(
    "settings",
    [BRIEFLY, replace(method.SHORT, training=replace(method.SHORT.training, epochs=1))],
    ids=["paper", "extended"],
)
def test_method_obeys_limits_and_meets_target(settings, tmp_path):
    check_limits_obeyed(replace(METHOD, decide=partial(decide, settings)), tmp_path)


def test_limits_leave_nearest_allowed_entries():
    """Of 48 channels, 10 entries give multiples of 8 from 24 on; full width is always allowed."""
    start = limited_start(only=["blocks.0.0"], min_channels=24, round_to=8)
    space = build_start_space(start).within_limits(start.limits, start.all_groups)
    names = [gene.name for gene in space.genes]
    allowed = dict(zip(names, space.allowed, strict=True))
    assert {width(48, index) for index in allowed["blocks.0.0"]} == {24, 32, 40, 48}
    assert all(allowed[name] == (FULL,) for name in names if name != "blocks.0.0")
    drawn = space.restrict(np.arange(FULL + 1)[:, None].repeat(len(names), 1))
    for gene, name in enumerate(names):
        assert set(drawn[:, gene]) <= set(allowed[name])
    assert np.array_equal(space.restrict(drawn), drawn)
