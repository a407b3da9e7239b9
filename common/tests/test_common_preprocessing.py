"""Image files become a network's inputs exactly as torchvision's and timm's own transforms make them, once, within a limit of memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.checkpoint import load_model, save_model
from common.checkpoint_header import METADATA, sealed
from common.data import FolderImages, MemoryImages, image_folder, load_dataset
from common.data.image_memory import available_memory, memory_limit
from common.data.prepare import central_crop
from common.errors import UserError
from common.library_networks import LibraryNetwork, find_library_network
from common.models import create_model
from common.preprocessing import Preprocessing, chosen_preprocessing, from_header
from common.trained_model import with_preprocessing_of

SIZES = ((301, 200), (180, 333), (256, 256), (97, 61), (150, 150), (640, 481))  # (width, height)


def photo(width: int, height: int) -> Image.Image:
    """Return an image with edges and noise."""
    random = np.random.default_rng(width * height)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    edges = ((x // 7 + y // 5) % 2 * 160)[..., None] + random.integers(0, 90, (height, width, 3))
    return Image.fromarray(edges.clip(0, 255).astype(np.uint8))


def write_photos(root: Path, names=("a", "b"), count: int = 4) -> Path:
    """Write PATH/train and PATH/test with class folders of photos."""
    for part in ("train", "test"):
        for label, name in enumerate(names):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                photo(90 + 10 * number, 120 - 9 * label).save(root / part / name / f"{number}.png")
    return root


def gray_levels(image: Image.Image, how: Preprocessing, transform) -> float:
    """Return the largest difference between our pixels and a transform's, in gray levels."""
    pixels = torch.from_numpy(np.asarray(central_crop(image, how)).copy()).permute(2, 0, 1)
    std = torch.tensor(how.std)[:, None, None]
    ours = (pixels / 255 - torch.tensor(how.mean)[:, None, None]) / std
    theirs = transform(image)
    assert ours.shape == theirs.shape == (3, how.crop, how.crop)
    return float(((ours - theirs).abs() * std * 255).max())


def network(name: str) -> LibraryNetwork:
    found = find_library_network(name, lambda classes: nn.Identity(), None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("squeezenet1_1", "IMAGENET1K_V1", (256, 224, "bilinear")),
        ("mobilenet_v2", "IMAGENET1K_V2", (232, 224, "bilinear")),
        ("efficientnet_b0", "IMAGENET1K_V1", (256, 224, "bicubic")),
        ("efficientnet_b3", "IMAGENET1K_V1", (320, 300, "bicubic")),
        ("inception_v3", "IMAGENET1K_V1", (342, 299, "bilinear")),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", (384, 384, "bicubic")),
    ],
)
def test_pixels_equal_those_of_torchvision(name, weights, expected):
    import torchvision

    how = network(f"torchvision.models:{name}").weights()[weights].preprocessing
    assert (how.resize, how.crop, how.interpolation) == expected and how.antialias
    transform = torchvision.models.get_model_weights(name)[weights].transforms()
    assert (
        max(gray_levels(photo(*size), how, transform) for size in SIZES) < 1e-4
    )  # rounding of the normalization in float32


@pytest.mark.parametrize(
    ("mode", "crop_pct", "interpolation", "size"),
    [
        ("center", 0.875, "bicubic", 224),
        ("center", 0.95, "bilinear", 128),
        ("center", 1.0, "bicubic", 96),
        ("center", 1.15, "bicubic", 101),
        ("squash", 1.0, "bicubic", 112),
        ("squash", 0.9, "bilinear", 112),
        ("border", 1.0, "bicubic", 113),
        ("border", 0.9, "bilinear", 113),
    ],
)
def test_pixels_equal_those_of_timm(mode, crop_pct, interpolation, size):
    data = pytest.importorskip("timm").data
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    transform = data.create_transform(
        input_size=(3, size, size), crop_pct=crop_pct, crop_mode=mode, interpolation=interpolation, mean=mean, std=std
    )
    fit = {"center": "shorter", "squash": "both", "border": "longer"}[mode]
    how = Preprocessing(int(size / crop_pct), size, interpolation, fit=fit, mean=mean, std=std)
    assert max(gray_levels(photo(*shape), how, transform) for shape in SIZES) < 1e-4


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_without_antialiasing_equal_those_of_torch(interpolation):
    from torchvision.transforms import v2

    how = Preprocessing(100, 96, interpolation, antialias=False)
    steps = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32),
        v2.Resize(100, v2.InterpolationMode(interpolation), antialias=False),
        v2.Lambda(lambda pixels: pixels.clamp(0, 255) / 255),  # cubic curves overshoot
        v2.CenterCrop(96),
        v2.Normalize(how.mean, how.std),
    ]
    plain = v2.Compose(steps)
    assert max(gray_levels(photo(*size), how, plain) for size in SIZES) < 0.501  # rounded to whole gray levels
    assert gray_levels(photo(301, 200), replace(how, antialias=True), plain) > 20  # averaging changes the pixels


