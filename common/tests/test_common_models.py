"""Registered networks: exact sizes, names in the shared weights, the option-A shortcut."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common import models
from common.checkpoint import load_weights
from common.errors import UserError
from common.models import ARCHITECTURES, PadShortcut, arguments_for, create_model, input_shape, register
from common.models.fc import OneHiddenLayer

SHARED = Path(__file__).resolve().parents[3] / "shared"
PARAMS = {
    ("vgg16", ()): 14_991_946,
    ("resnet20", ()): 269_722,
    ("resnet56", ()): 853_018,
    ("resnet110", ()): 1_727_962,
    ("resnet56", (("shortcut", "conv3x3"),)): 876_250,
    ("resnet110", (("shortcut", "conv3x3"),)): 1_751_194,
    ("densenet40", ()): 1_059_298,
    ("googlenet", ()): 6_166_250,
    ("alexnet", (("num_classes", 1000),)): 60_965_224,
    ("lenet300_100", ()): 266_610,
    ("lenet5", ()): 431_080,
    ("fc4096", ()): 3_256_330,
    ("mobilenet_v1", (("num_classes", 1000),)): 4_231_976,
    ("resnet50", (("num_classes", 1000),)): 25_557_032,
    ("mobilenet_v2", (("num_classes", 1000),)): 3_504_872,
    ("vgg16_imagenet", (("num_classes", 1000),)): 138_357_544,
}


@pytest.mark.parametrize(("arch", "arguments"), PARAMS)
def test_parameter_counts_are_exact(arch, arguments):
    with torch.device("meta"):
        model = create_model(arch, **dict(arguments))
    assert sum(p.numel() for p in model.parameters()) == PARAMS[arch, arguments]


def test_networks_have_published_sizes():
    """GoogLeNet as in tables of pruning papers: 6.15 M parameters, which does not include those of batch norm."""
    with torch.device("meta"):
        googlenet, alexnet = create_model("googlenet"), create_model("alexnet", num_classes=1000)
    layers = [m for m in googlenet.modules() if not isinstance(m, torch.nn.BatchNorm2d)]
    assert sum(p.numel() for m in layers for p in m.parameters(recurse=False)) == 6_150_442
    convolutions = [m.weight.numel() for m in alexnet.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions == pytest.approx([35e3, 307e3, 885e3, 663e3, 442e3], abs=1000)  # Deep Compression, table 4


@pytest.mark.parametrize("arch", [a for a, entry in ARCHITECTURES.items() if entry.input_shape[1] <= 32])
def test_forward_returns_one_logit_per_class(arch):
    model = create_model(arch, num_classes=7).eval()
    assert model(torch.zeros(2, *input_shape(model))).shape == (2, 7)


def test_channels_and_image_sizes_are_configurable():
    assert input_shape(create_model("resnet20", in_channels=1)) == (1, 32, 32)
    assert arguments_for("resnet20", (3, 32, 32)) == {} == arguments_for("lenet5", (1, 28, 28))
    assert arguments_for("lenet300_100", (3, 32, 32)) == {"in_features": 3072}
    model = create_model("lenet5", **arguments_for("lenet5", (3, 32, 32)))
    assert model(torch.zeros(1, *input_shape(model))).shape == (1, 10)


def test_shortcut_equals_slice_and_zero_padding():
    x = torch.randn(2, 16, 9, 9)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(PadShortcut(16, 32)(x), expected)


def test_shortcut_follows_pruning_on_both_sides():
    x, shortcut = torch.randn(2, 16, 8, 8), PadShortcut(16, 32)
    full = shortcut(x)
    inputs, outputs = torch.tensor([1, 4, 15]), torch.tensor([0, 9, 12, 22, 23])
    shortcut.keep_outputs(outputs)
    shortcut.keep_inputs(inputs, 16)
    expected = full[:, outputs].clone()
    expected[:, 3] = 0  # output 22 was copied from input 14, which is removed
    assert shortcut.source.tolist() == [-1, 0, 1, -1, 2]
    assert torch.equal(shortcut(x[:, inputs]), expected)


def test_unknown_name_or_argument_raises():
    with pytest.raises(UserError, match="resnet56"):
        create_model("resnet57")
    with pytest.raises(UserError, match="shortcut"):
        create_model("resnet20", shortcut="conv1x1")
    with pytest.raises(UserError, match="depth"):
        create_model("resnet20", depth=3)


def test_networks_of_installed_packages_are_registered_on_demand(monkeypatch):
    class Point:
        def load(self):
            register("external", OneHiddenLayer, (1, 28, 28))

    monkeypatch.setattr(models, "ARCHITECTURES", dict(ARCHITECTURES))
    monkeypatch.setattr(models, "entry_points", lambda group: [Point()] * (group == "compression_papers.architectures"))
    models._import_registering_packages.cache_clear()
    assert models.is_registered("lenet5") and "external" not in models.ARCHITECTURES
    assert not models.is_registered("unknown") and models.is_registered("external")
    assert create_model("external", num_classes=3).architecture["arch"] == "external"
    models._import_registering_packages.cache_clear()


@pytest.mark.parametrize("name", ["resnet20-12fca82f", "resnet56-4bfd9763"])
def test_shared_weights_are_loaded_unchanged(name):
    file = SHARED / "weights" / f"{name}.th"
    if not file.is_file():
        pytest.skip(f"{file} does not exist")
    model = load_weights(create_model(name.split("-")[0]), file)
    weights = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(model.layer3[2].conv2.weight, weights["module.layer3.2.conv2.weight"])
