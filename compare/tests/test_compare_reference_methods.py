"""Reference methods meet their targets and keep the documented channels; torch-pruning prunes option-A networks."""

import numpy as np
import pytest
import torch
from compare_helpers import bundle, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import squeezenet1_1

from common.channels import channel_groups, masked
from common.checkpoint import load_model
from common.cost import WidthCost, count_cost
from common.data import DataBundle, MemoryImages
from common.errors import UserError
from common.methods import Method
from common.models import PadShortcut, create_model
from common.runs import open_stage
from common.target import Target, uniform_widths
from common.testing import run_method
from common.trained_model import TrainedModel
from compare import torch_pruning
from compare.reference_methods import (
    L1_NORM,
    L1_NORM_INNER,
    L1_NORM_RESOLVED,
    RANDOM,
    RANDOM_INNER,
    RANDOM_RESOLVED,
    inner_groups,
    l1_scores,
    random_scores,
    resolve_weights,
)

METHODS = [L1_NORM, L1_NORM_INNER, L1_NORM_RESOLVED, RANDOM, RANDOM_INNER, RANDOM_RESOLVED]

X = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def resnet20():
    torch.manual_seed(0)
    return create_model("resnet20").eval()


def noise_data(count: int = 24) -> DataBundle:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    part = MemoryImages(images, torch.arange(count) % 10)
    return DataBundle("noise", part, part, [str(i) for i in range(10)], (3, 32, 32), "0" * 16)


def trained(model, data: DataBundle | None = None) -> TrainedModel:
    return TrainedModel("net", model.eval(), data or noise_data())


GROUPS = channel_groups(create_model("resnet20"), X)
COST = WidthCost(create_model("resnet20"), (3, 32, 32), GROUPS)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 1.0))
def test_uniform_widths_meet_any_target_and_differ_little(target):
    widths = uniform_widths(GROUPS, COST, Target(target))
    assert 0.98 * target <= COST.macs(widths) / COST.dense <= target
    fractions = [widths[g.name] / g.size for g in GROUPS]
    assert max(fractions) - min(fractions) <= 2.5 / 16  # one or two channels of the narrowest group


def test_unreachable_target_error_names_nearest():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 36, 4))
    groups = channel_groups(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="nearest keep 0.5000"):
        uniform_widths(groups, WidthCost(model, (3, 8, 8), groups), Target(0.7))


@pytest.mark.parametrize("method", [*METHODS, torch_pruning.TORCH_PRUNING], ids=lambda method: method.label)
def test_reference_method_meets_target_and_is_skipped_when_finished(tmp_path, resnet20, method: Method):
    metrics = run_method(method, trained(resnet20), 0.5, tmp_path)
    file = tmp_path / metrics["file"]
    fraction = count_cost(load_model(file), (3, 32, 32)).macs / count_cost(resnet20, (3, 32, 32)).macs
    assert 0.49 <= fraction <= 0.5 and method.axis == "macs" and method.paper is None and method.variant == "reference"
    written = file.stat().st_mtime_ns
    assert run_method(method, trained(resnet20), 0.5, tmp_path) == metrics and file.stat().st_mtime_ns == written


def test_l1_norm_keeps_largest_filters(tmp_path):
    torch.manual_seed(0)
    model = tiny()
    start = trained(model, bundle())
    scores = l1_scores(model, start.groups[0], torch.Generator()).numpy()
    assert scores == pytest.approx(np.abs(model[0].weight.detach().numpy()).sum((1, 2, 3)), rel=1e-5)
    kept = L1_NORM.decide(start, Target(0.5), open_stage(tmp_path, "test", {})).kept[start.groups[0].name]
    assert sorted(scores[kept].tolist()) == pytest.approx(sorted(scores.tolist())[-len(kept) :], rel=1e-5)


@pytest.fixture(autouse=True)
def few_gradients(monkeypatch):
    monkeypatch.setattr(torch_pruning, "GRADIENT_IMAGES", 4)


