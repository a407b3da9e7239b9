"""Hashes of feature maps on a GPU, and fine-tuning of a pruned network; `pytest -m cuda`."""

import pytest
import torch

from common.channels import channel_groups, keep_channels
from common.data import load_dataset
from common.testing import random_network
from common.testing.steps import run_training_steps
from common.training import Hooks
from redundancy_graph.features import collect_hashes

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("arch", ["vgg16", "resnet20"])
def test_10_hashes_equal_cpu(arch):
    """Rounding may flip bits whose coefficient is close to the mean: fewer than one in a thousand."""
    model, images = random_network(arch), load_dataset("digits").train.subset(range(100))
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    expected = collect_hashes(model, images, layers)
    found = collect_hashes(model, images, layers, device=DEVICE)
    flipped = {name: float((found[name] != expected[name]).double().mean()) for name in layers}
    assert max(flipped.values()) < 1e-3, flipped


def test_10_step_of_pruned_network_never_synchronizes():
    model, example = random_network("resnet20"), torch.zeros(1, 3, 32, 32)
    kept = {group.name: list(range(0, group.size, 2)) for group in channel_groups(model, example)}
    run_training_steps(keep_channels(model, example, kept), Hooks(), DEVICE)
