"""Saving and loading keep tied weights, versions of modules and buffers; wrappers are removed, other programs rejected."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common import evaluate
from common.channels import channel_groups, keep_channels, masked
from common.checkpoint import load_model, load_weights, read_checkpoint, save_model
from common.cost import count_cost
from common.errors import UserError
from common.factory import import_factory
from common.models import create_model
from common.testing import check_rejected
from common.wrapped import plain_network

IMAGE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    """Network with a buffer that is not saved; ``tied`` convolutions share their weight."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.d, self.fc = nn.Conv2d(8, 4, 3), nn.Linear(4, 10)
        self.register_buffer("scale", torch.ones(10), persistent=False)
        if tied:
            self.c.weight = self.b.weight

    def forward(self, x):
        x = self.c(self.b(self.a(x).relu()).relu()).relu()
        return self.fc(self.d(x).relu().mean((2, 3))) * self.scale


def trained(tied: bool = True) -> Net:
    torch.manual_seed(0)
    model = Net(tied).eval()
    model.scale.copy_(torch.arange(10))
    return model


@pytest.mark.parametrize("tied_by_factory", [True, False])
def test_tied_weights_and_unsaved_buffers_are_kept(tmp_path, tied_by_factory):
    model, x = trained(), torch.randn(2, 3, 8, 8)
    save_model(tmp_path / "m.safetensors", model, factory=Net)
    loaded = load_model(tmp_path / "m.safetensors", lambda: Net(tied_by_factory))
    assert loaded.c.weight is loaded.b.weight and torch.equal(loaded(x), model(x))
    assert list(loaded.state_dict()) == list(model.state_dict()) and "scale" in loaded._non_persistent_buffers_set
    assert count_cost(loaded, (3, 8, 8)) == count_cost(model, (3, 8, 8))
    header = read_checkpoint(tmp_path / "m.safetensors")[0]
    assert header["tied"] == [["b.weight", "c.weight"]] and header["buffers"] == ["scale"]


def test_untied_weights_stay_untied(tmp_path):
    model = trained(tied=False)
    save_model(tmp_path / "m.safetensors", model, factory=Net)
    loaded = load_model(tmp_path / "m.safetensors", Net)  # a network whose factory ties them
    assert loaded.c.weight is not loaded.b.weight and torch.equal(loaded.c.weight, model.c.weight)


def test_pruning_keeps_weights_tied_or_raises(tmp_path):
    model = trained()
    smaller = keep_channels(model, IMAGE, {"d": [0, 2, 3]})
    assert smaller.c.weight is smaller.b.weight and smaller.d.out_channels == 3
    save_model(tmp_path / "m.safetensors", smaller, factory=Net)
    loaded = load_model(tmp_path / "m.safetensors", Net)
    assert loaded.c.weight is loaded.b.weight and torch.equal(loaded.d.weight, smaller.d.weight)
    for name in ("a", "b", "c"):  # one of the two layers would change
        with pytest.raises(UserError, match=r"b\.weight and c\.weight are one parameter"):
            keep_channels(model, IMAGE, {name: [0, 1, 2]})
    every = {"a": [0, 2, 5], "b": [0, 2, 5], "c": [0, 2, 5]}
    with pytest.warns(UserWarning, match="tied weights"):
        assert channel_groups(model, IMAGE).excluded.keys() == every.keys()
    both = keep_channels(model, IMAGE, every)  # the same channels everywhere: still one weight
    assert both.c.weight is both.b.weight and both.b.weight.shape == (3, 3, 3, 3)
    save_model(tmp_path / "m.safetensors", both, factory=Net)
    assert load_model(tmp_path / "m.safetensors", Net).b.weight.shape == (3, 3, 3, 3)


def test_version_of_torchvision_module_is_kept(tmp_path):
    models = pytest.importorskip("torchvision.models")
    model, x = models.mnasnet0_5(num_classes=4).eval(), torch.randn(1, 3, 64, 64)
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors", lambda: models.mnasnet0_5(num_classes=4))
    assert torch.equal(loaded(x), model(x)) and read_checkpoint(tmp_path / "m.safetensors")[0]["versions"] == {"": 2}


