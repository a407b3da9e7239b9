"""Files in the format of the original code: layer names, weights, and validation of prune info."""

import json

import pytest
import torch
from rg_helpers import ARCHS, network, random_kept

from common.channels import channel_groups, keep_channels
from common.checkpoint import save_model
from common.errors import UserError
from common.models import create_model
from common.testing import noise_bundle
from redundancy_graph.decision import GroupDecision
from redundancy_graph.graph import MergeRound
from redundancy_graph.group_similarity import prunable_groups
from redundancy_graph.layer_names import LAYERS, from_original, tensors_from_original, tensors_to_original, to_original
from redundancy_graph.prune_info import match_prune_info, read_prune_info, write_prune_info
from redundancy_graph.weights import load_pruned_weights, read_network

EXAMPLE = torch.zeros(1, 3, 32, 32)
IMAGES = noise_bundle(12, 6, "cifar10")
PAIRS = {
    "resnet56": [
        ("conv1", "conv"),
        ("layer2.0.shortcut.conv", "layer2.0.downsample.0"),
        ("layer3.0.shortcut.norm", "layer3.0.downsample.1"),
        ("layer1.8.conv1", "layer1.8.conv1"),
        ("linear", "fc"),
    ],
    "resnet110": [("layer3.17.bn2", "layer3.17.bn2"), ("bn1", "bn")],
    "densenet40": [("block2.11.norm", "dense2.11.bn"), ("transition1.conv", "trans1.conv"), ("norm", "bn")],
    "vgg16": [("features.conv16", "features.conv16"), ("classifier.linear1", "classifier.linear1")],
    "resnet50": [("layer4.0.downsample.0", "layer4.0.downsample.0"), ("fc", "fc")],
}


@pytest.mark.parametrize("arch", PAIRS)
def test_layer_names_translate_both_ways(arch):
    for name, original in PAIRS[arch]:
        assert to_original(arch, name) == original
        assert from_original(arch, original) == name
        assert from_original(arch, name) == name  # names of this repository are accepted


@pytest.mark.parametrize("arch", [arch for arch in LAYERS if arch not in ("resnet110", "resnet50")])
def test_state_dict_names_survive_round_trip(arch):
    shortcut = {"shortcut": "conv3x3"} if arch.startswith("resnet") else {}
    names = list(create_model(arch, **shortcut).state_dict())
    renamed = tensors_to_original(arch, dict.fromkeys(names))
    assert len(renamed) == len(names)
    assert list(tensors_from_original(arch, renamed)) == names


def test_short_names_of_vgg_head_are_accepted():
    assert from_original("vgg16", "linear1") == "classifier.linear1"
    assert list(tensors_from_original("vgg16", {"linear2.bias": 0})) == ["classifier.linear2.bias"]


@pytest.mark.parametrize("arch", ["vgg16", "resnet56", "densenet40"])
def test_original_weights_use_original_normalization(arch, tmp_path):
    model = network(arch)
    file = tmp_path / "weights.pth"
    torch.save(tensors_to_original(arch, model.state_dict()), file)
    start = read_network(arch, file, IMAGES)
    assert start.data.mean == (0.4914, 0.4822, 0.4465)
    assert read_network(arch, file, IMAGES, normalize="imagenet").data.mean == (0.485, 0.456, 0.406)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(start.model(x), model(x))
    assert len(prunable_groups(start.model, start.groups)) == ARCHS[arch][1]


def test_weights_with_local_names_use_normalization_of_data_set(tmp_path):
    model = network("resnet20")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.th")
    start = read_network("resnet20", tmp_path / "w.th", IMAGES)
    assert start.data.mean == (0.485, 0.456, 0.406)
    assert start.model.architecture["args"] == {"num_classes": 10}  # shortcut without weights


def test_state_dicts_of_other_frameworks_are_read(tmp_path):
    model = create_model("resnet20").eval()
    state = {n: t for n, t in model.state_dict().items() if "num_batches" not in n}
    for names in (state, tensors_to_original("resnet20", state)):
        wrapped = {f"module.net._orig_mod.{name}": tensor for name, tensor in names.items()}
        torch.save({"state_dict": {**wrapped, "n_averaged": torch.tensor(3)}}, tmp_path / "w.pth")
        read = read_network("resnet20", tmp_path / "w.pth", noise_bundle(12, 6, "cifar10")).model
        assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in state.items())
        torch.save(wrapped, tmp_path / "w.pth")
        own = (
            read_network(
                "x", tmp_path / "w.pth", noise_bundle(12, 6, "cifar10"), factory=lambda: create_model("resnet20")
            )
            if names is state
            else None
        )
        assert own is None or torch.equal(own.model.conv1.weight, model.conv1.weight)


def test_checkpoint_uses_stored_normalization(tmp_path):
    save_model(tmp_path / "m.safetensors", network("resnet20"), normalize=((0.1,) * 3, (0.2,) * 3))
    start = read_network("resnet20", tmp_path / "m.safetensors", IMAGES)
    assert start.data.mean == (0.1, 0.1, 0.1)
    with pytest.raises(UserError, match="--arch resnet20"):
        read_network("vgg16", tmp_path / "m.safetensors", IMAGES)


