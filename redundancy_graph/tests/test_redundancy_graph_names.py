"""Files in the authors' form: layer names both ways, weights, and prune info that is checked before it is used."""

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
from redundancy_graph.evidence import deciding_groups
from redundancy_graph.graph import Round
from redundancy_graph.names import LAYERS, tensors_to_authors, tensors_to_ours, to_authors, to_ours
from redundancy_graph.prune_info import match_prune_info, read_prune_info, write_prune_info
from redundancy_graph.weights import load_pruned_weights, read_network

EXAMPLE = torch.zeros(1, 3, 32, 32)
PICTURES = noise_bundle(12, 6, "cifar10")
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
def test_names_both_ways(arch):
    for ours, theirs in PAIRS[arch]:
        assert to_authors(arch, ours) == theirs
        assert to_ours(arch, theirs) == ours
        assert to_ours(arch, ours) == ours  # our own names are read too


@pytest.mark.parametrize("arch", [arch for arch in LAYERS if arch not in ("resnet110", "resnet50")])
def test_a_state_dict_survives_the_way_there_and_back(arch):
    shortcut = {"shortcut": "conv3x3"} if arch.startswith("resnet") else {}
    names = list(create_model(arch, **shortcut).state_dict())
    there = tensors_to_authors(arch, dict.fromkeys(names))
    assert len(there) == len(names)
    assert list(tensors_to_ours(arch, there)) == names


def test_short_forms_of_the_vgg_head_are_read():
    assert to_ours("vgg16", "linear1") == "classifier.linear1"
    assert list(tensors_to_ours("vgg16", {"linear2.bias": 0})) == ["classifier.linear2.bias"]


@pytest.mark.parametrize("arch", ["vgg16", "resnet56", "densenet40"])
def test_the_authors_weights_are_read_with_their_normalisation(arch, tmp_path):
    model = network(arch)
    file = tmp_path / "weights.pth"
    torch.save(tensors_to_authors(arch, model.state_dict()), file)
    subject = read_network(arch, file, PICTURES)
    assert subject.data.mean == (0.4914, 0.4822, 0.4465)
    assert read_network(arch, file, PICTURES, normalize="imagenet").data.mean == (0.485, 0.456, 0.406)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(subject.model(x), model(x))
    assert len(deciding_groups(subject.model, subject.groups)) == ARCHS[arch][1]


def test_weights_under_our_names_keep_the_data_sets_normalisation(tmp_path):
    model = network("resnet20")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.th")
    subject = read_network("resnet20", tmp_path / "w.th", PICTURES)
    assert subject.data.mean == (0.485, 0.456, 0.406)
    assert subject.model.architecture["args"] == {"num_classes": 10}  # the shortcut without weights


def test_a_checkpoint_brings_its_own_normalisation(tmp_path):
    save_model(tmp_path / "m.safetensors", network("resnet20"), normalize=((0.1,) * 3, (0.2,) * 3))
    subject = read_network("resnet20", tmp_path / "m.safetensors", PICTURES)
    assert subject.data.mean == (0.1, 0.1, 0.1)
    with pytest.raises(UserError, match="--arch resnet20"):
        read_network("vgg16", tmp_path / "m.safetensors", PICTURES)


def test_flat_weights_of_a_pruned_network_rebuild_it(tmp_path):
    model = network("resnet56")
    groups = channel_groups(model, EXAMPLE)
    pruned = keep_channels(model, EXAMPLE, random_kept(groups, seed=1))
    torch.save(tensors_to_authors("resnet56", pruned.state_dict()), tmp_path / "resnet56-0.7-weights.pth")
    again = load_pruned_weights("resnet56", tmp_path / "resnet56-0.7-weights.pth")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), pruned(x))


def decisions(model) -> list[GroupDecision]:
    """Every deciding group loses its channel 0 to its channel 1."""
    found = []
    for layer, group in deciding_groups(model, channel_groups(model, EXAMPLE)).items():
        kept = list(range(1, group.size))
        rounds = [Round(1, {1: [0]})]
        found.append(GroupDecision(group.name, layer, tuple(group.producers), group.size, 640, kept, rounds, 1.0))
    return found


@pytest.fixture(scope="module")
def resnet():
    model = network("resnet56")
    return model, channel_groups(model, EXAMPLE)


def test_written_prune_info_is_the_authors_form_and_richer(resnet, tmp_path):
    model, groups = resnet
    file = tmp_path / "resnet56-0.7.json"
    write_prune_info(file, decisions(model), "resnet56")
    content = json.loads(file.read_text())
    assert list(content)[:2] == ["conv", "layer1.0.conv1"]
    assert content["layer2.0.downsample.0"]["saved_idxs"] == list(range(1, 32))
    for entry in content.values():
        assert entry["mask_num"] + len(entry["saved_idxs"]) == entry["channels"]
        assert entry["rounds"] == [{"k": 1, "absorbed": {"1": [0]}}]
    assert content["conv"]["layer"] == "conv1"
    assert "layer1.8.conv2" in content["conv"]["producers"]
    assert [entry["mask_num"] for entry in content.values()] == [1] * 30  # the original reads them by position
    kept = match_prune_info(file, read_prune_info(file), model, groups, "resnet56")
    assert kept == {d.group: d.kept for d in decisions(model)}


def test_the_authors_own_files_are_read(resnet, tmp_path):
    """Two fields per layer, nothing else; and our names do as well as theirs."""
    model, groups = resnet
    plain = {
        d.layer if i % 2 else to_authors("resnet56", d.layer): {"saved_idxs": d.kept, "mask_num": 1}
        for i, d in enumerate(decisions(model))
    }
    file = tmp_path / "info.json"
    file.write_text(json.dumps(plain))
    assert len(match_prune_info(file, read_prune_info(file), model, groups, "resnet56")) == 30


def entry(kept, removed):
    return {"saved_idxs": kept, "mask_num": removed}


BROKEN = {
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


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name, tmp_path):
    file = tmp_path / "info.json"
    file.write_text(BROKEN[name])
    with pytest.raises(UserError, match="info.json"):
        read_prune_info(file)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "info.json"
    with open(file, "wb") as handle:
        handle.truncate(17 * 2**20)
    with pytest.raises(UserError, match="larger than"):
        read_prune_info(file)


def test_files_of_another_network_are_refused_by_layer(resnet, tmp_path):
    model, groups = resnet
    file = tmp_path / "info.json"

    def refused(info) -> str:
        with pytest.raises(UserError) as caught:
            match_prune_info(file, info, model, groups, "resnet56")
        return str(caught.value)

    good = {to_authors("resnet56", d.layer): (d.kept, 1) for d in decisions(model)}
    assert "layer1.9.conv1" in refused({**good, "layer1.9.conv1": ([0], 15)})
    assert "'layer3.0.downsample.0'" in refused({k: v for k, v in good.items() if k != "layer3.0.downsample.0"})
    assert "filter 16 of layer conv" in refused({**good, "conv": ([0, 16], 14)})
    assert "16 filters" in refused({**good, "conv": ([0, 15], 13)})
    assert "layer2.0.conv2" in refused(
        {**good, "layer2.0.conv2": (list(range(31)), 1)}
    )  # it follows, and never decides
    densenet = {f"dense1.{i}.conv": ([0], 11) for i in range(12)}
    assert "another network than resnet56" in refused(densenet)
