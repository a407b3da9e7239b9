"""Pictures too large or too many for memory: decoded by worker processes, augmented as for ImageNet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.augment import apply_affine, pixel_affine
from common.data.batches import Batch, epoch_order, rank_parts
from common.data.counter_rng import example_uniforms, mixed_key
from common.data.decode import read_image
from common.data.listing import ImageListing
from common.data.normalization import IMAGENET, checked_statistics
from common.errors import UserError

CROP = 224  # pixels
RESIZE = 256  # pixels: the shorter side in evaluation


@dataclass(frozen=True, eq=False)
class FolderImages:
    """An image set that stays on disk; pictures become (3, 224, 224).

    Training: a random part of 8 to 100 % of the area and 3/4 to 4/3 of the aspect ratio, resized, and a flip.
    Evaluation: shorter side resized to 256, middle 224 x 224. Pixel for pixel torchvision's RandomResizedCrop(224) and
    Resize(256) + CenterCrop(224) on the same PIL pictures (a test compares them); torchvision itself takes over four
    seconds to import and draws from a global generator, which would tie the pictures to the number of workers.
    """

    listing: ImageListing
    chosen: np.ndarray  # (N,) int64 positions in the listing
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    def __post_init__(self) -> None:
        mean, std = checked_statistics(self.mean, self.std, 3)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return torch.from_numpy(self.listing.labels[self.chosen])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what batches hold."""
        return 3, CROP, CROP

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "FolderImages":
        """The examples at these positions, in this order."""
        return FolderImages(self.listing, self.chosen[np.asarray(indices, dtype=np.int64)], self.mean, self.std)

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "FolderImages":
        """The same pictures with another normalisation; one value serves all channels."""
        return FolderImages(self.listing, self.chosen, tuple(mean), tuple(std))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the sorted listing: relative paths and sizes."""
        return self.listing.fingerprint()

    def batches(
        self,
        batch_size: int,
        *,
        augment: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        channels_last: bool = False,
        min_part: int = 1,
    ) -> Iterator[Batch]:
        """This rank's batches of an epoch, decoded by `workers` processes (0: by this one)."""
        if workers < 0:
            raise UserError(f"{workers} workers make no sense; 0 reads pictures in the same process")
        device = torch.device(device)
        order = epoch_order(len(self), shuffle=shuffle, seed=seed, epoch=epoch)
        parts = rank_parts(len(self), batch_size, rank, world_size, min_part)
        loader = DataLoader(
            _Pictures(self.listing, self.chosen, mixed_key(seed, epoch, 1) if augment else None),
            batch_sampler=[order[start:end].tolist() for start, end, _ in parts],
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
        )
        affine = pixel_affine(self.mean, self.std, device)
        for (start, end, global_size), (pixels, labels) in zip(parts, _delivered(loader), strict=True):
            images = apply_affine(pixels.to(device, non_blocking=True), affine, channels_last)
            indices = order[start:end].to(device, non_blocking=True)
            yield Batch(images, labels.to(device, non_blocking=True), indices, global_size)


class _Pictures(Dataset):
    """What a worker holds: where the pictures lie and the key of the epoch's draws (None: no augmentation)."""

    def __init__(self, listing: ImageListing, chosen: np.ndarray, key: int | None) -> None:
        self.listing, self.chosen, self.key = listing, chosen, key

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        """A picture (3, 224, 224) uint8 and its label, or what is wrong with it.

        (An exception would come out of a worker with its traceback in the message.)
        """
        position = int(self.chosen[index])
        try:
            picture = read_image(self.listing.path(position))
        except UserError as error:
            return str(error)
        picture = central_crop(picture) if self.key is None else random_crop(picture, self.key, index)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
        return pixels, int(self.listing.labels[position])


def _collate(items: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor] | str:
    for item in items:
        if isinstance(item, str):
            return item
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def _delivered(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches. Raises UserError for an unreadable picture and for a killed worker."""
    try:
        for collated in loader:
            if isinstance(collated, str):
                raise UserError(collated)
            yield collated
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads pictures was killed ({str(error).splitlines()[0]}); it may have run out of memory "
            "or shared memory: use fewer --workers, or 0"
        ) from error


def central_crop(picture: Image.Image, resize: int = RESIZE, crop: int = CROP) -> Image.Image:
    """The middle `crop` x `crop` pixels after the shorter side was resized to `resize`."""
    width, height = picture.size
    short = min(width, height)
    if short != resize:
        longer = int(resize * max(width, height) / short)
        picture = picture.resize((resize, longer) if width <= height else (longer, resize), Image.Resampling.BILINEAR)
    width, height = picture.size
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return picture.crop((left, top, left + crop, top + crop))


def random_crop(picture: Image.Image, key: int, index: int, crop: int = CROP) -> Image.Image:
    """A random part of the picture resized to `crop` x `crop` and perhaps mirrored, drawn from (key, index)."""
    draws = example_uniforms(key, index, 41)
    full_width, full_height = picture.size
    top, left, height, width = random_box(full_width, full_height, draws[:40].reshape(10, 4))
    box = (left, top, left + width, top + height)
    picture = picture.crop(box).resize((crop, crop), Image.Resampling.BILINEAR)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[40] < 0.5 else picture


def random_box(width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part of a picture, from uniforms (tries, 4).

    Going deeper with convolutions, arXiv 1409.4842, section 6: area uniform in 8 to 100 %, logarithm of the aspect
    ratio uniform in 3/4 to 4/3; the first try that fits counts, else the largest middle part of an allowed ratio.
    """
    for area_draw, aspect_draw, top_draw, left_draw in draws:
        area = width * height * (0.08 + 0.92 * area_draw)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * aspect_draw)
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(top_draw * (height - box_height + 1)), int(left_draw * (width - box_width + 1))
            return top, left, box_height, box_width
    box_width, box_height = min(width, round(height * 4 / 3)), min(height, round(width / (3 / 4)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
