"""Folders of the user's own images: without a split, of any size, gray, in another order of classes or normalization."""

import gc
import hashlib
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common import evaluate, train
from common.data import FolderImages, MemoryImages, load_dataset
from common.data.augment import to_channels
from common.data.own_data import own_data
from common.errors import UserError
from common.normalization import NORMALIZATION_NAMES, parse_normalization
from common.options import DataOptions
from common.runs import read_json
from common.settings import parse
from common.testing import single_error_line
from common.trained_model import check_compatible

CLASSES = ("cat", "dog", "fish")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write_photos(root: Path, count: int = 10, mode: str = "RGB", sides: tuple[int, int] = (40, 90)) -> Path:
    """Write photos of several sizes; the brightness of a class differs, so that a small network learns it."""
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = random.integers(*sides, 2)
            pixels = random.normal(60 + 60 * label, 20, (height, width, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{number}.png")
    return root


def small_network(channels: int, classes: int = 3) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)),
    )


def build_gray(num_classes: int = 3) -> nn.Module:
    return small_network(1, num_classes)


def build_color(num_classes: int = 3) -> nn.Module:
    return small_network(3, num_classes)


def paths(images: FolderImages) -> set[str]:
    return {images.listing.paths[index].decode() for index in images.chosen}


def test_flat_folder_without_split_advises_it(tmp_path):
    root = write_photos(tmp_path / "photos", 2)
    with pytest.raises(
        UserError, match=r"photos: no folders train and test \(or val\), but 3 class folders \(cat, dog, fish\)"
    ):
        load_dataset(f"folder:{root}")


def test_split_holds_out_same_images_of_every_class(tmp_path):
    data = load_dataset(f"folder:{write_photos(tmp_path / 'photos')}", split=0.2)
    assert isinstance(data.train, FolderImages) and data.classes == list(CLASSES)
    assert (
        torch.bincount(data.train.labels).tolist() == [8] * 3 and torch.bincount(data.test.labels).tolist() == [2] * 3
    )
    held = paths(data.test)
    assert not held & paths(data.train) and len(held | paths(data.train)) == 30
    ordered = sorted(held | paths(data.train), key=lambda path: hashlib.sha256(path.encode()).digest())
    assert held == {path for name in CLASSES for path in [p for p in ordered if p.startswith(name)][:2]}
    (tmp_path / "photos").rename(tmp_path / "moved")
    again = load_dataset(f"folder:{tmp_path / 'moved'}", split=0.2)
    assert paths(again.test) == held and again.fingerprint == data.fingerprint


def test_added_images_leave_split_of_others_alone(tmp_path):
    root = write_photos(tmp_path / "photos")
    before = paths(load_dataset(f"folder:{root}", split=0.5).train)
    for number in range(10, 20):
        (root / "cat" / f"{number}.png").write_bytes((root / "cat" / "0.png").read_bytes())
    after = paths(load_dataset(f"folder:{root}", split=0.5).train)
    cats = {path for path in before if path.startswith("cat")}
    assert before - cats <= after and len(cats & after) >= 3  # of 5: those of a random split by position are 2.5 of 5


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda root: (root / "train" / "cat").mkdir(parents=True), {}, "a folder train, but no folder test"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), {"split": 0.2}, r"folder:\S*/train --split 0.2"),
        (lambda root: write_photos(root, 1), {"split": 0.2}, "photos/cat: only one image"),
        (
            lambda root: (write_photos(root / "train", 1), write_photos(root / "val", 1)),
            {"split": 0.2},
            "in val; leave",
        ),
        (lambda root: root.mkdir(), {"split": 0.2}, "PATH/CLASS/"),
        (lambda root: (root / "one").mkdir(parents=True), {"split": 0.2}, "one: class folder without images"),
        (lambda root: write_photos(root, 2), {"split": 0.2, "resize": 40}, "--resize 40: requires"),
        (
            lambda root: write_photos(root, 2),
            {"split": 0.2, "image_size": 48, "resize": 40},
            "smaller than --image-size 48",
        ),
    ],
)
def test_unsuitable_folder_or_option_raises(tmp_path, prepare, arguments, message):
    prepare(tmp_path / "photos")
    with pytest.raises(UserError, match=message):
        load_dataset(f"folder:{tmp_path / 'photos'}", **arguments)


def test_options_of_folders_are_rejected_for_fixed_data_sets():
    with pytest.raises(UserError, match="--split 0.2: digits has test images"):
        load_dataset("digits", split=0.2)
    with pytest.raises(UserError, match="--image-size 48: digits has images of 32 x 32; only those of folder:PATH"):
        load_dataset("digits", image_size=48)


