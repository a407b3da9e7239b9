"""Converted networks compute what the file's network computes, are built again from their checkpoint, and can be pruned exactly."""

import importlib.util
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorflow_files import (
    dequantized,
    efficientnet_state,
    lite_bytes,
    random_network,
    squeezenet_pickle,
    strided,
    write_js,
)
from torch import nn

from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model, save_model
from common.conversion import convert_file
from common.convert import main
from common.errors import UserError
from common.models import create_model
from common.models.same_padding import SamePad2d, same_padding
from common.testing import single_error_line

needs_tflite = pytest.mark.skipif(
    importlib.util.find_spec("tflite") is None, reason="the package tflite is not installed"
)
TENSORFLOW = {"tensorflow": True, "batch_norm": False}


def same_outputs(first: nn.Module, second: nn.Module, size: int = 32) -> bool:
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        return torch.equal(first(images), second(images))


def test_same_padding_is_asymmetric_for_stride_2():
    assert same_padding(224, 3, 2) == (0, 1)
    assert same_padding(113, 3, 2) == (1, 1)
    assert same_padding(224, 5, 2) == (1, 2)
    assert same_padding(7, 3, 1) == (1, 1)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    padded = F.conv2d(SamePad2d(3, 2)(image), torch.ones(1, 1, 3, 3), stride=2)
    assert padded[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]  # TensorFlow: the window begins at the first pixel


@needs_tflite
@pytest.mark.parametrize(("arch", "width"), [("mobilenet_v1", 1 / 16), ("mobilenet_v2", 0.5)])
@pytest.mark.parametrize("pads", [False, True], ids=["same", "pad"])
def test_float_tensorflow_lite_is_converted_bit_identically(tmp_path, arch, width, pads):
    model = random_network(arch, width_mult=width, **TENSORFLOW)
    (tmp_path / "m.tflite").write_bytes(lite_bytes(model, pads=pads))
    converted = convert_file(tmp_path / "m.tflite")
    assert same_outputs(converted.model, model)
    assert converted.model.architecture == {"arch": arch, "args": {"num_classes": 5, "width_mult": width, **TENSORFLOW}}
    assert strided(converted.model) == 5
    assert (converted.preprocessing.crop, converted.preprocessing.resize) == (32, 37)


@needs_tflite
def test_quantized_tensors_are_dequantized(tmp_path):
    model = random_network("mobilenet_v1", width_mult=1 / 16, **TENSORFLOW)
    (tmp_path / "m.tflite").write_bytes(lite_bytes(model, quantized="tensor"))
    converted = convert_file(tmp_path / "m.tflite").model
    for name, tensor in dequantized(model).state_dict().items():
        assert torch.allclose(converted.state_dict()[name], tensor, rtol=1e-6, atol=1e-8), name


@needs_tflite
def test_scales_per_channel_are_applied_to_their_channels(tmp_path):
    model = random_network("mobilenet_v1", width_mult=1 / 8, **TENSORFLOW)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= torch.logspace(-3, 0, len(module.weight))[:, None, None, None]
    (tmp_path / "m.tflite").write_bytes(lite_bytes(model, quantized="channel"))
    found = convert_file(tmp_path / "m.tflite").model.state_dict()
    for name, tensor in model.state_dict().items():
        if name.endswith("weight") and tensor.dim() == 4:
            steps = tensor.abs().amax((1, 2, 3)) / 127
            assert ((found[name] - tensor).abs().amax((1, 2, 3)) <= 0.51 * steps).all(), name


