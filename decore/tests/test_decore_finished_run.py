"""Run folders finished at commit b50e727 are still read, plotted, kept, skipped and used for another target.

They were made in ``data/finished_run`` by PRUNE (without ``--bn-images``, whose default was 2000) and INVESTIGATE;
``dense.safetensors`` is a ResNet-20 on digits, pruned to 3 % of its MACs. Plots and the folder ``runs/resnet20-4-frozen-policy`` were omitted.
"""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from common.checkpoint import load_model, read_tensors
from common.limits import Limits
from common.plots import figure
from common.runs import read_json
from common.settings import parse
from common.target import Target
from common.testing.finished import check_recorded_network, check_run_reopens, copy_finished_run, file_states
from decore import plots, policy_stage
from decore.command import open_trained
from decore.method import select_channels
from decore.paper import tables
from decore.settings import PruneModel, main_investigate, main_prune

AGENTS = "--batch-size 50 --no-augment --agent-init 2 --agents-learning-rate 0.1"
PRUNE = (  # arguments of prune_model.py
    f"--checkpoint dense.safetensors --dataset digits --penalty 4 --epochs 3 --policy-epochs 2 --policy-images 300 {AGENTS}"
    " --finetune-learning-rate 0.02 --target-macs 0.475 --bn-images 2000 --device cpu --saved-dir runs"
)
INVESTIGATE = (  # arguments of investigate_policies.py
    f"--checkpoint dense.safetensors --dataset digits --penalty 4 --epochs 1 --policy-images 300 {AGENTS}"
    " --test-images 200 --drop-fractions 0 0.2 0.5 --random-trials 2 --device cpu --saved-dir runs"
)
RUN, POLICY, POLICIES = (f"runs/resnet20-4-{name}" for name in ("macs0.475", "policy", "policies"))
MACS, DENSE_MACS = 576_030, 1_214_318
CHANNELS = 76  # agents of the dense network, in 12 groups


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Copy the folders into the current folder, where they were when they were made."""
    monkeypatch.chdir(tmp_path)  # restores the current folder afterwards
    return copy_finished_run(__file__, tmp_path)


def test_network_has_recorded_macs_widths_and_accuracy():
    check_recorded_network(RUN, MACS, "dense.safetensors", DENSE_MACS)
    metrics, modules = read_json(f"{RUN}/metrics.json"), dict(load_model(f"{RUN}/model.safetensors").named_modules())
    widths = {name: int(entry.partition("/")[0]) for name, entry in metrics["kept"].items()}
    assert {name: modules[name].out_channels for name in widths} == widths and len(widths) == 12


def test_policy_has_network_and_agent_for_every_channel():
    trained = open_trained(parse(PruneModel, PRUNE.split()))
    policy = policy_stage.read_policy(trained, Path(POLICY))
    tensors = read_tensors(f"{POLICY}/agents.safetensors")
    assert sum(map(len, tensors.values())) == policy.agents.weight.numel() == CHANNELS
    found = policy.agents.weights_by_group()
    assert all(torch.equal(torch.as_tensor(found[name]).float(), tensor) for name, tensor in tensors.items())
    min_weight, kept = select_channels(
        policy, parse(PruneModel, PRUNE.split()).decore_options(4.0), Target(0.475), Limits()
    )
    recorded = read_json(f"{RUN}/metrics.json")
    widths = {name: int(entry.partition("/")[0]) for name, entry in recorded["kept"].items()}
    assert {name: len(indices) for name, indices in kept.items()} == widths and min_weight == recorded["least_weight"]


@pytest.mark.parametrize("folder", [RUN, POLICY, POLICIES])
def test_folder_opens_as_same_finished_run(folder):
    check_run_reopens(folder, "decore")


def test_same_commands_skip_runs_and_other_options_raise(place, monkeypatch, capsys):
    monkeypatch.setattr(policy_stage, "train_policy", None)  # a call would fail
    before = file_states(place, "investigate_policies.png")
    assert main_prune(PRUNE.split()) == 0
    assert "resnet20-4-macs0.475 is finished" in capsys.readouterr().out
    assert main_investigate(INVESTIGATE.split()) == 0
    assert "lowest first" in capsys.readouterr().out
    assert main_prune([*PRUNE.split(), "--finetune-learning-rate", "0.5"]) == 2
    assert "--force" in capsys.readouterr().err
    assert file_states(place, "investigate_policies.png") == before


def test_another_target_reuses_finished_policy(monkeypatch):
    monkeypatch.setattr(policy_stage, "train_policy", None)  # a call would fail
    assert main_prune([*PRUNE.split(), "--target-macs", "0.505", "--no-latency"]) == 0
    macs = read_json("runs/resnet20-4-macs0.505/metrics.json")["compressed"]["macs"]
    assert 0.98 * 0.505 <= macs / DENSE_MACS <= 0.505
    found = [metrics["compressed"]["macs"] for metrics in plots.read_finished_runs(Path("runs"), "resnet20")]
    assert found == [macs, MACS]  # the old and the new run, by descending MACs


def test_plots_of_finished_runs_are_written_with_labeled_axes(place, monkeypatch):
    axes_of = {}

    @contextmanager
    def recorded(path, **size):
        with figure(path, **size) as axes:
            axes_of[path.stem] = axes
            yield axes

    monkeypatch.setattr(plots, "figure", recorded)
    trained = open_trained(parse(PruneModel, PRUNE.split()))
    (metrics,) = plots.read_finished_runs(place / "runs", "resnet20")
    assert metrics["compressed"]["macs"] == MACS and metrics["penalty"] == 4
    plots.plot_pareto_front(place / "front.png", place / "runs", "resnet20")
    plots.plot_kept_channels(place / "kept.png", place / RUN)
    plots.plot_training_curves(place / "course.png", place / POLICY)
    plots.plot_probabilities(place / "policies.png", policy_stage.read_policy(trained, place / POLICY).agents)
    plots.plot_drop_curves(place / "curves.png", read_json(f"{POLICIES}/metrics.json")["curves"], "digits")
    assert axes_of.keys() == {"front", "kept", "course", "policies", "curves"}
    for name, axes in axes_of.items():
        assert axes.get_xlabel() and axes.get_ylabel(), name
        assert (place / f"{name}.png").stat().st_size > 5000


def test_finished_runs_become_table_rows(place, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", place / "results")
    assert tables.add_result(place / RUN, tables.RESULTS).name == "run-resnet20-4-macs0.475-digits.json"
    assert tables.add_result(place / POLICIES, tables.RESULTS).name == "policies-resnet20-4.json"
    label = "this repository, small scale, penalty 4, extended (agents' learning rate 0.1, initial weight 2, batch norm recalibrated)"
    row = f"| ResNet-20 on digits | {label}, 0.475 of the MACs | 94.40 | 14.60 | 26.00 | 68.40 | 52.6 % | 74.1 % |"
    assert row in tables.networks_table()
    curves = tables.policies_table().splitlines()
    fractions = [0.0, 100 * round(0.2 * CHANNELS) / CHANNELS, 50.0]
    assert [line.split(" | ")[1] for line in curves[2:]] == [f"{fraction:.1f} %" for fraction in fractions]
