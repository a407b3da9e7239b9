"""The rate-distortion quantizer: less damage than rounding for the same bits, and files that hold exactly what it decided."""

import runpy

import numpy as np
import pytest
import torch
from torch import nn

from common import compress_command
from common.checkpoint import save_model
from common.errors import UserError
from common.fold import simplify_batch_norm
from common.models import create_model
from common.target import Target
from deep_compression import load_compressed, load_compressed_model, save_compressed
from deep_compression.rate_distortion import quantize_network
from deep_compression.rate_distortion.importance import measure_importance
from deep_compression.rate_distortion.layer_quantizer import code_lengths, quantize_layer
from deep_compression.rate_distortion.method import FIRST_PRICE, find_price
from deep_compression.rate_distortion.patches import input_rows
from deep_compression.rate_distortion.quantize import find_importance

pytest.importorskip("constriction")


def randomize_batch_norm(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                tensor.data.uniform_(low, low + 1)
    return model


INDEPENDENT = np.eye(30)[None]


@pytest.fixture(scope="module")
def layer():
    """Weights (1, rows, columns), second moments of correlated inputs, and equal importance of independent outputs."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4000, 6)) @ rng.standard_normal((6, 40)) + 0.3 * rng.standard_normal((4000, 40))
    return rng.standard_normal((1, 30, 40)), (inputs.T @ inputs / 4000)[None], INDEPENDENT


def damage(difference, moments, importance=INDEPENDENT):
    return float(np.einsum("gqr,grc,gcd,gqd->", importance, difference, moments, difference)) / 2


def bits_of(levels):
    _, counts = np.unique(levels, return_counts=True)
    return float((counts * np.log2(levels.size / counts)).sum())


def test_compensation_reduces_damage_of_rounding(layer):
    weights, moments, importance = layer
    levels = quantize_layer(weights, moments, importance, 0.5, price=0.0)
    rounded = np.rint(weights / 0.5)
    assert damage(0.5 * levels - weights, moments) < 0.35 * damage(0.5 * rounded - weights, moments)


def test_compensation_between_outputs_reduces_damage(layer):
    """As many bits, less damage than with the diagonal of the outputs' importance only."""
    weights, moments, _ = layer
    rows = np.random.default_rng(1).standard_normal((500, 5)) @ np.random.default_rng(2).standard_normal((5, 30))
    importance = (rows.T @ rows / 500 + np.eye(30))[None]
    found = [
        quantize_layer(weights, moments, matrix, 0.5, price=0.05) for matrix in (importance, importance * INDEPENDENT)
    ]
    both, alone = (damage(0.5 * levels - weights, moments, importance) for levels in found)
    assert both < 0.75 * alone and bits_of(found[0]) < 1.03 * bits_of(found[1]), (both, alone)


def test_price_trades_damage_for_bits(layer):
    weights, moments, importance = layer
    found = [quantize_layer(weights, moments, importance, 0.5, price) for price in (0.0, 0.01, 0.1, 1.0)]
    bits = [bits_of(levels) for levels in found]
    damages = [damage(0.5 * levels - weights, moments) for levels in found]
    assert bits == sorted(bits, reverse=True) and bits[-1] < 0.5 * bits[0]
    assert damages == sorted(damages)
    # The sum that is minimized is smaller than that of the same step without a price.
    assert damages[2] + 0.1 * bits[2] < damages[0] + 0.1 * bits[0]


def test_important_outputs_get_more_bits(layer):
    weights, moments, _ = layer
    importance = np.diag(np.where(np.arange(30) < 15, 10.0, 0.1))[None]
    levels = quantize_layer(weights, moments, importance, 0.5, price=0.1)
    assert (levels[:, :15] != 0).mean() > 2 * (levels[:, 15:] != 0).mean()


def test_convolution_groups_are_quantized_as_alone(layer):
    weights, moments, importance = layer
    both = np.concatenate([weights, weights[:, ::-1]]), np.concatenate([moments, 2 * moments]), importance.repeat(2, 0)
    assert np.array_equal(quantize_layer(*both, 0.5, 0.0)[0], quantize_layer(weights, moments, importance, 0.5, 0.0)[0])


def test_code_lengths_are_those_of_the_frequencies():
    levels = np.array([0] * 600 + [1] * 200 + [-1] * 200, np.int32)
    bits = code_lengths(levels, 3)
    assert bits[3] == pytest.approx(-np.log2(0.6), abs=0.01) and bits[2] == pytest.approx(-np.log2(0.2), abs=0.01)


def test_importance_of_scores_is_the_covariance_of_their_labels():
    """Of a linear layer, d log p(y) / d z_i = [y = i] - p_i; a third of its covariance, and two thirds of its mean diagonal."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4))
    images = torch.randn(20_000, 5)
    found = measure_importance(model, {"0": model[0]}, images)["0"][0]
    with torch.no_grad():
        shares = model(images).softmax(1).double()
    expected = shares.mean(0).diag() - shares.T @ shares / len(shares)
    expected = expected / 3 + 2 / 3 * expected.diagonal().mean() * torch.eye(4)
    assert torch.allclose(found, expected, rtol=0.03, atol=0.001)


def test_importance_is_that_of_outputs_before_operations_in_place():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace), nn.Linear(8, 3))
        found.append(measure_importance(model, {"0": model[0]}, torch.randn(50, 5))["0"])
    assert torch.equal(*found)


def test_layers_on_tokens_are_quantized():
    """The channels of a linear layer are the last axis of (N, tokens, channels)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 6), nn.Flatten(), nn.Linear(30, 4)).eval()
    inputs = torch.randn(200, 5, 8)
    quantized, grids = quantize_network(model, inputs, 1e-8)
    assert len(grids) == 6
    with torch.no_grad():
        expected = model(inputs)
        assert (quantized(inputs) - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "padding": 2}, {"dilation": 2}], ids=str
)
def test_rows_are_what_the_convolution_reads(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, bias=False, **options)
    inputs = torch.randn(2, 4, 9, 7)
    outputs = conv(inputs).flatten(2)
    positions = torch.randperm(outputs.shape[2])[:5]
    rows = input_rows(conv, inputs, positions)
    weights = conv.weight.reshape(conv.groups, -1, conv.weight[0].numel())
    found = (rows @ weights.mT).reshape(conv.groups, 2, 5, -1).permute(1, 0, 3, 2).reshape(2, 6, 5)
    assert torch.allclose(found, outputs[:, :, positions], atol=1e-5)


