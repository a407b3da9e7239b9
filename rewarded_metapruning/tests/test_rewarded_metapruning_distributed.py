"""Two gloo processes train the same PruningNet as one process.

Without batch norm, the one process forwards entire batches; with batch norm, it accumulates the gradients of both half-batches.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.data import DataBundle, load_dataset
from common.testing import run_in_processes, split_batches, write_image_folder
from common.training import TrainOptions, make_optimizer
from rewarded_metapruning import train_pruning_net
from rewarded_metapruning.pruning_net import PruningNet, sample_nev
from rewarded_metapruning.pruning_net_files import read_pruning_net
from rewarded_metapruning.pruning_net_training import RandomVectorLoss, is_weight
from rewarded_metapruning.settings import HOLDOUT_SEED
from rewarded_metapruning.space import SearchSpace
from rewarded_metapruning.stage_inputs import build_space

PLAIN = "test_rewarded_metapruning_distributed:without_batch_norm"
CASES = {PLAIN: "--model", "resnet-small": "--arch"}
RECIPE = TrainOptions(
    epochs=2,
    batch_size=16,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-3,
    schedule="constant",
    label_smoothing=0.1,
)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def without_batch_norm(num_classes: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def arguments(root: Path, network: str) -> list[str]:
    recipe = ["--epochs", "2", "--batch-size", "16", "--learning-rate", "0.05", "--momentum", "0.9"]
    recipe += ["--weight-decay", "1e-3", "--schedule", "constant", "--seed", "3"]
    data = ["--dataset", f"folder:{root}", "--device", "cpu", "--workers", "0", "--holdout", "0.25", "--threads", "1"]
    return [CASES[network], network, *data, *recipe]


def train_all(root: str, folder: str) -> int:
    return max(
        train_pruning_net.main([*arguments(Path(root), network), "--save", f"{folder}/{place}"])
        for place, network in enumerate(CASES)
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_image_folder(
        tmp_path_factory.mktemp("gloo"), train=21, size=16
    )  # 32 training images: two batches of 16
    run_in_processes(
        train_all, str(root), str(root / "two"), preload=["rewarded_metapruning.pruning_net_training", "PIL.Image"]
    )
    return root


def read_two_process_result(root: Path, network: str) -> tuple[dict[str, Tensor], SearchSpace, DataBundle]:
    data = load_dataset(f"folder:{root}").holdout(0.25, HOLDOUT_SEED)
    space = build_space(network, data)
    file = root / "two" / str(list(CASES).index(network)) / "model.safetensors"
    return read_pruning_net(file, space).net.state_dict(), space, data


def test_two_processes_equal_one_without_batch_norm(root, tmp_path):
    assert train_pruning_net.main([*arguments(root, PLAIN), "--save", str(tmp_path)]) == 0
    two, space, _ = read_two_process_result(root, PLAIN)
    one = read_pruning_net(tmp_path / "model.safetensors", space).net.state_dict()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, **TOLERANCE), name
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (tmp_path, root / "two" / "0")]
    assert len(logs[0]) == len(logs[1]) == 3


def test_two_processes_equal_accumulated_half_batches(root):
    """Batch-norm statistics come from the first process's half-batches, gradients from both."""
    two, space, data = read_two_process_result(root, "resnet-small")
    torch.manual_seed(3)
    net = PruningNet(space).train()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = make_optimizer(net, RECIPE, is_weight)
    for epoch in range(RECIPE.epochs):
        for step, halves in enumerate(split_batches(data.train, RECIPE.batch_size, epoch, seed=3)):
            optimizer.zero_grad()
            for rank, part in enumerate(halves):
                vectors = RandomVectorLoss(space, RECIPE.label_smoothing, seed=3)
                vectors.epoch, vectors.step = epoch, step
                statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
                images = part.images.contiguous(
                    memory_format=torch.channels_last
                )  # as in fit; otherwise rounding differs
                loss, _ = vectors.loss(net, part._replace(images=images))
                (loss / part.global_size).backward()
                if rank:
                    net.load_state_dict(statistics, strict=False)
            optimizer.step()
    moved = 0.0
    for name, tensor in net.state_dict().items():
        assert torch.allclose(two[name], tensor, **TOLERANCE), name
        moved = max(moved, float((tensor - before.get(name, tensor)).abs().max()))
    assert moved > 0.01
    assert sample_nev(space, (3, 0, 0)) != sample_nev(space, (3, 0, 1))


def test_run_folder_is_written_by_one_process(root):
    for place in range(len(CASES)):
        names = {path.name for path in (root / "two" / str(place)).iterdir()}
        assert names == {
            "config.json",
            "log.csv",
            "metrics.json",
            "model.safetensors",
            "checkpoint.pth.tar",
            "model_best.pth.tar",
            "model_best.pth",
        }
