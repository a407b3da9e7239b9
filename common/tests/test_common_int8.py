"""int8: a file of integers that ONNX Runtime runs alone, chosen on training images, with scales per output channel."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from common import int8
from common.cost import count_cost
from common.data import DataBundle, MemoryImages
from common.errors import UserError
from common.formats import load_network
from common.int8 import quantize
from common.runs import open_stage
from common.trained_model import TrainedModel, read_trained_model

ALONE = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[2], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[3])})[0])
ours = [name for name in sys.modules if name.split(".")[0] in ("common", "compare", "torch", "onnx")]
assert not ours, ours
"""


def network() -> nn.Module:
    """A network whose output channels have weights of very different sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    scales = torch.logspace(-2, 1, 16)  # of the channels, also after folding
    model[0].weight.data *= scales.view(-1, 1, 1, 1)
    model[1].running_var.copy_(scales**2)
    model[1].weight.data *= scales
    return model.eval()


def images(count: int, seed: int) -> MemoryImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(count) % 4, flip=False, padding=1)


def start() -> TrainedModel:
    bundle = DataBundle("noise", images(60, 0), images(40, 1), [*"abcd"], (3, 8, 8), "0123456789abcdef")
    return TrainedModel("toy", network(), bundle, calibration_images=30)


def written(folder: Path, trained: TrainedModel) -> tuple[Path, dict]:
    stage = open_stage(folder / "run", "test", {}, fingerprint="", log=lambda line: None)
    decision = int8.decide(trained, None, stage)
    int8.save(folder / "model.onnx", decision.model, trained)
    return folder / "model.onnx", dict(decision.report)


def test_file_runs_with_nothing_of_ours(tmp_path):
    trained = start()
    file, _ = written(tmp_path, trained)
    batch = next(iter(trained.data.test.batches(40))).images
    np.save(tmp_path / "in.npy", batch.numpy())
    places = [str(tmp_path / name) for name in ("model.onnx", "out.npy", "in.npy")]
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, here = torch.from_numpy(np.load(tmp_path / "out.npy")), load_network(file)(batch)
    dense = trained.model(batch).detach()
    assert torch.allclose(alone, here, atol=1e-6) and alone.shape == (40, 4)
    assert float((alone - dense).norm() / dense.norm()) < 0.05 and not torch.equal(alone, dense)


def test_weights_are_integers_with_a_scale_per_output_channel(tmp_path):
    file, _ = written(tmp_path, start())
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(file)).graph.initializer}
    weights = [one for one in tensors.values() if one.dtype == np.int8 and one.ndim > 1]
    assert sorted(one.size for one in weights) == [4 * 12, 16 * 27, 12 * 16 * 9]
    scales = next(one for name, one in tensors.items() if one.shape == (16,) and "scale" in name)
    assert scales.max() / scales.min() > 100
    assert not [one for one in tensors.values() if one.dtype == np.float32 and one.size > 16]


def test_metadata_have_cost_and_data_of_the_network(tmp_path):
    trained = start()
    file, report = written(tmp_path, trained)
    again = read_trained_model(file, trained.data, reference=trained)
    assert count_cost(again.model, (3, 8, 8)) == count_cost(trained.model, (3, 8, 8))
    assert again.model.checkpoint_header["classes"] == [*"abcd"]
    assert again.measure(again.model).agreement >= 90 and again.digest != ""
    assert report["calibration_images"] == 30 and report["calibration"] in report["calibrations"]


def test_calibration_with_best_agreement_on_training_images_is_chosen(tmp_path, monkeypatch):
    """One image has outliers: the smallest and largest values waste most of the 256 levels on it."""
    candidates = quantize(
        network(), torch.randn(60, 3, 8, 8) * torch.ones(60, 1, 1, 1).index_fill(0, torch.tensor([3]), 300)
    )
    by_name = {one.calibration: one for one in candidates}
    assert list(by_name) == ["minmax", "percentile 99.999", "percentile 99.99"]
    assert len({one.change for one in candidates}) == 3
    given = [replace(candidates[0], agreement=value, change=change) for value, change in ((90, 1), (99, 3), (99, 2))]
    given = [replace(one, calibration=str(place)) for place, one in enumerate(given)]
    monkeypatch.setattr(int8, "quantize", lambda model, images: given)
    assert written(tmp_path, start())[1]["calibration"] == "2"


def test_given_network_and_test_images_are_not_touched(tmp_path):
    trained = start()
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}

    class Unread:
        def __getattr__(self, name):
            raise AssertionError("test images were read")

    written(tmp_path, replace(trained, data=replace(trained.data, test=Unread())))
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_missing_package_names_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"int8: the package onnx is not installed.*common\[export\]"):
        written(tmp_path, start())