@needs_tflite
def test_background_is_left_out_of_1001_outputs(tmp_path, capsys):
    model = random_network("mobilenet_v1", classes=1001, width_mult=1 / 16, **TENSORFLOW)
    (tmp_path / "m.tflite").write_bytes(lite_bytes(model))
    assert main([str(tmp_path / "m.tflite"), "--out", str(tmp_path / "m.safetensors")]) == 0
    assert "class background, was left out" in capsys.readouterr().out
    loaded = load_model(tmp_path / "m.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded(images), model(images)[:, 1:], atol=1e-5)
    header = loaded.checkpoint_header
    assert header["classes"][0] == "tench" and len(header["classes"]) == 1000
    assert header["normalize"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert header["extra"]["converted_from"].startswith("m.tflite (TensorFlow Lite, SHA-256 ")


def test_tensorflow_js_is_converted_bit_identically(tmp_path):
    model = random_network("mobilenet_v1", width_mult=1 / 16, tensorflow=True)
    write_js(tmp_path, model)
    for path in (tmp_path, tmp_path / "model.json"):
        converted = convert_file(path).model
        assert same_outputs(converted, model)
    assert converted.norm.eps == 1e-3


def test_quantized_tensorflow_js_is_dequantized(tmp_path):
    model = random_network("mobilenet_v1", width_mult=1 / 16, tensorflow=True)
    write_js(tmp_path, model, shards=1)
    content = json.loads((tmp_path / "model.json").read_text())
    entry = content["weightsManifest"][0]["weights"][0]
    data = (tmp_path / "group1-shard1of1").read_bytes()
    count = int(np.prod(entry["shape"]))
    kernel = np.frombuffer(data[: 4 * count], "<f4")
    low, scale = float(kernel.min()), float(kernel.max() - kernel.min()) / 255
    codes = np.round((kernel - low) / scale).astype(np.uint8)
    entry["quantization"] = {"dtype": "uint8", "scale": scale, "min": low}
    (tmp_path / "model.json").write_text(json.dumps(content))
    (tmp_path / "group1-shard1of1").write_bytes(codes.tobytes() + data[4 * count :])
    difference = (convert_file(tmp_path).model.conv.weight - model.conv.weight).detach().abs().max()
    assert 0 < float(difference) <= 0.51 * scale


def test_efficientnet_lite0_is_converted_bit_identically(tmp_path):
    model = random_network("efficientnet_lite0")
    torch.save(efficientnet_state(model), tmp_path / "m.pth")
    converted = convert_file(tmp_path / "m.pth")
    assert same_outputs(converted.model, model)
    assert converted.preprocessing.mean[0] == 127 / 255 and converted.preprocessing.std[0] == 128 / 255


def test_squeezenet_is_converted_bit_identically(tmp_path):
    model = random_network("squeezenet1_1")
    (tmp_path / "m.pkl").write_bytes(squeezenet_pickle(model))
    converted = convert_file(tmp_path / "m.pkl")
    assert same_outputs(converted.model, model, size=64)
    assert converted.preprocessing.crop == 227


@pytest.mark.parametrize(
    ("arch", "arguments"),
    [
        ("mobilenet_v1", {"width_mult": 1 / 8, **TENSORFLOW}),
        ("mobilenet_v2", {"width_mult": 0.25, **TENSORFLOW}),
        ("efficientnet_lite0", {}),
    ],
)
def test_pruned_network_equals_masked_one_and_is_loaded_again(tmp_path, arch, arguments):
    model = random_network(arch, **arguments).double()
    example = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    groups = channel_groups(model, example)
    assert not groups.excluded
    kept = {group.name: range(0, group.size, 2) for group in groups}
    small = keep_channels(model, example, kept)  # raises unless it equals the masked network within 1e-9
    depthwise = [
        (a, b)
        for a, b in zip(model.modules(), small.modules(), strict=True)
        if isinstance(a, nn.Conv2d) and a.groups > 1
    ]
    assert len(depthwise) in (13, 16, 17)
    for dense, pruned in depthwise:  # inverted residuals and depthwise layers shrink
        assert pruned.groups == pruned.in_channels == pruned.out_channels == -(-dense.in_channels // 2)
    save_model(tmp_path / "small.safetensors", small.float())
    again = load_model(tmp_path / "small.safetensors")
    assert torch.equal(again(example.float()), small(example.float()))


def test_new_arguments_do_not_change_registered_networks():
    for arch in ("mobilenet_v1", "mobilenet_v2"):
        torch.manual_seed(0)
        model = create_model(arch, 5)
        assert model.architecture["args"] == {"num_classes": 5} and not strided(model)
        assert not any(isinstance(module, nn.Conv2d) and module.bias is not None for module in model.modules())


def lite(tmp_path, change):
    path = tmp_path / "m.tflite"
    path.write_bytes(change(lite_bytes(random_network("mobilenet_v1", width_mult=1 / 16, **TENSORFLOW))))
    return path


@needs_tflite
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: lite(p, lambda data: data[: len(data) // 2]), "damaged"),
        (lambda p: lite(p, lambda data: data[:4] + b"XXXX" + data[8:]), "unknown format"),
        (lambda p: lite(p, lambda data: data[:8] + bytes(len(data) - 8)), "damaged"),
        (
            lambda p: (
                (p / "m.tflite").write_bytes(
                    lite_bytes(random_network("mobilenet_v1", width_mult=1 / 16, **TENSORFLOW), other=True)
                )
                and p / "m.tflite"
            ),
            "SOFTPLUS|is not an operation of the networks|an operation",
        ),
        (
            lambda p: (
                (p / "m.tflite").write_bytes(
                    lite_bytes(random_network("mobilenet_v1", width_mult=1 / 16, batch_norm=False))
                )
                and p / "m.tflite"
            ),
            None,  # symmetric padding is not written by the format's option SAME: the same file
        ),
    ],
)
def test_unsuitable_tensorflow_lite_is_one_line(tmp_path, make, message):
    path = make(tmp_path)
    if message is None:
        convert_file(path)
        return
    with pytest.raises(UserError, match=message) as found:
        convert_file(path)
    assert "\n" not in str(found.value)


def shape(content, value):
    content["weightsManifest"][0]["weights"][0]["shape"] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: shape(c, [10**6, 10**6, 3, 2]), "ends at byte"),
        (lambda c: shape(c, [3, 3, -3, 2]), "the shape of conv1/kernel"),
        (lambda c: shape(c, "3332"), "is not a list"),
        (lambda c: c["weightsManifest"][0].update(paths=["../model.json"]), "not that of a file in the same folder"),
        (lambda c: c["weightsManifest"][0].update(paths=["group9"]), "group9: no such file"),
        (lambda c: c["weightsManifest"][0]["paths"].pop(), "a shard is truncated"),
        (lambda c: c["weightsManifest"][0]["weights"].pop(), "bytes of the shards belong to no variable"),
        (lambda c: c["weightsManifest"][0]["weights"][0].update(name="conv9/kernel"), "no variable conv1/kernel"),
        (lambda c: c["weightsManifest"][0]["weights"][0].update(dtype="complex64"), "complex64"),
        (lambda c: c.pop("weightsManifest"), "not a TensorFlow.js model"),
    ],
)
def test_unsuitable_tensorflow_js_is_one_line(tmp_path, change, message):
    write_js(tmp_path, random_network("mobilenet_v1", width_mult=1 / 16, tensorflow=True), change=change)
    with pytest.raises(UserError, match=message) as found:
        convert_file(tmp_path)
    assert "\n" not in str(found.value)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_pickle_with_code_is_an_error_and_not_executed(tmp_path, capsys):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"conv1": [Hostile()]}, protocol=3))
    with pytest.raises(UserError, match="requests builtins.print"):
        convert_file(tmp_path / "m.pkl")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"conv1": [np.zeros(3)]}, protocol=3))
    with pytest.raises(UserError, match="not SqueezeNet 1.1"):
        convert_file(tmp_path / "m.pkl")
    assert capsys.readouterr().out == ""


def test_command_reports_invalid_options(tmp_path, capsys):
    write_js(tmp_path, random_network("mobilenet_v1", width_mult=1 / 16, tensorflow=True))
    (tmp_path / "names.txt").write_text("a\nb\n")
    for argv, message in (
        ([str(tmp_path / "none"), "--out", "m.safetensors"], "no such file"),
        ([str(tmp_path), "--out", "m.pth"], "give the name of a .safetensors file"),
        (
            [str(tmp_path), "--out", str(tmp_path / "m.safetensors"), "--classes", str(tmp_path / "names.txt")],
            "2 names",
        ),
    ):
        single_error_line(main(argv), capsys.readouterr().err, message)
