"""The compressed file: properties 1, 9 and 12 of the paper, and the report of its size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.models import create_model
from deep_compression import compressed as cm
from deep_compression import kmeans_1d, load_compressed, load_compressed_model, save_compressed, size_report
from deep_compression.huffman import optimal_bits
from deep_compression.pruning import csr_size
from deep_compression.tensors import DTYPES, to_bits


def same(a, b):
    """Check that state dicts are bit-identical, including types, shapes and signs of zeros."""
    assert list(a) == list(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and tensor.shape == b[name].shape, name
        assert np.array_equal(to_bits(tensor), to_bits(b[name])), name


def pruned_and_shared(model, density=0.1, k=15):
    """Prune a network and cluster its weights, as the stages do."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            weight = parameter.data
            limit = weight.abs().flatten().quantile(1 - density)
            remaining = weight.abs() > limit
            weight[~remaining] = 0.0
            centroids, labels = kmeans_1d(weight[remaining], k)
            weight[remaining] = centroids[labels]
    return model


def round_trip(tmp_path, tensors, **options):
    path = tmp_path / "x.dcz"
    found = save_compressed(path, tensors, **options)
    assert found.bytes == path.stat().st_size == sum(found.by_category.values())
    assert size_report(path) == found
    same(dict(tensors), load_compressed(path))
    return found


def test_unusual_tensors_round_trip_bit_identically(tmp_path):
    g = torch.Generator().manual_seed(0)
    sparse = torch.randn(40, 30, generator=g)
    sparse[sparse.abs() < 1.2] = 0.0
    negative_zero = torch.zeros(100)
    negative_zero[::3] = -0.0
    drawn = torch.tensor([0.0, 0.0, 0.0, -0.0, 1.5, -2.0])[torch.randint(0, 6, (80, 70), generator=g)]
    tensors = {
        "zeros of both signs among few values": drawn,
        "empty": torch.zeros(0),
        "empty2": torch.zeros(3, 0, 5),
        "scalar": torch.tensor(3.5),
        "one": torch.tensor([7.0]),
        "zeros": torch.zeros(1000),
        "large zeros": torch.zeros(300, 500),
        "ones": torch.ones(500),
        "minus zero": negative_zero,
        "two values": torch.where(torch.rand(300, generator=g) < 0.5, 1.0, -1.0),
        "sparse": sparse,
        "not finite": torch.tensor([float("nan"), float("inf"), -float("inf")] * 50),
        "dense": torch.randn(64, 64, generator=g),
        "transposed": torch.randn(20, 30, generator=g).t(),
        "channels last": torch.randn(2, 3, 4, 5, generator=g).to(memory_format=torch.channels_last),
        "conv": sparse.reshape(10, 3, 8, 5),
        "counter": torch.tensor(12345, dtype=torch.int64),
        "far apart": torch.zeros(200_000).index_fill_(0, torch.tensor([5, 70_000, 199_999]), 2.0),
        "one in the middle": torch.zeros(99).index_fill_(0, torch.tensor([50]), -1.0),
        "names with ü and \n": torch.arange(5),
    }
    round_trip(tmp_path, tensors)
    for coder in ("fixed", "auto"):
        round_trip(tmp_path, tensors, coder=coder)
    for order in ("rows", "columns"):
        round_trip(tmp_path, tensors, order=order, index_bits=3)


@pytest.mark.parametrize("code", sorted(DTYPES))
def test_every_dtype_round_trips(tmp_path, code):
    dtype = DTYPES[code][0]
    values = torch.randint(0, 3, (50, 40), generator=torch.Generator().manual_seed(0))
    values[values == 2] = 0
    tensors = {"sparse": values.to(dtype), "few": values[0].to(dtype), "none": values[:0].to(dtype)}
    if dtype.is_floating_point:
        tensors["random"] = torch.randn(30, 30).to(dtype)
    found = round_trip(tmp_path, tensors)
    assert {t.name: t.form for t in found.tensors}["sparse"] in ("sparse", "dense")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 40), st.floats(0, 1), st.integers(1, 40), st.integers(0, 2**31), st.data())
