"""The file of Deep Compression's authors is read as they decode it."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.formats import load_network
from deep_compression import load_compressed, save_compressed
from deep_compression.authors_file import LAYERS, read_authors_file
from deep_compression.positions import encode_positions


def write_network(path, change=None):
    """Write random sparse weights in the authors' format, and return {layer: (weights as in Caffe, biases)}.

    change: modifies {layer: its gaps}.
    """
    rng, counts, blocks, expected = np.random.default_rng(0), [], [], {}
    for name, (out, into, kernel) in LAYERS.items():
        size = out * into * kernel * kernel
        places = np.flatnonzero(rng.random(size) < 0.1)
        gaps, entry = encode_positions(places, 4)
        book = rng.standard_normal(256).astype(np.float32)
        book[0] = 0
        codes = np.zeros(len(gaps), np.uint8)
        codes[entry] = rng.integers(1, 256, len(places))
        biases, weights = rng.standard_normal(out).astype(np.float32), np.zeros(size, np.float32)
        weights[places] = book[codes[entry]]
        expected[name] = weights.reshape(out, into, kernel, kernel), biases
        if change and name in change:
            gaps = change[name](gaps)
        packed = np.append(gaps, np.zeros(len(gaps) % 2, np.uint16)).reshape(-1, 2)
        counts.append(len(codes))
        blocks += [book.astype("<f4").tobytes(), biases.astype("<f4").tobytes(), codes.tobytes()]
        blocks.append((packed[:, 0] | packed[:, 1] << 4).astype(np.uint8).tobytes())
    path.write_bytes(np.array(counts, "<u4").tobytes() + b"".join(blocks))
    return expected


def test_weights_are_those_of_the_file_with_the_first_layer_in_rgb(tmp_path):
    expected = write_network(tmp_path / "s.net")
    found = load_network(tmp_path / "s.net").state_dict()
    assert len(found) == 2 * len(LAYERS) == 52
    for name, (weights, biases) in expected.items():
        in_order = weights[:, ::-1] if name == "features.0" else weights
        assert np.array_equal(found[f"{name}.weight"].numpy(), in_order), name
        assert np.array_equal(found[f"{name}.bias"].numpy(), biases), name


def test_last_convolution_is_padded_as_in_caffe(tmp_path):
    """The global average of 3 x 3 pixels includes the border, in which a class has relu(bias)."""
    expected = write_network(tmp_path / "s.net")
    model = load_network(tmp_path / "s.net")
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        maps = model.features(image)
        inside = model.classifier[2](
            torch.nn.functional.conv2d(maps, model.classifier[1].weight, model.classifier[1].bias)
        )
        _, _, height, width = inside.shape
        border = (height + 2) * (width + 2) - height * width
        biases = torch.from_numpy(expected["classifier.1"][1])
        average = (inside.sum((2, 3)) + border * biases.relu()) / ((height + 2) * (width + 2))
        assert torch.allclose(model(image), average, rtol=1e-4, atol=1e-4)


def test_dcz_file_of_the_network_is_bit_exact_and_smaller(tmp_path):
    write_network(tmp_path / "s.net")
    model = load_network(tmp_path / "s.net")
    report = save_compressed(tmp_path / "s.dcz", model)
    assert report.bytes < (tmp_path / "s.net").stat().st_size
    found = load_compressed(tmp_path / "s.dcz")
    assert all(torch.equal(found[name], tensor) for name, tensor in read_authors_file(tmp_path / "s.net").items())


def test_damaged_files_are_an_error(tmp_path):
    write_network(tmp_path / "s.net")
    data = (tmp_path / "s.net").read_bytes()
    for content in (b"", data[:50], data[:-1], data + b"\0", b"\xff" * 4 + data[4:]):
        (tmp_path / "bad.net").write_bytes(content)
        with pytest.raises(UserError, match="not SqueezeNet as Deep Compression's authors published it"):
            load_network(tmp_path / "bad.net")
    write_network(tmp_path / "far.net", {"classifier.1": lambda gaps: np.full_like(gaps, 15)})
    with pytest.raises(UserError, match=r"classifier.1 has a position outside its 512,000 weights"):
        load_network(tmp_path / "far.net")
    codebook = 4 * len(LAYERS)
    (tmp_path / "nan.net").write_bytes(data[:codebook] + b"\xff" * 1024 + data[codebook + 1024 :])
    with pytest.raises(UserError, match="a value is not finite"):
        load_network(tmp_path / "nan.net")
