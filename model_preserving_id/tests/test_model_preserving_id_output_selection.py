"""Selection by the consumers' outputs: against brute force, against the measured error, and against ID."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.target import Target
from model_preserving_id import prune
from model_preserving_id.activations import gather_statistics
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.output_selection import eliminate, rank_by_outputs
from model_preserving_id.prune import prune_network
from model_preserving_id.settings import ChannelPruningOptions

SHAPE = (3, 8, 8)


def error_of(z: np.ndarray, weight: np.ndarray, kept: tuple[int, ...]) -> float:
    """Return ||Z W^T - Z_I M||^2 / rows with the best M."""
    target = z @ weight.T
    best = np.linalg.lstsq(z[:, kept], target, rcond=None)[0]
    return float(np.square(target - z[:, kept] @ best).sum() / len(z))


def test_errors_are_those_of_the_best_weights_and_first_removal_is_optimal() -> None:
    rng = np.random.default_rng(0)
    z, weight = rng.normal(size=(400, 7)) @ rng.normal(size=(7, 7)), rng.normal(size=(2, 7))
    order, error = eliminate([z.T @ z / len(z)], [weight], ridge=1e-6)
    dense = float(np.square(z @ weight.T).sum() / len(z))
    for width in range(1, 7):
        assert error[width] ** 2 * dense == pytest.approx(error_of(z, weight, tuple(order[:width])), rel=1e-3)
    best = min(itertools.combinations(range(7), 6), key=lambda kept: error_of(z, weight, kept))
    assert set(order[:6]) == set(best) and error[7] == 0 and error[0] == pytest.approx(1, abs=1e-4)


def test_errors_of_several_consumers_are_summed() -> None:
    rng = np.random.default_rng(1)
    zs, weights = rng.normal(size=(2, 300, 5)), rng.normal(size=(2, 3, 5))
    order, error = eliminate([z.T @ z / len(z) for z in zs], list(weights), ridge=1e-6)
    total = sum(np.square(z @ w.T).sum() / len(z) for z, w in zip(zs, weights, strict=True))
    kept = tuple(order[:3])
    expected = sum(error_of(z, w, kept) for z, w in zip(zs, weights, strict=True))
    assert error[3] ** 2 * total == pytest.approx(expected, rel=1e-3)


def test_channel_that_is_silent_on_the_images_costs_the_weights_that_read_it() -> None:
    rng = np.random.default_rng(2)
    z, weight = rng.normal(size=(400, 6)), rng.normal(size=(3, 6))
    z[:, 2], weight[:, 2] = 0.0, 10.0  # silent, but read with large weights
    weight[:, 4] = 0.01  # active, but hardly read
    gram = z.T @ z / len(z)
    without, _ = eliminate([gram], [weight], ridge=1e-6)
    order, _ = eliminate([gram], [weight])
    assert without[-1] == 2 and order[-1] == 4 and 2 in order[:3]


@pytest.mark.parametrize("sizes", [(10,), (4, 4, 2), (1,) * 10])
def test_sensitivity_is_measured_on_other_images_than_the_statistics(sizes, monkeypatch) -> None:
    used: dict[str, torch.Tensor] = {}
    gather, measure = prune.gather_statistics, prune.measure_sensitivity

    def gathered(model, inputs, batches, **more):
        used["statistics"] = torch.cat(list(batches))
        return gather(model, inputs, batches, **more)

    def measured(folded, rankings, statistics, images):
        used["images"] = torch.cat(list(images))
        used["held out from"] = used["statistics"]
        return measure(folded, rankings, statistics, images)

    monkeypatch.setattr(prune, "gather_statistics", gathered)
    monkeypatch.setattr(prune, "measure_sensitivity", measured)
    model, _ = blind_network()
    x = torch.randn(10, *SHAPE)
    prune_network(model, x[:1], x.split(sizes), target_macs=0.63, selection="outputs")
    assert torch.equal(used["images"], x[:3]) and torch.equal(used["held out from"], x[3:])
    prune_network(model, x[:1], x.split(sizes), target_macs=0.63, selection="id")
    assert torch.equal(used["images"], x) and torch.equal(used["held out from"], x)


def test_targets_share_the_sensitivities(tmp_path, monkeypatch) -> None:
    counts, measure = [], prune.measure_sensitivity
    monkeypatch.setattr(prune, "measure_sensitivity", lambda *args: counts.append(1) or measure(*args))
    model, x = blind_network()

    def kept(target: float, shared=None) -> tuple[dict, dict]:
        folded = FoldedNetwork(model, x[:1])
        prune.prune_one_shot(folded, [x], target=Target(target), selection="outputs", shared=shared)
        return folded.kept, folded.sensitivity

    expected = [kept(target) for target in (0.75, 0.63)]
    assert [kept(target, tmp_path / "shared.json") for target in (0.75, 0.63)] == expected and len(counts) == 3
    (tmp_path / "shared.json").write_text('{"measured": {}}')
    with pytest.raises(UserError, match=r"shared\.json: the file is damaged"):
        kept(0.63, tmp_path / "shared.json")


def test_default_selection_is_the_extended_methods() -> None:
    assert ChannelPruningOptions(method="budget").channel_selection == "outputs"
    assert {ChannelPruningOptions(method=m).channel_selection for m in ("iditer", "frac")} == {"id"}
    model, x = blind_network()
    by_default, by_outputs = (
        prune_network(model, x[:1], x, target_macs=0.63, **more) for more in ({}, {"selection": "outputs"})
    )
    by_id = prune_network(model, x[:1], x, target_macs=0.63, selection="id")
    same = [torch.equal(by_default[0].weight, other[0].weight) for other in (by_outputs, by_id)]
    assert same == [True, False]


def blind_network() -> tuple[nn.Sequential, torch.Tensor]:
    """A network whose layer 0 has 4 large channels that layer 2 ignores, and 4 small ones that it reads."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).eval()
    with torch.no_grad():
        model[0].weight[:4] *= 100
        model[2].weight[:, :4] = 0
    return model, torch.randn(40, *SHAPE)