def test_random_depends_only_on_seed(tmp_path, resnet20):
    first, again, other = (
        RANDOM.decide(trained(resnet20), Target(0.5), open_stage(tmp_path, "test", {}, seed=seed)).kept
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_only_main_reference_methods_run_by_default_and_notes_state_rules():
    assert [method.label for method in METHODS if method.default] == ["L1 norm", "random"]
    assert all("including residual streams" in method.note for method in (L1_NORM, RANDOM, torch_pruning.TORCH_PRUNING))
    for method in METHODS:
        assert ("residual streams are not pruned" in method.note) != method.default
        assert ("re-solved by least squares" in method.note) == ("re-solved" in method.label)
    assert "uses labels" in torch_pruning.TORCH_PRUNING.note


@pytest.mark.parametrize(("one", "two"), [(L1_NORM_INNER, L1_NORM_RESOLVED), (RANDOM_INNER, RANDOM_RESOLVED)])
def test_reconstruction_changes_weights_and_no_channels(tmp_path, resnet20, one, two):
    """Residual streams, which have several producers, are not pruned."""
    start = trained(resnet20)
    inner, resolved = (m.decide(start, Target(0.5), open_stage(tmp_path, "test", {})) for m in (one, two))
    assert inner.kept == resolved.kept and inner.model is None
    assert set(inner.kept) == {group.name for group in start.groups if len(group.producers) == 1}
    before, after = resnet20.state_dict(), resolved.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith("conv2.weight") for name in changed), "only the layers that read pruned groups"


def test_network_without_inner_groups_is_pruned_in_its_streams(resnet20):
    streams = [group for group in trained(resnet20).groups if len(group.producers) > 1]
    assert streams and inner_groups(streams) == streams


def test_resolved_weights_reproduce_outputs_where_channels_are_redundant():
    """Every channel of the first layer occurs twice: half of them suffice, but only with other weights."""
    torch.manual_seed(0)
    model = tiny().eval()
    with torch.no_grad():
        model[0].weight[20:] = model[0].weight[:20]
    start = trained(model, bundle(train=64))
    (first, second) = start.groups
    kept = {first.name: list(range(20)), second.name: list(range(second.size))}
    x = start.data.train.subset(torch.arange(8)).batches(8)
    images = next(iter(x)).images
    wanted = model(images)
    masks = {first.name: (torch.arange(40) < 20).float()}
    with torch.no_grad(), masked(model, start.groups, masks):
        pruned = model(images)
    resolved = resolve_weights(start, kept, seed=0)
    with torch.no_grad(), masked(resolved, start.groups, masks):
        found = resolved(images)
    scale = wanted.std()
    assert (pruned - wanted).abs().max() > 0.1 * scale and (found - wanted).abs().max() < 0.01 * scale


def test_same_images_and_labels_unused_by_reconstruction(resnet20):
    """Other labels give the same weights, another seed other images."""
    data = noise_data(300)
    relabeled = MemoryImages(data.train.images, 9 - data.train.labels)
    other = DataBundle("noise", relabeled, relabeled, data.classes, (3, 32, 32), "0" * 16)
    kept = {"layer1.0.conv1": list(range(8))}
    one, two, three = (
        resolve_weights(trained(resnet20, used), kept, seed).get_submodule("layer1.0.conv2").weight
        for used, seed in ((data, 0), (other, 0), (data, 1))
    )
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_random_scores_do_not_depend_on_weights(resnet20):
    group = trained(resnet20).groups[0]
    generators = (torch.Generator().manual_seed(0) for _ in range(2))
    assert torch.equal(
        *(random_scores(model, group, next(generators)) for model in (resnet20, create_model("resnet20")))
    )


def two_groups() -> torch.nn.Module:
    """A wide layer whose channels have 0.3 % of the MACs each, and a layer of two channels that have 20 % each."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 100, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(16),
        torch.nn.Conv2d(100, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 10),
    )


def test_torch_pruning_never_returns_network_below_target(tmp_path, monkeypatch):
    """The first step removes a quarter of the MACs, more than twice any step before it: the network is not copied before it."""
    torch.manual_seed(0)
    model = two_groups()
    with torch.no_grad():
        model[3].weight[0] *= 1e-6  # the least important channel
        model[3].bias[0] = 0.0
    dense = count_cost(model, (3, 32, 32)).macs
    for target in (0.9, 0.8):
        stage = open_stage(tmp_path / str(target), "test", {})
        small = torch_pruning.decide(trained(model), Target(target), stage).model
        assert 0.98 * target <= count_cost(small, (3, 32, 32)).macs / dense <= target


def test_torch_pruning_rejects_target_that_no_network_meets(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10)
    )
    with pytest.raises(
        UserError, match=r"--target-macs 0.9: no network of torch-pruning keeps 0.882 to 0.9 of the MACs"
    ):
        torch_pruning.decide(trained(model), Target(0.9), open_stage(tmp_path, "test", {}))


def test_torch_pruning_keeps_group_that_overshoots_target(tmp_path):
    """Two narrow layers: one channel of the first has 8 % of the MACs, so only the last steps fit."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(12, 60, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(60, 10),
    )
    for target in (0.83, 0.62):
        dense = count_cost(model, (3, 32, 32)).macs
        small = torch_pruning.decide(trained(model), Target(target), open_stage(tmp_path, "test", {})).model
        assert 0.98 * target <= count_cost(small, (3, 32, 32)).macs / dense <= target