def test_pruned_weights_in_original_format_rebuild_network(tmp_path):
    model = network("resnet56")
    groups = channel_groups(model, EXAMPLE)
    pruned = keep_channels(model, EXAMPLE, random_kept(groups, seed=1))
    torch.save(tensors_to_original("resnet56", pruned.state_dict()), tmp_path / "resnet56-0.7-weights.pth")
    again = load_pruned_weights("resnet56", tmp_path / "resnet56-0.7-weights.pth")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), pruned(x))


def decisions(model) -> list[GroupDecision]:
    """Merge channel 0 into channel 1 in every prunable group."""
    found = []
    for layer, group in prunable_groups(model, channel_groups(model, EXAMPLE)).items():
        kept = list(range(1, group.size))
        rounds = [MergeRound(1, {1: [0]})]
        found.append(GroupDecision(group.name, layer, tuple(group.producers), group.size, 640, kept, rounds, 1.0))
    return found


@pytest.fixture(scope="module")
def resnet():
    model = network("resnet56")
    return model, channel_groups(model, EXAMPLE)


def test_written_prune_info_extends_original_format(resnet, tmp_path):
    model, groups = resnet
    file = tmp_path / "resnet56-0.7.json"
    write_prune_info(file, decisions(model), "resnet56")
    content = json.loads(file.read_text())
    assert list(content)[:2] == ["conv", "layer1.0.conv1"]
    assert content["layer2.0.downsample.0"]["saved_idxs"] == list(range(1, 32))
    for entry in content.values():
        assert entry["mask_num"] + len(entry["saved_idxs"]) == entry["channels"]
        assert entry["rounds"] == [{"k": 1, "merged": {"1": [0]}}]
    assert content["conv"]["layer"] == "conv1"
    assert "layer1.8.conv2" in content["conv"]["producers"]
    assert [entry["mask_num"] for entry in content.values()] == [1] * 30  # the original code reads them by position
    kept = match_prune_info(file, read_prune_info(file), model, groups, "resnet56")
    assert kept == {d.group: d.kept for d in decisions(model)}


def test_original_prune_info_is_read(resnet, tmp_path):
    """Files with only two fields per layer, and with either layer names, are read."""
    model, groups = resnet
    plain = {
        d.layer if i % 2 else to_original("resnet56", d.layer): {"saved_idxs": d.kept, "mask_num": 1}
        for i, d in enumerate(decisions(model))
    }
    file = tmp_path / "info.json"
    file.write_text(json.dumps(plain))
    assert len(match_prune_info(file, read_prune_info(file), model, groups, "resnet56")) == 30


def entry(kept, removed):
    return {"saved_idxs": kept, "mask_num": removed}


INVALID = {
    "not json": "{",
    "a list": "[1, 2]",
    "empty": "{}",
    "deep": "[" * 100_000,
    "an entry that is a list": json.dumps({"conv": [1]}),
    "no mask_num": json.dumps({"conv": {"saved_idxs": [1]}}),
    "nothing kept": json.dumps({"conv": entry([], 16)}),
    "not a list": json.dumps({"conv": entry("0123", 12)}),
    "booleans": json.dumps({"conv": entry([True], 15)}),
    "fractions": json.dumps({"conv": entry([1.5], 15)}),
    "negative": json.dumps({"conv": entry([-1], 15)}),
    "descending": json.dumps({"conv": entry([2, 1], 14)}),
    "doubled": json.dumps({"conv": entry([1, 1], 14)}),
    "negative count": json.dumps({"conv": entry([1], -1)}),
    "nan count": '{"conv": {"saved_idxs": [1], "mask_num": NaN}}',
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_prune_info_raises(name, tmp_path):
    file = tmp_path / "info.json"
    file.write_text(INVALID[name])
    with pytest.raises(UserError, match="info.json"):
        read_prune_info(file)


def test_oversized_prune_info_raises(tmp_path):
    file = tmp_path / "info.json"
    with open(file, "wb") as handle:
        handle.truncate(17 * 2**20)
    with pytest.raises(UserError, match="larger than"):
        read_prune_info(file)


def test_prune_info_of_another_network_raises_with_layer_name(resnet, tmp_path):
    model, groups = resnet
    file = tmp_path / "info.json"

    def error_message(info) -> str:
        with pytest.raises(UserError) as caught:
            match_prune_info(file, info, model, groups, "resnet56")
        return str(caught.value)

    good = {to_original("resnet56", d.layer): (d.kept, 1) for d in decisions(model)}
    assert "layer1.9.conv1" in error_message({**good, "layer1.9.conv1": ([0], 15)})
    assert "'layer3.0.downsample.0'" in error_message({k: v for k, v in good.items() if k != "layer3.0.downsample.0"})
    assert "filter 16 of layer conv" in error_message({**good, "conv": ([0, 16], 14)})
    assert "16 filters" in error_message({**good, "conv": ([0, 15], 13)})
    assert "layer2.0.conv2" in error_message(
        {**good, "layer2.0.conv2": (list(range(31)), 1)}
    )  # not the first layer of its group
    densenet = {f"dense1.{i}.conv": ([0], 11) for i in range(12)}
    assert "another network than resnet56" in error_message(densenet)
