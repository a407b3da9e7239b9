"""Tests on a GPU: results equal to those of the CPU, without synchronization. Run with `pytest -m cuda`."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import cuda_worker
import pytest
import torch
from torch import Tensor, nn

from common.batchnorm import recalibrate_batch_norm
from common.channels import channel_groups, keep_channels
from common.checkpoint import load_model, save_model, write_half
from common.data import MemoryImages, load_dataset
from common.device import exact_float32
from common.interruption import DEADLINE, Stopped
from common.measure import evaluate
from common.models import create_model
from common.runs import STATE
from common.testing import noise_images, random_network, torchrun
from common.testing.gradients import FLOAT32_ERROR, smooth_gradients
from common.testing.steps import forbid_synchronization, run_training_steps, step_and_batch
from common.training import Hooks, TrainOptions, fit, make_optimizer

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by deterministic matrix products
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)
NETWORKS = ["vgg16", "resnet56", "resnet110", "densenet40"]
OPTIONS = TrainOptions(epochs=3, batch_size=100, learning_rate=0.05, nesterov=True)
WORKER = Path(cuda_worker.__file__)


@pytest.fixture(scope="module")
def digits() -> MemoryImages:
    return load_dataset("digits").train


def flat(tensors) -> Tensor:
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors])


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the relative difference in the Euclidean norm."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("resnet20")


# ------------------------------------------------------------------------------------------------------- arithmetic


def test_device_report_is_printed(capsys):
    properties = torch.cuda.get_device_properties(DEVICE)
    report = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "mps": shutil.which("nvidia-cuda-mps-control"),
    }
    with capsys.disabled():
        print("\n" + json.dumps(report))
    assert float((torch.ones(8, device=DEVICE) * 2).sum()) == 16


@pytest.mark.parametrize(("flip", "padding", "channels_last"), [(True, 4, True), (False, 4, False), (False, 0, True)])
def test_batches_are_bit_identical_to_cpu_and_images_stay_on_device(flip, padding, channels_last):
    images = noise_images(101)
    images = MemoryImages(images.images, images.labels, padding=padding, flip=flip)
    options = {"augment": True, "shuffle": True, "seed": 1, "epoch": 2, "channels_last": channels_last}
    for here, there in zip(images.batches(33, **options), images.batches(33, device=DEVICE, **options), strict=True):
        assert there.images.is_cuda and there.labels.is_cuda and there.indices.is_cuda
        for name in ("images", "labels", "indices"):
            assert torch.equal(getattr(here, name), getattr(there, name).cpu())
    resident = images._on(DEVICE)[0]
    assert resident.is_cuda and images._on(DEVICE)[0] is resident


@pytest.mark.parametrize("arch", NETWORKS)
def test_logits_equal_cpu(arch):
    model, x = random_network(arch), torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        model, x = model.to(DEVICE, memory_format=torch.channels_last), x.to(DEVICE)
        with exact_float32():
            assert difference(model(x), expected) < 1e-4
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = model(x).float()
    assert torch.isfinite(found).all() and difference(found, expected) < 5e-2


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("arch", NETWORKS)
def test_training_learns_without_memory_growth(arch, digits):
    memory = []

    def after_epoch(epoch: int) -> dict[str, float]:
        # not memory_allocated: it counts blocks, and a cached block may be 1 MiB larger than the tensor that it serves
        memory.append(torch.cuda.memory_stats(DEVICE)["requested_bytes.all.current"])
        return {}

    hooks = Hooks(after_epoch=after_epoch)
    model = create_model(arch)
    rows = fit(model, digits, replace(OPTIONS, learning_rate=0.02), device=DEVICE, hooks=hooks)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert memory[2] <= memory[1]


@pytest.mark.parametrize("arch", NETWORKS)
def test_training_step_does_not_synchronize(arch):
    run_training_steps(create_model(arch), Hooks(), DEVICE)


@pytest.mark.parametrize("arch", list(FLOAT32_ERROR))
def test_gradients_equal_cpu(arch):
    """The activations are smooth: with ReLU, float32 changes the gradients of these networks by 0.1 to 1 % on any device."""
    found, expected = smooth_gradients(arch, DEVICE), smooth_gradients(arch, dtype=torch.float64)
    assert difference(found, expected) < FLOAT32_ERROR[arch]


def test_bfloat16_training_matches_float32(digits):
    losses = {}
    for amp in (False, True):
        rows = fit(small(), digits, replace(OPTIONS, amp=amp, learning_rate=0.02, epochs=2), device=DEVICE)
        losses[amp] = rows[-1]["train_loss"]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)


def test_float16_scaler_skips_infinite_step_and_resumes(digits, tmp_path, monkeypatch):
    for module in ("loop", "step"):
        monkeypatch.setattr(f"common.training.{module}.amp_dtype", lambda device: torch.float16)
    model = small()
    weights: list[Tensor] = []

    def infinite(gradient: Tensor) -> Tensor:
        weights.append(model.conv1.weight.detach().clone())
        return gradient * torch.inf if len(weights) == 3 else gradient

    model.conv1.weight.register_hook(infinite)
    digits, options = digits.subset(range(600)), replace(OPTIONS, amp=True, epochs=1)
    rows = fit(model, digits, options, device=DEVICE, folder=tmp_path)
    assert torch.equal(weights[2], weights[3]) and not torch.equal(weights[0], weights[-1])
    state = torch.load(tmp_path / STATE, map_location="cpu")["states"]["scaler"]
    assert 0 < state["scale"] < 2.0**16 and rows[0]["train_loss"] > 0
    again = fit(small(), digits, replace(options, epochs=2), device=DEVICE, folder=tmp_path)
    assert len(again) == 2 and again[0] == rows[0]


def interrupted(digits, folder, monkeypatch, options, device, resume_on) -> tuple[nn.Module, list]:
    with monkeypatch.context() as patched:
        patched.setenv(DEADLINE, "1")
        with pytest.raises(Stopped):
            fit(small(), digits, options, device=device, folder=folder, seed=3)
    model = small(1)
    return model, fit(model, digits, options, device=resume_on, folder=folder, seed=3)


@pytest.mark.parametrize("deterministic", [True, False])
def test_training_resumes_on_gpu(deterministic, digits, tmp_path, monkeypatch):
    options = replace(OPTIONS, deterministic=deterministic, learning_rate=0.02)
    few = digits.subset(range(600))
    uninterrupted = small()
    rows = fit(uninterrupted, few, options, device=DEVICE, seed=3)
    model, resumed = interrupted(few, tmp_path, monkeypatch, options, DEVICE, DEVICE)
    assert len(resumed) == 3 and resumed[-1]["train_loss"] == pytest.approx(rows[-1]["train_loss"], rel=0.1)
    if deterministic:
        assert torch.equal(flat(model.state_dict().values()), flat(uninterrupted.state_dict().values()))


def test_gpu_state_resumes_on_cpu(digits, tmp_path, monkeypatch):
    model, rows = interrupted(digits.subset(range(300)), tmp_path, monkeypatch, OPTIONS, DEVICE, torch.device("cpu"))
    assert len(rows) == 3 and all(p.device.type == "cpu" for p in model.parameters())


def test_fused_sgd_equals_plain_sgd():
    found = []
    for fused in (True, False):
        torch.manual_seed(0)
        parameter = nn.Linear(50, 40).to(DEVICE)
        optimizer = make_optimizer(parameter, OPTIONS, fused=fused)
        for step in range(20):
            torch.manual_seed(step)
            for p in parameter.parameters():
                p.grad = torch.randn(p.shape).to(DEVICE)
            optimizer.step()
        found.append(flat(parameter.parameters()))
    assert difference(*found) < 1e-6


def test_graph_training_matches_eager_steps(digits):
    """Two epochs of ten full batches and a short one, with a learning rate that falls at every step."""
    found = []
    for graph in ("auto", "off"):
        model = small()
        options = replace(OPTIONS, epochs=2, graph=graph, deterministic=True, learning_rate=0.01)
        rows = fit(model, digits.subset(range(1050)), options, device=DEVICE)
        found.append((flat(model.parameters()), rows[-1]["train_loss"]))
    assert difference(found[0][0], found[1][0]) < 1e-2
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-2)


# ------------------------------------------------------------------------------------------------------------- after training


@pytest.mark.parametrize("arch", ["vgg16", "resnet20"])
def test_pruning_on_gpu_equals_cpu(arch):
    """The comparison with the masked network passes although TF32 is allowed; the weights equal those pruned on the CPU."""
    kept = {g.name: list(range(0, g.size, 2)) for g in channel_groups(random_network(arch), torch.zeros(1, 3, 32, 32))}
    expected = keep_channels(random_network(arch), torch.zeros(1, 3, 32, 32), kept)
    found = keep_channels(random_network(arch).to(DEVICE), torch.zeros(1, 3, 32, 32, device=DEVICE), kept)
    for name, tensor in found.state_dict().items():
        assert tensor.device == DEVICE and torch.equal(tensor.cpu(), expected.state_dict()[name]), name


def test_batch_norm_recalibration_equals_cpu_without_synchronizing():
    inputs = [torch.randn(16, 3, 32, 32) for _ in range(4)]
    expected = recalibrate_batch_norm(random_network("resnet20"), inputs)
    model, there = random_network("resnet20").to(DEVICE), [batch.to(DEVICE) for batch in inputs]
    recalibrate_batch_norm(model, there, DEVICE)
    with forbid_synchronization():
        recalibrate_batch_norm(model, there, DEVICE)
    found = flat(buffer for name, buffer in model.named_buffers() if "running" in name)
    assert difference(found, flat(b for name, b in expected.named_buffers() if "running" in name)) < 1e-4


def test_one_process_under_torchrun_uses_nccl(tmp_path):
    torchrun(WORKER, "fit", DEVICE.type, tmp_path / "one.pt", processes=1)
    found = torch.load(tmp_path / "one.pt")
    assert found["backend"] == "nccl" and len(found["rows"]) == cuda_worker.OPTIONS.epochs


def test_two_processes_on_one_gpu_match_one_process(tmp_path):
    torchrun(WORKER, "fit", DEVICE.type, tmp_path / "two.pt", processes=2)
    found = torch.load(tmp_path / "two.pt")
    model, rows = cuda_worker.train(DEVICE)
    assert found["backend"] == ("gloo" if torch.cuda.device_count() < 2 else "nccl")
    assert found["rows"][-1]["train_loss"] == pytest.approx(rows[-1]["train_loss"], abs=1e-3)
    assert difference(flat(found["state"].values()), flat(model.state_dict().values())) < 1e-2


def test_two_processes_share_gpu(capsys):
    words = [sys.executable, str(WORKER), "count", DEVICE.type, "3"]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [child.communicate(timeout=100)[0].strip() for child in children]
    with capsys.disabled():
        print(f"\ntwo processes for 3 s: {outputs}")
    assert [child.returncode for child in children] == [0, 0] and all("loss" in line for line in outputs)


def test_evaluation_equals_cpu_and_synchronizes_once():
    model, images = random_network("resnet20"), noise_images(2000)
    expected = evaluate(model, images)
    model.to(DEVICE, memory_format=torch.channels_last)
    found = evaluate(model, images, device=DEVICE, reference=expected.predictions)
    assert found.agreement is not None and found.agreement >= 99.9
    assert abs(found.top1 - expected.top1) <= 0.1 and found.loss == pytest.approx(expected.loss, rel=1e-4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        evaluate(model, images, device=DEVICE, batch_size=500)
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "called a synchronizing" in str(warning.message)]
    assert len(waits) <= 1, waits


def test_checkpoint_does_not_depend_on_device_or_half_precision(digits, tmp_path):
    model = small()
    fit(model, digits, OPTIONS, device=DEVICE)
    save_model(tmp_path / "there.safetensors", model)
    accuracy = evaluate(model, digits, device=DEVICE)
    save_model(tmp_path / "here.safetensors", model.cpu())
    assert (tmp_path / "there.safetensors").read_bytes() == (tmp_path / "here.safetensors").read_bytes()
    (half,) = write_half(tmp_path / "here.safetensors", tmp_path / "half.safetensors")
    rounded = evaluate(load_model(half).to(DEVICE), digits, device=DEVICE)
    assert rounded.top1 == pytest.approx(accuracy.top1, abs=0.2)


def test_step_accumulates_loss_on_device():
    """The helper of all packages' tests accumulates loss and hits on the device."""
    step, batch = step_and_batch(small(), Hooks(), DEVICE, fused=True)
    for _ in range(5):
        step(batch, 0.01)
    assert float(step.loss_sum) > 0 and step.loss_sum.device == DEVICE
