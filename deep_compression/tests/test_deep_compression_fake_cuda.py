"""Training steps of pruned and of shared weights on fake CUDA tensors: after the first step nothing is copied."""

import pytest
import torch
from torch import nn

from common import trained_model
from common.checkpoint import save_model
from common.models import create_model
from common.testing import noise_bundle, random_network
from common.testing.fake_cuda import assert_nothing_waits, fake_cuda, step_transfers
from common.trained_model import TrainedModel, read_trained_model
from common.training import Hooks, TrainOptions
from deep_compression import stages
from deep_compression.plan import SharePlan
from deep_compression.pruning import Held, masks_by_density, prunable_weights
from deep_compression.sharing import SharedTraining, clusterer, clusters_for, share_network


@pytest.mark.parametrize("arch", ["vgg16", "resnet20"])
def test_fault_3_masks_stay_on_the_device(arch):
    """Masks are decided where the network is, which then moves: they follow it once."""
    model = create_model(arch)
    held = Held(model, masks_by_density(prunable_weights(model), 0.3))
    with fake_cuda():
        first, second = step_transfers(model, Hooks(after_step=held))
        assert len(first.to_device) == len(held.dead)
        assert_nothing_waits(second)


def test_shared_step_waits_for_nothing(monkeypatch):
    """The first step finds the places of living weights, whose number a fake tensor cannot say: here all of them live."""
    model = create_model("resnet20")
    with torch.no_grad():
        clusters = clusters_for(model, {"conv": 4, "fc": 3})
        trained = SharedTraining(model, share_network(model, clusters, clusterer(steps=1)))
    monkeypatch.setattr(torch, "nonzero", lambda t: torch.arange(t.numel(), device=t.device)[:, None])
    with fake_cuda():
        _, second = step_transfers(model, Hooks(after_backward=trained.after_backward, after_step=trained.after_step))
        assert_nothing_waits(second)
        assert trained.labels.is_cuda and all(place.is_cuda for place in trained.places)


class Staying(nn.Linear):
    def cpu(self):
        raise AssertionError("the network that trains was moved")


def test_fault_23_saving_leaves_the_network_on_its_device(tmp_path):
    start = TrainedModel("linear", nn.Linear(3, 2), noise_bundle(4, 8))
    stages.save(tmp_path / "model.safetensors", Staying(3, 2), start)
    assert (tmp_path / "model.safetensors").is_file()


def test_fault_23_networks_are_measured_channels_last(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_model(file, random_network("resnet20"))
    seen, evaluate = [], trained_model.evaluate

    def watch(model, *args, **kwargs):
        seen.append(model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last))
        return evaluate(model, *args, **kwargs)

    monkeypatch.setattr(trained_model, "evaluate", watch)
    start = read_trained_model(file, noise_bundle(4, 8))
    stage = stages.chain(tmp_path, start.data, torch.device("cpu"))
    stages.share(start, stage, SharePlan(lloyd_steps=0), TrainOptions(epochs=0))
    assert seen == [True, True, True]  # the dense network, the clustered one, and the one that was read back