def test_header_of_ordinary_network_has_no_new_keys(tmp_path):
    save_model(tmp_path / "m.safetensors", create_model("resnet20"))
    assert not {"buffers", "tied", "versions"} & read_checkpoint(tmp_path / "m.safetensors")[0].keys()


class Views(nn.Module):
    """Network whose weights are overlapping parts of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.arange(10.0)
        self.a, self.b = nn.Parameter(flat[:6]), nn.Parameter(flat[3:9])


@pytest.mark.filterwarnings("ignore:.*shares memory")
def test_overlapping_views_are_saved(tmp_path):
    save_model(tmp_path / "m.safetensors", Views())
    loaded = load_model(tmp_path / "m.safetensors", Views)
    assert loaded.a.tolist() == [0, 1, 2, 3, 4, 5] and loaded.b.tolist() == [3, 4, 5, 6, 7, 8]


HOSTILE = {
    "tied weights as text": {"tied": "b.weight"},
    "a tie of numbers": {"tied": [[1, 2]]},
    "a tie of an unknown parameter": {"tied": [["b.weight", "__class__.weight"]]},
    "a buffer that is not in the file": {"buffers": ["other"]},
    "a buffer in no module": {"buffers": ["b.weight.weight"]},
    "a weight as a buffer": {"buffers": ["fc.weight"]},
    "versions as a list": {"versions": [2]},
    "a version as text": {"versions": {"": "2"}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_state_fields_are_rejected(tmp_path, case):
    file = tmp_path / "m.safetensors"
    save_model(file, trained())
    header, tensors = read_checkpoint(file)
    metadata = {"compression_papers": json.dumps(header | HOSTILE[case])}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, metadata=metadata)
    with pytest.raises(UserError) as caught:
        load_model(file, Net)
    assert "\n" not in str(caught.value)


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"scale": 3}

    def set_extra_state(self, state):
        pass


def test_state_that_is_not_a_tensor_is_rejected(tmp_path):
    with pytest.raises(UserError, match="0._extra_state: a dict, not a tensor"):
        save_model(tmp_path / "m.safetensors", nn.Sequential(ExtraState(2, 2)))


def resave(file, change) -> None:
    """Change the tensors of a checkpoint, with a valid checksum."""
    model = load_model(file)
    change(dict(model.named_modules()))
    save_model(file, model)


def narrow(modules) -> None:
    modules["layer2.0.conv2"].weight = nn.Parameter(modules["layer2.0.conv2"].weight[:, :7].clone())


def short_bias(modules) -> None:
    modules["linear"].bias = nn.Parameter(modules["linear"].bias[:3].clone())


def far_source(modules) -> None:
    modules["layer2.0.shortcut"].source[20] = 16


INCONSISTENT = {
    "a consumer of other width": (narrow, "the widths of the layers do not fit together"),
    "a short bias": (short_bias, "linear.weight has 10 channels, linear.bias has 3"),
    "a shortcut beyond its input": (far_source, "a shortcut reads channel 16 of 16"),
}


@pytest.mark.parametrize("case", INCONSISTENT)
def test_inconsistent_widths_are_rejected_when_loaded(tmp_path, case):
    change, message = INCONSISTENT[case]
    file = tmp_path / "m.safetensors"
    save_model(file, create_model("resnet20"))
    resave(file, change)
    with pytest.raises(UserError, match=message):
        load_model(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_rejected_when_loaded(tmp_path, value):
    model = create_model("resnet20")
    model.layer1[0].bn1.running_mean[3] = value
    save_model(tmp_path / "m.safetensors", model)
    with pytest.raises(UserError, match=r"layer1.0.bn1.running_mean has values that are not finite"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_network_of_other_precision_is_rejected_by_name(tmp_path, dtype):
    save_model(tmp_path / "m.safetensors", create_model("resnet20").to(dtype))
    line = check_rejected(evaluate.main, ["--checkpoint", tmp_path / "m.safetensors", "--no-latency"])
    assert f"conv1.weight is {str(dtype)[6:]}, but images are float32" in line


def test_recorded_normalization_of_other_length_is_rejected(tmp_path):
    for channels in (1, 4):
        pair = ((0.5,) * channels, (0.25,) * channels)
        save_model(tmp_path / "m.safetensors", create_model("resnet20"), normalize=pair)
        argv = ["--checkpoint", tmp_path / "m.safetensors", "--no-latency"]
        if channels == 1:  # one value applies to all channels
            assert evaluate.main([str(word) for word in argv]) == 0
        else:
            assert (
                "m.safetensors: the recorded normalization does not fit digits: normalization: 4 means"
                in check_rejected(evaluate.main, argv)
            )


def in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def block(model: nn.Module) -> nn.Module:
    model.b = torch.compile(model.b)
    return model


WRAPPERS = {
    "compiled": torch.compile,
    "compiled in place": in_place,
    "a compiled block": block,
    "data parallel": nn.DataParallel,
    "compiled, averaged": lambda model: torch.compile(torch.optim.swa_utils.AveragedModel(model)),
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_wrapped_network_is_unwrapped(tmp_path, monkeypatch, case):
    model, wrapped = trained(tied=False), WRAPPERS[case](copy.deepcopy(trained(tied=False)))
    assert channel_groups(wrapped, IMAGE) == channel_groups(model, IMAGE) != []
    smaller = keep_channels(wrapped, IMAGE, {"b": [0, 2]})
    assert torch.equal(smaller.b.weight, model.b.weight[[0, 2]]) and smaller._compiled_call_impl is None
    assert count_cost(wrapped, (3, 8, 8)) == count_cost(model, (3, 8, 8))
    save_model(tmp_path / "m.safetensors", wrapped)
    loaded, x = load_model(tmp_path / "m.safetensors", Net), torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(UserError, match="common.wrapped.plain_network"), masked(wrapped, [], {}):
        pass
    monkeypatch.setattr("common.testing.wrapped_factory", lambda: wrapped, raising=False)
    assert list(import_factory("common.testing:wrapped_factory")().state_dict()) == list(model.state_dict())


def test_ordinary_network_is_returned_as_it_is():
    model = trained()
    assert plain_network(model) is model


@pytest.mark.filterwarnings("ignore")
def test_torchscript_and_quantized_networks_are_rejected_by_name(tmp_path):
    model = trained()
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    rejected = {
        "the network: a TorchScript program": torch.jit.trace(model, IMAGE),
        "module fc: a quantized layer": quantized,
        "the network: a torch.export program": torch.export.export(model, (IMAGE,)).module(),
        "module 1: a TorchScript program": nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(2, 2))),
    }
    calls = (
        lambda net: channel_groups(net, IMAGE),
        lambda net: keep_channels(net, IMAGE, {}),
        lambda net: count_cost(net, (3, 8, 8)),
        lambda net: save_model(tmp_path / "m.safetensors", net),
    )
    for message, network in rejected.items():
        for call in calls:
            with pytest.raises(UserError, match=message):
                call(network)


class Overlapping(nn.Module):
    """A decoder whose weight is a view of the encoder's, and two batch norms with one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(4, 6)
        self.decoder.weight = nn.Parameter(self.encoder.weight.data.t())
        self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.second._buffers["running_var"] = self.first.running_var

    def forward(self, x):
        return self.decoder(self.second(self.first(self.encoder(x))))


@pytest.mark.filterwarnings("always")
def test_memory_that_tensors_share_without_being_tied_is_reported(tmp_path, recwarn):
    save_model(tmp_path / "m.safetensors", Overlapping())
    said = sorted(str(warning.message).removeprefix(f"{tmp_path}/m.safetensors: ") for warning in recwarn)
    assert said == [
        "decoder.weight shares memory with encoder.weight; the file holds them separately",
        "second.running_var shares memory with first.running_var; the file holds them separately",
    ]
    recwarn.clear()
    save_model(tmp_path / "m.safetensors", trained(tied=True))  # tied weights stay tied
    assert not recwarn.list


def test_negative_variance_raises_by_name(tmp_path):
    model = create_model("resnet20")
    model.bn1.running_var[3] = -1
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"bn1\.running_var has negative variances \(-1\)"):
        load_weights(create_model("resnet20"), tmp_path / "w.pth")
