"""GPU code on fake CUDA tensors: hashing without TF32, and fine-tuning, which uses the plain training step."""

import torch
from torch import nn

from common.channels import channel_groups, keep_channels
from common.models import create_model
from common.testing import noise_images
from common.testing.fake_cuda import assert_no_transfers, fake_cuda, step_transfers
from redundancy_graph.features import collect_hashes


def test_step_of_pruned_network_never_synchronizes():
    model, example = create_model("resnet20"), torch.zeros(1, 3, 32, 32)
    kept = {group.name: list(range(0, group.size, 2)) for group in channel_groups(model, example)}
    smaller = keep_channels(model, example, kept)
    with fake_cuda():
        _, second = step_transfers(smaller)
        assert_no_transfers(second)


class Watched(nn.Module):
    """A network that records the float32 precision of its convolutions."""

    seen: list[str] = []  # noqa: RUF012  # shared with the copied network

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.seen.append(torch.backends.cudnn.conv.fp32_precision)
        return self.conv(x)


def test_fault_16_hashing_disables_tf32(monkeypatch):
    before = torch.backends.cudnn.conv.fp32_precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    hashes = collect_hashes(Watched(), noise_images(6), ["conv"])
    assert len(hashes["conv"]) == 6 and Watched.seen == ["ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before