def test_channels_that_no_layer_needs_go_first() -> None:
    model, x = blind_network()
    dense = model(x)
    changes = {}
    for selection in ("id", "outputs"):
        small = prune_network(model, x[:1], x, kept={"0": 4}, selection=selection, compensation="none")
        changes[selection] = float((small(x) - dense).square().mean() / dense.square().mean())
    assert changes["outputs"] < 1e-10 and changes["id"] > 0.01


def test_selection_of_linear_reader_uses_all_its_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        model[4].weight[:, 4:8] = 0  # the four positions of channel 1
    x = torch.randn(60, *SHAPE)
    folded = FoldedNetwork(model, x[:1])
    rankings, by_id = rank_by_outputs(folded, gather_statistics(folded.model, folded.consumer_inputs(), [x]))
    assert rankings["0"].order[-1] == 1 and rankings["0"].frobenius[5] < 1e-6 and by_id == []


def test_groups_that_grouped_convolutions_read_are_ranked_by_id_and_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1)
    ).eval()
    with pytest.warns(UserWarning, match=r"selected by ID, because of the layers that read them: 0"):
        prune_network(model, torch.randn(1, *SHAPE), torch.randn(20, *SHAPE), keep=0.5, selection="outputs")


def test_selection_is_rejected_where_it_has_no_effect() -> None:
    with pytest.raises(
        UserError, match="--selection outputs: channels are selected once, in one pass; add --method budget"
    ):
        ChannelPruningOptions(method="iditer", selection="outputs")
    differences = ChannelPruningOptions(method="budget", selection="outputs").differences
    assert "channels selected by the outputs of the layers that read them" in differences
    with pytest.raises(UserError, match="selection size: expected one of id, outputs"):
        prune_network(nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(4, 2), keep=0.5, selection="size")
