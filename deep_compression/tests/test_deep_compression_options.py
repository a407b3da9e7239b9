"""Every command of Deep Compression honors all of its options."""

import struct

import pytest
import torch
from torch import nn

from common.checkpoint import save_model
from common.errors import UserError
from common.models import create_model
from common.testing import check_options_honored, command_names, write_image_folder
from deep_compression import original_main, original_pipeline
from deep_compression.commands import main
from deep_compression.paper import cifar10, make_plots, mnist, select_settings

NAMED = "--arch lenet5 --weights {root}/lenet5.pth {data} --no-latency --out {out}/named"
OWN = (
    "--model test_deep_compression_options:tiny --checkpoint {root}/own.safetensors {data} --no-latency --out {out}/own"
)
FILE = "{root}/own.dcz --model test_deep_compression_options:tiny"
EPOCHS = "--epochs 0"
MNIST = "--arch lenet300_100 --dataset-dir {root}/mnist --results {out}/results"
COMMANDS = {  # class of settings: (main, arguments of each run)
    "Train": (
        main,
        f"train {NAMED} {EPOCHS}",
        f"train --model test_deep_compression_options:tiny {{data}} {EPOCHS} --no-latency --out {{out}}/own",
    ),
    "PruneStage": (main, f"prune {NAMED} {EPOCHS}", f"prune {OWN} {EPOCHS}"),
    "QuantizeStage": (main, f"quantize {NAMED} {EPOCHS}", f"quantize {OWN} {EPOCHS}"),
    "EncodeStage": (main, f"encode {NAMED}", f"encode {OWN}"),
    "CompressStages": (
        main,
        f"compress {NAMED}-all {EPOCHS} --quantize-epochs 0",
        f"compress {OWN}-all {EPOCHS} --quantize-epochs 0",
    ),
    "Decode": (main, f"decode {FILE} --output {{out}}/decoded.safetensors"),
    "EvaluateFile": (
        main,
        f"evaluate {FILE} --baseline {{root}}/own.safetensors {{data}} --no-latency --json {{out}}/values.json",
    ),
    "ReportFile": (main, "report {root}/own.dcz --json {out}/report.json"),
    "OriginalPipeline": (
        original_main.main,
        "--arch lenet5 {data} --base-epochs 0 --epoch 0 --iter 2 --lcluster 4 --no-latency --saved-dir {out}/trained",
        "--arch lenet5 --pretrained {root}/lenet5.pth {data} --epoch 0 --density 0.5 --conv-bits 2 --fc-bits 2 --no-latency"
        " --saved-dir {out}/read",
    ),
    "Mnist": (mnist.main, f"{MNIST} --seeds 1 --settings paper --epochs-factor 0.1 --out {{out}}/mnist"),
    "SelectSettings": (select_settings.main, f"{MNIST} --skip-validated --out {{out}}/choice"),
    "Cifar10": (
        cifar10.main,
        "--arch lenet5 --weights {root}/lenet5.pth {data} --densities 0.5 --epochs 0 --quantize-epochs 0 --out {out}/cifar10",
    ),
    "MakePlots": (make_plots.main, "--out {out}/plots --docs {out}/plots"),
}


def tiny(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, num_classes))


def write_mnist(folder) -> None:
    """Write MNIST's four files, with 120 and 10 images."""
    folder.mkdir()
    for part, count in (("train", 120), ("t10k", 10)):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        images = struct.pack(">4i", 2051, count, 28, 28) + pixels.numpy().tobytes()
        labels = struct.pack(">2i", 2049, count) + bytes(i % 10 for i in range(count))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders and options of small networks and images, by name in COMMANDS."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("files")
    images = write_image_folder(root / "images", classes=2, train=6, test=2)
    write_mnist(root / "mnist")
    torch.save(create_model("lenet5", num_classes=2, in_channels=3, image_size=32).state_dict(), root / "lenet5.pth")
    save_model(root / "own.safetensors", tiny(2))
    data = f"--dataset folder:{images}"
    places = {"root": root, "data": data, "out": root / "out"}
    assert main(f"encode {OWN}".format(**places | {"out": root}).split()) == 0
    (root / "own" / "encode" / "model.dcz").rename(root / "own.dcz")
    return places


@pytest.mark.parametrize("name", COMMANDS)
def test_command_honors_its_options(name, places):
    command, *runs = COMMANDS[name]
    assert check_options_honored(command, [run.format(**places).split() for run in runs]) == name


def test_base_network_is_trained_with_given_precision(places, monkeypatch):
    asked = []

    def stop(run, model, data, training, *rest):
        asked.append((training.amp, training.compile))
        raise UserError("stop")

    monkeypatch.setattr(original_pipeline, "train_baseline", stop)
    for i, argv in enumerate((["--amp", "--compile"], ["--amp"], [])):
        folder = places["out"] / f"precision-{i}"
        assert original_main.main([*places["data"].split(), "--arch", "lenet5", "--saved-dir", str(folder), *argv]) == 2
    assert asked == [(True, True), (True, False), (False, False)]


def test_list_of_commands_is_complete():
    assert command_names("deep_compression") | {"Train"} == COMMANDS.keys()
