"""Networks of the authors' CUB-200 table that the registry does not contain: ``--model redundancy_graph.networks:vgg16_bn``."""

from torch import nn


def vgg16_bn(num_classes: int = 200) -> nn.Module:
    """Build torchvision's VGG-16 with batch norm, for images of 224x224 pixels."""
    import torchvision

    return torchvision.models.vgg16_bn(num_classes=num_classes)


def vgg19_bn(num_classes: int = 200) -> nn.Module:
    """Build torchvision's VGG-19 with batch norm, for images of 224x224 pixels."""
    import torchvision

    return torchvision.models.vgg19_bn(num_classes=num_classes)
