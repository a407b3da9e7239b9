"""Small networks, images and files for tests, valid and invalid; seeded and offline."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.checkpoint import save_model
from common.data import DataBundle, MemoryImages
from common.models import PadShortcut, create_model


def random_network(arch: str, seed: int = 0, **arguments: Any) -> nn.Module:
    """Create a registered network with random weights and random batch-norm statistics, in eval mode."""
    torch.manual_seed(seed)
    model = create_model(arch, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def factored_resnet20() -> nn.Module:
    """Create a ResNet-20 with layers that the registry does not build: 1x1-convolution shortcuts and two factorized layers."""
    torch.manual_seed(0)
    model = create_model("resnet20")
    for name, module in list(model.named_modules()):
        if isinstance(module, PadShortcut):
            width = 16 if name.startswith("layer2") else 32
            model.set_submodule(name, nn.Conv2d(width, 2 * width, 1, stride=2, bias=False))
    first = nn.Conv2d(64, 5, 3, padding=1, bias=False)
    model.get_submodule("layer3.1").conv1 = nn.Sequential(first, nn.Conv2d(5, 64, 1))
    model.linear = nn.Sequential(nn.Linear(64, 3, bias=False), nn.Linear(3, 10))
    return model.eval()


def noise_images(count: int, seed: int = 0, size: int = 32, classes: int = 10) -> MemoryImages:
    """Create ``count`` noise images (3, size, size); classes alternate."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(count) % classes)


def noise_bundle(train: int, test: int, name: str = "noise") -> DataBundle:
    """Create a data set of noise images with ten classes, in memory only."""
    classes = [str(i) for i in range(10)]
    return DataBundle(name, noise_images(train), noise_images(test, seed=1), classes, (3, 32, 32), "0" * 16)


def write_image_folder(root: Path, classes: int = 2, train: int = 10, test: int = 5, size: int = 32) -> Path:
    """Write ``root/train/CLASS/*.png`` and ``root/test/CLASS/*.png``: noise around one gray level per class.

    train, test: Number of images per class.
    """
    random = np.random.default_rng(0)
    for side, count in (("train", train), ("test", test)):
        for c in range(classes):
            folder = root / side / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (size, size, 3)) + 150 * c // max(1, classes - 1)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def write_cub200(root: Path, classes: int = 3, train: int = 4, test: int = 2, size: int = 40) -> Path:
    """Write noise images and the lists of CUB-200-2011 to ``root/CUB_200_2011``, and return that folder.

    train, test: Number of images per class.
    """
    random, folder = np.random.default_rng(0), root / "CUB_200_2011"
    lists: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")}
    for label in range(classes):
        name = f"{label + 1:03d}.Bird_{label}"
        (folder / "images" / name).mkdir(parents=True)
        lists["classes"].append(f"{label + 1} {name}")
        for i in range(train + test):
            number, path = len(lists["images"]) + 1, f"{name}/Bird_{label}_{i:04d}.png"
            pixels = random.integers(0, 100, (size, size + 8 * i, 3)) + 150 * label // max(1, classes - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / path)
            lists["images"].append(f"{number} {path}")
            lists["image_class_labels"].append(f"{number} {label + 1}")
            lists["train_test_split"].append(f"{number} {int(i < train)}")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def hostile_pickle(witness: Path) -> bytes:
    """Return a pickled state dict that runs code when it is unpickled: it creates the folder ``witness``."""
    return pickle.dumps({"state_dict": _Hostile(witness)}, protocol=2)  # as torch.save writes


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def write_invalid_inputs(root: Path) -> Path:
    """Write valid and invalid images of two classes and weights of a ResNet-20; return ``root``.

    Images: images/ (valid); truncated/ (train/class0/1.png); empty-class/ (train/class1); no-classes/; a-file (not a folder).
    Weights: good.pth (valid); short.pth; garbage.pth; no-tensors.pth; nan.pth (conv1); ten.pth (ten classes); vgg.pth (VGG-16);
    evil.pth, which creates ``hacked`` if unpickled; whole.safetensors (valid); short.safetensors; lenet.safetensors (LeNet-5).
    """
    write_image_folder(root / "images", train=6, test=2)
    for name in ("truncated", "empty-class"):
        write_image_folder(root / name, train=2, test=2)
    image = root / "truncated" / "train" / "class0" / "1.png"
    image.write_bytes(image.read_bytes()[:200])
    for image in (root / "empty-class" / "train" / "class1").iterdir():
        image.unlink()
    for side in ("train", "test"):
        (root / "no-classes" / side).mkdir(parents=True)
    (root / "a-file").write_text("here")
    torch.manual_seed(0)
    model = create_model("resnet20", num_classes=2)
    torch.save(model.state_dict(), root / "good.pth")
    torch.save(create_model("resnet20", num_classes=10).state_dict(), root / "ten.pth")
    torch.save(create_model("vgg16", num_classes=2).state_dict(), root / "vgg.pth")
    torch.save({"epoch": 3}, root / "no-tensors.pth")
    (root / "short.pth").write_bytes((root / "good.pth").read_bytes()[:5000])
    (root / "garbage.pth").write_bytes(bytes(range(256)) * 40)
    (root / "evil.pth").write_bytes(hostile_pickle(root / "hacked"))
    save_model(root / "lenet.safetensors", create_model("lenet5"))
    save_model(root / "whole.safetensors", model)
    (root / "short.safetensors").write_bytes((root / "whole.safetensors").read_bytes()[:3000])
    with torch.no_grad():
        model.get_parameter("conv1.weight").fill_(float("nan"))
    torch.save(model.state_dict(), root / "nan.pth")
    return root


def write_photos(folder: Path, classes: int = 2, count: int = 16) -> None:
    """Write noisy images of different sizes, whose color is that of their class."""
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 100, (*random.integers(40, 70, 2), 3), dtype=np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{i}.jpg")
