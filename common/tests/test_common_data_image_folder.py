"""Images streamed from folders: equal to torchvision's, for any number of workers and ranks."""

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.data import FolderImages, load_dataset
from common.data.counter_rng import random_uniforms
from common.data.decode import image_size, read_image
from common.data.image_folder import random_box, random_crop
from common.data.prepare import central_crop
from common.errors import UserError
from common.testing import assert_bounded

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


RAMP = np.tile(np.arange(256, dtype=np.uint16) * 257, (4, 1))
WIDE = {
    "16-bit PNG": ("x.png", "PNG", RAMP),
    "16-bit TIFF": ("x.tiff", "TIFF", RAMP),
    "16-bit TIFF, big-endian": ("x.tiff", "TIFF", RAMP.astype(">u2")),
    "16-bit PGM": ("x.pgm", "PPM", RAMP),
}


@pytest.mark.parametrize("case", WIDE)
def test_16_bit_image_is_scaled_by_its_range(tmp_path, case):
    name, kind, pixels = WIDE[case]
    Image.fromarray(pixels).save(tmp_path / name, kind)
    found = np.asarray(read_image(tmp_path / name))
    assert np.array_equal(found, np.repeat((RAMP >> 8).astype(np.uint8)[:, :, None], 3, 2))


def test_10_bit_pgm_is_scaled_by_its_range(tmp_path):
    values = (np.arange(64) * 16).astype(">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 64 1 1023\n" + values.tobytes())
    found = np.asarray(read_image(tmp_path / "x.pgm"))[0, :, 0].astype(int)
    assert np.abs(found - np.arange(64) * 16 * 255 / 1023).max() <= 1


UNKNOWN_RANGE = {"float": np.float32, "32-bit": np.int32}


@pytest.mark.parametrize("case", UNKNOWN_RANGE)
def test_image_of_unknown_range_raises_by_name(tmp_path, case):
    Image.fromarray(RAMP.astype(UNKNOWN_RANGE[case])).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff: pixels of mode [IF], whose range is unknown"):
        read_image(tmp_path / "x.tiff")


@pytest.mark.parametrize(("tag", "value"), [(262, 0), (339, 2)])
def test_inverted_and_signed_tiff_raises_by_name(tmp_path, tag, value):
    Image.fromarray(RAMP).save(tmp_path / "x.tiff", tiffinfo={339: 1})
    entry = struct.pack("<HHI", tag, 3, 1)  # tag, type, count
    data = (tmp_path / "x.tiff").read_bytes()
    assert data.count(entry + b"\1\0") == 1
    (tmp_path / "x.tiff").write_bytes(data.replace(entry + b"\1\0", entry + bytes([value, 0])))
    with pytest.raises(UserError, match="whose range is unknown"):
        read_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PDF", "ICO"])
def test_image_of_other_format_raises_without_its_reader(tmp_path, kind, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "x", kind)
    (tmp_path / "x").rename(tmp_path / "x.png")
    monkeypatch.setattr("subprocess.check_call", None)  # starts Ghostscript
    for read in (read_image, image_size):
        with pytest.raises(UserError, match="none of JPEG, PNG, PPM, BMP, TIFF, WEBP"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("L", (60_000, 1), "60000 x 1 pixels, an aspect ratio over 100"),
        ("L", (1, 101), "1 x 101 pixels, an aspect ratio over 100"),
        ("1", (8_400, 8_400), "8400 x 8400 pixels, more than 67,108,864"),
    ],
)
def test_image_of_unbounded_size_raises_before_decoding(tmp_path, mode, size, message, recwarn):
    Image.new(mode, size).save(tmp_path / "x.png")
    for read in (read_image, image_size):
        with assert_bounded(memory=64 * 2**20), pytest.raises(UserError, match=message):
            read(tmp_path / "x.png")
    assert not recwarn.list


def test_link_to_folder_above_raises(tmp_path):
    for side in ("train", "test"):
        (tmp_path / side / "a" / "more").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / side / "a" / "more" / "1.png")
        (tmp_path / side / "b").mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / side / "b" / "1.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "test" / "a" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(load_dataset(f"folder:{tmp_path}").test) == 3  # a link to another folder is followed
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "test", target_is_directory=True)
    with pytest.raises(UserError, match="link to a folder that contains it"):
        load_dataset(f"folder:{tmp_path}")


def test_negative_workers_raise(tmp_path):
    train = load_dataset("imagenet", imagenet_folder(tmp_path)).train
    with pytest.raises(UserError, match="--workers -1"):
        stream(train, 4, workers=-1)


def test_12_bit_values_in_16_bits_are_scaled_or_reported(tmp_path, recwarn, monkeypatch):
    values = (np.arange(256, dtype=np.uint16) * 16)[None].repeat(4, 0)
    Image.fromarray(values).save(tmp_path / "x.tiff", tiffinfo={281: 4095})
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.tiff"))[0, :, 0], np.arange(256) * 16 * 255 // 4095)
    monkeypatch.setattr("common.data.decode._WARNED", threading.Event())
    for name in ("y.png", "z.png"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(read_image(tmp_path / name)).max() == 15
    (warning,) = recwarn
    assert "y.png: a 16-bit image whose largest value is 4080 of 65535" in str(warning.message)
