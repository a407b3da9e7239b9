"""Every command of the redundancy graph honors every one of its options."""

import pytest
import torch
from torch import nn

from common.models import create_model
from common.testing import check_options_honored, command_names, write_image_folder
from common.testing.fixed_latency import take_macs_for_latency
from redundancy_graph.settings import main_cifar10, main_generate, main_imagenet

INPUT = "--dataset folder:{images} --dataset-dir {images} --log-dir {out}/log --mini-batch 6 --plots"
NAMED = f"--arch lenet5 --pretrain-dir {{root}} {INPUT}"
OWN = f"--model test_redundancy_graph_options:tiny --pretrained {{root}}/own.pth {INPUT}"
LATENCY = "--target-latency 0.8 --latency-batch-size 4"
PRUNE = "--epochs 0 --generate --no-latency --saved-dir {out}/fine-tune"
COMMANDS = {
    "GeneratePruneInfo": (
        main_generate,
        f"{NAMED} --saved-dir {{out}}/named",
        f"{OWN} --saved-dir {{out}}/own",
        f"{NAMED} {LATENCY} --saved-dir {{out}}/latency",
    ),
    "PruneCifar10": (
        main_cifar10,
        f"{NAMED} {PRUNE} --pruneinfo-dir {{out}}/named",
        f"{OWN} {PRUNE} --pruneinfo-dir {{out}}/own-pruned",
        f"{NAMED} {PRUNE} {LATENCY} --pruneinfo-dir {{out}}/named",
    ),
    "PruneImagenet": (
        main_imagenet,
        f"{NAMED} {PRUNE} --pruneinfo-dir {{out}}/imagenet",
        f"{OWN} {PRUNE} --pruneinfo-dir {{out}}/imagenet",
        f"{NAMED} {PRUNE} {LATENCY} --pruneinfo-dir {{out}}/imagenet",
    ),
}


def tiny(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, num_classes),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with images and the weights of two networks."""
    root = tmp_path_factory.mktemp("files")
    write_image_folder(root / "images", classes=2, train=3, test=2)
    named = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    torch.save(named.state_dict(), root / "lenet5-weights.pth")
    torch.save(tiny(2).state_dict(), root / "own.pth")
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_command_honors_its_options(name, root, monkeypatch):
    take_macs_for_latency(monkeypatch)
    main, *runs = COMMANDS[name]
    places = {"root": root, "images": root / "images", "out": root / "out" / name}
    assert check_options_honored(main, [run.format(**places).split() for run in runs]) == name


def test_list_of_commands_is_complete():
    assert command_names("redundancy_graph") | {"PruneCifar10"} == COMMANDS.keys()
