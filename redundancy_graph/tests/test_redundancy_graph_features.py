"""Feature maps: matched to layers by name, hashed on the fly, the network left as it was."""

import weakref

import pytest
import torch
from rg_helpers import CONVOLUTIONS, network, state_of
from torch import nn

from common.errors import UserError
from common.models import create_model
from common.testing import noise
from redundancy_graph import features, filter_similarity
from redundancy_graph.features import choose_pictures, collect_hashes
from redundancy_graph.hashing import hash_maps
from redundancy_graph.similarity import agreement_counts


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("arch", CONVOLUTIONS)
def test_every_convolution_gives_hashes_of_its_own_filters(arch):
    model = network(arch)
    layers = convolutions(model)
    assert len(layers) == CONVOLUTIONS[arch]
    found = collect_hashes(model, noise(2), list(layers))
    assert list(found) == list(layers)
    for name, hashes in found.items():
        assert hashes.dtype == torch.bool
        assert hashes.shape[:2] == (2, layers[name].out_channels), name
        assert hashes.shape[2] in (1, 4, 16, 49, 64)


def test_hashes_are_those_of_the_raw_output():
    """After the convolution and its bias, before norm and relu; normalised pictures go in."""
    model, pictures = network("vgg16"), noise(3)
    found = collect_hashes(model, pictures, ["features.conv1"])["features.conv1"]
    with torch.no_grad():
        x = next(pictures.batches(3)).images
        maps = model.features.conv1(model.features.relu0(model.features.norm0(model.features.conv0(x))))
    assert torch.equal(found, hash_maps(maps))
    counts, total = agreement_counts(found)
    assert ((counts / total) == filter_similarity(maps)).all()


def test_a_shortcut_is_not_mistaken_for_another_layer():
    """B2: in the original the shortcut, which runs first and is registered last, hands its maps to conv1."""
    model, pictures = network("resnet56"), noise(3)
    layers = ["layer2.0.conv1", "layer2.0.conv2", "layer2.0.shortcut.conv"]
    before = collect_hashes(model, pictures, layers)
    with torch.no_grad():
        model.layer2[0].shortcut.conv.weight.neg_()
    after = collect_hashes(model, pictures, layers)
    assert torch.equal(before["layer2.0.conv1"], after["layer2.0.conv1"])
    assert torch.equal(before["layer2.0.conv2"], after["layer2.0.conv2"])
    assert (before["layer2.0.shortcut.conv"] != after["layer2.0.shortcut.conv"]).float().mean() > 0.9


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_network_is_left_as_it_was(mode):
    model = network("resnet20").train()
    before = state_of(model)
    collect_hashes(model, noise(4), ["layer1.0.conv1"], bn_mode=mode)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_bn_mode_train_uses_the_statistics_of_the_pictures():
    model, pictures = network("resnet20"), noise(6)
    layer = ["layer1.0.conv2"]
    as_authors = collect_hashes(model, pictures, layer, bn_mode="train")[layer[0]]
    model.train()
    kept = []
    model.layer1[0].conv2.register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    model(next(pictures.batches(6)).images)
    assert torch.equal(as_authors, hash_maps(kept[0]))
    assert not torch.equal(as_authors, collect_hashes(model.eval(), pictures, layer)[layer[0]])
    with pytest.raises(ValueError, match="bn_mode"):
        collect_hashes(model, pictures, layer, bn_mode="both")


def test_pictures_stream_in_small_batches(monkeypatch):
    model, pictures = network("resnet20"), noise(5)
    whole = collect_hashes(model, pictures, ["conv1"])["conv1"]
    monkeypatch.setattr(features, "_PIXELS_AT_ONCE", 2 * 32 * 32)
    sizes = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: (sizes.append(len(x)), forward(self, x))[1])
    streamed = collect_hashes(model, pictures, ["conv1"])["conv1"]
    assert sizes == [2, 2, 1]
    assert (whole == streamed).float().mean() > 0.999  # a bit at its very mean may fall either way


def test_maps_are_dropped_as_soon_as_they_are_hashed(monkeypatch):
    """ResNet-50's maps of 100 pictures are 4.4 GB: no map of an earlier layer or batch may still be alive."""
    maps, alive = [], []

    def watched(output):
        alive.append(sum(earlier() is not None for earlier in maps))
        maps.append(weakref.ref(output))
        return hash_maps(output)

    monkeypatch.setattr(features, "hash_maps", watched)
    monkeypatch.setattr(features, "_PIXELS_AT_ONCE", 32 * 32)
    model = network("vgg16")
    collect_hashes(model, noise(3), list(convolutions(model)))
    assert len(maps) == 3 * 13
    assert max(alive) <= 2  # those that the network itself is still reading
    assert all(earlier() is None for earlier in maps)


def test_pictures_are_drawn_by_seed_and_never_fewer_than_asked():
    pictures = noise(50)
    first, again, other = (choose_pictures(pictures, 20, seed).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == 20
    for count in (0, 51):
        with pytest.raises(UserError, match="1 to 50"):
            choose_pictures(pictures, count, 0)


def test_weights_that_are_not_numbers_are_refused_with_the_layers_name():
    model = network("resnet20")
    with torch.no_grad():
        model.layer2[1].conv1.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="layer2.1.conv1"):
        collect_hashes(model, noise(1), ["layer1.0.conv1", "layer2.1.conv1"])


def test_a_layer_that_does_not_run_is_named():
    model = create_model("lenet5", in_channels=3, image_size=32)
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match="spare"):
        collect_hashes(model, noise(1), ["conv1", "spare"])
