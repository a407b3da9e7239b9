"""Runtimes give the network's outputs and are timed in one measurement; exported files have no batch norm; ONNX files are data."""

import copy
import json
import subprocess
import sys
import time
from collections import Counter

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from common import latency, runtimes
from common.checkpoint import load_model, save_model
from common.checkpoint_header import METADATA
from common.cost import count_cost
from common.errors import UserError
from common.export import export_network
from common.fold import fold_batch_norm
from common.formats import load_network
from common.measure import measure_latency
from common.models import create_model
from common.runtimes import network_in
from common.runtimes.onnx_file import OnnxNetwork, parse_onnx, with_record
from common.runtimes.single_layer import COPIES, layer_bytes

SHAPE = (3, 8, 8)
IMAGES = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def with_statistics(model: nn.Module) -> nn.Module:
    """Set batch-norm statistics and weights that are not those of a new network."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                if tensor is not None:
                    tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    return model.eval()


class Mixed(nn.Module):
    """Batch norm after a convolution, after a linear layer, and after a sum, where it cannot be folded."""

    def __init__(self, foldable: bool = True, branch: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.first, self.last_norm, self.last = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 4)
        self.foldable, self.branch = foldable, branch

    def forward(self, x):
        if self.branch and x.sum() > 1e9:  # torch.fx cannot trace this
            return x
        x = self.norm(self.conv(x))
        x = x if self.foldable else self.plain(x + 1)
        return self.last(self.last_norm(self.first(x.relu().mean((2, 3)))))


def count_nodes(content: bytes) -> Counter:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


@pytest.mark.parametrize("build", [Mixed, lambda: create_model("resnet20"), lambda: create_model("mobilenet_v2")])
def test_exported_file_has_no_batch_norm_and_same_outputs(tmp_path, build):
    model = with_statistics(build())
    shape = SHAPE if isinstance(model, Mixed) else (3, 32, 32)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    export_network(model, images, tmp_path / "m.onnx", "onnx")
    assert count_nodes((tmp_path / "m.onnx").read_bytes())["BatchNormalization"] == 0
    found, expected = load_network(tmp_path / "m.onnx")(images), model(images).detach()
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_batch_norm_is_folded_only_where_outputs_stay(tmp_path):
    model = with_statistics(Mixed(foldable=False))
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    assert [type(part).__name__ for part in (folded.norm, folded.last_norm, folded.plain)] == [
        "Identity",
        "Identity",
        "BatchNorm2d",
    ]
    assert torch.allclose(folded(IMAGES), model(IMAGES), atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    untraceable = with_statistics(Mixed(branch=True))
    assert torch.equal(fold_batch_norm(untraceable)(IMAGES), untraceable(IMAGES))
    twice = nn.Sequential(conv := nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), conv)  # the second call has no batch norm
    assert isinstance(fold_batch_norm(with_statistics(twice))[1], nn.BatchNorm2d)


def test_networks_of_runtimes_have_same_outputs_for_all_batch_sizes():
    model = with_statistics(Mixed())
    network = network_in("onnxruntime", model, SHAPE)
    assert network_in("torch", model, SHAPE) is model and network_in("onnxruntime", network, SHAPE) is network
    assert network_in("torch", network, SHAPE) is None and network_in("compile", network, SHAPE) is None
    for images in (IMAGES, IMAGES[:1], IMAGES.contiguous(memory_format=torch.channels_last)):
        assert torch.allclose(network(images), model(images), atol=1e-5)
    assert torch.equal(copy.deepcopy(network)(IMAGES), network(IMAGES))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), (4, 9, 9)),
        (nn.Conv2d(6, 6, 3, groups=6, dilation=2), (6, 7, 8)),
        (nn.Linear(5, 3), (5,)),
        (nn.Linear(5, 3), (7, 5)),
        (nn.Linear(5, 3, bias=False), (7, 5)),
        (nn.Linear(1200, 1000), (1200,)),
    ],
)
def test_single_layers_compute_what_layers_with_their_weights_do(layer, shape):
    """Copies of a small layer have different weights; a large one has no copies. Of a map, the first position is read."""
    content, copies = layer_bytes(layer, (2, *shape))
    assert copies == (1 if layer.weight.numel() > 10**6 else COPIES)
    weights = {
        one.name: torch.tensor(numpy_helper.to_array(one)) for one in onnx.load_from_string(content).graph.initializer
    }
    images = torch.randn(2, *shape)
    found = parse_onnx(content, "the layer")(images)
    results = list(found.values()) if copies > 1 else [found]
    for number, result in enumerate(results):
        weight = weights[f"weight_{number}"]
        state = {"weight": weight if weight.shape == layer.weight.shape else weight.T}
        if layer.bias is not None:
            state["bias"] = weights[f"bias_{number}"]
        expected = torch.func.functional_call(layer, state, images)
        expected = expected[:, :, :1, :1] if isinstance(layer, nn.Conv2d) else expected
        assert torch.allclose(result, expected, atol=1e-4)
    assert copies == 1 or not torch.equal(results[0], results[1])


def test_session_has_the_threads_of_torch_which_do_not_spin():
    network, before = network_in("onnxruntime", Mixed().eval(), SHAPE), torch.get_num_threads()
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            network(IMAGES)
            options = network.session().get_session_options()
            assert options.intra_op_num_threads == threads and options.inter_op_num_threads == 1
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    finally:
        torch.set_num_threads(before)


def test_missing_package_names_extra(monkeypatch, capsys):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "openvino" else object())
    assert latency.main(["--arch", "lenet5", "--runtime", "torch", "openvino"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "package openvino is not installed" in line and "common[openvino]" in line


def test_latency_compares_within_each_runtime(tmp_path, capsys):
    small = with_statistics(create_model("lenet5"))
    save_model(tmp_path / "m.safetensors", small)
    export_network(small, torch.randn(3, 1, 28, 28), tmp_path / "m.onnx", "onnx")
    files = [str(tmp_path / name) for name in ("m.safetensors", "m.onnx")]
    words = ["--checkpoint", *files, "--dense", files[0], "--batch-size", "2", "--seconds", "0.2", "--device", "cpu"]
    out = tmp_path / "l.json"
    assert latency.main([*words, "--runtime", "torch", "onnxruntime", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in printed.splitlines() if line.startswith("| /")]
    assert rows == [[files[0], "torch"], [files[0], "onnxruntime"], [files[1], "onnxruntime"]]
    assert "in torch; " in printed and printed.rstrip().endswith("in onnxruntime")
    series = json.loads(out.read_text())["milliseconds"]["2"]
    assert len({len(times) for times in series.values()}) == 1 and "dense, onnxruntime" in series and "dense" in series
    assert latency.main([*words, "--runtime", "torch"]) == 2
    assert "m.onnx: an ONNX file; add --runtime onnxruntime" in capsys.readouterr().err


def test_ratio_is_that_to_the_dense_network_in_the_same_runtime():
    class Slow(nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, x):
            time.sleep(self.seconds)
            return x

    keys = {
        ("dense", "torch"): 0.008,
        ("small", "torch"): 0.004,
        ("dense", "compile"): 0.002,
        ("small", "compile"): 0.002,
    }
    models = {latency.series_name(*key): Slow(seconds) for key, seconds in keys.items()}
    measured = measure_latency(models, (1,), batch_sizes=(1,), seconds=0.5, reference="dense")
    first, second = latency.latency_gains(measured, {"dense": 100, "small": 50}, list(keys))
    assert first.runtime == "torch" and 0.4 < first.relative["ratio"] < 0.7 and first.dense_ms >= 8
    assert second.runtime == "compile" and 0.8 < second.relative["ratio"] < 1.25 and second.dense_ms < 8


def test_file_records_cost_and_data_and_is_read_back(tmp_path):
    model = with_statistics(create_model("resnet20"))
    save_model(tmp_path / "m.safetensors", model, normalize=([0.5] * 3, [0.2] * 3), classes=[*"abcdefghij"])
    loaded = load_model(tmp_path / "m.safetensors")
    export_network(loaded, torch.randn(2, 3, 32, 32), tmp_path / "m.onnx", "onnx")
    found = load_network(tmp_path / "m.onnx")
    cost = count_cost(model, (3, 32, 32))
    assert isinstance(found, OnnxNetwork) and not found.training and count_cost(found, (3, 32, 32)) == cost
    assert found.checkpoint_header["normalize"]["std"] == [0.2] * 3 and found.architecture["arch"] == "resnet20"
    with pytest.raises(UserError, match="exported already"):
        export_network(found, torch.randn(2, 3, 32, 32), tmp_path / "n.onnx", "onnx")


def test_file_of_others_runs_but_has_no_cost(tmp_path):
    export_network(Mixed().eval(), IMAGES, tmp_path / "m.onnx", "onnx")
    proto = onnx.load(str(tmp_path / "m.onnx"))
    del proto.metadata_props[:]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    network = load_network(tmp_path / "m.onnx")
    assert network(IMAGES).shape == (5, 4)
    with pytest.raises(UserError, match="does not record its MACs"):
        count_cost(network, SHAPE)


def damaged_files() -> dict[str, bytes]:
    network = network_in("onnxruntime", Mixed().eval(), SHAPE)
    content, record = network.content, network.record
    outside = onnx.load_from_string(content)
    tensor = outside.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    wrong = onnx.load_from_string(content)
    wrong.graph.initializer[0].raw_data += b"1234"
    text = onnx.load_from_string(content)
    text.metadata_props[0].value = "{" * 10_000
    assert text.metadata_props[0].key == METADATA
    return {
        "not an ONNX file": b"\x00garbage" * 20,
        "weights are in other files": outside.SerializeToString(),
        "does not load it": wrong.SerializeToString(),
        "metadata of this project are damaged": text.SerializeToString(),
        "damaged: wrong cost": with_record(content, {**record, "cost": {"macs": -1, "params": 1, "nonzero_params": 1}}),
        "unknown architecture": with_record(content, {**record, "architecture": {"arch": "os.system", "args": {}}}),
        "normalization is not": with_record(content, {**record, "normalize": {"mean": ["a"], "std": [1.0]}}),
        "truncated": content[: len(content) // 2],
    }


def test_damaged_file_is_one_error(tmp_path):
    for message, content in damaged_files().items():
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_network(tmp_path / "m.onnx")


def test_images_of_another_shape_are_an_error():
    with pytest.raises(RuntimeError, match="images"):
        network_in("onnxruntime", Mixed().eval(), SHAPE)(torch.zeros(1, 2, 8, 8))


def test_runtimes_are_listed_without_torch():
    code = "import sys, common.runtimes, common.latency; sys.exit(bool({'torch', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