def test_torch_pruning_keeps_classes_of_network_that_pools_its_last_convolution(tmp_path):
    # The output of SqueezeNet is that of a pooling, not of a layer with weights.
    torch.manual_seed(0)
    model = squeezenet1_1(num_classes=10)
    small = torch_pruning.decide(trained(model), Target(0.9), open_stage(tmp_path, "test", {})).model
    assert small(X).shape == (1, 10)


def test_torch_pruning_prunes_residual_streams_with_option_a_shortcuts(tmp_path, resnet20):
    """The shortcuts' sources and widths follow the pruned residual streams."""
    small = torch_pruning.decide(trained(resnet20), Target(0.5), open_stage(tmp_path, "test", {})).model
    shortcuts = [(a, b) for a, b in zip(resnet20.modules(), small.modules(), strict=True) if isinstance(a, PadShortcut)]
    assert any(len(b.source) < len(a.source) for a, b in shortcuts)
    for name, module in small.named_modules():
        if isinstance(module, PadShortcut):
            stage = int(name[5])
            stream = getattr(small, f"layer{stage - 1}")[-1].bn2.num_features
            assert len(module.source) == getattr(small, f"layer{stage}")[0].bn2.num_features
            assert int(module.source.max()) < stream
    assert not any("forward" in vars(m) for m in resnet20.modules())
    assert small(torch.randn(2, 3, 32, 32)).isfinite().all()


class TwoHeads(torch.nn.Module):
    """Two heads on the features of :func:`tiny`; the second one only in training mode if ``auxiliary``."""

    def __init__(self, auxiliary: bool) -> None:
        super().__init__()
        self.features, self.auxiliary = tiny()[:-1], auxiliary
        self.first, self.second = torch.nn.Linear(50, 4), torch.nn.Linear(50, 4)

    def forward(self, x):
        y = self.features(x)
        return (self.first(y), self.second(y)) if self.training or not self.auxiliary else self.first(y)


@pytest.mark.parametrize("method", [L1_NORM, L1_NORM_RESOLVED, torch_pruning.TORCH_PRUNING], ids=lambda m: m.label)
def test_heads_of_network_with_two_outputs_keep_their_classes(method, tmp_path):
    torch.manual_seed(0)
    start = TrainedModel("net", TwoHeads(False).eval(), bundle(), factory=lambda: TwoHeads(False))
    metrics = run_method(method, start, 0.6, tmp_path / "run")
    model = load_model(tmp_path / "run" / metrics["file"], start.factory)
    assert [tuple(scores.shape) for scores in model(torch.zeros(2, 3, 8, 8))] == [(2, 4), (2, 4)]
    auxiliary = TrainedModel("net", TwoHeads(True).eval(), bundle(), factory=lambda: TwoHeads(True))
    if method is torch_pruning.TORCH_PRUNING:
        with pytest.raises(UserError, match="does not run in training mode"):
            run_method(method, auxiliary, 0.6, tmp_path / "auxiliary")
        return
    with pytest.warns(
        UserWarning, match="second: it does not run in eval mode"
    ):  # the layer that it reads is left alone
        metrics = run_method(method, auxiliary, 0.58, tmp_path / "auxiliary")
    model = load_model(tmp_path / "auxiliary" / metrics["file"], auxiliary.factory).train()
    assert [tuple(scores.shape) for scores in model(torch.zeros(2, 3, 8, 8))] == [(2, 4), (2, 4)]