def test_numbered_class_folders_are_split_in_numeric_order(tmp_path):
    root = write_photos(tmp_path / "photos", 4, sides=(32, 33))
    for name, number in zip(CLASSES, ("9", "10", "11"), strict=True):
        (root / name).rename(root / number)
    data = load_dataset(f"numeric-folder:{root}", split=0.25)
    assert data.classes == ["9", "10", "11"] and torch.bincount(data.train.labels).tolist() == [3] * 3
    bright = torch.stack([data.train.images[data.train.labels == label].float().mean() for label in range(3)])
    assert bright.argsort().tolist() == [0, 1, 2]  # as written: cat, dog, fish


def test_class_named_train_is_not_taken_for_training_images(tmp_path):
    root = write_photos(tmp_path / "vehicles", 2)
    (root / "dog").rename(root / "train")
    assert load_dataset(f"folder:{root}", split=0.5).classes == ["cat", "fish", "train"]


def test_images_of_any_size_are_cropped_to_image_size(tmp_path, monkeypatch):
    root = write_photos(tmp_path / "photos", 3)
    Image.new("RGB", (300, 100), (10, 200, 30)).save(root / "cat" / "0.png")
    Image.new("RGB", (20, 30), (10, 200, 30)).save(root / "cat" / "1.png")
    small = load_dataset(f"folder:{root}", split=0.34, image_size=32)
    assert isinstance(small.train, MemoryImages) and small.input_shape == (3, 32, 32)
    flat = torch.tensor([10, 200, 30], dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    every = torch.cat([small.train.images, small.test.images])
    assert sum(bool(torch.equal(image, flat)) for image in every) == 2  # resized and cropped, not padded
    large = load_dataset(f"folder:{root}", split=0.34, image_size=96)
    assert isinstance(large.train, FolderImages) and (large.preprocessing.resize, large.preprocessing.crop) == (110, 96)
    for augment in (False, True):
        assert next(large.train.batches(4, workers=0, augment=augment)).images.shape == (4, 3, 96, 96)
    assert load_dataset(f"folder:{root}", split=0.34, image_size=96, resize=100).preprocessing.resize == 100
    assert large.fingerprint != load_dataset(f"folder:{root}", split=0.34, image_size=97).fingerprint
    monkeypatch.setattr("common.data.registry.MEMORY_BYTES", 1000)
    assert load_dataset(f"folder:{root}", split=0.34, image_size=32).train.image_shape == (3, 32, 32)


def test_images_of_requested_size_are_not_changed(tmp_path):
    root = write_photos(tmp_path / "photos", 3, sides=(32, 33))
    plain, sized = (load_dataset(f"folder:{root}", split=0.34, image_size=size) for size in (None, 32))
    assert torch.equal(plain.train.images, sized.train.images)


def test_gray_conversion_equals_pillow_and_keeps_gray():
    colors = np.random.default_rng(0).integers(0, 256, (5000, 2, 3, 3), dtype=np.uint8)  # more than a chunk
    gray = to_channels(torch.from_numpy(colors).permute(0, 3, 1, 2), 1)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colors])
    assert gray.shape == (5000, 1, 2, 3) and np.array_equal(gray[:, 0].numpy(), expected)
    assert torch.equal(to_channels(to_channels(gray, 3), 1), gray)


@pytest.mark.parametrize("size", [32, 70])
def test_channels_convert_images_and_normalization(tmp_path, size):
    root = write_photos(tmp_path / "photos", 4)
    color = load_dataset(f"folder:{root}", split=0.5, image_size=size)
    gray = load_dataset(f"folder:{root}", split=0.5, image_size=size, channels=1)
    assert (
        gray.input_shape == (1, size, size) and gray.mean == (0.449,) and gray.std == (0.226,)
    )  # averages of ImageNet's
    images = [
        next(data.with_normalization((0.0,), (1 / 255,)).test.batches(6, workers=0)).images.byte()
        for data in (color, gray)
    ]
    assert torch.equal(to_channels(images[0], 1), images[1])
    assert not color.is_gray() and gray.fingerprint != color.fingerprint
    assert load_dataset("digits", channels=1).input_shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.49,0.48,0.45:0.2,0.2,0.3", ((0.49, 0.48, 0.45), (0.2, 0.2, 0.3))),
        ("0.5:0.25", ((0.5,), (0.25,))),
        ("0:0.1,0.2,0.3", ((0.0, 0.0, 0.0), (0.1, 0.2, 0.3))),
        ("dataset", None),
        ("half", ((0.5,), (0.5,))),
    ],
)
def test_normalization_is_name_or_numbers(text, expected):
    assert parse_normalization(text) == expected and parse(DataOptions, ["--normalize", text]).normalize == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zscore", "known: imagenet, cifar10, half, none, dataset, or numbers as MEAN"),
        ("0.5:x", "not of the form MEAN,...:STD,..."),
        ("0.5", "unknown normalization"),
        ("0.5:0.2:0.1", "not of the form"),
        ("0.5:0", "standard deviations must be positive"),
        ("nan:1", "finite"),
        ("0.1,0.2:0.1,0.2,0.3", "2 means and 3 standard deviations"),
    ],
)
def test_invalid_normalization_is_one_line_before_anything_is_read(text, message, capsys):
    status = evaluate.main(["--dataset", "folder:nowhere", "--normalize", text, "--weights", "nothing"])
    assert message in single_error_line(status, capsys.readouterr().err, f"--normalize {text}")


