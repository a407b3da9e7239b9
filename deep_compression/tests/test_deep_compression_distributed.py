"""Retraining with two gloo processes equals one process: masks and centroids with the commands, and batch norm per process."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.checkpoint import load_model, save_model
from common.data import load_dataset
from common.distributed import is_main
from common.models import create_model
from common.testing import run_in_processes, split_batches
from common.training import Hooks, TrainOptions, fit
from deep_compression import commands
from deep_compression.pruning import PruningMaskHook, masks_by_density, prunable_weights
from deep_compression.sharing import CentroidTraining, cluster_counts, create_clusterer, share_network

OPTIONS = TrainOptions(epochs=2, batch_size=50, learning_rate=0.05, momentum=0.0, weight_decay=0.0, schedule="constant")


def batch_norm_network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10)
    )
    PruningMaskHook(model, masks_by_density(prunable_weights(model), 0.4))
    return model


def images():
    return load_dataset("digits").train.subset(torch.arange(125))  # the last batch of 25 splits into 13 and 12


def method_of(kind: str, model: nn.Module) -> Hooks:
    if kind == "masks":
        return Hooks(after_step=PruningMaskHook(model, {n: w != 0 for n, w in prunable_weights(model).items()}))
    shared = CentroidTraining(
        model, share_network(model, cluster_counts(model, {"conv": 3, "fc": 2}), create_clusterer())
    )
    return Hooks(after_backward=shared.after_backward, after_step=shared.after_step)


def two_halves_in_one_process(kind: str) -> nn.Module:
    """Forward both halves of each batch separately, add the gradients, then apply the method's hooks."""
    model = batch_norm_network().to(memory_format=torch.channels_last).train()
    hooks = method_of(kind, model)
    for epoch in range(OPTIONS.epochs):
        for pair in split_batches(images(), 50, epoch):
            model.zero_grad()
            for part in pair:
                (F.cross_entropy(model(part.images), part.labels, reduction="sum") / part.global_size).backward()
            if hooks.after_backward:
                hooks.after_backward()
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= OPTIONS.learning_rate * p.grad
            hooks.after_step()
    return model


def process(folder: str, argv: list[list[str]]) -> None:
    """Run in each of two processes: the commands, then training with batch norm."""
    for command in argv:
        if commands.main(command) != 0:
            raise SystemExit(f"{command[0]} failed")
    for kind in ("masks", "centroids"):
        model = batch_norm_network()
        fit(model, images(), OPTIONS, seed=1, hooks=method_of(kind, model))
        torch.save(model.state_dict(), f"{folder}/{kind}-{os.environ['RANK']}.pt")
        assert is_main() == (os.environ["RANK"] == "0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folder with the results of one process and of two."""
    root, data = tmp_path_factory.mktemp("gloo"), load_dataset("digits")
    torch.manual_seed(0)
    model = create_model("lenet300_100", in_features=3072)
    for layer, out, into in (("fc1", 60, 3072), ("fc2", 40, 60), ("fc3", 10, 40)):  # clustered and encoded quickly
        model.set_submodule(layer, nn.Linear(into, out))
    fit(model, data.train, TrainOptions(epochs=1, batch_size=128, learning_rate=0.05, augment=False))
    save_model(root / "dense.safetensors", model, normalize=(data.mean, data.std))
    common = ["--dataset", "digits", "--device", "cpu", "--threads", "1", "--no-latency", "--batch-size", "101"]
    argv = {
        "prune": ["--checkpoint", str(root / "dense.safetensors"), "--values", "0.2", "--epochs", "2"],
        "quantize": ["--fc-bits", "3", "--epochs", "2", "--optimizer", "adam", "--learning-rate", "0.001"],
        "encode": [],
    }
    commands_of = {
        out: [
            [n, *more, *(common[: -2 if n == "encode" else None]), "--out", str(root / out)] for n, more in argv.items()
        ]
        for out in ("one", "two")
    }
    for command in commands_of["one"]:
        assert commands.main(command) == 0
    preload = ["deep_compression.commands", "deep_compression.original_pipeline", "common.data"]
    run_in_processes(process, str(root), commands_of["two"], preload=preload)
    return root


@pytest.mark.parametrize("stage", ["prune", "share"])
def test_two_processes_equal_one_without_batch_norm(runs, stage):
    one, two = (load_model(runs / n / stage / "model.safetensors").state_dict() for n in ("one", "two"))
    for name, tensor in one.items():
        assert torch.equal(tensor != 0, two[name] != 0), name
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-5), name
    before = load_model(runs / "dense.safetensors").state_dict()
    assert not torch.allclose(one["fc3.weight"], before["fc3.weight"], rtol=1e-3, atol=1e-5)


def test_cluster_members_are_bit_identical(runs):
    pruned, shared = (load_model(runs / "two" / n / "model.safetensors") for n in ("prune", "share"))
    for name, weight in prunable_weights(shared).items():
        assert len(weight[weight != 0].unique()) <= 7
        assert torch.equal(weight != 0, prunable_weights(pruned)[name] != 0)


def test_only_one_process_writes(runs):
    one, two = ({str(p.relative_to(runs / n)) for p in (runs / n).rglob("*")} for n in ("one", "two"))
    assert one == two
    sizes = [
        json.loads((runs / n / "encode" / "metrics.json").read_text())["compressed"]["bytes"] for n in ("one", "two")
    ]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]


@pytest.mark.parametrize("kind", ["masks", "centroids"])
def test_two_processes_with_batch_norm_equal_two_half_batches(runs, kind):
    first, second = (torch.load(runs / f"{kind}-{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = two_halves_in_one_process(kind)
    for name, tensor in expected.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], tensor.detach(), rtol=1e-4, atol=1e-6), name
        assert torch.equal(first[name] == 0, tensor.detach() == 0), name
