"""State dicts as people have them: read exactly, with what was changed reported, or rejected in one line."""

import argparse
import collections
import copy
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

from common import evaluate
from common.checkpoint import load_weights, read_state_dict, save_model
from common.errors import UserError
from common.factory import model_from_options
from common.models import create_model
from common.options import NetworkOptions
from common.testing import check_rejected


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)
    ).eval()


def trained() -> nn.Module:
    torch.manual_seed(0)
    return build()


def under(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in trained().state_dict().items()}


def averaged(prefix: str = "") -> dict[str, torch.Tensor]:
    state = torch.optim.swa_utils.AveragedModel(trained()).state_dict()
    return {prefix + name: tensor for name, tensor in state.items()}


def counted() -> dict[str, torch.Tensor]:
    names = [
        f"{name}.{what}".lstrip(".") for name, _ in trained().named_modules() for what in ("total_ops", "total_params")
    ]
    return under("") | {name: torch.zeros(1, dtype=torch.float64) for name in names}


PLAIN = under("")
# Files whose tensors are exactly those of the network.
EXACT = {
    "compiled": under("_orig_mod."),
    "data parallel": under("module."),
    "lightning": {"state_dict": under("model."), "hyper_parameters": argparse.Namespace(width=6), "epoch": 3},
    "nested wrappers": {"net": under("module._orig_mod.model.net.")},
    "a compiled block": {name.replace("5.", "5._orig_mod."): tensor for name, tensor in PLAIN.items()},
    "averaged": averaged(),
    "averaged in a wrapper": {"state_dict": averaged("model.")},
    "mmengine": {"meta": {"count": collections.Counter("aab")}, "state_dict": under("backbone.")},
    "timm, moving average": {"state_dict_ema": under("module."), "args": argparse.Namespace(lr=0.1), "metric": np.float64(1)},
    "torchvision's reference training": {"model_ema": averaged(), "epoch": 1, "args": argparse.Namespace()},
    "thop": counted(),
    "before num_batches_tracked": {name: t for name, t in PLAIN.items() if "num_batches" not in name},
    "numbers among tensors": {**PLAIN, "accuracy": np.float64(0.9), "epoch": 7, "note": "x", "rate": np.float32(0.5)},
    "a counter that is a number": {**PLAIN, "1.num_batches_tracked": np.int64(0)},
    "half precision": {name: t.half().float().half() if t.is_floating_point() else t for name, t in PLAIN.items()},
    "parameters": {name: nn.Parameter(t, requires_grad=False) for name, t in PLAIN.items()},
}  # fmt: skip


def same(model: nn.Module, other: nn.Module, half: bool = False) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b.half().to(b.dtype) if half and b.is_floating_point() else b) for a, b in pairs)


@pytest.mark.parametrize("zip_layout", [True, False])
@pytest.mark.parametrize("case", EXACT)
def test_state_dict_is_read_exactly(tmp_path, case, zip_layout, caplog):
    torch.save(EXACT[case], tmp_path / "w.pth", _use_new_zipfile_serialization=zip_layout)
    assert same(load_weights(build(), tmp_path / "w.pth"), trained(), half=case == "half precision")
    assert not caplog.records


