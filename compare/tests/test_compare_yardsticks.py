"""Yardsticks meet their budgets, keep what they say, and torch-pruning cuts option-A networks as its user would."""

import numpy as np
import pytest
import torch
from compare_helpers import bundle, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from common.channels import channel_groups
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost
from common.data import DataBundle, MemoryImages
from common.errors import UserError
from common.methods import Method, Task
from common.models import PadShortcut, create_model
from common.training import TrainOptions
from common.widths import uniform_widths
from compare import torch_pruning
from compare.yardsticks import L1_NORM, RANDOM, l1_scores

X = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def resnet20():
    torch.manual_seed(0)
    return create_model("resnet20").eval()


def pictures(count: int = 24) -> DataBundle:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    part = MemoryImages(images, torch.arange(count) % 10)
    return DataBundle("noise", part, part, [str(i) for i in range(10)], (3, 32, 32), "0" * 16)


def task(tmp_path, model, target, seed=0) -> Task:
    save_model(tmp_path / "dense.safetensors", model)
    return Task(tmp_path / "dense.safetensors", tmp_path / f"out{seed}", pictures(), target, TrainOptions(), seed=seed)


GROUPS = channel_groups(create_model("resnet20"), X)
COST = WidthCost(create_model("resnet20"), (3, 32, 32), GROUPS)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 1.0))
def test_equal_widths_meet_any_budget_and_stay_nearly_equal(target):
    widths = uniform_widths(GROUPS, COST, target)
    assert 0.98 * target <= COST.macs(widths) / COST.dense <= target
    shares = [widths[g.name] / g.size for g in GROUPS]
    assert max(shares) - min(shares) <= 2.5 / 16  # a channel or two of the narrowest group


def test_a_budget_that_no_width_meets_names_the_nearest():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 36, 4))
    groups = channel_groups(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="nearest keep 0.5000"):
        uniform_widths(groups, WidthCost(model, (3, 8, 8), groups), 0.7)


@pytest.mark.parametrize("method", [L1_NORM, RANDOM, torch_pruning.TORCH_PRUNING])
def test_a_yardstick_meets_its_budget_and_is_skipped_the_second_time(tmp_path, resnet20, method: Method):
    one = task(tmp_path, resnet20, 0.5)
    file = method.compress(one)
    share = count_cost(load_model(file), (3, 32, 32)).macs / count_cost(resnet20, (3, 32, 32)).macs
    assert 0.49 <= share <= 0.5 and method.axis == "macs" and method.paper is None
    written = file.stat().st_mtime_ns
    assert method.compress(one) == file and file.stat().st_mtime_ns == written


def test_l1_keeps_the_largest_filters(tmp_path):
    torch.manual_seed(0)
    model = tiny()
    groups = channel_groups(model, torch.zeros(1, 3, 8, 8))
    scores = l1_scores(model, groups[0], torch.Generator()).numpy()
    assert scores == pytest.approx(np.abs(model[0].weight.detach().numpy()).sum((1, 2, 3)), rel=1e-5)
    save_model(tmp_path / "dense.safetensors", model, arch=None)
    import compare.yardsticks as yardsticks

    loaded = yardsticks.load_network
    try:
        yardsticks.load_network = lambda path: model
        file = L1_NORM.compress(Task(tmp_path / "dense.safetensors", tmp_path / "out", bundle(), 0.5, TrainOptions()))
    finally:
        yardsticks.load_network = loaded
    kept = load_model(file, tiny)[0].weight.abs().flatten(1).sum(1)
    assert sorted(kept.tolist()) == pytest.approx(sorted(scores.tolist())[-len(kept) :], rel=1e-5)


@pytest.fixture(autouse=True)
def few_gradients(monkeypatch):
    monkeypatch.setattr(torch_pruning, "PICTURES", 4)


def test_random_depends_on_the_seed_alone(tmp_path, resnet20):
    first, again, other = (
        load_model(RANDOM.compress(t)).conv1.weight
        for t in (
            task(tmp_path / "a", resnet20, 0.5),
            task(tmp_path / "b", resnet20, 0.5),
            task(tmp_path / "c", resnet20, 0.5, seed=1),
        )
    )
    assert torch.equal(first, again) and not (first.shape == other.shape and torch.equal(first, other))


def test_torch_pruning_spares_a_group_that_goes_too_far(tmp_path, monkeypatch):
    """Two layers of few channels: one channel of the first is worth 8 % of the MACs, so only the last steps fit."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3), torch.nn.ReLU(), torch.nn.Conv2d(12, 60, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(60, 10),
    )  # fmt: skip
    monkeypatch.setattr(torch_pruning, "load_network", lambda path: model)
    for target in (0.83, 0.62):
        model = torch_pruning.copy.deepcopy(model)
        dense = count_cost(model, (3, 32, 32)).macs
        one = Task(tmp_path / "x", tmp_path / str(target), pictures(), target, TrainOptions())
        small = load_model(torch_pruning.compress(one), torch_pruning.copy.deepcopy(model).eval)
        assert 0.98 * target <= count_cost(small, (3, 32, 32)).macs / dense <= target


def test_torch_pruning_cuts_streams_with_option_a_shortcuts(tmp_path, resnet20):
    """Its network equals one whose removed channels are masked: shortcuts are re-pointed, not left behind."""
    small = load_model(torch_pruning.compress(task(tmp_path, resnet20, 0.5)))
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
