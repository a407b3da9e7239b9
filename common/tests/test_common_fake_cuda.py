"""Transfers and synchronization on a GPU, tested without one: training steps, evaluation and batch-norm calibration."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from common import distributed
from common.batchnorm import recalibrate_batch_norm
from common.channels import Masking, channel_groups, keep_channels
from common.data import Batch
from common.device import exact_float32
from common.measure import _batch_size, evaluate
from common.models import create_model
from common.testing import noise_images, random_network
from common.testing.fake_cuda import DEVICE, Transfers, assert_no_transfers, fake_cuda, step_transfers

FIELDS = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)


@pytest.mark.parametrize("arch", ["vgg16", "resnet56", "densenet40"])
def test_training_step_does_not_synchronize(arch):
    model = create_model(arch)
    before = list(model.parameters())
    with fake_cuda():
        _, second = step_transfers(model)
        assert_no_transfers(second)
        assert all(p.is_cuda and p.grad is not None for p in before)  # the same objects, moved


def test_transfers_record_copies_and_fake_tensors_have_no_values():
    with fake_cuda() as device:
        there = torch.ones(4, device=device)
        with Transfers() as transfers:
            there + torch.tensor(2.0)  # a number, no copy
        assert_no_transfers(transfers)
        for copy in (lambda: torch.ones(4).to(device), lambda: there[[0, 1]], lambda: there.copy_(torch.ones(4))):
            with Transfers() as transfers:
                copy()
            with pytest.raises(AssertionError, match="to the device"):
                assert_no_transfers(transfers)
        with Transfers() as transfers:
            there.cpu()
        assert len(transfers.to_host) == 1 and not transfers.to_device
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises(RuntimeError, match="device"):
            there + torch.ones(4)


class FakeImages:
    """Three batches of 8 images on the fake device; ``yielded`` counts them."""

    image_shape = (3, 32, 32)

    def __init__(self) -> None:
        self.yielded = 0

    def __len__(self) -> int:
        return 24

    def batches(self, batch_size, **_):
        for start in range(0, 24, 8):
            self.yielded += 1
            labels = torch.zeros(8, dtype=torch.int64, device=DEVICE)
            yield Batch(torch.randn(8, 3, 32, 32, device=DEVICE), labels, torch.arange(start, start + 8), 8)


def test_evaluation_copies_to_host_once():
    """Fake tensors have no values, so evaluation fails where it reads them: after all batches and one copy."""
    model, images = create_model("resnet20"), FakeImages()
    with fake_cuda() as device:
        model.to(device)
        with Transfers() as transfers, pytest.raises(DataDependentOutputException):
            evaluate(model, images, device=device)
    assert images.yielded == 3 and len(transfers.to_host) == 1 and not transfers.to_device


def test_evaluation_batches_are_larger_on_cuda():
    images = noise_images(4)
    assert _batch_size(images, torch.device("cpu")) == 250 and _batch_size(images, DEVICE) == 2000
    large = FakeImages()
    large.image_shape = (3, 224, 224)
    assert _batch_size(large, DEVICE) == 250


def test_batch_indices_are_on_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
    with fake_cuda() as device:
        batches = noise_images(40).batches(16, device=device)
        assert next(batches).indices.is_cuda
        with Transfers() as transfers:
            assert next(batches).indices.is_cuda
        assert_no_transfers(transfers)


def test_masks_are_cast_once_and_hooks_persist():
    """Masks of another type than the inputs need one cast for all 21 consumers, which index the result."""
    model = create_model("resnet20")
    groups = channel_groups(model, torch.zeros(1, 3, 32, 32))
    consumers = {consumer for group in groups for consumer, _ in group.consumers}
    masking = Masking(model, groups)
    with fake_cuda() as device, torch.no_grad():
        model.to(device)
        x = torch.randn(4, 3, 32, 32, device=device)
        masks = torch.ones(4, sum(group.size for group in groups), dtype=torch.float64, device=device)
        with masking.applied(masks):
            model(x)  # assigns the masks to the consumers
        with Transfers() as plain:
            model(x)
        with Transfers() as masked, masking.applied(masks):
            model(x)
        assert_no_transfers(masked)
    more = masked.operations - plain.operations
    assert more["aten._to_copy.default"] == more["aten.cat.default"] == 1
    assert more["aten.mul.Tensor"] == len(consumers) and more.total() <= 3 * len(consumers) + 5
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == len(consumers)
    masking.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_batch_norm_recalibration_does_not_read_counter():
    model = create_model("resnet20")
    with fake_cuda() as device:
        model.to(device)
        inputs = [torch.randn(4, 3, 32, 32, device=device) for _ in range(3)]
        with Transfers() as transfers:
            recalibrate_batch_norm(model, inputs, device)
        assert_no_transfers(transfers)


def test_recalibrated_statistics_equal_cumulative_average():
    inputs = [torch.randn(5, 3, 32, 32) for _ in range(7)]
    found, expected = (random_network("resnet20") for _ in range(2))
    norms = [module for module in expected.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in inputs:
            expected(batch)
    recalibrate_batch_norm(found, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found.buffers(), expected.buffers(), strict=True))
    assert {module.momentum for module in found.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
    assert not any(module._forward_pre_hooks for module in found.modules())


@pytest.mark.parametrize(("processes", "gpus", "backend"), [(2, 1, "gloo"), (2, 2, "nccl"), (1, 1, "nccl")])
def test_more_processes_than_gpus_use_gloo(processes, gpus, backend, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, device_id: seen.append((name, device_id)))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    for name, value in {"RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))
    with distributed.process_group(DEVICE):
        pass
    with distributed.process_group(torch.device("cpu")):
        pass
    assert seen == [(backend, DEVICE if backend == "nccl" else None), ("gloo", None)]


class Precision(nn.Module):
    """A network that records the float32 precision of the forward passes of all of its copies."""

    seen: list[tuple[str, ...]] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        self.seen.append(tuple(field.fp32_precision for field in FIELDS))
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def test_measurements_do_not_use_tf32(monkeypatch):
    before = tuple(field.fp32_precision for field in FIELDS)
    with exact_float32():
        assert tuple(field.fp32_precision for field in FIELDS) == before  # without CUDA nothing changes
    model = Precision().eval()
    model.seen.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    evaluate(model, noise_images(4))
    recalibrate_batch_norm(model, [torch.randn(2, 3, 32, 32)])
    assert set(model.seen) == {("ieee", "ieee")} and len(model.seen) == 2
    keep_channels(model, torch.zeros(1, 3, 32, 32), {"conv": [0, 2]})
    assert model.seen.count(("ieee", "ieee")) == 2 + 3  # of the comparison: statistics, masked and pruned
    with pytest.raises(RuntimeError), exact_float32():
        raise RuntimeError
    assert tuple(field.fp32_precision for field in FIELDS) == before
