"""Fine-tuning and statistics on a simulated GPU, and the checkpoint that is written once."""

import pytest
import torch

from common.channels import channel_groups
from common.checkpoint import load_model, save_model
from common.models import create_model
from common.testing import write_image_folder
from common.testing.fake_cuda import DEVICE, assert_no_transfers, fake_cuda, step_transfers
from common.training import Hooks
from model_preserving_id import finetune
from model_preserving_id.activations import consumer_inputs, gather_statistics
from model_preserving_id.sensitivity import compute_outputs
from model_preserving_id.settings import train_main

WORDS = "--arch lenet5 --epochs 3 --batch-size 16 --lr 0.01 --seed 2 --workers 0 --device cpu --threads 1".split()


def test_distillation_step_does_not_wait():
    student, teacher = create_model("resnet20"), create_model("resnet20")
    with fake_cuda():
        teacher.to(DEVICE, memory_format=torch.channels_last)
        _, second = step_transfers(student, Hooks(loss=finetune.distillation_loss(teacher, 0.5, 2.0)))
        assert_no_transfers(second)


def test_fault_16_statistics_do_not_use_tf32(monkeypatch):
    model, example = create_model("lenet5", num_classes=2, in_channels=3, image_size=32), torch.zeros(1, 3, 32, 32)
    inputs, seen = consumer_inputs(channel_groups(model, example)), []
    before = torch.backends.cudnn.conv.fp32_precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.conv.fp32_precision))
    gather_statistics(model, inputs, [torch.randn(40, 3, 32, 32)])
    compute_outputs(model, [torch.randn(2, 3, 32, 32)])
    assert seen == ["ieee", "ieee"] and torch.backends.cudnn.conv.fp32_precision == before


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    root = write_image_folder(tmp_path_factory.mktemp("images"), train=24, test=8)
    torch.manual_seed(0)
    model = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    path = root / "dense.safetensors"
    save_model(path, model, normalize=([0.5] * 3, [0.3] * 3), dataset=f"folder:{root}", classes=["class0", "class1"])
    return path


def run(dense, folder, *more: str) -> int:
    words = [*WORDS, "--pretrained", str(dense), "--dataset", f"folder:{dense.parent}", "--log_dir", str(folder), *more]
    return train_main(words)


def test_fault_7_checkpoint_is_written_once(dense, tmp_path, monkeypatch):
    written, write = [], finetune._write_checkpoint
    monkeypatch.setattr(finetune, "_write_checkpoint", lambda *args: (written.append(args), write(*args)))
    assert run(dense, tmp_path / "run") == 0
    assert len(written) == 1 and torch.load(tmp_path / "run" / "checkpoint.pth.tar")["epoch"] == 3


def test_fault_7_interrupted_run_resumes_from_its_checkpoint(dense, tmp_path, monkeypatch):
    """Interrupted in the third epoch and resumed in another folder, training is bit-identical to an uninterrupted run."""
    assert run(dense, tmp_path / "uninterrupted") == 0
    log = finetune._print_accuracy

    def interrupt(time, accuracy) -> None:
        if time == "epoch 3/3":
            raise KeyboardInterrupt
        log(time, accuracy)

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "_print_accuracy", interrupt)
        try:
            status = run(dense, tmp_path / "stopped")
        except KeyboardInterrupt:
            status = 130
    assert status != 0 and not (tmp_path / "stopped" / "metrics.json").exists()
    file = tmp_path / "stopped" / "checkpoint.pth.tar"
    content = torch.load(file)
    assert content["epoch"] == 2 and content["arch"] == "lenet5" and content["state_dict"]
    assert run(dense, tmp_path / "resumed", "--resume", str(file)) == 0
    expected, found = (
        load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("uninterrupted", "resumed")
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)
