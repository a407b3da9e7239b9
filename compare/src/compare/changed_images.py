"""Test images that a compressed network and the dense network assign to different classes: chosen, drawn and read.

A result keeps up to SHOWN of them: their positions and classes in metrics.json, their pixels in ``changed.png``.
"""

import io
import math
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.atomic import atomic_file
from common.data import DataBundle
from compare.record_form import damaged
from compare.result_set import SHOWN

SHEET = "changed.png"  # in the folder of a result
COLUMNS = 6  # images in a row of the sheet
LARGEST_SIDE = 64  # pixels of an image on the sheet; larger images are reduced


def changed_predictions(labels: Tensor, predictions: Tensor, reference: Tensor) -> dict[str, Any]:
    """Count the images whose prediction has changed, and choose those to show, evenly spaced.

    Args:
        labels: True classes, shape (N,), int64.
        predictions: Predicted classes of the compressed network, shape (N,), int64.
        reference: Predicted classes of the dense network, shape (N,), int64.

    Returns:
        ``count``; ``lost`` and ``gained``, the images that only the dense or only the compressed network classifies
        correctly; of the chosen images ``index``, ``label`` and the predicted classes ``dense`` and ``predicted``.
    """
    changed = (predictions != reference).nonzero().flatten()
    places = torch.linspace(0, max(0, len(changed) - 1), min(SHOWN, len(changed))).round().long()
    chosen = changed[places]
    right, was_right = predictions == labels, reference == labels
    return {
        "count": len(changed),
        "lost": int((was_right & ~right).sum()),
        "gained": int((right & ~was_right).sum()),
        "index": chosen.tolist(),
        "label": labels[chosen].tolist(),
        "dense": reference[chosen].tolist(),
        "predicted": predictions[chosen].tolist(),
    }


def draw_sheet(file: Path, data: DataBundle, chosen: Sequence[int], workers: int = 0) -> None:
    """Draw these test images, as they are before normalization, side by side; nothing if the data are not images."""
    if not chosen or len(data.input_shape) != 3 or data.input_shape[0] not in (1, 3):
        return
    (batch,) = data.test.subset(chosen).batches(len(chosen), workers=workers)
    tiles = [_reduced(_image(pixels, data)) for pixels in batch.images.float()]
    width, height = tiles[0].size
    sheet = Image.new(tiles[0].mode, (COLUMNS * width, math.ceil(len(tiles) / COLUMNS) * height))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % COLUMNS * width, i // COLUMNS * height))
    with atomic_file(file) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _image(pixels: Tensor, data: DataBundle) -> Image.Image:
    """Return an image of normalized pixels (C, H, W); of images that the user's code has normalized, stretched to full contrast."""
    if data.prepared:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-9)
    else:
        mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (data.mean, data.std))
        pixels = pixels * std + mean
    values = (255 * pixels.clamp(0, 1)).round().to(torch.uint8)
    return Image.fromarray((values[0] if len(values) == 1 else values.permute(1, 2, 0)).contiguous().numpy())


def _reduced(image: Image.Image) -> Image.Image:
    factor = max(1, *(side / LARGEST_SIDE for side in image.size))
    return image if factor == 1 else image.resize([max(1, round(side / factor)) for side in image.size])


def read_sheet(file: Path, changed: Mapping[str, Any], count: int) -> list[str]:
    """Return the first ``count`` of the images that :func:`draw_sheet` drew, as data URIs; none if there is no sheet.

    Raises:
        UserError: If the file is not a sheet of these images.
    """
    total = len(changed["index"])
    if not total or not file.is_file():
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=["PNG"]) as sheet:
                return [_data_uri(tile) for tile in _tiles(sheet, file, total)[:count]]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise damaged(file, f"not an image ({error})") from error


def _tiles(sheet: Image.Image, file: Path, total: int) -> list[Image.Image]:
    """Split a sheet of ``total`` images. Raises UserError, before it is decoded, if it has another size."""
    rows = math.ceil(total / COLUMNS)
    width, height = sheet.size[0] // COLUMNS, sheet.size[1] // rows
    if (
        sheet.size != (COLUMNS * width, rows * height)
        or max(width, height) > LARGEST_SIDE
        or sheet.mode not in ("L", "RGB")
    ):
        raise damaged(file, f"not {total} images in {rows} rows")
    places = [(i % COLUMNS * width, i // COLUMNS * height) for i in range(total)]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in places]


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
