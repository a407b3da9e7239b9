"""Images streamed from folders: equal to torchvision's, for any number of workers and ranks."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data import FolderImages, load_dataset
from common.data.counter_rng import random_uniforms
from common.data.image_folder import central_crop, random_box, random_crop
from common.errors import UserError

RANDOM = np.random.default_rng(0)


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def imagenet_folder(root: Path, train: str = "train", val: str = "val", count: int = 5) -> Path:
    for split in (train, val):
        for name in ("n01440764", "n01443537"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                random_image(100 + 20 * number, 130 - 10 * number).save(root / split / name / f"{number}.JPEG")
    return root


def stream(image_set: FolderImages, batch_size: int, **options) -> dict[int, torch.Tensor]:
    """Return {example index: image}."""
    return {
        index: image
        for batch in image_set.batches(batch_size, **options)
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
    }


@pytest.mark.parametrize("folders", [("train", "val"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val")])
def test_both_imagenet_layouts_are_found(tmp_path, folders):
    data = load_dataset("imagenet", imagenet_folder(tmp_path, *folders))
    assert isinstance(data.train, FolderImages) and data.input_shape == (3, 224, 224)
    assert data.classes == ["n01440764", "n01443537"] and data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert data.mean == (0.485, 0.456, 0.406)
    held = data.holdout(0.4)
    assert len(held.train) == 6 and len(held.test) == 4 and held.test.labels.sum() == 2
    before = data.fingerprint
    (tmp_path / folders[1] / "n01440764" / "4.JPEG").unlink()
    assert load_dataset("imagenet", tmp_path).fingerprint != before


def test_images_do_not_depend_on_workers_ranks_or_order(tmp_path):
    train = load_dataset("imagenet", imagenet_folder(tmp_path)).train
    options = {"augment": True, "seed": 3, "epoch": 1}
    before = torch.get_rng_state()
    alone = stream(train, 4, workers=0, **options)
    assert sorted(alone) == list(range(10)) and alone[0].shape == (3, 224, 224)
    together = stream(train, 3, workers=2, shuffle=True, **options)
    ranks = stream(train, 4, workers=0, rank=0, world_size=2, **options)
    ranks |= stream(train, 4, workers=0, rank=1, world_size=2, channels_last=True, **options)
    for index, image in alone.items():
        assert torch.equal(image, together[index]) and torch.equal(image, ranks[index])
    assert torch.equal(before, torch.get_rng_state())
    other = stream(train, 4, workers=0, augment=True, seed=3, epoch=2)
    assert all(not torch.equal(alone[index], other[index]) for index in alone)


def test_evaluation_images_of_subset_are_center_crops(tmp_path):
    test = load_dataset("imagenet", imagenet_folder(tmp_path)).test.normalized((0.0,), (1.0,))
    images = stream(test.subset([7, 0]), 2, workers=0)
    for index, path in ((0, "n01443537/2.JPEG"), (1, "n01440764/0.JPEG")):
        expected = np.asarray(central_crop(Image.open(tmp_path / "val" / path).convert("RGB"))) / 255
        assert np.allclose(images[index].permute(1, 2, 0), expected, atol=1e-6)


def test_crops_equal_torchvision():
    from torchvision.transforms import functional as F
    from torchvision.transforms import v2

    evaluation = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for size in ((300, 200), (200, 300), (256, 256), (500, 333), (333, 501), (64, 64), (256, 400), (1000, 60)):
        image = random_image(*size)
        assert np.array_equal(np.asarray(central_crop(image)), np.asarray(evaluation(image)))
        top, left, height, width = random_box(*size, random_uniforms(5, 9, 41)[:40].reshape(10, 4))
        expected = F.resized_crop(image, top, left, height, width, [224, 224])
        expected = F.hflip(expected) if random_uniforms(5, 9, 41)[40] < 0.5 else expected
        assert np.array_equal(np.asarray(random_crop(image, 5, 9)), np.asarray(expected))


@given(width=st.integers(1, 600), height=st.integers(1, 600), index=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_random_boxes_lie_inside_image(width, height, index):
    top, left, box_height, box_width = random_box(width, height, random_uniforms(1, index, 40).reshape(10, 4))
    assert top >= 0 and left >= 0 and box_height >= 1 and box_width >= 1
    assert top + box_height <= height and left + box_width <= width


def test_random_boxes_have_published_areas_and_aspect_ratios():
    uniforms = np.stack([random_uniforms(0, index, 40) for index in range(4000)]).reshape(-1, 10, 4)
    boxes = np.array([random_box(1000, 1000, row) for row in uniforms])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 3] / boxes[:, 2]
    assert areas.min() > 0.078 and areas.max() <= 1 and aspects.min() > 0.745 and aspects.max() < 1.34
    assert abs(areas.mean() - 0.5) < 0.04 and abs(np.log(aspects).mean()) < 0.02


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_raises_one_line_from_any_process(tmp_path, workers):
    train = load_dataset("imagenet", imagenet_folder(tmp_path)).train
    path = tmp_path / "train" / "n01443537" / "3.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"n01443537/3\.JPEG: truncated or unreadable") as caught:
        stream(train, 4, workers=workers)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r"3\.JPEG: deleted"):
        stream(train, 4, workers=workers)


def test_gray_and_palette_images_become_three_channels(tmp_path):
    root = imagenet_folder(tmp_path, count=2)
    folder = root / "val" / "n01440764"
    random_image(90, 90).convert("L").save(folder / "0.JPEG")
    os.remove(folder / "1.JPEG")
    random_image(90, 90).convert("P").save(folder / "deep.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / "more").mkdir()
    random_image(90, 90).convert("RGBA").save(folder / "more" / "below.PNG")
    test = load_dataset("imagenet", root).test
    assert [str(test.listing.path(i).relative_to(folder)) for i in range(3)] == ["0.JPEG", "deep.png", "more/below.PNG"]
    images = stream(test, 8, workers=0)
    assert len(images) == 5 and {image.shape for image in images.values()} == {(3, 224, 224)}


def test_negative_workers_raise(tmp_path):
    train = load_dataset("imagenet", imagenet_folder(tmp_path)).train
    with pytest.raises(UserError, match="--workers -1"):
        stream(train, 4, workers=-1)
