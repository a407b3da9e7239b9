"""The method as compare calls it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import load_dataset
from common.errors import UserError
from common.methods import Task
from common.models import ARCHITECTURES, Architecture, create_model
from common.training import TrainOptions
from model_preserving_id import prune_network
from model_preserving_id.method import METHOD


class OnlyStreams(nn.Module):
    """Every convolution adds into a residual stream."""

    def __init__(self, num_classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.enter, self.one, self.two = (nn.Conv2d(c, width, 3, padding=1) for c in (3, width, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, pictures):
        stream = self.enter(pictures)
        stream = torch.relu(stream + self.one(torch.relu(stream)))
        return self.head(torch.relu(stream + self.two(stream)).mean((2, 3)))


def test_streams_shrink_where_there_is_nothing_else(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(ARCHITECTURES, "streams", Architecture(OnlyStreams, (3, 32, 32)))
    digits, dense = load_dataset("digits"), create_model("streams")
    save_model(tmp_path / "dense.safetensors", dense, normalize=(digits.mean, digits.std))
    few = replace(digits, train=digits.train.subset(range(40)))
    with pytest.raises(UserError, match="--streams exact cuts them, too"):
        prune_network(dense, torch.zeros(1, 3, 32, 32), [torch.zeros(2, 3, 32, 32)], target_macs=0.7, streams="off")
    target = count_cost(OnlyStreams(width=20), (3, 32, 32)).macs / count_cost(dense, (3, 32, 32)).macs + 1e-4
    file = METHOD.compress(Task(tmp_path / "dense.safetensors", tmp_path / "out", few, target, TrainOptions()))
    small = load_model(file)
    assert small.enter.out_channels == small.one.out_channels == small.two.out_channels == 20


def test_the_method_meets_a_share_of_the_macs_without_training(tmp_path):
    torch.manual_seed(0)
    digits, dense = load_dataset("digits"), create_model("resnet20")
    save_model(tmp_path / "dense.safetensors", dense, normalize=(digits.mean, digits.std))
    few = replace(digits, train=digits.train.subset(range(40)))
    task = Task(tmp_path / "dense.safetensors", tmp_path / "out", few, 0.7, TrainOptions())
    file = METHOD.compress(task)
    share = count_cost(load_model(file), (3, 32, 32)).macs / count_cost(dense, (3, 32, 32)).macs
    assert METHOD.axis == "macs" and not METHOD.trains and 0.686 <= share <= 0.7
    written = file.stat().st_mtime_ns
    assert METHOD.compress(task) == file and file.stat().st_mtime_ns == written