def test_simplified_batch_norm_has_the_same_outputs():
    model = randomize_batch_norm(create_model("resnet20")).eval()
    simple, images = simplify_batch_norm(model), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(simple(images), model(images), rtol=1e-4, atol=1e-5)
    state = simple.state_dict()
    norms = [name.removesuffix(".running_var") for name in state if name.endswith("running_var")]
    assert len(norms) == 19
    for name in norms:
        assert bool((state[f"{name}.weight"] == 1).all()) and not state[f"{name}.running_mean"].any()


@pytest.fixture(scope="module")
def network():
    """A network with batch norms of different scales, and structured images."""
    torch.manual_seed(0)
    model = randomize_batch_norm(create_model("resnet20")).eval()
    images = nn.functional.interpolate(torch.randn(60, 3, 8, 8), size=32, mode="bilinear")
    importance = find_importance(model, images)
    return (
        model,
        images,
        {name: torch.eye(one.shape[1], dtype=one.dtype).expand(one.shape) for name, one in importance.items()},
    )  # its own are tiny: it is not trained


@pytest.fixture(scope="module")
def result(network):
    """What the quantizer returns for the network, and the state that the network had before."""
    model, images, importance = network
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return *quantize_network(model, images, 1e-3, importance=importance), before


def test_network_is_closer_than_with_rounded_weights(network, result):
    (model, images, _), (quantized, grids, _) = network, result
    rounded, simple = simplify_batch_norm(model), simplify_batch_norm(model)
    for name, grid in grids.items():
        if name.endswith("conv1.weight") or name.endswith("conv2.weight"):
            weight = rounded.get_parameter(name)
            weight.data = (weight / grid.step).round() * grid.step
    with torch.no_grad():
        expected = simple(images)
        error, of_rounding = ((one(images) - expected).norm() / expected.norm() for one in (quantized, rounded))
    assert error < 0.6 * of_rounding, (error, of_rounding)


def test_file_holds_the_quantized_network(network, result, tmp_path):
    images, (quantized, grids, _) = network[1], result
    report = save_compressed(tmp_path / "m.dcz", quantized, coder="adaptive")
    assert report.bytes < 0.95 * save_compressed(tmp_path / "h.dcz", quantized).bytes
    found = load_compressed(tmp_path / "m.dcz")
    assert all(torch.equal(found[name], tensor) for name, tensor in quantized.state_dict().items())
    forms = {tensor.name: tensor.form for tensor in report.tensors}
    assert len(grids) == 2 * 20 and all(forms[name] == "levels" for name in grids)
    with torch.no_grad():
        assert torch.equal(load_compressed_model(tmp_path / "m.dcz")(images), quantized(images))


def test_given_network_is_not_changed(network, result):
    assert all(torch.equal(result[2][name], tensor) for name, tensor in network[0].state_dict().items())


def test_network_without_layers_is_an_error():
    with pytest.raises(UserError, match="no layer can be quantized"):
        quantize_network(nn.Sequential(nn.Flatten()), torch.randn(4, 3), 1e-6)


@pytest.mark.parametrize("price", [0.0, -1e-6, float("nan"), float("inf")])
def test_invalid_price_is_an_error(price):
    with pytest.raises(UserError, match="price .*: expected a positive number"):
        quantize_network(nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3), price)


@pytest.mark.parametrize("fraction", [0.02, 0.06, 0.3])
def test_price_is_found_in_few_steps(fraction):
    """For sizes with a floor and a slope that changes, as files have."""
    tried = []

    def size(price):
        tried.append(price)
        return 0.01 + 0.5 / (1 + (price / 1e-10) ** 0.55)

    price = find_price(size, Target(fraction, "bytes"))
    assert price is not None and Target(fraction, "bytes").is_met_by(size(price)) and len(tried) <= 8
    assert tried[0] == FIRST_PRICE
    assert find_price(lambda price: 0.5, Target(fraction, "bytes")) is None


NETWORK = """
from torch import nn

def build(num_classes=10):
    return nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, num_classes))
"""


def test_command_meets_the_target(tmp_path, capsys):
    (tmp_path / "tiny.py").write_text(NETWORK)
    torch.manual_seed(0)
    model = runpy.run_path(str(tmp_path / "tiny.py"))["build"]()
    save_model(tmp_path / "m.safetensors", model, dataset="digits")
    words = ["--checkpoint", tmp_path / "m.safetensors", "--model", f"{tmp_path / 'tiny.py'}:build"]
    words += ["--dataset", "digits", "--target-bytes", 0.1, "--threads", 1, "--calibration-images", 32]
    words += ["--method", "deep_compression_rate_distortion", "--out", tmp_path / "out", "--no-latency"]
    assert compress_command.main([str(word) for word in words]) == 0, capsys.readouterr().err
    size = (tmp_path / "out" / "model.dcz").stat().st_size
    assert 0.09 <= size / (tmp_path / "m.safetensors").stat().st_size <= 0.1
