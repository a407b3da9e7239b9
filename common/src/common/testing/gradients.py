"""Gradients that depend continuously on rounding, to compare devices and precisions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.device import exact_float32
from common.models import create_model

# Relative errors of gradients with smooth layers, by network. Measured on a CPU against float64, channels-last, seeds 0 to 2:
# float32 1.6e-5 to 1.8e-5 (VGG-16) and 1.5e-6 to 1.8e-6 (ResNet-20); inputs of convolutions rounded as TensorFloat-32 4.5e-3 to
# 4.8e-3 and 1.4e-4 to 2.1e-4. Another summation order changes the former by its own size, hence more than tenfold room.
FLOAT32_ERROR = {"vgg16": 2e-4, "resnet20": 3e-5}


@contextmanager
def _smooth_layers() -> Iterator[None]:
    """Replace ReLU by softplus and max pooling by average pooling, whose derivatives do not jump."""
    before = F.relu, F.max_pool2d
    F.relu = lambda x, inplace=False: F.softplus(x)  # type: ignore[assignment]
    F.max_pool2d = lambda x, size, stride=None, *_, **__: F.avg_pool2d(x, size, stride)  # type: ignore[assignment]
    try:
        yield
    finally:
        F.relu, F.max_pool2d = before


def smooth_gradients(
    arch: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Return the gradients of a network for 32x32 images with smooth layers, in train mode; float64 on the CPU, 1-D.

    With ReLU, an activation near zero passes its gradient or not, depending on the last bit: of 8.9 million activations of VGG-16,
    5 to 14 had another sign in float32 than in float64, which changed the gradients by up to 1.2 % (CPU, channels-last).
    """
    torch.manual_seed(seed)
    model, images, labels = create_model(arch), torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    model.to(device=device, dtype=dtype).to(memory_format=torch.channels_last).train()
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    with exact_float32(), _smooth_layers():
        nn.functional.cross_entropy(model(images.to(device, dtype)), labels.to(device)).backward()
    return torch.cat([p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None])
