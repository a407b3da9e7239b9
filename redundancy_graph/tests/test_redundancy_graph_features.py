"""Hashes of feature maps: matched to layers by name, without storing the maps or changing the network."""

import weakref

import pytest
import torch
from rg_helpers import CONVOLUTIONS, network, state_of
from torch import nn

from common.errors import UserError
from common.models import create_model
from common.testing import noise_images
from redundancy_graph import features, filter_similarity
from redundancy_graph.features import choose_images, collect_hashes
from redundancy_graph.hashing import hash_maps
from redundancy_graph.similarity import agreement_counts


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("arch", CONVOLUTIONS)
def test_every_convolution_returns_hashes_of_its_filters(arch):
    model = network(arch)
    layers = convolutions(model)
    assert len(layers) == CONVOLUTIONS[arch]
    found = collect_hashes(model, noise_images(2), list(layers))
    assert list(found) == list(layers)
    for name, hashes in found.items():
        assert hashes.dtype == torch.bool
        assert hashes.shape[:2] == (2, layers[name].out_channels), name
        assert hashes.shape[2] in (1, 4, 16, 49, 64)


def test_hashes_are_of_raw_convolution_output():
    """After convolution and bias, before batch norm and ReLU, on normalized images."""
    model, images = network("vgg16"), noise_images(3)
    found = collect_hashes(model, images, ["features.conv1"])["features.conv1"]
    with torch.no_grad():
        x = next(images.batches(3)).images
        maps = model.features.conv1(model.features.relu0(model.features.norm0(model.features.conv0(x))))
    assert torch.equal(found, hash_maps(maps))
    counts, total = agreement_counts(found)
    assert ((counts / total) == filter_similarity(maps)).all()


def test_shortcut_is_matched_by_name():
    """B2: in the original code, the shortcut is executed first and registered last, so conv1 gets its feature maps."""
    model, images = network("resnet56"), noise_images(3)
    layers = ["layer2.0.conv1", "layer2.0.conv2", "layer2.0.shortcut.conv"]
    before = collect_hashes(model, images, layers)
    with torch.no_grad():
        model.layer2[0].shortcut.conv.weight.neg_()
    after = collect_hashes(model, images, layers)
    assert torch.equal(before["layer2.0.conv1"], after["layer2.0.conv1"])
    assert torch.equal(before["layer2.0.conv2"], after["layer2.0.conv2"])
    assert (before["layer2.0.shortcut.conv"] != after["layer2.0.shortcut.conv"]).float().mean() > 0.9


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_network_is_unchanged(mode):
    model = network("resnet20").train()
    before = state_of(model)
    collect_hashes(model, noise_images(4), ["layer1.0.conv1"], bn_mode=mode)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_bn_mode_train_uses_batch_statistics():
    model, images = network("resnet20"), noise_images(6)
    layer = ["layer1.0.conv2"]
    train_mode = collect_hashes(model, images, layer, bn_mode="train")[layer[0]]
    model.train()
    outputs = []
    model.layer1[0].conv2.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    model(next(images.batches(6)).images)
    assert torch.equal(train_mode, hash_maps(outputs[0]))
    assert not torch.equal(train_mode, collect_hashes(model.eval(), images, layer)[layer[0]])
    with pytest.raises(ValueError, match="bn_mode"):
        collect_hashes(model, images, layer, bn_mode="both")


def test_images_are_processed_in_small_batches(monkeypatch):
    model, images = network("resnet20"), noise_images(5)
    expected = collect_hashes(model, images, ["conv1"])["conv1"]
    monkeypatch.setattr(features, "_PIXELS_AT_ONCE", 2 * 32 * 32)
    sizes = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: (sizes.append(len(x)), forward(self, x))[1])
    batched = collect_hashes(model, images, ["conv1"])["conv1"]
    assert sizes == [2, 2, 1]
    assert (expected == batched).float().mean() > 0.999  # rounding may flip a coefficient equal to the mean


def test_feature_maps_are_freed_after_hashing(monkeypatch):
    """Feature maps of earlier layers and batches are freed; for ResNet-50 and 100 images they need 4.4 GB."""
    maps, remaining = [], []

    def record(output):
        remaining.append(sum(earlier() is not None for earlier in maps))
        maps.append(weakref.ref(output))
        return hash_maps(output)

    monkeypatch.setattr(features, "hash_maps", record)
    monkeypatch.setattr(features, "_PIXELS_AT_ONCE", 32 * 32)
    model = network("vgg16")
    collect_hashes(model, noise_images(3), list(convolutions(model)))
    assert len(maps) == 3 * 13
    assert max(remaining) <= 2  # maps that the network still reads
    assert all(earlier() is None for earlier in maps)


def test_images_are_chosen_by_seed_and_too_few_raise():
    images = noise_images(50)
    first, again, other = (choose_images(images, 20, seed).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == 20
    for count in (0, 51):
        with pytest.raises(UserError, match="1 to 50"):
            choose_images(images, count, 0)


def test_nan_weights_raise_with_layer_name():
    model = network("resnet20")
    with torch.no_grad():
        model.layer2[1].conv1.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="layer2.1.conv1"):
        collect_hashes(model, noise_images(1), ["layer1.0.conv1", "layer2.1.conv1"])


def test_unexecuted_layer_raises():
    model = create_model("lenet5", in_channels=3, image_size=32)
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match="spare"):
        collect_hashes(model, noise_images(1), ["conv1", "spare"])