def test_help_lists_all_normalizations(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["-h"])
    assert f"{', '.join(NORMALIZATION_NAMES)} (measured on" in " ".join(capsys.readouterr().out.split())


def test_given_numbers_replace_normalization_of_checkpoint(tmp_path):
    root = write_photos(tmp_path / "photos", 4)
    words = (
        f"--dataset folder:{root} --split 0.5 --image-size 32 --model test_common_data_user_folders:build_color".split()
    )
    assert train.main([*words, "--epochs", "0", "--out", "run", "--normalize", "0.4:0.2", "--no-latency"]) == 0
    losses = []
    for more in ([], ["--normalize", "0.4,0.4,0.4:0.2"], ["--normalize", "none"]):
        argv = [*words, "--checkpoint", "run/model.safetensors", "--no-latency", "--json", "m.json"]
        assert evaluate.main([*argv, *more]) == 0
        losses.append(read_json("m.json")["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_class_names_set_order_of_labels(tmp_path):
    root = write_photos(tmp_path / "photos", 4)
    (tmp_path / "names.txt").write_text("fish\n\nbird\ncat\ndog\n")
    data = load_dataset(f"folder:{root}", split=0.5, classes=tmp_path / "names.txt")
    assert data.classes == ["fish", "bird", "cat", "dog"]
    assert torch.bincount(data.test.labels, minlength=4).tolist() == [2, 0, 2, 2]
    first = load_dataset(f"folder:{root}", split=0.5)
    assert [data.classes[i] for i in data.train.labels] == [first.classes[i] for i in first.train.labels]
    assert data.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"cat\ndog\n", "1 of the 3 classes .* are not classes of the network: 'fish'"),
        (b"cat\ndog\nfish\ncat\n", "'cat' occurs twice"),
        (b"cat\n", "1 names"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
    ],
)
def test_unsuitable_file_of_class_names_raises(tmp_path, content, message):
    root = write_photos(tmp_path / "photos", 2)
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_dataset(f"folder:{root}", split=0.5, classes=tmp_path / "names.txt")


@pytest.mark.parametrize("size", [[], ["--image-size", "70"]])
def test_gray_folder_is_read_by_networks_of_one_and_of_three_channels(tmp_path, size):
    root = write_photos(tmp_path / "photos", 6, mode="L", sides=(40, 41))  # in memory, or streamed
    for factory, channels in (("build_gray", 1), ("build_color", 3)):
        name = f"test_common_data_user_folders:{factory}"
        words = [
            "--dataset",
            f"folder:{root}",
            "--split",
            "0.34",
            *size,
            "--model",
            name,
            "--workers",
            "0",
            "--no-latency",
        ]
        assert train.main([*words, "--epochs", "1", "--batch-size", "6", "--out", factory]) == 0
        assert evaluate.main([*words, "--checkpoint", f"{factory}/model.safetensors", "--json", "m.json"]) == 0
        found = read_json("m.json")
        assert found["top1"] == read_json(f"{factory}/metrics.json")["baseline"]["top1"]
        side = 70 if size else 40
        assert found["macs"] == (side - 2) ** 2 * 9 * 8 * channels + (side - 4) ** 2 * 9 * 64 + 24


def test_colors_are_not_silently_converted_for_network_of_one_channel(tmp_path, capsys):
    root = write_photos(tmp_path / "photos", 4)
    words = ["--dataset", f"folder:{root}", "--split", "0.5", "--image-size", "32", "--epochs", "0", "--no-latency"]
    words += ["--model", "test_common_data_user_folders:build_gray", "--out", "run"]
    single_error_line(train.main(words), capsys.readouterr().err, "add --channels 1")
    assert train.main([*words, "--channels", "1"]) == 0


def test_conversion_keeps_no_variable_of_callers_alive():
    """Such as the lock of a run folder, which another process waits for."""
    data = load_dataset("digits")

    def call() -> weakref.ref[nn.Module]:
        model = build_gray(10)
        assert check_compatible(model, data, "file").input_shape == (1, 32, 32)
        return weakref.ref(model)

    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


def test_call_splits_flat_folder_like_commands(tmp_path):
    root = write_photos(tmp_path / "photos", 10, sides=(32, 33))
    expected = load_dataset(f"folder:{root}", split=0.2)
    found, labeled = own_data(root)
    assert labeled and found.fingerprint == expected.fingerprint and len(found.test) == 6
    (root / "train").mkdir()
    for name in CLASSES:
        (root / name).rename(root / "train" / name)
    write_photos(root / "val", 1, sides=(32, 33))
    assert len(own_data(root)[0].test) == 3  # a folder with test images is not split