def test_any_sparse_matrix_round_trips(rows, columns, density, distinct, seed, data):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=distinct).astype(np.float32)
    matrix = np.where(rng.random((rows, columns)) < density, rng.choice(values, (rows, columns)), 0).astype(np.float32)
    options = {
        "index_bits": data.draw(st.sampled_from([None, 1, 4, 16])),
        "order": data.draw(st.sampled_from(["auto", "rows", "columns"])),
        "coder": data.draw(st.sampled_from(["huffman", "fixed"])),
    }
    rows_ = [("w", "f4", (rows, columns), to_bits(torch.from_numpy(matrix)))]
    packed = cm.container.pack(rows_, {}, lambda name: cm.LayerSettings(**options))
    ((_, bits),) = cm.container.unpack(cm.container.open_bytes(packed))
    assert np.array_equal(bits, rows_[0][3])


def test_compressed_network_is_small_with_equal_outputs(tmp_path):
    model = pruned_and_shared(create_model("lenet300_100")).eval()
    path = tmp_path / "lenet.dcz"
    found = save_compressed(path, model, dataset="mnist", normalize=([0.1307], [0.3081]))
    assert found.dense_bytes / found.bytes > 25
    again = load_compressed_model(path)
    same(model.state_dict(), again.state_dict())
    images = torch.randn(5, 1, 28, 28)
    assert torch.equal(model(images), again(images))
    assert again.architecture == model.architecture and again.checkpoint_header["dataset"] == "mnist"
    assert again.checkpoint_header["normalize"] == {"mean": [0.1307], "std": [0.3081]}


def test_network_with_batch_norm_round_trips(tmp_path):
    model = pruned_and_shared(create_model("resnet20"), density=0.2).train()
    model(torch.randn(4, 3, 32, 32))  # running statistics and counters
    model.eval()
    save_compressed(tmp_path / "r.dcz", model)
    again = load_compressed_model(tmp_path / "r.dcz")
    same(model.state_dict(), again.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), again(images))


def test_channel_pruned_network_round_trips(tmp_path):
    model = create_model("lenet300_100")
    for layer, shape in ((model.fc1, (123, 784)), (model.fc2, (45, 123)), (model.fc3, (10, 45))):
        layer.weight, layer.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape[0]))
    save_compressed(tmp_path / "p.dcz", model)
    again = load_compressed_model(tmp_path / "p.dcz")
    same(model.state_dict(), again.state_dict())
    assert (again.fc1.in_features, again.fc1.out_features) == (784, 123)
    assert again(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_unregistered_network_requires_factory(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)).half()
    save_compressed(tmp_path / "s.dcz", model)
    with pytest.raises(ValueError, match="factory"):
        load_compressed_model(tmp_path / "s.dcz")

    def factory():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)).half()

    same(model.state_dict(), load_compressed_model(tmp_path / "s.dcz", factory).state_dict())
    with pytest.raises(ValueError):
        load_compressed_model(tmp_path / "s.dcz", lambda: nn.Linear(3, 4))


def test_file_names_only_registered_architectures(tmp_path):
    save_compressed(tmp_path / "a.dcz", {"w": torch.ones(3)}, arch="os.system", arch_args={"command": "true"})
    with pytest.raises(ValueError, match="registry"):
        load_compressed_model(tmp_path / "a.dcz")
    for args in ({"num_classes": 10**9}, {"num_classes": [1]}, {"nonsense": 3}):
        save_compressed(tmp_path / "a.dcz", {"w": torch.ones(3)}, arch="lenet5", arch_args=args)
        with pytest.raises(ValueError):
            load_compressed_model(tmp_path / "a.dcz")


