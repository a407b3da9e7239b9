"""Batched crop, flip and normalization, compared with single examples and with torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import Batch, MemoryImages
from common.data.augment import (
    apply_affine,
    crop_flip,
    crop_flip_by_coordinates,
    normalize,
    pixel_affine,
    sample_crop_flip,
)
from common.normalization import IMAGENET

MASK = (1 << 64) - 1


def splitmix(bits: int) -> int:
    """The finalizer in Python integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def reference_offsets(seed: int, epoch: int, index: int, padding: int, flip: bool) -> tuple[int, int, int]:
    key, step = 0, 0x9E3779B97F4A7C15
    for value in (seed, epoch, 1):
        key = splitmix((key ^ value) + step & MASK)
    bits = splitmix(((index + 1) * step + key) & MASK)
    span = 2 * padding + 1
    return (bits & 0xFFFFFF) * span >> 24, (bits >> 24 & 0xFFFFFF) * span >> 24, (bits >> 63) * flip


def reference_crop_flip(image: np.ndarray, top: int, left: int, flipped: int, padding: int) -> np.ndarray:
    """Crop and flip one example (C, H, W)."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, top : top + height, left : left + width]
    return crop[:, :, ::-1] if flipped else crop


def random_set(size: int = 37, shape: tuple[int, int, int] = (3, 8, 8), **options) -> MemoryImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator)
    return MemoryImages(images, torch.arange(size) % 5, **options)


def collect(image_set: MemoryImages, batch_size: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, C, H, W) and labels (N,) in example order, for any order of the batches."""
    batches = list(image_set.batches(batch_size, **options))
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(len(image_set)))
    images = torch.empty(len(image_set), *image_set.image_shape)
    labels = torch.empty(len(image_set), dtype=torch.int64)
    images[indices] = torch.cat([batch.images for batch in batches])
    labels[indices] = torch.cat([batch.labels for batch in batches])
    return images, labels


@given(
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 2**31),
    indices=st.lists(st.integers(0, 10**9), min_size=1, max_size=9),
)
@settings(max_examples=50, deadline=None)
def test_offsets_equal_hash_in_python_integers(seed, epoch, indices):
    for padding, flip in ((4, True), (2, False), (0, True)):
        offsets = sample_crop_flip(torch.tensor(indices), padding, flip, seed, epoch)
        expected = [reference_offsets(seed, epoch, index, padding, flip) for index in indices]
        assert offsets.T.tolist() == [list(row) for row in expected]


def test_offsets_are_uniform_and_independent():
    top, left, flipped = sample_crop_flip(torch.arange(90_000), 4, True, 0, 0).numpy()
    for offsets in (top, left):
        counts = np.bincount(offsets, minlength=9)
        assert len(counts) == 9 and abs(counts / 10_000 - 1).max() < 0.05  # five standard deviations are 0.047
    assert abs(flipped.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(np.stack([top, left, flipped]))[np.triu_indices(3, 1)]).max() < 0.02


@pytest.mark.parametrize("function", [crop_flip, crop_flip_by_coordinates])
@pytest.mark.parametrize(("shape", "padding"), [((3, 8, 8), 4), ((1, 5, 7), 2), ((3, 6, 4), 0), ((2, 3, 3), 5)])
def test_batched_crop_and_flip_equal_single_examples(function, shape, padding):
    images = random_set(50, shape, mean=(0.0,), std=(1.0,)).images
    offsets = sample_crop_flip(torch.arange(50), padding, True, 3, 1)
    expected = [
        reference_crop_flip(image, *row, padding) for image, row in zip(images.numpy(), offsets.T.tolist(), strict=True)
    ]
    assert np.array_equal(function(images, offsets, padding).numpy(), np.stack(expected))


def test_augmentation_equals_reference_exactly():
    image_set = random_set(padding=4)
    images, labels = collect(image_set, 10, augment=True, shuffle=True, seed=7, epoch=2)
    affine = pixel_affine(image_set.mean, image_set.std, torch.device("cpu")).numpy()[:, :, None, None]
    for index, image in enumerate(image_set.images.numpy()):
        crop = reference_crop_flip(image, *reference_offsets(7, 2, index, 4, True), 4)
        assert np.array_equal(images[index].numpy(), (crop.astype(np.float32) - affine[0]) * affine[1])
    assert torch.equal(labels, image_set.labels)


