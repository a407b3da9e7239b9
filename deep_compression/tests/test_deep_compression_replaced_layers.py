"""Networks with replaced (factored) layers are pruned, quantized, encoded, loaded and evaluated."""

import json

import pytest
import torch
from torch import nn

from common import evaluate
from common.checkpoint import load_model, save_model
from common.models import create_model
from common.testing import factored_resnet20
from deep_compression import commands, load_compressed_model, save_compressed
from deep_compression import compressed as cm
from deep_compression.pruning import prunable_weights


class Own(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.first, self.last = nn.Linear(3072, 40), nn.Linear(40, num_classes)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


def factored_own():
    torch.manual_seed(0)
    model = Own().eval()
    model.first = nn.Sequential(nn.Linear(3072, 7, bias=False), nn.Linear(7, 40))
    return model


def same_outputs(a, b):
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        return torch.equal(a(x), b(x))


def test_factored_network_round_trips_twice(tmp_path):
    model = factored_resnet20()
    save_compressed(tmp_path / "a.dcz", model)
    again = load_compressed_model(tmp_path / "a.dcz")
    assert same_outputs(model, again) and isinstance(again.linear, nn.Sequential)
    assert set(again.checkpoint_header["layers"]) == {
        "layer2.0.shortcut",
        "layer3.0.shortcut",
        "layer3.1.conv1",
        "linear",
    }
    save_compressed(tmp_path / "b.dcz", again)
    assert (tmp_path / "a.dcz").read_bytes() == (tmp_path / "b.dcz").read_bytes()


def test_registered_network_stores_no_layer_table(tmp_path):
    found = save_compressed(tmp_path / "a.dcz", create_model("lenet5"))
    assert "layers" not in found.about
    assert load_compressed_model(tmp_path / "a.dcz").checkpoint_header["layers"] == {}


def test_own_network_is_compared_with_its_factory(tmp_path):
    model = factored_own()
    save_compressed(tmp_path / "a.dcz", model, factory=Own)
    assert same_outputs(model, load_compressed_model(tmp_path / "a.dcz", Own))
    save_compressed(tmp_path / "b.dcz", model)  # without the factory, replaced layers are not known
    with pytest.raises(ValueError, match="another network"):
        load_compressed_model(tmp_path / "b.dcz", Own)


LINEAR = {"kind": "linear", "in_features": 64, "out_features": 10, "bias": True}
HOSTILE = [
    7,
    [],
    {"": LINEAR},
    {"no.layer": LINEAR},
    {"linear": 3},
    {"linear": {"kind": "linear"}},
    {"linear": {"kind": "os.system"}},
    {"linear": LINEAR | {"in_features": 10**12}},
    {"linear": LINEAR | {"bias": 1}},
    {"linear": {"kind": "sequence", "layers": [LINEAR] * 9}},
    {f"layer{i}": LINEAR for i in range(10_001)},
]


@pytest.mark.parametrize("table", HOSTILE, ids=lambda table: str(table)[:30])
def test_hostile_layer_tables_raise(tmp_path, monkeypatch, table):
    monkeypatch.setattr(cm, "replaced_layer_table", lambda *args: table)
    save_compressed(tmp_path / "a.dcz", factored_resnet20())
    with pytest.raises(ValueError):
        load_compressed_model(tmp_path / "a.dcz")


@pytest.mark.parametrize("own", [False, True], ids=["registered", "own network"])
def test_factored_network_passes_all_stages(tmp_path, own, capsys):
    model = factored_own() if own else create_model("lenet300_100", in_features=3072)
    if not own:
        model.fc1 = nn.Sequential(nn.Linear(3072, 9, bias=False), nn.Linear(9, 300))
    save_model(tmp_path / "factored.safetensors", model, factory=Own if own else None)
    extra = ["--model", f"{__name__}:Own"] if own else []
    argv = ["compress", "--checkpoint", str(tmp_path / "factored.safetensors"), "--dataset", "digits", "--no-latency"]
    argv += [
        "--values",
        "0.3",
        "--epochs",
        "1",
        "--quantize-epochs",
        "1",
        "--fc-bits",
        "3",
        "--out",
        str(tmp_path),
        *extra,
    ]
    assert commands.main([*argv, "--batch-size", "256"]) == 0
    file = tmp_path / "encode" / "model.dcz"
    factory = Own if own else None
    small, shared = load_compressed_model(file, factory), load_model(tmp_path / "share/model.safetensors", factory)
    assert same_outputs(small, shared)
    for weight in prunable_weights(small).values():
        assert len(weight[weight != 0].unique()) <= 7
    argv = [
        "--checkpoint",
        str(file),
        "--dataset",
        "digits",
        "--no-latency",
        "--json",
        str(tmp_path / "e.json"),
        *extra,
    ]
    assert evaluate.main(argv) == 0
    measured = json.loads((tmp_path / "encode" / "metrics.json").read_text())["compressed"]
    assert json.loads((tmp_path / "e.json").read_text())["top1"] == measured["top1"]
    assert commands.main(["decode", str(file), "--output", str(tmp_path / "d.safetensors"), *extra]) == 0
    assert same_outputs(load_model(tmp_path / "d.safetensors", factory), small)