def test_decoding_imports_no_training_code(tmp_path):
    model = pruned_and_shared(create_model("lenet300_100"))
    save_compressed(tmp_path / "m.dcz", model)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    program = (
        "import sys, torch, deep_compression as dc\n"
        f"a = dc.load_compressed({str(tmp_path / 'm.dcz')!r})\n"
        f"b = torch.load({str(tmp_path / 'm.pth')!r}, weights_only=True)\n"
        "assert list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in b)\n"
        "assert not {'common.training', 'deep_compression.stages'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_payloads_are_optimal_and_overhead_is_small(tmp_path):
    rng = np.random.default_rng(0)
    matrix = np.zeros((1000, 1500), np.float32)
    remaining = rng.random(matrix.shape) < 0.1
    matrix[remaining] = np.clip(np.round(rng.normal(size=int(remaining.sum())) * 8), -20, 20) / 8 + 0.01
    found = round_trip(tmp_path, {"w": torch.from_numpy(matrix)}, index_bits=5, order="rows")
    (layer,) = found.tensors
    overhead = sum(size for name, size in found.by_category.items() if not name.startswith("payload"))
    assert overhead <= 0.02 * found.bytes + 1024
    gaps = np.diff(np.flatnonzero(matrix), prepend=-1) - 1
    fillers = int((gaps >> 5).sum())
    assert layer.entries == int(remaining.sum()) + fillers
    stored = np.append(gaps & 31, np.full(fillers, 31))
    assert layer.gap_payload_bits == optimal_bits(np.bincount(stored))
    values = np.append(matrix[remaining], np.zeros(fillers, np.float32))
    assert layer.weight_payload_bits == optimal_bits(np.unique(values, return_counts=True)[1])


def test_file_is_smaller_than_xz(tmp_path):
    import lzma

    model = pruned_and_shared(create_model("lenet300_100"), density=0.08, k=31)
    raw = b"".join(t.numpy().tobytes() for t in model.state_dict().values())
    assert save_compressed(tmp_path / "x.dcz", model).bytes < len(lzma.compress(raw, preset=9))


def test_index_bits_by_layer_and_csr_size(tmp_path):
    model = pruned_and_shared(create_model("lenet300_100"))
    found = save_compressed(tmp_path / "x.dcz", model, index_bits={"fc1.weight": 4, "fc2.weight": 6}, order="rows")
    bits = {t.name: t.gap_bits for t in found.tensors}
    assert bits["fc1.weight"] == 4 and bits["fc2.weight"] == 6
    weight = model.fc2.weight.detach()
    assert csr_size(weight) == 2 * int((weight != 0).sum()) + 100 + 1


def test_unsupported_tensors_and_arguments_raise(tmp_path):
    path = tmp_path / "x.dcz"
    for tensors, options in (
        ({"w": torch.zeros(3, dtype=torch.complex128)}, {}),
        ({"w": torch.zeros(3).to_sparse()}, {}),
        ({"w": [1, 2]}, {}),
        ({"w": torch.zeros(3)}, {"order": "diagonal"}),
        ({"w": torch.zeros(3)}, {"index_bits": 17}),
        ({"w": torch.zeros(3)}, {"index_bits": {"v": 3}}),
        ({"w": torch.randn(100).round()}, {"coder": "zip"}),
        ({"w": torch.zeros(70_000, 1000)}, {}),
    ):
        with pytest.raises(ValueError):
            save_compressed(path, tensors, **options)
        assert not path.exists() and not list(tmp_path.iterdir())


def test_limit_allows_large_expansion(tmp_path):
    tensors = {"w": torch.zeros(70_000, 1000)}
    save_compressed(tmp_path / "x.dcz", tensors, limit=1 << 30)
    with pytest.raises(ValueError, match="allowed"):
        load_compressed(tmp_path / "x.dcz")
    assert load_compressed(tmp_path / "x.dcz", limit=1 << 30)["w"].shape == (70_000, 1000)


def test_missing_files_and_folders_raise(tmp_path):
    for path in (tmp_path / "none.dcz", tmp_path):
        with pytest.raises(OSError):
            load_compressed(path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        save_compressed(blocked / "x.dcz", {"w": torch.zeros(3)})


def test_failed_write_keeps_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.dcz"
    save_compressed(path, {"w": torch.ones(10)})
    before = path.read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError):
        save_compressed(path, {"w": torch.zeros(10)})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.dcz"]


def test_header_is_small_and_readable(tmp_path):
    model = create_model("resnet20")
    found = save_compressed(tmp_path / "r.dcz", model)
    assert found.by_category["header"] < 2500
    assert found.about == {"arch": "resnet20", "args": {"num_classes": 10}}
    assert json.dumps(found.about)


@pytest.mark.parametrize("density", [0.3, 0.66, 0.9])
def test_given_index_bits_store_positions_of_shared_weights(density, tmp_path):
    """With index bits, shared weights have codebook and positions, as in the paper, even where another form is smaller."""
    random = np.random.default_rng(0)
    weight = np.zeros(500, np.float32)
    chosen = random.permutation(500)[: int(500 * density)]
    weight[chosen] = random.normal(size=255).astype(np.float32)[
        np.arange(len(chosen)) % (120 if density < 0.5 else 255)
    ]
    found = round_trip(tmp_path, {"w": torch.from_numpy(weight.reshape(20, 25))}, index_bits=5, order="rows").tensors[0]
    assert (found.form, found.gap_bits, found.weight_bits) == ("sparse", 5, 7 if density < 0.5 else 8)