# ------------------------------------------------------------------------------------------------------------------ precedence


@pytest.mark.parametrize(
    ("known", "given", "expected"),
    [
        (None, {}, None),
        (None, {"image_size": 32}, (32, 32, "bilinear")),
        (None, {"image_size": 112}, (128, 112, "bilinear")),
        (Preprocessing(232, 224, "bicubic"), {}, (232, 224, "bicubic")),
        (Preprocessing(232, 224, "bicubic"), {"image_size": 112}, (116, 112, "bicubic")),
        (Preprocessing(232, 224, "bicubic"), {"resize": 256}, (256, 224, "bicubic")),
        (Preprocessing(232, 224, "bicubic"), {"interpolation": "lanczos"}, (232, 224, "lanczos")),
        (Preprocessing(48, 32), {"image_size": 32}, (48, 32, "bilinear")),
    ],
)
def test_choices_of_user_come_before_what_is_known(known, given, expected):
    how = chosen_preprocessing(known, **given)
    assert (how and (how.resize, how.crop, how.interpolation)) == expected


def test_file_of_network_comes_before_default_and_options_before_file(tmp_path):
    folder = f"folder:{write_photos(tmp_path / 'photos')}"
    model = create_model("lenet5", num_classes=2, in_channels=3, image_size=40)
    recorded = Preprocessing(50, 40, "bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_model(
        tmp_path / "m.safetensors", model, normalize=(recorded.mean, recorded.std), preprocessing=recorded.geometry
    )
    read = load_model(tmp_path / "m.safetensors")
    data = with_preprocessing_of(read, load_dataset(folder))
    assert isinstance(data.test, MemoryImages) and data.input_shape == (3, 40, 40) and data.mean == recorded.mean
    pixels = np.asarray(central_crop(Image.open(tmp_path / "photos/test/a/0.png"), recorded)).transpose(2, 0, 1)
    assert torch.equal(data.test.images[0], torch.from_numpy(pixels.copy()))
    assert data.record()["preprocessing"] == recorded.geometry and data.with_preprocessing(recorded) is data
    chosen = with_preprocessing_of(read, load_dataset(folder, normalize="half", image_size=80))
    assert isinstance(chosen.test, FolderImages) and chosen.mean == (0.5,) * 3
    assert chosen.test.preprocessing == replace(recorded, resize=100, crop=80, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert len({load_dataset(folder).fingerprint, data.fingerprint, chosen.fingerprint}) == 3


def test_fingerprint_is_that_of_what_is_done_to_the_images(tmp_path):
    """A comparison that resumes reads the dense network's file, which records the user's choices, not the file that was given."""
    folder = f"folder:{write_photos(tmp_path)}"
    given, choices = Preprocessing(50, 40, "bicubic"), {"image_size": 72, "resize": 72}
    first = load_dataset(folder, **choices, preprocessing=given)
    again = load_dataset(folder, **choices, preprocessing=first.preprocessing)
    assert again.fingerprint == first.fingerprint == load_dataset(folder, preprocessing=first.preprocessing).fingerprint
    unknown = load_dataset(folder, **choices)
    assert unknown.fingerprint == load_dataset(folder, **choices, preprocessing=unknown.preprocessing).fingerprint
    assert len({first.fingerprint, unknown.fingerprint, load_dataset(folder, preprocessing=given).fingerprint}) == 3


def test_other_images_keep_classes_channels_and_parts(tmp_path):
    how = Preprocessing(80, 72, "bicubic")
    data = load_dataset(f"folder:{write_photos(tmp_path)}")
    changed = data.with_classes(["b", "c", "a"], "m").in_channels(1).holdout(0.25, seed=3)
    again = changed.with_preprocessing(how)
    assert again.input_shape == (1, 72, 72) and again.classes == ["b", "c", "a"]
    assert (
        again.test.chosen.tolist() == changed.test.chosen.tolist()
        and again.test.labels.tolist() == changed.test.labels.tolist()
    )


def test_images_in_memory_are_only_normalized():
    how = Preprocessing(256, 224, mean=(0.1,) * 3, std=(0.2,) * 3)
    with pytest.warns(UserWarning, match="digits: its images have 32 x 32 pixels, and the network expects 224 x 224"):
        load_dataset("digits", preprocessing=how)
    data = load_dataset("digits").with_preprocessing(how)
    assert data.input_shape == (3, 32, 32) and data.mean == (0.1,) * 3


def test_interpolation_without_resizing_raises(tmp_path):
    with pytest.raises(UserError, match="--interpolation bicubic: digits has images of 32 x 32"):
        load_dataset("digits", interpolation="bicubic")
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            photo(20, 20).save(tmp_path / part / name / "0.png")
    with pytest.raises(UserError, match="--interpolation bicubic: the images of .* are not resized; add --image-size"):
        load_dataset(f"folder:{tmp_path}", interpolation="bicubic")


# --------------------------------------------------------------------------------------------------------------------- headers


def test_file_without_preprocessing_is_as_before(tmp_path):
    save_model(tmp_path / "m.safetensors", create_model("lenet300_100"))
    header = load_model(tmp_path / "m.safetensors").checkpoint_header
    assert from_header(header) is None and not {"preprocessing", "class_ids"} & header.keys()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"resize": 10**9}, "a size of 1000000000 pixels"),
        ({"crop": True}, "a size of True pixels"),
        ({"crop": 0}, "a size of 0 pixels"),
        ({"interpolation": "__import__"}, "'__import__' is not one of nearest"),
        ({"fit": ["both"]}, r"\['both'\]' is not one of|is not one of shorter"),
        ({"antialias": 1}, "without antialiasing"),
        ({"interpolation": "lanczos", "antialias": False}, "lanczos without antialiasing"),
        ({"code": "x"}, "its preprocessing is not a table of resize"),
    ],
)
def test_damaged_preprocessing_raises(tmp_path, damage, message):
    import safetensors.torch

    file = tmp_path / "m.safetensors"
    save_model(file, create_model("lenet300_100"), preprocessing=Preprocessing().geometry)
    header = load_model(file).checkpoint_header
    header["preprocessing"] |= damage
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, metadata={METADATA: sealed(header)})
    with pytest.raises(UserError, match=message):
        load_model(file)


