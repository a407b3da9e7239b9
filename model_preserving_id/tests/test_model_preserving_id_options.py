"""Every command of model-preserving ID honors every one of its options."""

import os
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch import nn

from common.checkpoint import save_model
from common.models import create_model
from common.testing import check_options_honored, command_names, write_image_folder
from common.testing.fixed_latency import take_macs_for_latency
from model_preserving_id.paper import diagrams
from model_preserving_id.paper.experiments import conv3d, missing_class, ratios, wide
from model_preserving_id.settings import prune_main, train_main

OWN = "--model test_model_preserving_id_options:tiny --checkpoint {root}/own.safetensors {data}"
NAMED = "--arch lenet5 --weights {root}/lenet5.pth {data}"
TRAIN = "--pretrained {root}/lenet5.safetensors --epochs 0 {data}"
COMMANDS = {
    "PruneChannels": (
        prune_main,
        f"{NAMED} --method iditer --k 0.5 --target-macs 0.6 --log-interval 9 --no-latency --out {{out}}/iditer",
        f"{OWN} --method budget --target-macs 0.6 --no-latency --out {{out}}/budget",
        f"{OWN} --method budget --target-latency 0.6 --latency-batch-size 4 --no-latency --out {{out}}/latency",
        f"{OWN} --method frac --k 0.5 --no-latency --out {{out}}/frac",
        f"{OWN} --method eps --eps 0.1 --no-latency --out {{out}}/eps",
    ),
    "FineTuneCompressed": (
        train_main,
        f"{TRAIN} --original {{root}}/lenet5.pth --arch lenet5 --log-dir {{out}}/train",
        f"{TRAIN} --world-size 2 --rank 0 --log-dir {{out}}/processes",
    ),
    "WideLayer": (
        wide.main,
        "--checkpoint {root}/fc.safetensors {data} --prune-batch-size 6 --widths 4 --out {out}/wide",
    ),
    "MissingClass": (
        missing_class.main,
        f"{NAMED} --prune-batch-size 6 --k 0.5 --target-macs 0.6 --every 0.4 --out {{out}}/missing",
        f"{OWN} --prune-batch-size 6 --k 0.5 --target-macs 0.6 --every 0.4 --out {{out}}/missing-own",
    ),
    "ParameterRatios": (
        ratios.main,
        f"{NAMED} --prune-batch-size 6 --ratios 0.5 --methods id --out {{out}}/ratios",
        f"{OWN} --prune-batch-size 6 --ratios 0.5 --methods l1 --out {{out}}/ratios-own",
    ),
    "PruneConv3d": (
        conv3d.main,
        "--widths 2 2 2 2 --hidden 4 --epochs 1 --k 0.6 --target-macs 0.5 --out {out}/conv3d",
    ),
    "Diagram": (diagrams.main, "--out {out}/docs"),
}
PROMISED = {  # options of the original train.py
    "FineTuneCompressed": {
        "print_freq": "a line is printed per epoch, not after every N batches",
        "prune_batch_size": "it set the number of calibration images, which the original code takes from the test images",
    }
}


def tiny(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 20, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(20, 30, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(750, num_classes),
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Three networks and twelve images: {name in the commands above: folder or options}."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("files")
    images = write_image_folder(root / "images", classes=2, train=6, test=2)
    named = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    torch.save(named.state_dict(), root / "lenet5.pth")
    fc = create_model("fc4096", num_classes=2, in_features=3072, hidden=16)
    for name, model in (("lenet5", named), ("own", tiny(2)), ("fc", fc)):
        save_model(root / f"{name}.safetensors", model)
    return {"root": root, "data": f"--dataset folder:{images}", "out": root / "out"}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_honors_its_options(name, places, monkeypatch):
    # one of two processes, without waiting for the other
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda body, args, nprocs: body(0, *args))
    monkeypatch.setattr("model_preserving_id.finetune.process_group", lambda device: nullcontext())
    take_macs_for_latency(monkeypatch)
    main, *runs = COMMANDS[name]
    with mock.patch.dict(os.environ):
        found = check_options_honored(main, [run.format(**places).split() for run in runs], PROMISED.get(name))
    assert found == name


def test_list_of_commands_is_complete():
    assert command_names("model_preserving_id") == COMMANDS.keys()