def test_all_entry_points_read_the_same_state_dicts(tmp_path, monkeypatch):
    (tmp_path / "filesnet.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),"
        " nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(EXACT["averaged in a wrapper"], tmp_path / "w.pth")
    read = model_from_options(NetworkOptions(model="filesnet:build", weights=str(tmp_path / "w.pth")))[0]
    assert same(read, trained())
    network = create_model("resnet20")
    state = {f"net._orig_mod.{n}": t for n, t in network.state_dict().items() if "num_batches" not in n}
    torch.save({"state_dict": {**state, "net._orig_mod.total_ops": torch.zeros(1)}}, tmp_path / "r.pth")
    assert same(model_from_options(NetworkOptions(arch="resnet20", weights=str(tmp_path / "r.pth")))[0], network)
    save_model(tmp_path / "m.safetensors", trained(), factory=build, normalize=((0.5,) * 3, (0.25,) * 3))
    read = model_from_options(NetworkOptions(model="filesnet:build", weights=str(tmp_path / "m.safetensors")))[0]
    assert same(read, trained()) and read.checkpoint_header["normalize"]["mean"] == [0.5] * 3


def test_pruning_masks_are_applied_and_reported(tmp_path, caplog):
    pruned = trained()
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    prune.random_unstructured(pruned[5], "bias", 0.3)
    torch.save({"state_dict": {f"module.{n}": t for n, t in pruned.state_dict().items()}}, tmp_path / "w.pth")
    read, x = load_weights(build(), tmp_path / "w.pth"), torch.randn(2, 3, 8, 8)
    assert torch.equal(read(x), pruned(x)) and int((read[0].weight == 0).sum()) == read[0].weight.numel() // 2
    assert "pruning masks of 2 tensors are applied" in caplog.text


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("form", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm_is_computed_and_reported(tmp_path, form, dim, caplog):
    normed = trained()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old form
        form(normed[0], dim=dim)
    with torch.no_grad():
        for name, parameter in normed[0].named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(1.7)
    torch.save(normed.state_dict(), tmp_path / "w.pth")
    read, x = load_weights(build(), tmp_path / "w.pth"), torch.randn(2, 3, 8, 8)
    assert torch.allclose(read(x), normed(x), atol=1e-6) and not torch.allclose(read(x), trained()(x), atol=1e-3)
    assert "weight norm of 1 tensors" in caplog.text


def test_network_with_parts_reads_its_own_state_dict(tmp_path, caplog):
    model = parametrizations.weight_norm(trained()[5])
    torch.save(model.state_dict(), tmp_path / "w.pth")
    read = load_weights(parametrizations.weight_norm(nn.Linear(6, 10)), tmp_path / "w.pth")
    assert same(read, model) and not caplog.records


def test_unread_tensors_and_averages_are_reported(tmp_path, caplog):
    torch.save({"state_dict": {**under("model."), "criterion.weight": torch.ones(10)}}, tmp_path / "w.pth")
    assert same(load_weights(build(), tmp_path / "w.pth"), trained())
    assert "the tensors under 'model.' are read, not criterion.weight" in caplog.text
    torch.save({"state_dict": PLAIN, "state_dict_ema": {n: t * 0 for n, t in PLAIN.items()}}, tmp_path / "w.pth")
    assert same(load_weights(build(), tmp_path / "w.pth"), trained())
    assert "under 'state_dict' are read, not their average under 'state_dict_ema'" in caplog.text
    torch.save({n: t.double() / 3 if t.is_floating_point() else t for n, t in PLAIN.items()}, tmp_path / "w.pth")
    load_weights(build(), tmp_path / "w.pth")
    assert "rounded from float64 to float32" in caplog.text


def broken(case: str):
    """Return the content of a file that is rejected."""
    state, model = dict(PLAIN), trained()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case == "quantized":
            return state | {"5.weight": torch.quantize_per_tensor(state["5.weight"], 0.1, 0, torch.qint8)}
        if case == "quantized network":
            return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}).state_dict()
        if case == "spectral norm":
            return nn.Sequential(*model[:5], nn.utils.spectral_norm(model[5])).state_dict()
    if case == "parametrization":
        parametrizations.orthogonal(model[5])
        return model.state_dict()
    nan, inf = float("nan"), float("inf")
    return {
        "sparse": state | {"5.weight": state["5.weight"].to_sparse()},
        "meta": {name: tensor.to("meta") for name, tensor in state.items()},
        "integer keys": dict(enumerate(state.values())),
        "nan": state | {"5.weight": state["5.weight"] * nan},
        "infinite statistics": state | {"1.running_var": state["1.running_var"] * inf},
        "beyond float32": state | {"5.bias": torch.full((10,), 1e300, dtype=torch.float64)},
        "complex": state | {"5.bias": torch.zeros(10, dtype=torch.complex64)},
        "arrays": {name: tensor.numpy() for name, tensor in state.items()},
        "text": state | {"5.bias": "zeros"},
        "whole network": model,
        "whole network in a dictionary": {"model": model, "epoch": 3},
        "list": [1, 2],
        "empty": {},
        "no tensors": {"state_dict": {}},
        "two networks": under("student.") | under("teacher."),
        "a mask of other values": {n: t for n, t in state.items() if n != "5.bias"}
        | {"5.bias_orig": torch.ones(10), "5.bias_mask": torch.full((10,), 0.5)},
        "weight norm of another shape": {n: t for n, t in state.items() if n != "5.weight"}
        | {"5.weight_g": torch.ones(3, 1), "5.weight_v": torch.ones(10, 6)},
        "missing": {n: t for n, t in under("module.").items() if n != "module.5.bias"},
    }[case]