def test_ids_of_other_number_of_classes_raise(tmp_path):
    save_model(tmp_path / "m.safetensors", create_model("lenet300_100"), classes=["a", "b"], class_ids=["x"])
    with pytest.raises(UserError, match="2 names of classes, and 1 other names"):
        load_model(tmp_path / "m.safetensors")


# ---------------------------------------------------------------------------------------------------------------------- memory


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """Return the list of the files that are decoded in this process."""
    found: list[Path] = []
    read = image_folder.read_image
    monkeypatch.setattr(image_folder, "read_image", lambda path: found.append(path) or read(path))
    return found


def images_of(data: FolderImages, **options) -> torch.Tensor:
    """Return all images in the order of the set."""
    batches = list(data.batches(3, workers=0, **options))
    images, order = torch.cat([b.images for b in batches]), torch.cat([b.indices for b in batches])
    assert torch.equal(torch.cat([b.labels for b in batches]), data.labels[order])
    return images[order.argsort()]


@pytest.mark.parametrize(("kept", "first", "later"), [(100, 16, 0), (5, 16, 11), (0, 16, 16)])
def test_images_are_decoded_once_within_limit(tmp_path, reads, kept, first, later):
    size = 3 * 70 * 70
    data = load_dataset(f"folder:{write_photos(tmp_path)}", image_size=70, image_memory=kept * size / 2**30 + 1e-9)
    plain = [images_of(replace(part, kept=None)) for part in (data.train, data.test)]
    reads.clear()
    assert torch.equal(images_of(data.train), plain[0]) and torch.equal(images_of(data.test), plain[1])
    assert len(reads) == first and data.train.kept.room.used == min(kept, 16) * size
    reads.clear()
    part = data.test.subset([5, 0, 5]).normalized(data.mean, data.std)  # shares the images
    assert torch.equal(images_of(data.train, shuffle=True, seed=1), plain[0])
    assert torch.equal(images_of(data.test), plain[1]) and len(reads) == later
    assert torch.equal(images_of(part), plain[1][[5, 0, 5]])


def test_augmented_images_are_decoded_every_time(tmp_path, reads):
    data = load_dataset(f"folder:{write_photos(tmp_path)}", image_size=70)
    images_of(data.train)
    reads.clear()
    assert not torch.equal(images_of(data.train, augment=True), images_of(data.train)) and len(reads) == 8


def test_gray_images_are_kept_apart_from_colored_ones(tmp_path):
    data = load_dataset(f"folder:{write_photos(tmp_path)}", image_size=70)
    images_of(data.test)
    assert images_of(data.in_channels(1).test).shape == (8, 1, 70, 70)


def test_limit_of_memory_is_quarter_of_available_memory(monkeypatch):
    monkeypatch.setattr("common.data.image_memory.available_memory", lambda: 2**30)
    assert memory_limit() == 2**28 and memory_limit(3) == 3 * 2**30
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory_limit() == 2**27 and memory_limit(3) == 3 * 2**29


def test_available_memory_is_that_of_container(monkeypatch, tmp_path):
    (tmp_path / "info").write_text("MemTotal: 9 kB\nMemAvailable:   2000 kB\n")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "current").write_text("1000\n")
    monkeypatch.setattr("common.data.image_memory.MEMORY", tmp_path / "info")
    monkeypatch.setattr("common.data.image_memory.CONTAINER", (tmp_path / "max", tmp_path / "current"))
    assert available_memory() == 2000 * 1024
    (tmp_path / "max").write_text("51000\n")
    assert available_memory() == 50_000
