"""Checkpoints: bit-identical after reloading; one clear error for damaged or malicious files."""

import json
import pickle
import random
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from common.atomic import atomic_file, write_json
from common.checkpoint import load_model, load_weights, read_checkpoint, save_model, write_half
from common.errors import UserError
from common.models import create_model


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return create_model("lenet300_100", in_features=64).eval()


def test_round_trip_keeps_tensors_and_header(tmp_path):
    model, file = lenet(), tmp_path / "m.safetensors"
    save_model(file, model, normalize=((0.5,), (0.25,)), dataset="digits", classes=["a", "b"], extra={"note": 1})
    loaded = load_model(file)
    assert not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert loaded.checkpoint_header["normalize"] == {"mean": [0.5], "std": [0.25]}
    save_model(tmp_path / "again.safetensors", loaded)  # keeps normalization and classes
    header, _ = read_checkpoint(tmp_path / "again.safetensors")
    assert header["normalize"] == {"mean": [0.5], "std": [0.25]} and header["classes"] == ["a", "b"]
    assert list(tmp_path.iterdir()) and not list(tmp_path.glob(".*"))


def test_changed_header_raises(tmp_path):
    """Any changed letter or digit of the JSON header is noticed; files of earlier versions have no checksum of it."""
    path = tmp_path / "m.safetensors"
    torch.manual_seed(0)
    save_model(path, create_model("lenet5"), normalize=([0.5], [0.25]), classes=[str(i) for i in range(10)])
    data = path.read_bytes()
    size = 8 + struct.unpack("<Q", data[:8])[0]
    start = data.index(b"compression_papers")
    text = data[start : data.index(b'"}', start)]
    places = [i for i in range(len(text)) if chr(text[i]).isalnum()]
    assert start + len(text) < size and len(places) > 200
    for i in places[:: len(places) // 60]:
        changed = bytearray(data)
        changed[start + i] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(UserError):
            load_model(path)
    path.write_bytes(data)
    assert "header_sha256" not in load_model(path).checkpoint_header
    header = {
        k: v
        for k, v in json.loads(safe_open(path, "pt").metadata()["compression_papers"]).items()
        if k != "header_sha256"
    }
    save_file(load_file(path), path, metadata={"compression_papers": json.dumps(header)})
    assert load_model(path).checkpoint_header == header
    (half,) = write_half(path, tmp_path / "half.safetensors")
    assert load_model(half).checkpoint_header["normalize"] == {"mean": [0.5], "std": [0.25]}


def test_half_precision_is_kept(tmp_path):
    save_model(tmp_path / "m.safetensors", lenet().half())
    assert load_model(tmp_path / "m.safetensors").fc1.weight.dtype == torch.float16


def test_loaded_network_trains(tmp_path):
    save_model(tmp_path / "m.safetensors", create_model("resnet20"))
    model = load_model(tmp_path / "m.safetensors").train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_damaged_file_raises_or_loads_unchanged(tmp_path):
    """Truncated or with one bit flipped at any place: UserError, or the same network (padding bytes)."""
    file = tmp_path / "m.safetensors"
    model = create_model("lenet300_100", in_features=2)
    save_model(file, model)
    intact, expected = file.read_bytes(), model.state_dict()
    rng = random.Random(0)
    for i in range(400):
        position = rng.randrange(len(intact)) if i % 2 else rng.randrange(2000)
        data = (
            intact[:position]
            if i % 4 == 0
            else intact[:position] + bytes([intact[position] ^ (1 << rng.randrange(8))]) + intact[position + 1 :]
        )
        file.write_bytes(data)
        try:
            loaded = load_model(file).state_dict()
        except UserError:
            continue
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "os.system"}, "not in the registry"),
        ({"args": {"num_classes": 10**12}}, "not acceptable"),
        ({"args": {"num_classes": [1]}}, "not acceptable"),
        ({"args": {"in_channels": -1}}, "not acceptable"),
        ({"args": {"bogus": 1}}, "not acceptable"),
        ({"format": "compression-papers-99"}, "format"),
        ({"args": 3}, "not a checkpoint"),
        ({"sha256": "00"}, "damaged"),
    ],
)
def test_hostile_header_raises(tmp_path, change, message):
    file = tmp_path / "m.safetensors"
    model = lenet()
    save_model(file, model)
    header, tensors = read_checkpoint(file)
    save_file(tensors, file, metadata={"compression_papers": json.dumps(header | change)})
    with pytest.raises(UserError, match=message):
        load_model(file)


def test_inconsistent_header_raises_before_allocation(tmp_path):
    file = tmp_path / "m.safetensors"
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(UserError, match="truncated"):
        load_model(file)


class Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_pickle_with_code_raises(tmp_path, capsys):
    for name in ("m.pth", "m.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Code()}))
        with pytest.raises(UserError):
            load_weights(lenet(), tmp_path / name)
    torch.save({"state_dict": Code()}, tmp_path / "m.pth")
    with pytest.raises(UserError, match="which only its code could read"):
        load_weights(lenet(), tmp_path / "m.pth")
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": {"net": s}}]
)
def test_external_weights_are_loaded(tmp_path, wrap):
    source = create_model("resnet20")
    state = {f"module.{k}": v for k, v in source.state_dict().items() if "num_batches" not in k and "source" not in k}
    torch.save(wrap(state), tmp_path / "m.pth")
    target = load_weights(create_model("resnet20"), tmp_path / "m.pth")
    assert all(torch.equal(p, q) for p, q in zip(source.parameters(), target.parameters(), strict=True))


def test_mismatched_external_weights_raise(tmp_path):
    state = create_model("resnet20").state_dict()
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(UserError, match="layer1.3.conv1.weight"):
        load_weights(create_model("resnet56"), tmp_path / "m.pth")
    with pytest.raises(UserError, match="size mismatch for .linear.weight"):
        load_weights(create_model("resnet20", num_classes=7), tmp_path / "m.pth")
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(UserError, match="extra"):
        load_weights(create_model("resnet20"), tmp_path / "m.pth")
    with pytest.raises(UserError, match="no such file"):
        load_weights(create_model("resnet20"), tmp_path / "none.pth")


def test_failed_write_leaves_nothing(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(OSError, match="disk"), atomic_file(tmp_path / "a.json") as temporary:
        temporary.write_text("partial")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and json.loads((tmp_path / "a.json").read_text()) == {
        "old": 1
    }
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"nan": float("nan")})
