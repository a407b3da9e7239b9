"""Resize and crop one image as a network expects it; the pixels equal those of torchvision's and timm's transforms."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from common.preprocessing import DEFAULT, Preprocessing


def central_crop(image: Image.Image, how: Preprocessing = DEFAULT) -> Image.Image:
    """Resize an RGB image, and crop its center; what the center lacks is black, or the mean color after fitting the longer side."""
    width, height = image.size
    size = resized_size(width, height, how)
    if size != image.size:
        image = _resize(image, size, how)
    fill = tuple(round(255 * value) for value in how.mean) if how.fit == "longer" else (0, 0, 0)
    return _center(image, how.crop, fill if len(fill) == 3 else fill[:1] * 3)


def resized_size(width: int, height: int, how: Preprocessing) -> tuple[int, int]:
    """Return (width, height) of an image after resizing and before cropping."""
    if how.fit == "both":
        return how.resize, how.resize
    if how.fit == "longer":
        ratio = max(width, height) / how.resize
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    if min(width, height) == how.resize:
        return width, height
    longer = int(how.resize * max(width, height) / min(width, height))
    return (how.resize, longer) if width <= height else (longer, how.resize)


def _resize(image: Image.Image, size: tuple[int, int], how: Preprocessing) -> Image.Image:
    if how.antialias:
        return image.resize(size, Image.Resampling[how.interpolation.upper()])
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    mode, corners = how.interpolation, None if how.interpolation == "nearest" else False
    resized = F.interpolate(pixels, size[::-1], mode=mode, align_corners=corners).round_().clamp_(0, 255)
    return Image.fromarray(resized[0].to(torch.uint8).permute(1, 2, 0).numpy())


def _center(image: Image.Image, crop: int, fill: tuple[int, ...]) -> Image.Image:
    """Crop the center; a smaller image is padded first, the odd pixel at the bottom and on the right."""
    width, height = image.size
    if min(width, height) < crop:
        padded = Image.new("RGB", (max(width, crop), max(height, crop)), fill)
        padded.paste(image, (max(0, crop - width) // 2, max(0, crop - height) // 2))
        image, (width, height) = padded, padded.size
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))
