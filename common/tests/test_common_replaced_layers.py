"""Networks with layers that differ from their architecture: saved as a table and rebuilt; hostile tables raise."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model, read_checkpoint, save_model
from common.errors import UserError
from common.models import create_model
from common.testing import factored_resnet20

X = torch.randn(2, 3, 32, 32)


def same_outputs(a: nn.Module, b: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(a(X), b(X))


def test_only_different_layers_are_listed(tmp_path):
    save_model(tmp_path / "plain.safetensors", create_model("resnet20"))
    assert read_checkpoint(tmp_path / "plain.safetensors")[0]["layers"] == {}
    save_model(tmp_path / "m.safetensors", factored_resnet20())
    layers = read_checkpoint(tmp_path / "m.safetensors")[0]["layers"]
    assert set(layers) == {"layer2.0.shortcut", "layer3.0.shortcut", "layer3.1.conv1", "linear"}
    assert layers["layer2.0.shortcut"]["stride"] == [2, 2] and layers["linear"]["kind"] == "sequence"


def test_replaced_layers_are_pruned_and_reloaded(tmp_path):
    model = factored_resnet20()
    groups = channel_groups(model, X)
    assert any(group.name == "layer2.0.conv2" and "layer2.0.shortcut" in group.producers for group in groups)
    smaller = keep_channels(model, X, {group.name: range(1, group.size) for group in groups})
    for i, network in enumerate((model, smaller)):
        save_model(tmp_path / f"{i}.safetensors", network)
        loaded = load_model(tmp_path / f"{i}.safetensors")
        assert same_outputs(loaded, network) and loaded.layer2[0].shortcut.stride == (2, 2)
        save_model(tmp_path / "again.safetensors", loaded)
        assert same_outputs(load_model(tmp_path / "again.safetensors"), network)
    loaded.train()(X).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_pruned_depthwise_convolution_is_not_listed(tmp_path):
    x = torch.randn(1, 3, 64, 64)
    model = create_model("mobilenet_v1").eval()
    smaller = keep_channels(model, x, {group.name: range(group.size // 2) for group in channel_groups(model, x)})
    save_model(tmp_path / "m.safetensors", smaller)
    assert read_checkpoint(tmp_path / "m.safetensors")[0]["layers"] == {}


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))


def test_custom_network_is_compared_with_factory(tmp_path):
    model = Custom().eval()
    model.conv = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 4, 1, bias=False))
    save_model(tmp_path / "m.safetensors", model, factory=Custom)
    assert same_outputs(load_model(tmp_path / "m.safetensors", Custom), model)


CONV = {
    "kind": "conv2d",
    "in_channels": 16,
    "out_channels": 32,
    "groups": 1,
    "kernel_size": [1, 1],
    "stride": [2, 2],
    "padding": [0, 0],
    "dilation": [1, 1],
    "bias": False,
}
HOSTILE = [
    3,
    [],
    {"": CONV},
    {"nothing.here": CONV},
    {"layer2.0.shortcut": 3},
    {"layer2.0.shortcut": {"kind": "conv2d"}},
    {"layer2.0.shortcut": {"kind": "os.system"}},
    {"layer2.0.shortcut": {"kind": "sequence", "layers": []}},
    {"layer2.0.shortcut": {"kind": "sequence", "layers": [CONV] * 9}},
    {"layer2.0.shortcut": {"kind": "sequence", "layers": [{"kind": "sequence", "layers": [CONV]}]}},
    *(
        {"layer2.0.shortcut": CONV | change}
        for change in (
            {"stride": [0, 2]},
            {"stride": 2},
            {"stride": [2, 10**9]},
            {"padding": [-1, 0]},
            {"in_channels": 10**12},
            {"in_channels": True},
            {"out_channels": 1.5},
            {"groups": 5},
            {"bias": 1},
            {"kernel_size": "11"},
            {"dilation": None},
            {"in_channels": 17},
            {"bias": True},
        )
    ),
    {f"layer{i}": CONV for i in range(10_001)},
]


@pytest.mark.parametrize("table", HOSTILE)
def test_hostile_table_raises(tmp_path, table):
    file = tmp_path / "m.safetensors"
    save_model(file, factored_resnet20())
    header, tensors = read_checkpoint(file)
    changed = copy.deepcopy(header) | {"layers": table}
    if isinstance(table, dict) and set(table) == {"layer2.0.shortcut"}:
        changed["layers"] = header["layers"] | table
    save_file(tensors, file, metadata={"compression_papers": json.dumps(changed)})
    if table == {"layer2.0.shortcut": CONV | {"in_channels": 17}}:  # the shapes of the tensors take precedence
        assert load_model(file).layer2[0].shortcut.in_channels == 16
        return
    with pytest.raises(UserError, match="m.safetensors"):
        load_model(file)
