"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): torchvision's, and with TensorFlow's padding and without batch norm."""

from typing import Any

import torch
from torch import nn

from common.models.same_padding import SamePad2d


def mobilenet_v2(*, tensorflow: bool = False, batch_norm: bool = True, **arguments: Any) -> nn.Module:
    """Build torchvision's network, which takes seconds to import.

    tensorflow: pad as TensorFlow does, in front of the convolutions of stride 2, and use its epsilon, 1e-3. batch_norm: otherwise
    convolutions have biases, as in a network whose batch norm has been folded into them. arguments: those of torchvision.
    """
    import torchvision

    model = torchvision.models.mobilenet_v2(**arguments)
    for parent in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                if tensorflow:
                    layer.eps = 1e-3
                if not batch_norm:
                    parent[int(name)] = nn.Identity()
            elif isinstance(layer, nn.Conv2d):
                if not batch_norm:
                    layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
                if tensorflow and layer.stride == (2, 2):
                    layer.padding = (0, 0)
                    parent[int(name)] = nn.Sequential(SamePad2d(layer.kernel_size[0], 2), layer)
    return model
