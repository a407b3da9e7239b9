"""The training loop: schedules, bit-identical resuming, one process equals two."""

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.data import MemoryImages, load_dataset
from common.errors import UserError
from common.models import create_model
from common.pipeline import FineTuning
from common.runs import STATE
from common.testing import check_resume_after_kill, torchrun
from common.testing.gradients import FLOAT32_ERROR, smooth_gradients
from common.training import Hooks, TrainOptions, fit, learning_rate, make_optimizer
from common.training.loop import memory_format

OPTIONS = TrainOptions(epochs=3, batch_size=100, learning_rate=0.05, nesterov=True, warmup_epochs=1)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.train.subset(torch.arange(300))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("lenet5", in_channels=3, image_size=32)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


@pytest.mark.parametrize(
    ("schedule", "more", "expected"),
    [
        ("constant", {}, {0: 1.0, 89: 1.0}),
        ("step", {"step_size": 30}, {0: 1.0, 29.9: 1.0, 30: 0.1, 60: 0.01, 89: 0.01}),
        ("multi-step", {"milestones": (10, 20)}, {9: 1.0, 10: 0.1, 20: 0.01}),
        ("linear", {}, {0: 1.0, 45: 0.5, 90: 0.0}),
        ("cosine", {}, {0: 1.0, 45: 0.5, 30: 0.75, 90: 0.0}),
    ],
)
def test_schedules_give_expected_learning_rates(schedule, more, expected):
    options = TrainOptions(epochs=90, learning_rate=1.0, schedule=schedule, **more)
    for epoch, rate in expected.items():
        assert learning_rate(options, epoch) == pytest.approx(rate, abs=1e-12)