def test_augmentation_depends_on_seed_epoch_and_example_only():
    image_set = random_set()
    reference, _ = collect(image_set, 10, augment=True, seed=1, epoch=4)
    for batch_size, shuffle in ((1, False), (7, True), (37, True)):
        same, _ = collect(image_set, batch_size, augment=True, shuffle=shuffle, seed=1, epoch=4)
        assert torch.equal(reference, same)
    for seed, epoch in ((2, 4), (1, 5)):
        other, _ = collect(image_set, 10, augment=True, seed=seed, epoch=epoch)
        assert not torch.equal(reference, other)


@pytest.mark.parametrize("world_size", [2, 3])
def test_concatenated_rank_parts_equal_single_process_batch(world_size):
    image_set = random_set()
    options = {"augment": True, "shuffle": True, "seed": 5, "epoch": 1}
    single = list(image_set.batches(9, **options))
    ranks = [list(image_set.batches(9, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]
    # 37 = 4 * 9 + 1: one last example is too few for several ranks and joins the previous batch
    assert [batch.global_size for batch in single] == [9, 9, 9, 9, 1]
    assert [batch.global_size for batch in ranks[0]] == [9, 9, 9, 10]
    joined = [torch.cat(pair) for pair in zip(single[3][:3], single[4][:3], strict=True)]
    single[3:] = [Batch(*joined, global_size=10)]
    for number, whole in enumerate(single):
        parts = [batches[number] for batches in ranks]
        for field in ("images", "labels", "indices"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))
        assert {part.global_size for part in parts} == {whole.global_size}


def test_augmentation_without_padding_and_flip_is_identity():
    image_set = random_set(200, padding=0, flip=False)
    plain, _ = collect(image_set, 50)
    augmented, _ = collect(image_set, 50, augment=True)
    assert torch.equal(plain, augmented)


def test_normalization_equals_formula_for_any_batch_size():
    images = random_set(64, (3, 5, 7)).images
    whole = normalize(images, *IMAGENET)
    mean, std = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in IMAGENET)
    exact = (images.double() / 255 - mean) / std
    assert (whole - exact).abs().max() < 1e-6
    for size in (1, 3, 64):
        affine = pixel_affine(*IMAGENET, images.device)
        assert torch.equal(whole, torch.cat([apply_affine(part, affine) for part in images.split(size)]))
        assert torch.equal(whole, torch.cat([apply_affine(part, affine, True) for part in images.split(size)]))


def test_channels_last_changes_memory_layout_only():
    image_set = random_set()
    for plain, other in zip(
        image_set.batches(8, augment=True), image_set.batches(8, augment=True, channels_last=True), strict=True
    ):
        assert torch.equal(plain.images, other.images)
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        assert plain.images.is_contiguous()


def test_images_equal_torchvision():
    from PIL import Image
    from torchvision.transforms import functional as F

    image_set = random_set(20, (3, 32, 32))
    images, _ = collect(image_set, 20, augment=True, seed=1)
    for index, pixels in enumerate(image_set.images):
        top, left, flipped = reference_offsets(1, 0, index, 4, True)
        image = F.pad(Image.fromarray(pixels.permute(1, 2, 0).numpy()), 4)
        image = F.crop(image, top, left, 32, 32)
        image = F.hflip(image) if flipped else image
        expected = F.normalize(F.to_tensor(image), *IMAGENET)
        assert (images[index] - expected).abs().max() < 1e-6


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_batches_are_bit_identical_to_cpu():
    image_set = random_set(100, (3, 32, 32))
    for channels_last in (False, True):
        options = {"augment": True, "shuffle": True, "channels_last": channels_last}
        for here, there in zip(
            image_set.batches(32, **options), image_set.batches(32, device="cuda", **options), strict=True
        ):
            assert there.images.is_cuda and there.labels.is_cuda and there.indices.is_cuda
            assert torch.equal(here.indices, there.indices.cpu())
            assert torch.equal(here.images, there.images.cpu()) and torch.equal(here.labels, there.labels.cpu())
