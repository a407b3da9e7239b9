"""Every command of rewarded meta-pruning honors all its options."""

from dataclasses import replace
from functools import partial

import pytest
from rmp_helpers import write_image_folder
from torch import nn

from common.testing import check_options_honored, command_names
from common.testing.fixed_latency import take_macs_for_latency
from common.training import TrainOptions
from rewarded_metapruning import cost, method, search, train_chosen, train_pruning_net
from rewarded_metapruning.paper import diagrams, search_vs_random, seeded_comparison, seeded_variants, variants
from rewarded_metapruning.recipes import EvolutionSettings

DATA = "--dataset folder:{images} --train-images 20"
NAMED = f"--arch resnet-small {DATA}"
OWN = f"--model test_rewarded_metapruning_options:tiny {DATA}"
SEARCH = "--max-iters 1 --population 2 --parents 1 --calibration-batches 1 --batch-size 9"
EVALUATE = "--epochs 1 --save {out}/final"
COMMANDS = {
    "TrainPruningNet": (
        train_pruning_net.main,
        f"{NAMED} --epochs 1 --save {{out}}/named",
        f"{OWN} --epochs 1 --save {{out}}/own",
    ),
    "SearchWidths": (
        search.main,
        f"{NAMED} {SEARCH} --net-cache {{named}} --out {{out}}/search --plots",
        f"{OWN} {SEARCH} --net-cache {{own}} --out {{out}}/search-own --macs-min 0",
        f"{NAMED} {SEARCH} --net-cache {{named}} --out {{out}}/search-latency --target-latency 0.7 --latency-batch-size 4",
    ),
    "TrainChosen": (
        train_chosen.main,
        f"{NAMED} {EVALUATE} --nev unpruned",
        f"{OWN} {EVALUATE}-own --nev-file {{search}} --init generated --net-cache {{own}}",
    ),
    "CountCost": (
        cost.main,
        "--arch resnet-small --json {out}/cost.json",
        "--model test_rewarded_metapruning_options:tiny --input-shape 3 16 16",
    ),
    "SearchVsRandom": (
        search_vs_random.main,
        f"{NAMED} --seeds 0 --meta-epochs 1 --epochs 1 --generations 1 --random 1 --results {{out}} --out {{out}}/small",
    ),
    "CompareVariants": (variants.main, f"{NAMED} --seeds 0 --results {{out}} --out {{out}}/variants"),
    "DrawDiagrams": (diagrams.main, "--out {out}/docs"),
}


def tiny(num_classes: int = 10) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return {name in COMMANDS: path} of images, PruningNets and a search file."""
    root = tmp_path_factory.mktemp("files")
    images, out = write_image_folder(root / "images"), root / "out"
    paths = {"images": images, "named": root / "named", "own": root / "own", "search": root / "search", "out": out}
    for name, network in (("named", NAMED), ("own", OWN)):
        assert train_pruning_net.main(f"{network} --epochs 1 --save {paths[name]}".format(**paths).split()) == 0
    paths |= {name: paths[name] / "model.safetensors" for name in ("named", "own")}
    assert search.main(f"{OWN} {SEARCH} --macs-min 0 --net-cache {{own}} --out {{search}}".format(**paths).split()) == 0
    return paths | {"search": root / "search" / "search.json"}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_honors_options(name, places, monkeypatch):
    monkeypatch.setattr(
        seeded_comparison, "EVOLUTION", EvolutionSettings(population=2, parents=1, mutants=1, crossovers=0)
    )
    monkeypatch.setattr(seeded_comparison, "CALIBRATION", (1, 9))
    short = method.MetaPruningSettings(
        TrainOptions(epochs=1, batch_size=9), evolution=EvolutionSettings(2, 1, 1, 0), generations=1, calibration=(1, 9)
    )
    short = replace(short, final=TrainOptions(epochs=1, batch_size=9))
    monkeypatch.setattr(seeded_variants, "PAPER_SETTINGS", short)
    both = [replace(one, decide=partial(method.decide, short)) for one in seeded_variants.METHODS]
    monkeypatch.setattr(seeded_variants, "METHODS", both)
    take_macs_for_latency(monkeypatch)
    main, *runs = COMMANDS[name]
    assert check_options_honored(main, [run.format(**places).split() for run in runs]) == name


def test_list_of_commands_is_complete():
    assert command_names("rewarded_metapruning") == COMMANDS.keys()
