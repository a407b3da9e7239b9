"""Training steps of pruned and of shared weights on fake CUDA tensors: no transfers after the first step."""

import pytest
import torch
from torch import nn

from common import trained_model
from common.checkpoint import save_model
from common.models import create_model
from common.testing import noise_bundle, random_network
from common.testing.fake_cuda import assert_no_transfers, fake_cuda, step_transfers
from common.trained_model import TrainedModel, read_trained_model
from common.training import Hooks, TrainOptions
from deep_compression import stages
from deep_compression.compression_recipe import QuantizationPlan
from deep_compression.pruning import PruningMaskHook, masks_by_density, prunable_weights
from deep_compression.sharing import CentroidTraining, cluster_counts, create_clusterer, share_network


@pytest.mark.parametrize("arch", ["vgg16", "resnet20"])
def test_fault_3_masks_remain_on_device(arch):
    """The network moves after its masks are computed: the masks follow once."""
    model = create_model(arch)
    masks_hook = PruningMaskHook(model, masks_by_density(prunable_weights(model), 0.3))
    with fake_cuda():
        first, second = step_transfers(model, Hooks(after_step=masks_hook))
        assert len(first.to_device) == len(masks_hook.pruned)
        assert_no_transfers(second)


def test_shared_step_has_no_transfers(monkeypatch):
    """The first step finds the nonzero weights; a fake tensor does not know their number, so all weights are nonzero here."""
    model = create_model("resnet20")
    with torch.no_grad():
        clusters = cluster_counts(model, {"conv": 4, "fc": 3})
        trained = CentroidTraining(model, share_network(model, clusters, create_clusterer(steps=1)))
    monkeypatch.setattr(torch, "nonzero", lambda t: torch.arange(t.numel(), device=t.device)[:, None])
    with fake_cuda():
        _, second = step_transfers(model, Hooks(after_backward=trained.after_backward, after_step=trained.after_step))
        assert_no_transfers(second)
        assert trained.labels.is_cuda and all(place.is_cuda for place in trained.indices)


class Staying(nn.Linear):
    def cpu(self):
        raise AssertionError("the network that trains was moved")


def test_fault_23_saving_does_not_move_network(tmp_path):
    start = TrainedModel("linear", nn.Linear(3, 2), noise_bundle(4, 8))
    stages.save_checkpoint(tmp_path / "model.safetensors", Staying(3, 2), start)
    assert (tmp_path / "model.safetensors").is_file()


def test_fault_23_evaluation_uses_channels_last(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_model(file, random_network("resnet20"))
    seen, evaluate = [], trained_model.evaluate

    def watch(model, *args, **kwargs):
        seen.append(model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last))
        return evaluate(model, *args, **kwargs)

    monkeypatch.setattr(trained_model, "evaluate", watch)
    start = read_trained_model(file, noise_bundle(4, 8))
    stage = stages.root_stage(tmp_path, start.data, torch.device("cpu"))
    stages.quantize(start, stage, QuantizationPlan(lloyd_steps=0), TrainOptions(epochs=0))
    assert seen == [True, True, True]  # the dense, the clustered and the reloaded network
