"""Run folders of DECORE that commit b50e727 finished are still read, drawn, kept, skipped, and cut anew.

They were made in ``data/finished_run`` by PRUNE and INVESTIGATE; ``dense.safetensors`` is a ResNet-20 on digits cut to 3 % of
its MACs. Pictures and the folder ``runs/resnet20-4-frozen-policy`` were left out.
"""

from pathlib import Path

import pytest
import torch

from common.checkpoint import load_model, read_tensors
from common.runs import read_json
from common.settings import parse
from common.target import Target
from common.testing.finished import check_network, check_opens, finished_copy, written
from decore import plots, policy_stage
from decore.command import open_trained
from decore.method import cut
from decore.paper import tables
from decore.settings import PruneModel, main_investigate, main_prune

AGENTS = "--batch-size 50 --no-augment --init 2 --agents-learning-rate 0.1"
PRUNE = (  # after python prune_model.py
    f"--checkpoint dense.safetensors --dataset digits --penalty 4 --epochs 3 --policy-epochs 2 --pictures 300 {AGENTS}"
    " --finetune-learning-rate 0.02 --target-macs 0.475 --device cpu --saved-dir runs"
)
INVESTIGATE = (  # after python investigate_policies.py
    f"--checkpoint dense.safetensors --dataset digits --penalty 4 --epochs 1 --pictures 300 {AGENTS}"
    " --test-pictures 200 --drop 0 0.2 0.5 --random-orders 2 --device cpu --saved-dir runs"
)
RUN, POLICY, POLICIES = (f"runs/resnet20-4-{name}" for name in ("macs0.475", "policy", "policies"))
MACS, DENSE_MACS = 576_030, 1_214_318
CHANNELS = 76  # agents of the dense network, in 12 groups


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A copy of the folders, below the present folder as they were when they were made."""
    monkeypatch.chdir(tmp_path)  # and back afterwards
    return finished_copy(__file__, tmp_path)


def test_the_network_has_the_recorded_macs_widths_and_accuracy():
    check_network(RUN, MACS, "dense.safetensors", DENSE_MACS)
    metrics, modules = read_json(f"{RUN}/metrics.json"), dict(load_model(f"{RUN}/model.safetensors").named_modules())
    widths = {name: int(entry.partition("/")[0]) for name, entry in metrics["kept"].items()}
    assert {name: modules[name].out_channels for name in widths} == widths and len(widths) == 12


def test_the_policy_has_its_network_and_an_agent_for_every_channel():
    trained = open_trained(parse(PruneModel, PRUNE.split()))
    policy = policy_stage.read_policy(trained, Path(POLICY))
    tensors = read_tensors(f"{POLICY}/agents.safetensors")
    assert sum(map(len, tensors.values())) == policy.agents.weight.numel() == CHANNELS
    found = policy.agents.weights_by_name()
    assert all(torch.equal(torch.as_tensor(found[name]).float(), tensor) for name, tensor in tensors.items())
    least, kept = cut(policy, parse(PruneModel, PRUNE.split()).plan(4.0), Target(0.475))
    recorded = read_json(f"{RUN}/metrics.json")
    widths = {name: int(entry.partition("/")[0]) for name, entry in recorded["kept"].items()}
    assert {name: len(indices) for name, indices in kept.items()} == widths and least == recorded["least_weight"]


@pytest.mark.parametrize("folder", [RUN, POLICY, POLICIES])
def test_the_folder_opens_as_the_same_finished_run(folder):
    check_opens(folder, "decore")


def test_the_same_commands_skip_them_and_others_are_refused(place, monkeypatch, capsys):
    monkeypatch.setattr(policy_stage, "train_policy", None)  # would fail if it were called
    before = written(place, "investigate_policies.png")
    assert main_prune(PRUNE.split()) == 0
    assert "resnet20-4-macs0.475 is finished" in capsys.readouterr().out
    assert main_investigate(INVESTIGATE.split()) == 0
    assert "lowest first" in capsys.readouterr().out
    assert main_prune([*PRUNE.split(), "--finetune-learning-rate", "0.5"]) == 2
    assert "--force" in capsys.readouterr().err
    assert written(place, "investigate_policies.png") == before


def test_another_cut_goes_on_from_the_policy(monkeypatch):
    monkeypatch.setattr(policy_stage, "train_policy", None)  # would fail if it were called
    assert main_prune([*PRUNE.split(), "--target-macs", "0.505", "--no-latency"]) == 0
    macs = read_json("runs/resnet20-4-macs0.505/metrics.json")["compressed"]["macs"]
    assert 0.98 * 0.505 <= macs / DENSE_MACS <= 0.505
    found = [metrics["compressed"]["macs"] for metrics in plots.finished_runs(Path("runs"), "resnet20")]
    assert found == [macs, MACS]  # the old run and the new one, by falling MACs


def test_every_plot_is_drawn(place):
    trained = open_trained(parse(PruneModel, PRUNE.split()))
    (metrics,) = plots.finished_runs(place / "runs", "resnet20")
    assert metrics["compressed"]["macs"] == MACS and metrics["penalty"] == 4
    plots.front(place / "front.png", place / "runs", "resnet20")
    plots.kept_per_layer(place / "kept.png", place / RUN)
    plots.course(place / "course.png", place / POLICY)
    plots.probability_histograms(place / "policies.png", policy_stage.read_policy(trained, place / POLICY).agents)
    plots.drop_curves(place / "curves.png", read_json(f"{POLICIES}/metrics.json")["curves"], "digits")
    assert all(
        (place / f"{name}.png").stat().st_size > 5000 for name in ("front", "kept", "course", "policies", "curves")
    )


def test_they_become_rows_of_the_tables(place, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", place / "results")
    assert tables.add_result(place / RUN, tables.RESULTS).name == "run-resnet20-4-macs0.475-digits.json"
    assert tables.add_result(place / POLICIES, tables.RESULTS).name == "policies-resnet20-4.json"
    row = "| ResNet-20 on digits | ours, small scale, penalty 4 | 94.40 | 14.60 | 26.00 | 68.40 | 52.6 % | 74.1 % |"
    assert row in tables.networks_table()
    curves = tables.policies_table().splitlines()
    shares = [0.0, 100 * round(0.2 * CHANNELS) / CHANNELS, 50.0]
    assert [line.split(" | ")[1] for line in curves[2:]] == [f"{share:.1f} %" for share in shares]
