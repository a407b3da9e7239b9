"""Two gloo processes retrain as one does: masks and shared centroids through the commands, and with batch norm per process."""

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
from deep_compression.pruning import Held, masks_by_density, prunable_weights
from deep_compression.sharing import SharedTraining, clusterer, clusters_for, share_network

OPTIONS = TrainOptions(epochs=2, batch_size=50, learning_rate=0.05, momentum=0.0, weight_decay=0.0, schedule="constant")


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10)
    )
    Held(model, masks_by_density(prunable_weights(model), 0.4))
    return model


def pictures():
    return load_dataset("digits").train.subset(torch.arange(125))  # the last batch of 25 splits into 13 and 12


def method_of(kind: str, model: nn.Module) -> Hooks:
    if kind == "masks":
        return Hooks(after_step=Held(model, {n: w != 0 for n, w in prunable_weights(model).items()}))
    shared = SharedTraining(model, share_network(model, clusters_for(model, {"conv": 3, "fc": 2}), clusterer()))
    return Hooks(after_backward=shared.after_backward, after_step=shared.after_step)


def two_halves_in_one_process(kind: str) -> nn.Module:
    """Forward both halves of each batch by themselves, add the gradients, then what the method does."""
    model = with_norm().to(memory_format=torch.channels_last).train()
    hooks = method_of(kind, model)
    for epoch in range(OPTIONS.epochs):
        for pair in split_batches(pictures(), 50, epoch):
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


def process(folder: str, words: list[list[str]]) -> None:
    """One of two: the commands, then the training with batch norm."""
    for command in words:
        if commands.main(command) != 0:
            raise SystemExit(f"{command[0]} failed")
    for kind in ("masks", "centroids"):
        model = with_norm()
        fit(model, pictures(), OPTIONS, seed=1, hooks=method_of(kind, model))
        torch.save(model.state_dict(), f"{folder}/{kind}-{os.environ['RANK']}.pt")
        assert is_main() == (os.environ["RANK"] == "0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of what one process made, and of what two made."""
    root, data = tmp_path_factory.mktemp("gloo"), load_dataset("digits")
    torch.manual_seed(0)
    model = create_model("lenet300_100", in_features=3072)
    fit(model, data.train, TrainOptions(epochs=1, batch_size=128, learning_rate=0.05, augment=False))
    save_model(root / "dense.safetensors", model, normalize=(data.mean, data.std))
    common = ["--dataset", "digits", "--device", "cpu", "--threads", "1", "--no-latency", "--batch-size", "101"]
    words = {
        "prune": ["--checkpoint", str(root / "dense.safetensors"), "--values", "0.2", "--epochs", "2"],
        "share": ["--fc-bits", "3", "--epochs", "2", "--optimizer", "adam", "--learning-rate", "0.001"],
        "encode": [],
    }
    commands_of = {
        out: [
            [n, *more, *(common[: -2 if n == "encode" else None]), "--out", str(root / out)]
            for n, more in words.items()
        ]
        for out in ("one", "two")
    }
    for command in commands_of["one"]:
        assert commands.main(command) == 0
    preload = ["deep_compression.commands", "deep_compression.seed_pipeline", "common.data"]
    run_in_processes(process, str(root), commands_of["two"], preload=preload)
    return root


@pytest.mark.parametrize("stage", ["prune", "share"])
def test_two_processes_equal_one_on_a_network_without_norm(runs, stage):
    one, two = (load_model(runs / n / stage / "model.safetensors").state_dict() for n in ("one", "two"))
    for name, tensor in one.items():
        assert torch.equal(tensor != 0, two[name] != 0), name
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-5), name
    before = load_model(runs / "dense.safetensors").state_dict()
    assert not torch.allclose(one["fc3.weight"], before["fc3.weight"], rtol=1e-3, atol=1e-5)


def test_members_of_a_cluster_are_equal_to_the_bit(runs):
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
def test_with_batch_norm_two_processes_equal_two_halves_in_one(runs, kind):
    first, second = (torch.load(runs / f"{kind}-{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = two_halves_in_one_process(kind)
    for name, tensor in expected.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], tensor.detach(), rtol=1e-4, atol=1e-6), name
        assert torch.equal(first[name] == 0, tensor.detach() == 0), name
