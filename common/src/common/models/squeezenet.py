"""SqueezeNet 1.0 (Iandola et al. 2016, arXiv 1602.07360) as torchvision has it, or as its authors published it, for Caffe."""

from torch import nn


def squeezenet1_0(num_classes: int = 1000, dropout: float = 0.5, padding: int = 0) -> nn.Module:
    """Build torchvision's SqueezeNet 1.0.

    padding: pixels around the feature maps of the last, 1x1 convolution: 1 in the authors' network, where the global average
    includes them.
    """
    from torchvision.models import squeezenet1_0 as build  # importing torchvision takes longer than importing torch

    model = build(num_classes=num_classes, dropout=dropout)
    model.classifier[1].padding = (padding, padding)
    return model
