"""Evaluation: in inference mode and channels-last, in float32 unless mixed precision is requested."""

import json

import pytest
import torch
from torch import nn

from common import evaluate as command
from common.checkpoint import save_model
from common.measure import _batch_size, evaluate, output_change
from common.models import create_model
from common.testing import noise_images, random_network, write_image_folder

CPU = torch.device("cpu")


class Watched(nn.Module):
    """Notes how each forward pass runs: (inference mode, channels-last, type of the convolution's outputs, images)."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 10, 3), []

    def forward(self, x):
        out = self.conv(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((torch.is_inference_mode_enabled(), channels_last, out.dtype, len(x)))
        return out.mean((2, 3))


def test_network_runs_in_inference_mode_and_channels_last():
    model, images = Watched(), noise_images(300)
    evaluate(model, images)
    output_change(model, model, images)
    sizes = [250, 50, 250, 250, 50, 50]
    assert model.seen == [(True, True, torch.float32, size) for size in sizes]


def test_predictions_can_be_labels_of_training():
    """Tensors of inference mode cannot be saved for a backward pass."""
    model, images = Watched(), noise_images(8)
    found = evaluate(model, images)
    batch = next(images.with_labels(found.predictions).batches(8))
    nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
    assert model.conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("arch", ["resnet20", "vgg16"])
def test_loss_does_not_depend_on_batch_size(arch):
    model, images = random_network(arch), noise_images(12)
    found = [evaluate(model, images, batch_size=size) for size in (1, 5, 12)]
    assert all(abs(one.loss - found[0].loss) <= 1e-5 * found[0].loss for one in found)
    assert all(torch.equal(one.predictions, found[0].predictions) for one in found)


@pytest.mark.parametrize(("size", "expected"), [(28, 250), (32, 250), (64, 62), (224, 5), (2048, 1)])
def test_batches_have_as_many_pixels_as_250_small_images(size, expected):
    class Images:
        image_shape = (3, size, size)

    assert _batch_size(Images(), CPU) == expected


@pytest.mark.filterwarnings("ignore:--amp")
def test_mixed_precision_is_bfloat16_and_close_to_float32():
    model, images = Watched(), noise_images(40)
    exact, mixed = evaluate(model, images), evaluate(model, images, amp=True)
    assert [dtype for _, _, dtype, _ in model.seen] == [torch.float32, torch.bfloat16]
    assert 0 < abs(mixed.loss - exact.loss) < 0.01 * exact.loss
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of the caller, as in the search of meta-pruning
        evaluate(model, images)
    assert model.seen[-1][2] is torch.bfloat16


def test_mixed_precision_without_instructions_warns(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.warns(UserWarning, match="no bfloat16 instructions; evaluating"):
        evaluate(Watched(), noise_images(2), amp=True)


@pytest.mark.filterwarnings("ignore:--amp")
def test_command_records_mixed_precision(tmp_path, capsys):
    file = tmp_path / "net.safetensors"
    save_model(file, create_model("resnet20", num_classes=2))
    images = write_image_folder(tmp_path / "images", classes=2, train=1, test=4)
    found = {}
    for name, more in {"float32": [], "bfloat16": ["--amp"]}.items():
        place = tmp_path / f"{name}.json"
        argv = ["--checkpoint", str(file), "--dataset", f"folder:{images}", "--no-latency", "--json", str(place), *more]
        assert command.main(argv) == 0
        found[name] = json.loads(place.read_text())
        assert ("bfloat16" in capsys.readouterr().out) == bool(more)
    assert "precision" not in found["float32"] and found["bfloat16"]["precision"] == "bfloat16"
    assert found["float32"]["loss"] != found["bfloat16"]["loss"]