def test_first_step_skipped_by_scaler_keeps_network_finite(monkeypatch):
    """Stand-in for float16 on a GPU, where the first steps overflow: torch allocates a fused optimizer's momentum uninitialized."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # with NaN
    found, images, labels = [], torch.randn(8, 3, 32, 32), torch.arange(8)
    before = parameters(small())
    torch.use_deterministic_algorithms(True)
    try:
        for fused in (True, False):
            model = small()
            optimizer, scaler = make_optimizer(model, OPTIONS, fused=fused), torch.amp.GradScaler("cpu")
            for step in range(4):
                optimizer.zero_grad()
                scaler.scale(F.cross_entropy(model(images), labels)).backward()
                if step in (0, 2):
                    model.conv1.weight.grad[0] = torch.inf
                scaler.step(optimizer)
                scaler.update()
                assert step > 0 or torch.equal(parameters(model), before)
            found.append(parameters(model))
            assert scaler.get_scale() == 2.0**14
    finally:
        torch.use_deterministic_algorithms(False)
    assert not torch.equal(found[0], before) and torch.allclose(*found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arch", list(FLOAT32_ERROR))
def test_bound_of_gradients_on_gpu_distinguishes_float32_from_tensorfloat32(arch, monkeypatch):
    expected = smooth_gradients(arch, dtype=torch.float64)

    def error() -> float:
        return float((smooth_gradients(arch) - expected).norm() / expected.norm())

    assert error() < FLOAT32_ERROR[arch] / 5
    convolution = F.conv2d

    def rounded(x: torch.Tensor) -> torch.Tensor:
        bits = x.detach().contiguous().view(torch.int32)
        return x + (((bits + 0x1000) & ~0x1FFF).view(torch.float32) - x.detach())

    monkeypatch.setattr(F, "conv2d", lambda x, weight, *more: convolution(rounded(x), rounded(weight), *more))
    assert error() > 3 * FLOAT32_ERROR[arch]


def test_warm_up_rises_before_schedule_falls():
    options = TrainOptions(epochs=10, learning_rate=1.0, warmup_epochs=2, schedule="linear")
    rates = [learning_rate(options, i / 10) for i in range(100)]
    assert (
        rates[0] < 0.01
        and rates[:20] == sorted(rates[:20])
        and rates[20] == 1.0
        and rates[20:] == sorted(rates[20:])[::-1]
    )


def test_fit_equals_plain_loop(few):
    """Each step is one of SGD on the mean cross-entropy of a batch of the data set."""
    options = TrainOptions(epochs=2, batch_size=100, learning_rate=0.05, schedule="constant", augment=False)
    fitted, plain = small(), small()
    fit(fitted, few, options, seed=3)
    plain.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(2):
        for batch in few.batches(100, shuffle=True, seed=3, epoch=epoch, channels_last=True):
            optimizer.zero_grad()
            F.cross_entropy(plain(batch.images), batch.labels).backward()
            optimizer.step()
    assert torch.allclose(parameters(fitted), parameters(plain), atol=1e-6)


def test_narrow_strided_1x1_convolutions_train_contiguous_on_cpu():
    """In channels-last, this crashes or never ends with AVX-512 (oneDNN issue 6035)."""
    torch.manual_seed(0)
    images = MemoryImages(torch.randint(256, (4, 3, 56, 56), dtype=torch.uint8), torch.arange(4))
    few = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 7, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    exact = copy.deepcopy(few).double()
    options = TrainOptions(epochs=1, batch_size=4, schedule="constant", augment=False)
    fit(few, images, options)
    optimizer = torch.optim.SGD(exact.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    (batch,) = images.batches(4, shuffle=True)
    F.cross_entropy(exact(batch.images.double()), batch.labels).backward()
    optimizer.step()
    assert torch.allclose(parameters(few), parameters(exact), atol=1e-6)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert memory_format(few, cpu) is torch.contiguous_format
    assert memory_format(few, cuda) is memory_format(nn.Conv2d(16, 7, 1, stride=2), cpu) is torch.channels_last


def test_fit_learns_digits(digits):
    rows = fit(small(), digits.train, TrainOptions(epochs=4, batch_size=64, learning_rate=0.02), test=digits.test)
    assert rows[-1]["test_top1"] > 90 and rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_result_is_bit_identical_for_same_seed_only(few):
    results = []
    for seed in (0, 0, 1):
        model = small()
        fit(model, few, OPTIONS, seed=seed)
        results.append(parameters(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_hooks_apply_masks_and_add_log_columns(few, tmp_path):
    model = small()
    mask = torch.rand_like(model.fc1.weight) < 0.5
    with torch.no_grad():
        model.fc1.weight.mul_(mask)
    zeros = lambda: model.fc1.weight.grad.mul_(mask)  # noqa: E731
    again = lambda: model.fc1.weight.data.mul_(mask)  # noqa: E731
    hooks = Hooks(after_backward=zeros, after_step=again, after_epoch=lambda epoch: {"kept": int(mask.sum())})
    rows = fit(model, few, OPTIONS, hooks=hooks, folder=tmp_path, tensorboard=tmp_path / "tb")
    assert (model.fc1.weight[~mask] == 0).all() and rows[0]["kept"] == int(mask.sum())
    assert (
        (tmp_path / "log.csv").read_text().splitlines()[0].startswith("epoch,learning_rate,train_loss,train_top1,kept")
    )
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4 and list((tmp_path / "tb").iterdir())


def test_missing_tensorboard_raises_before_training(few, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="the package tensorboard is not installed"):
        fit(model, few, TrainOptions(epochs=1), folder=tmp_path, tensorboard=tmp_path / "tb")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="tb: the package tensorboard is not installed"):
        FineTuning(TrainOptions(), tensorboard="tb")


def test_non_finite_loss_raises_user_error(few):
    with pytest.raises(UserError, match="learning-rate"):
        fit(small(), few, TrainOptions(epochs=3, batch_size=50, learning_rate=1e6, schedule="constant"))


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": math.nan}, {"momentum": 1.5}, {"schedule": "x"}, {"batch_size": 0}, {"epochs": -1}]
)
def test_options_out_of_range_raise(wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
        TrainOptions(**wrong)


def test_mixed_precision_on_cpu_learns(few):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 instructions")
    rows = fit(small(), few, TrainOptions(epochs=3, batch_size=50, learning_rate=0.02, amp=True))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def fit_with_dropout(words: list[str]) -> None:
    model = nn.Sequential(small(), nn.Dropout(0.5), nn.Linear(10, 10))
    fit(model, load_dataset("digits").train.subset(torch.arange(300)), OPTIONS, folder=words[-1], seed=5)
    torch.save(model.state_dict(), Path(words[-1]) / "done.pt")


def test_training_resumes_bit_identical_after_five_kills(tmp_path):
    """SIGKILL at seeded random times; the same call resumes. Dropout makes the result depend on the random state."""
    preload = ["common.training", "common.data", "sklearn.datasets"]

    def bits(folder: Path) -> list[tuple[str, bytes]]:
        state = torch.load(folder / "done.pt", weights_only=True)
        return [(name, tensor.numpy().tobytes()) for name, tensor in state.items()]

    check_resume_after_kill(fit_with_dropout, [], bits, tmp_path, kills=5, preload=preload, between=(0.2, 0.9), seed=7)


def test_damaged_state_raises(few, tmp_path):
    (tmp_path / STATE).write_bytes(b"truncated file")
    with pytest.raises(UserError, match="damaged"):
        fit(small(), few, OPTIONS, folder=tmp_path)


def test_two_gloo_processes_equal_one_process_with_split_batches(tmp_path):
    """Under torchrun; compared with the same two half-batches (with batch norm) or with full batches (without)."""
    worker = Path(__file__).with_name("gloo_worker.py")
    torchrun(worker, tmp_path)
    sys.path.insert(0, str(worker.parent))
    import gloo_worker

    one = gloo_worker.without_norm()
    fit(one, gloo_worker.training_images(), gloo_worker.OPTIONS, seed=1)
    two = torch.load(tmp_path / "without_norm.pt", weights_only=True)
    assert all(torch.allclose(two[name], tensor, atol=1e-6) for name, tensor in one.state_dict().items())
    one = gloo_worker.train_on_split_batches()
    two = torch.load(tmp_path / "with_norm.pt", weights_only=True)
    assert all(torch.allclose(two[name], p, atol=1e-5) for name, p in one.named_parameters())
