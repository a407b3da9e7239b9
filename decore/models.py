"""Module ``models`` of the original code: its modified VGG-16."""

from functools import partial

from common.models import create_model

VGG16 = partial(create_model, "vgg16")

__all__ = ["VGG16"]
