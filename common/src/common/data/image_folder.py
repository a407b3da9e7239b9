"""Image sets on disk: decoded by worker processes, kept in memory while there is room, augmented as for ImageNet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.augment import apply_affine, pixel_affine, to_channels
from common.data.batches import Batch, epoch_order, rank_parts
from common.data.counter_rng import hash_key, random_uniforms
from common.data.decode import all_gray, read_image
from common.data.image_memory import KeptImages
from common.data.listing import ImageListing
from common.data.prepare import central_crop
from common.errors import UserError
from common.preprocessing import CROP, DEFAULT, Preprocessing


@dataclass(frozen=True, eq=False)
class FolderImages:
    """An image set on disk; images are returned as (3, 224, 224), or of other channels and another size.

    Training: a random crop of 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3, resized, and a random flip.
    Evaluation: by default, the shorter side is resized to 256, then the center 224 x 224 is cropped. The pixels equal those of
    torchvision's RandomResizedCrop(224) and Resize(256) + CenterCrop(224) on the same PIL images (a test compares them). torchvision
    itself takes over four seconds to import and uses a global generator, so that images would depend on the number of workers.

    Attributes:
        listing: All image files.
        chosen: (N,) int64 positions in the listing.
        preprocessing: How an image is resized, cropped and normalized.
        kept: Images prepared for evaluation that are kept in memory; shared with the sets made from this one. None keeps nothing.
    """

    listing: ImageListing
    chosen: np.ndarray
    preprocessing: Preprocessing = DEFAULT
    channels: int = 3
    kept: KeptImages | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        how = self.preprocessing
        object.__setattr__(self, "preprocessing", how.normalized(how.mean, how.std, self.channels))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of pixels from 0 to 1."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel."""
        return self.preprocessing.std

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return torch.from_numpy(self.listing.labels[self.chosen])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images in a batch."""
        return self.channels, self.preprocessing.crop, self.preprocessing.crop

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "FolderImages":
        """Return the examples at these positions, in this order."""
        return replace(self, chosen=self.chosen[np.asarray(indices, dtype=np.int64)])

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "FolderImages":
        """Return the same images with another normalization; a single value applies to all channels."""
        return replace(self, preprocessing=self.preprocessing.normalized(mean, std, self.channels))

    def in_channels(self, channels: int) -> "FolderImages":
        """Return the same images converted to 1 or 3 channels."""
        kept = None if self.kept is None else KeptImages(self.kept.room)
        return replace(self, channels=channels, preprocessing=self.preprocessing.in_channels(channels), kept=kept)

    def is_gray(self) -> bool:
        """Return whether all image files have one channel."""
        return all_gray(self.listing)

    def relabeled(self, positions: Tensor) -> "FolderImages":
        """Return the same images with the label ``positions[c]`` instead of c, for every class c."""
        labels = positions.numpy()[self.listing.labels]
        return replace(self, listing=replace(self.listing, labels=labels))

    def with_labels(self, labels: Tensor) -> "FolderImages":
        """Return the same images with other labels, (N,) int64."""
        every = self.listing.labels.copy()
        every[self.chosen] = labels.numpy()
        return replace(self, listing=replace(self.listing, labels=every))

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the sorted listing: relative paths and sizes."""
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
        """Yield this rank's batches of an epoch, decoded by `workers` processes (0: by this process), or from memory."""
        if workers < 0:
            raise UserError(f"--workers {workers} is negative; 0 reads images in the same process")
        device = torch.device(device)
        order = epoch_order(len(self), shuffle=shuffle, seed=seed, epoch=epoch)
        parts = rank_parts(len(self), batch_size, rank, world_size, min_part)
        kept = None if augment else self.kept
        known = {} if kept is None else kept.pixels
        positions = [self.chosen[order[start:end].numpy()].tolist() for start, end, _ in parts]
        missing = [[i for i, position in enumerate(part) if position not in known] for part in positions]
        loader = DataLoader(
            _ImageFiles(replace(self, kept=None), hash_key(seed, epoch, 1) if augment else None),
            batch_sampler=[
                order[part.start + torch.tensor(rows)].tolist()
                for part, rows in zip(parts, missing, strict=True)
                if rows
            ],
            num_workers=workers if any(missing) else 0,
            collate_fn=_collate,
            pin_memory=device.type == "cuda" and kept is None,
            generator=torch.Generator(),  # otherwise the loader uses the global generator
        )
        affine, loaded, labels = pixel_affine(self.mean, self.std, device), _load_batches(loader), self.labels
        for (start, end, global_size), part, rows in zip(parts, positions, missing, strict=True):
            pixels = next(loaded) if rows else None
            if kept is not None:
                pixels = _completed(kept, part, rows, pixels)
            assert pixels is not None  # without memory, all images are decoded
            images = apply_affine(pixels.to(device, non_blocking=True), affine, channels_last)
            indices = order[start:end]
            targets = labels[indices].to(device, non_blocking=True)
            yield Batch(images, targets, indices.to(device, non_blocking=True), global_size)