BROKEN = {
    "sparse": "5.weight is not a tensor with data but a sparse tensor",
    "meta": "0.weight is not a tensor with data but a tensor on the meta device",
    "quantized": "quantized tensors (QInt8Storage)",
    "quantized network": "quantized tensors (QInt8Storage)",
    "integer keys": "a tensor has the name '0', which is not text",
    "nan": "5.weight has values that are not finite",
    "infinite statistics": "1.running_var has values that are not finite",
    "beyond float32": "5.bias has values that are not finite",
    "complex": "type mismatch for '5.bias'",
    "arrays": "0.weight is not a tensor with data but a NumPy array",
    "text": "5.bias is not a tensor with data but a value of type str",
    "whole network": "torch.nn.modules.container.Sequential), which only its code could read; save the network's state dict",
    "whole network in a dictionary": "save the network's state dict: torch.save(model.state_dict(), FILE)",
    "list": "no state dict",
    "empty": "no state dict",
    "no tensors": "no state dict",
    "two networks": "contains the network 2 times, under 'student.', 'teacher.'",
    "spectral norm": "5.weight_orig is part of a weight",
    "parametrization": "5.parametrizations.weight.original is part of a weight",
    "a mask of other values": "the pruning mask of 5.bias",
    "weight norm of another shape": "the parts of 5.weight are not those of weight norm",
    "missing": "missing tensor '5.bias'",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BROKEN)
def test_unreadable_state_dict_is_rejected_by_name(tmp_path, case):
    path = tmp_path / "w.pth"
    torch.save(broken(case), path)
    with pytest.raises(UserError) as caught:
        load_weights(build(), path)
    message = str(caught.value)
    assert str(path) in message and BROKEN[case] in message and "\n" not in message


@pytest.mark.filterwarnings("ignore")
def test_torchscript_program_is_rejected_by_name(tmp_path):
    torch.jit.trace(trained(), torch.zeros(1, 3, 8, 8)).save(tmp_path / "w.pt")
    line = check_rejected(evaluate.main, ["--arch", "resnet20", "--weights", tmp_path / "w.pt", "--no-latency"])
    assert "it is a TorchScript program; save the network's state dict" in line


def test_sharded_safetensors_with_index_are_read(tmp_path):
    names = list(PLAIN)
    places = {}
    for i, part in enumerate((names[:3], names[3:])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({name: PLAIN[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1234}, "weight_map": places}))  # as transformers writes it
    assert same(load_weights(build(), index), trained())
    index.write_text(json.dumps({"weight_map": places | {names[0]: "../other.safetensors"}}))
    with pytest.raises(UserError, match="not a valid index"):
        load_weights(build(), index)
    index.write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a valid index"):
        load_weights(build(), index)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_tied_weights_are_read_once_and_must_agree(tmp_path):
    model = Tied()
    state = model.state_dict()
    save_file({name: tensor for name, tensor in state.items() if name != "b.weight"}, tmp_path / "w.safetensors")
    read = load_weights(Tied(), tmp_path / "w.safetensors")
    assert read.b.weight is read.a.weight and torch.equal(read.a.weight, model.a.weight)
    torch.save(state | {"b.weight": state["a.weight"] + 1}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="'a.weight' and 'b.weight' differ, but are one parameter"):
        load_weights(Tied(), tmp_path / "w.pth")


