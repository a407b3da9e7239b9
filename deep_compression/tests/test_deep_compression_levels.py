"""Integers times a step are coded together, adaptively: exactly, in fewer bytes than their entropy, and safely."""

import json
import zlib

import numpy as np
import pytest
import torch
from test_deep_compression_damaged_files import mutants, signed

from deep_compression import container, load_compressed, save_compressed, size_report
from deep_compression.cursor import Cursor
from deep_compression.levels import GridTensor, decode_levels, encode_levels, find_grid

pytest.importorskip("constriction")


def laplace(shape, scale, seed=0):
    """Return rounded Laplace-distributed numbers; scale: a number, or an array that multiplies them."""
    return np.rint(np.random.default_rng(seed).laplace(size=shape) * scale).astype(np.int64)


def entropy_bytes(levels):
    _, counts = np.unique(levels, return_counts=True)
    return float((counts * np.log2(levels.size / counts)).sum()) / 8


def encoded(tensors):
    return b"".join(data for _, data in encode_levels(tensors))


def tensor_of(levels, step=0.25):
    return GridTensor(levels.shape, levels.reshape(-1), step)


CASES = {
    "kernels": [laplace((40, 20, 3, 3), 1.5)],
    "three of one shape": [laplace((16, 8, 3, 3), 1.0, seed) for seed in range(3)],
    "large magnitudes": [laplace((30, 50), 300.0), laplace((64,), 5000.0)],
    "mostly zero": [laplace((50, 100), 0.1)],
    "only zeros": [np.zeros((7, 9), np.int64)],
    "one element": [np.array([[-3]])],
    "no elements": [np.zeros((0, 4), np.int64)],
    "depthwise": [laplace((32, 1, 3, 3), 2.0)],
    "kernel that is not square": [laplace((8, 4, 1, 7), 2.0)],
    "rare outliers": [np.where(np.arange(900) % 300 == 5, 4000, 0).reshape(30, 30)],
    "largest": [np.array([[1 << 20, -(1 << 20)]])],
}


@pytest.mark.parametrize("case", CASES)
def test_levels_are_decoded_exactly(case):
    tensors = [tensor_of(levels) for levels in CASES[case]]
    found = decode_levels(Cursor(encoded(tensors)), [tensor.shape for tensor in tensors])
    for tensor, one in zip(tensors, found, strict=True):
        assert np.array_equal(one.levels, tensor.levels) and one.step == tensor.step


def test_independent_levels_take_their_entropy():
    for scale in (0.3, 1.0, 3.0, 40.0):
        levels = laplace((100, 60, 3, 3), scale)
        assert len(encoded([tensor_of(levels)])) < 1.02 * entropy_bytes(levels) + 60


def test_outputs_and_inputs_of_different_scales_take_less_than_their_entropy():
    rng = np.random.default_rng(1)
    outputs, inputs = (np.exp(0.7 * rng.standard_normal(shape)) for shape in ((64, 1, 1, 1), (1, 64, 1, 1)))
    levels = laplace((64, 64, 3, 3), 1.5 * outputs * inputs)
    ratio = len(encoded([tensor_of(levels)])) / entropy_bytes(levels)
    assert ratio < 0.96, ratio


def test_grid_is_found():
    levels = laplace((30, 40), 2.0)
    values = (levels * np.float32(0.0078125)).astype(np.float32).reshape(-1)
    found = find_grid(values, (30, 40))
    assert found is not None and found.step == 0.0078125 and np.array_equal(found.levels, levels.reshape(-1))
    for few in ([37, -12, 55, 0], [8383, -875, 1232, 1592]):
        shifts = np.array(few, np.float32) * np.float32(0.1015625)
        found = find_grid(shifts, (4,))
        assert found.step == np.float32(0.1015625) and found.levels.tolist() == few


@pytest.mark.parametrize(
    "values", [[0.5, -0.0], [1.0, np.nan], [1.0, np.inf], [1.0, 0.377], [1e-30, 1.0], [1e-45, 2e-45]], ids=str
)
def test_other_values_are_on_no_grid(values):
    assert find_grid(np.array(values, np.float32), (len(values),)) is None


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file with a block of levels, its tensors, its header, and its other blocks."""
    tensors = {
        "conv": torch.from_numpy(laplace((12, 8, 3, 3), 1.0) * 0.25).float(),
        "shift": torch.from_numpy(laplace((12,), 20.0) * 0.125).float(),
        "free": torch.randn(100, generator=torch.Generator().manual_seed(0)),
        "counter": torch.tensor(3),
    }
    path = tmp_path_factory.mktemp("good") / "good.dcz"
    report = save_compressed(path, tensors, coder="adaptive")
    assert [tensor.form for tensor in report.tensors] == ["levels", "levels", "raw", "raw"]
    opened = container.open_bytes(path.read_bytes())
    return path, tensors, opened


def test_file_with_levels_is_restored(good):
    path, tensors, _ = good
    assert path.read_bytes()[7] == 2  # the version
    found = load_compressed(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    report = size_report(path)
    assert sum(report.by_category.values()) == report.bytes == path.stat().st_size


def test_other_coders_write_the_first_version(good, tmp_path):
    save_compressed(tmp_path / "x.dcz", good[1])
    assert (tmp_path / "x.dcz").read_bytes()[7] == 1


def decode(data):
    return {entry.name: bits for entry, bits in container.unpack(container.open_bytes(bytes(data)))}


def test_damaged_files_raise(good):
    data = good[0].read_bytes()
    for bad in mutants(data, 2_000, seed=1):
        with pytest.raises(ValueError):
            decode(bad)


def test_damaged_levels_with_valid_checksums_raise_or_are_the_same(good):
    path, tensors, opened = good
    size = int.from_bytes(path.read_bytes()[8:12], "little")
    head = json.loads(zlib.decompress(path.read_bytes()[16 : 16 + size]))
    rejected = 0
    for bad in mutants(bytes(opened.levels), 1_000, seed=2):
        content = {**head, "levels": [len(bad), head["levels"][1]]}
        file = bytearray(signed(json.dumps(content).encode(), [bytes(opened.raw), bad]))
        file[7] = 2
        file[-16:] = container._digest(bytes(file[:-16]))
        try:
            found = decode(file)
        except ValueError:
            rejected += 1
        else:  # the checksum is that of the levels: only a step may differ
            for name in ("conv", "shift"):
                values, expected = found[name].view(np.float32), tensors[name].numpy().reshape(-1)
                ratios = values[expected != 0] / expected[expected != 0]
                assert not values[expected == 0].any() and np.allclose(ratios, ratios[0], rtol=1e-5), name
    assert rejected > 900


@pytest.mark.parametrize(
    "listed", [[5], [9, [0]], [9, [1, 0]], [9, [0, 0]], [9, [7]], [9, [3]], [9, []], "x", [9, [True]]]
)
def test_invalid_lists_of_levels_raise(good, listed):
    path, _, opened = good
    size = int.from_bytes(path.read_bytes()[8:12], "little")
    head = json.loads(zlib.decompress(path.read_bytes()[16 : 16 + size])) | {"levels": listed}
    file = bytearray(signed(json.dumps(head).encode(), [bytes(opened.raw), bytes(opened.levels)]))
    file[7] = 2
    file[-16:] = container._digest(bytes(file[:-16]))
    with pytest.raises(ValueError, match="damaged|levels"):
        decode(file)
