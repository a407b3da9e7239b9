"""Pruned and shared weights on a GPU, and a compressed file that decodes identically on both devices; `pytest -m cuda`."""

import pytest
import torch

from common.models import create_model
from common.testing import random_network
from common.testing.steps import run_training_steps, step_and_batch
from common.training import Hooks
from deep_compression.compressed import load_compressed_model, save_compressed
from deep_compression.pruning import PruningMaskHook, masks_by_density, nonzero_masks, prunable_layers, prunable_weights
from deep_compression.sharing import CentroidTraining, cluster_counts, create_clusterer, share_network

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("arch", ["vgg16", "resnet20"])
def test_12_pruned_weights_remain_zero_without_synchronization(arch):
    model = create_model(arch)
    masks = masks_by_density(prunable_weights(model), 0.3)
    masks_hook = PruningMaskHook(model, masks)
    run_training_steps(model, Hooks(after_step=masks_hook), DEVICE)
    assert all(weight.device == mask.device == DEVICE for weight, mask in masks_hook.pruned)
    for name, layer in prunable_layers(model).items():
        assert not layer.weight.detach().cpu()[~masks[name]].any() and layer.weight.detach().any()


def shared_training(device: torch.device) -> tuple[torch.nn.Module, CentroidTraining]:
    """Return a ResNet-20 with 40 % of its weights, in 15 or 7 clusters per layer."""
    model = random_network("resnet20").to(device)
    PruningMaskHook(model, masks_by_density(prunable_weights(model), 0.4))
    clusters = cluster_counts(model, {"conv": 4, "fc": 3})
    return model, CentroidTraining(model, share_network(model, clusters, create_clusterer(steps=5)))


def test_12_shared_weights_equal_codebooks_without_synchronization():
    model, trained = shared_training(DEVICE)
    masks = nonzero_masks(model)
    run_training_steps(model, Hooks(after_backward=trained.after_backward, after_step=trained.after_step), DEVICE)
    shared = trained.finish()
    parameters = dict(model.named_parameters())
    for name, codes in shared.items():
        assert torch.equal(parameters[name].detach(), codes.to_dense().to(DEVICE)), name
    for name, layer in prunable_layers(model).items():
        assert not layer.weight.detach()[~masks[name]].any(), name


def test_12_shared_step_equals_cpu_step():
    found = {}
    for device in (torch.device("cpu"), DEVICE):
        model, trained = shared_training(torch.device("cpu"))
        hooks = Hooks(after_backward=trained.after_backward, after_step=trained.after_step)
        step, batch = step_and_batch(model, hooks, device)
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        step(batch._replace(images=images.to(device)), 0.01)
        found[device.type] = trained.codebook.detach().cpu()
    assert torch.allclose(found[DEVICE.type], found["cpu"], rtol=1e-2, atol=1e-3)


def test_12_compressed_file_is_identical_on_both_devices(tmp_path):
    model, trained = shared_training(DEVICE)
    trained.finish()
    save_compressed(tmp_path / "there.dcz", model)
    save_compressed(tmp_path / "here.dcz", model.cpu())
    assert (tmp_path / "there.dcz").read_bytes() == (tmp_path / "here.dcz").read_bytes()
    decoded = load_compressed_model(tmp_path / "there.dcz").eval()
    images = torch.randn(200, 3, 32, 32)
    with torch.no_grad():
        expected = decoded(images).argmax(1)
        found = decoded.to(DEVICE)(images.to(DEVICE)).argmax(1).cpu()
    assert int((found != expected).sum()) <= 2