class Versioned(nn.Linear):
    """Layer whose first version stored twice the weight."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"] / 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_versions_of_modules_in_file_are_used(tmp_path):
    model, old = nn.Sequential(Versioned(2, 3)), nn.Sequential(Versioned(2, 3))
    old[0]._version = 1
    old[0].weight = nn.Parameter(2 * model[0].weight.detach())
    old[0].bias = model[0].bias
    for saved in (model, old):
        state = saved.state_dict()
        state = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
        state._metadata = collections.OrderedDict(
            (f"module.{n}".rstrip("."), v) for n, v in saved.state_dict()._metadata.items()
        )
        torch.save(state, tmp_path / "w.pth")
        assert read_state_dict(tmp_path / "w.pth").versions["module.0"] == saved[0]._version
        read = load_weights(nn.Sequential(Versioned(2, 3)), tmp_path / "w.pth")
        assert torch.equal(read[0].weight, model[0].weight)
    save_file(dict(model.state_dict()), tmp_path / "w.safetensors")  # without versions: the current one
    assert torch.equal(
        load_weights(nn.Sequential(Versioned(2, 3)), tmp_path / "w.safetensors")[0].weight, model[0].weight
    )


def test_given_tensors_are_not_modified(tmp_path):
    before = copy.deepcopy(PLAIN)
    torch.save(PLAIN, tmp_path / "w.pth")
    load_weights(build(), tmp_path / "w.pth")
    assert all(torch.equal(before[name], PLAIN[name]) for name in before)


class Gain(nn.Module):
    """A parametrization whose tensors look like those of weight norm."""

    def forward(self, gain, direction):
        return gain * direction.tanh()

    def right_inverse(self, weight):
        return torch.ones(len(weight), 1), weight


class Square(nn.Module):
    def forward(self, weight):
        return weight * weight


def test_parametrization_taken_for_weight_norm_is_reported(tmp_path, caplog):
    model = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 3))
    nn.utils.parametrize.register_parametrization(model[1], "weight", Gain(), unsafe=True)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    load_weights(nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 3)), tmp_path / "w.pth")
    assert "the file does not name the parametrization of 1.weight, which has the tensors of weight norm" in caplog.text


def test_parametrization_after_weight_norm_raises(tmp_path):
    model = nn.Sequential(nn.Linear(6, 10))
    parametrizations.weight_norm(model[0])
    nn.utils.parametrize.register_parametrization(model[0], "weight", Square())
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"0\.parametrizations\.weight\.original0 is part of a weight that only"):
        load_weights(nn.Sequential(nn.Linear(6, 10)), tmp_path / "w.pth")


def test_configuration_under_name_of_weights_is_passed_over(tmp_path):
    model = nn.Linear(6, 10)
    torch.save({"model": {"depth": 20}, "params": model.state_dict()}, tmp_path / "w.pth")
    assert torch.equal(load_weights(nn.Linear(6, 10), tmp_path / "w.pth").weight, model.weight)


def test_expanded_tensor_is_read(tmp_path):
    torch.save({"weight": torch.ones(1, 1).expand(10, 6), "bias": torch.arange(10.0)}, tmp_path / "w.pth")
    assert torch.equal(load_weights(nn.Linear(6, 10), tmp_path / "w.pth").weight, torch.ones(10, 6))


def test_index_of_a_precision_is_read_as_an_index(tmp_path):
    from safetensors.torch import save_file

    model = nn.Linear(6, 10)
    save_file({"weight": model.weight.detach().half()}, tmp_path / "a.safetensors")
    save_file({"bias": model.bias.detach().half()}, tmp_path / "b.safetensors")
    index = {"metadata": {}, "weight_map": {"weight": "a.safetensors", "bias": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    read = load_weights(nn.Linear(6, 10), tmp_path / "model.safetensors.index.fp16.json")
    assert torch.equal(read.weight, model.weight.detach().half().float())
