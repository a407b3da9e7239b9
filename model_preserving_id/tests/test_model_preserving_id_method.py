"""The method as compare calls it."""

from dataclasses import replace

import torch

from common.checkpoint import load_model, save_model
from common.cost import count_cost
from common.data import load_dataset
from common.methods import Task
from common.models import create_model
from common.training import TrainOptions
from model_preserving_id.method import METHOD


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
