"""Commands: start without torch, defaults that depend on the network, and the content of config.json."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.models import ARCHITECTURES, find_architecture
from common.testing.startup import find_heavy_starts
from rewarded_metapruning.genes import DESCRIPTIONS
from rewarded_metapruning.settings import (
    DESCRIBED,
    IMAGENET_NETWORKS,
    KNOWN_NETWORKS,
    SearchWidths,
    TrainChosen,
    TrainPruningNet,
    parse_stage,
    recorded_options,
)

SCRIPTS = ("train.py", "search.py", "evaluate.py")
MODULES = (
    "train_pruning_net",
    "search",
    "train_chosen",
    "cost",
    "paper.diagrams",
    "paper.search_vs_random",
    "paper.tables",
    "paper.variants",
)


def test_help_version_and_invalid_input_import_no_torch():
    commands = [*([script] for script in SCRIPTS), *(["-m", f"rewarded_metapruning.{name}"] for name in MODULES)]
    assert find_heavy_starts(commands, Path(__file__).parents[1]) == []


OUT_OF_RANGE = {
    "train_pruning_net": [
        "--scale-range 20 10",
        "--learning-rate -1",
        "--holdout many",
        "--model no_factory",
        "--arch",
    ],
    "search": ["--parents 0", "--population 4 --mutants 9", "--macs-max nan", "--target-macs 2", "--select-on all"],
    "train_chosen": [
        "--also-train everything",
        "--also-train random:0",
        f"--also-train random:{'9' * 5000}",
        "--rank 0",
        "--init new",
        "--epochs -1",
        "--scale-range 0 31",
        "--nev 1,2,31",
        "--nev x",
        f"--nev {'9' * 5000},2",
    ],
    "cost": ["--model package.module:factory", "--num-classes 0", f"--nev {'9' * 5000},2", "--nev -1,2"],
    "paper.search_vs_random": ["--random 0", "--meta-optimizer lion"],
}


def test_values_out_of_range_import_no_torch():
    lines = [(name, line.split()) for name, several in OUT_OF_RANGE.items() for line in several]
    code = f"""
import importlib, sys
for name, words in {lines}:
    status = importlib.import_module("rewarded_metapruning." + name).main(words)
    assert status == 2 and not {{"torch", "numpy"}} & set(sys.modules), (name, words, status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 0 and len(errors) == len(lines), done.stderr


def test_known_networks_match_registry():
    others = [name for name in ARCHITECTURES if name.startswith("resnet") or name == "vgg16"]
    assert (
        list(KNOWN_NETWORKS) == [*DESCRIPTIONS, *(n for n in others if n not in DESCRIPTIONS)]
        and tuple(DESCRIPTIONS) == DESCRIBED
    )
    large = {name for name in KNOWN_NETWORKS if find_architecture(name).input_shape[1] == 224}
    assert large == set(IMAGENET_NETWORKS)


COMMON = {
    "arch": "resnet-small",
    "model": None,
    "dataset": "digits",
    "dataset_dir": None,
    "normalize": None,
    "workers": 2,
    "train_images": None,
    "scale_range": None,
    "device": "auto",
    "seed": 0,
    "threads": None,
    "amp": False,
    "compile": False,
    "force": False,
    "holdout": 0.1,
}
TRAINING = {
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "nesterov": False,
    "optimizer": "sgd",
    "schedule": "linear",
    "milestones": [],
    "step_size": 30,
    "gamma": 0.1,
    "warmup_epochs": 0.0,
    "label_smoothing": 0.1,
    "sync_batch_norm": False,
    "evaluate_every": 1,
    "keep_every": None,
    "deterministic": False,
    "graph": "off",
}
SEARCHING = {
    "population": 50,
    "parents": 10,
    "mutants": None,
    "crossovers": None,
    "mutation": 0.1,
    "macs_min": None,
    "macs_max": None,
    "target_macs": None,
    "base_acc": 100.0,
    "base_macs": None,
    "acc_power": 2.0,
    "macs_power": 1.0,
    "select_on": "holdout",
    "calibration_batches": 20,
    "batch_size": 100,
}
STORED = {
    TrainPruningNet: ({"save"}, {**COMMON, **TRAINING, "tensorboard": None}),
    SearchWidths: ({"out", "max_iters", "plots", "net_cache"}, {**COMMON, **SEARCHING}),
    TrainChosen: (
        {"save", "also_train", "nev", "nev_file", "rank", "unfinished", "net_cache", "tensorboard", "rotated"},
        {**COMMON, **TRAINING, "init": "scratch"},
    ),
}


@pytest.mark.parametrize("stage", STORED, ids=lambda stage: stage.__name__)
def test_config_of_earlier_runs_stays_valid(stage):
    """config.json keeps the options of earlier versions, including those that a stage has removed; newer ones are not given."""
    left_out, stored = STORED[stage]
    removed = {"holdout": 0.1} if stage is TrainChosen else {}
    removed |= {} if stage is TrainChosen else {"compile": False}
    found = recorded_options(parse_stage(stage, ["--arch", "resnet-small"]), *left_out, **removed)
    newer = {name: value for name, value in found.items() if name not in stored}
    assert found == stored | newer and not any(newer.values())


def test_original_option_names_are_accepted():
    settings = parse_stage(TrainPruningNet, ["--data=here", "-j", "3", "--label_smooth", "0.2", "--batch_size=7"])
    assert (settings.data.dataset_dir, settings.data.workers, settings.recipe.batch_size) == ("here", 3, 7)
    assert (settings.recipe.label_smoothing, settings.data.dataset) == (0.2, "imagenet")
    own = parse_stage(SearchWidths, ["--model", "package.module:factory"])
    assert own.network.arch == own.network.model == "package.module:factory" and own.data.dataset == "digits"