def _completed(kept: KeptImages, positions: Sequence[int], rows: Sequence[int], decoded: Tensor | None) -> Tensor:
    """Return a batch (B, C, H, W) of images that were decoded, at ``rows``, and of kept ones; keep the decoded ones.

    positions: of the batch's images in the listing.
    """
    for row, image in zip(rows, () if decoded is None else decoded, strict=True):
        kept.add(positions[row], image)
    if decoded is not None and len(rows) == len(positions):
        return decoded
    new = {} if decoded is None else dict(zip(rows, decoded, strict=True))
    return torch.stack([new[row] if row in new else kept.pixels[position] for row, position in enumerate(positions)])


class _ImageFiles(Dataset):
    """Image files as a worker reads them; key: of the epoch's random numbers, None without augmentation."""

    def __init__(self, images: FolderImages, key: int | None) -> None:
        self.images, self.key = images, key

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        """Return an image (C, H, W) uint8, or the error message.

        (The message of an exception raised in a worker would include the traceback.)
        """
        images = self.images
        position = int(images.chosen[index])
        try:
            image = read_image(images.listing.path(position))
        except UserError as error:
            return str(error)
        if self.key is None:
            image = central_crop(image, images.preprocessing)
        else:
            image = random_crop(image, self.key, index, images.preprocessing.crop, images.preprocessing.interpolation)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        return to_channels(pixels[None], images.channels)[0]


def _collate(items: list[Tensor | str]) -> Tensor | str:
    pixels = []
    for item in items:
        if isinstance(item, str):
            return item
        pixels.append(item)
    return torch.stack(pixels)


def _load_batches(loader: DataLoader) -> Iterator[Tensor]:
    """Yield the loader's batches. Raises UserError for an unreadable image and for a killed worker."""
    try:
        for collated in loader:
            if isinstance(collated, str):
                raise UserError(collated)
            yield collated
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"--workers: a process that reads images was killed ({str(error).splitlines()[0]}), possibly for lack of memory "
            "or shared memory; use fewer --workers, or 0"
        ) from error


def random_crop(
    image: Image.Image, key: int, index: int, crop: int = CROP, interpolation: str = "bilinear"
) -> Image.Image:
    """Crop at random, resize to `crop` x `crop` and flip at random; depends only on (key, index)."""
    uniforms = random_uniforms(key, index, 41)
    full_width, full_height = image.size
    top, left, height, width = random_box(full_width, full_height, uniforms[:40].reshape(10, 4))
    box = (left, top, left + width, top + height)
    image = image.crop(box).resize((crop, crop), Image.Resampling[interpolation.upper()])
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if uniforms[40] < 0.5 else image


def random_box(width: int, height: int, uniforms: np.ndarray) -> tuple[int, int, int, int]:
    """Sample (top, left, height, width) of a crop from uniform random numbers (tries, 4).

    Going deeper with convolutions, arXiv 1409.4842, section 6: the area is uniform in 8 to 100 %, the logarithm of the aspect
    ratio is uniform between those of 3/4 and 4/3. The first crop that fits is used, or else the largest center crop with an allowed ratio.
    """
    for u_area, u_aspect, u_top, u_left in uniforms:
        area = width * height * (0.08 + 0.92 * u_area)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u_aspect)
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(u_top * (height - box_height + 1)), int(u_left * (width - box_width + 1))
            return top, left, box_height, box_width
    box_width, box_height = min(width, round(height * 4 / 3)), min(height, round(width / (3 / 4)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
