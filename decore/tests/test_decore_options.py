"""Every command of DECORE honors every one of its options."""

import pytest
import torch
from decore_helpers import small_net

from common.checkpoint import save_model
from common.models import create_model
from common.testing import check_options_honored, command_names, write_image_folder
from common.testing.fixed_latency import take_macs_for_latency
from decore.settings import main_investigate, main_pretrained, main_prune

OWN = "--model decore_helpers:small_net --checkpoint {own} {data}"
NAMED = "--arch lenet5 --weights {weights} {data}"
COMMANDS = {
    "PruneModel": (
        main_prune,
        f"{OWN} --epochs 0 --plots --no-latency --saved-dir {{out}}/own",
        f"{NAMED} --epochs 0 --no-latency --saved-dir {{out}}/named",
        f"{NAMED} --epochs 2 --policy-epochs 1 --agent-init 0 --target-latency 0.95 --latency-batch-size 4 --no-latency --saved-dir {{out}}/latency",
    ),
    "InvestigatePolicies": (
        main_investigate,
        f"{OWN} --epochs 0 --drop-fractions 0.5 --random-trials 1 --saved-dir {{out}}/own",
        f"{NAMED} --epochs 0 --drop-fractions 0.5 --random-trials 1 --saved-dir {{out}}/named",
    ),
    "Pretrained": (main_pretrained, "--checkpoint {vgg16} --out {out}.pth.tar"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name in the commands above: path}."""
    root = tmp_path_factory.mktemp("files")
    data = write_image_folder(root / "images", classes=2, train=3, test=2)
    save_model(root / "own.safetensors", small_net(2))
    named = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    torch.save(named.state_dict(), root / "weights.pth")
    save_model(root / "vgg16.safetensors", create_model("vgg16"))
    return {
        "own": root / "own.safetensors",
        "vgg16": root / "vgg16.safetensors",
        "weights": root / "weights.pth",
        "data": f"--dataset folder:{data}",
        "out": root / "out",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_command_honors_its_options(name, files, monkeypatch):
    take_macs_for_latency(monkeypatch)
    main, *runs = COMMANDS[name]
    assert check_options_honored(main, [run.format(**files).split() for run in runs]) == name


def test_list_of_commands_is_complete():
    assert command_names("decore") == COMMANDS.keys()
