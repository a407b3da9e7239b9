"""Interpolative decomposition on a GPU selects the same channels and weights as on a CPU; `pytest -m cuda`."""

import pytest
import torch

from common.data import load_dataset
from common.models import create_model
from common.testing import random_network
from common.testing.steps import run_training_steps
from common.training import Hooks
from model_preserving_id import prune_network
from model_preserving_id.finetune import distillation_loss

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)


def test_11_pruning_on_gpu_equals_cpu():
    """Widths and weights; the network is returned on its original device, wherever the computation runs."""
    images = next(load_dataset("digits").train.subset(range(200)).batches(200)).images
    example, found = torch.zeros(1, 3, 32, 32), {}
    for home, device in ((torch.device("cpu"), None), (DEVICE, None), (torch.device("cpu"), DEVICE)):
        model = random_network("resnet20").to(home)
        smaller = prune_network(model, example.to(home), [images], keep=0.6, device=device)
        assert {tensor.device for tensor in smaller.state_dict().values()} == {home}
        found[home, device] = {name: tensor.cpu() for name, tensor in smaller.state_dict().items()}
    expected, *others = found.values()
    for other in others:
        assert [tensor.shape for tensor in other.values()] == [tensor.shape for tensor in expected.values()]
        for name, tensor in expected.items():
            scale = max(1.0, float(tensor.double().abs().max()))
            assert float((other[name].double() - tensor.double()).abs().max()) < 1e-3 * scale, name


def test_11_distillation_step_does_not_wait():
    teacher = create_model("resnet20").to(DEVICE, memory_format=torch.channels_last)
    run_training_steps(create_model("resnet20"), Hooks(loss=distillation_loss(teacher, 0.5, 2.0)), DEVICE)
