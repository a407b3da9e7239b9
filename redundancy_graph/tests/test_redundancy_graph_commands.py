"""Commands called in process on few images: files that they write, skip and resume."""

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from rg_helpers import network

from common import pipeline
from common.checkpoint import load_model, read_tensors
from common.errors import UserError
from common.models import create_model
from common.settings import build_parser, flatten, parse
from common.testing import write_cub200, write_image_folder
from redundancy_graph import generate, networks
from redundancy_graph.layer_names import tensors_to_original
from redundancy_graph.settings import (
    GeneratePruneInfo,
    PruneCifar10,
    PruneImagenet,
    main_cifar10,
    main_generate,
    main_imagenet,
)
from redundancy_graph.weights import load_pruned_weights

ORIGINAL_OPTIONS = {  # option: (generate_prune_info.py, prune_cifar10.py, prune_imagenet.py), in the order of the original code
    "arch": ("vgg16", "vgg16", "resnet50"),
    "pretrain_dir": ("./cifar10/pre-train/", "./cifar10/pre-train/", "./imagenet/pre-train/"),
    "dataset_dir": ("./cifar10/dataset/", "./cifar10/dataset/", "./imagenet/dataset/"),
    "pruneinfo_dir": (None, "./cifar10/prune-info/", "./imagenet/prune-info/"),
    "saved_dir": ("./cifar10/prune-info/", "./cifar10/fine-tune/", "./imagenet/fine-tune/"),
    "log_dir": ("./cifar10/log/generate-prune-info/", "./cifar10/log/fine-tune/", "./imagenet/log/fine-tune/"),
    "mini_batch": (100, None, None),
    "threshold": ([0.7], [0.7], [0.7]),
    "epochs": (None, 90, 65),
    "batch_size": (None, 256, 256),
    "learning_rate": (None, 0.01, 0.01),
    "momentum": (None, 0.9, 0.9),
    "weight_decay": (None, 5e-4, 1e-4),
    "adjust": (None, 30, 30),
}
HELP = {
    "arch": "model architecture",
    "pretrain_dir": "pre-trained model saved directory",
    "dataset_dir": "dataset saved directory",
    "pruneinfo_dir": "pruning information saved directory",
    "log_dir": "log file saved directory",
    "mini_batch": "number of inputs to calculate average similarity",
    "threshold": "similarity threshold",
    "epochs": "number of fine-tuning epochs",
    "batch_size": "batch size",
    "learning_rate": "initial learning rate",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "adjust": "learning rate decay step",
}


def tiny(num_classes: int = 10) -> torch.nn.Module:
    """Build a custom network."""
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 3), torch.nn.ReLU()]
    return torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, num_classes)
    )


class Place:
    """A folder with images and trained weights, and commands whose options refer to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = write_image_folder(root / "images")
        self.weights = root / "pre-train" / "resnet20-weights.pth"
        self.weights.parent.mkdir()
        model = network("resnet20")
        model.linear = torch.nn.Linear(64, 2)
        torch.save(model.state_dict(), self.weights)
        torch.manual_seed(0)
        torch.save(tiny(2).state_dict(), root / "tiny.pth")

    def common(self, log: str = "log") -> list[str]:
        return [
            "--arch",
            "resnet20",
            "--pretrain-dir",
            str(self.weights.parent),
            "--dataset",
            f"folder:{self.images}",
            "--log-dir",
            str(self.root / log),
            "--device",
            "cpu",
        ]

    def generate(self, *options: str, out: str = "info") -> int:
        return main_generate([*self.common(), "--mini-batch", "8", "--saved-dir", str(self.root / out), *options])

    def prune(self, *options: str, out: str = "fine-tune", info: str = "info", main=main_cifar10) -> int:
        recipe = ["--epochs", "2", "--batch-size", "10", "--mini-batch", "8"]
        folders = ["--pruneinfo-dir", str(self.root / info), "--saved-dir", str(self.root / out)]
        return main([*self.common(), *folders, *recipe, *options])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def pruned(place):
    """Generate prune info at three thresholds and fine-tune two networks."""
    assert place.generate("--threshold", "[0.6", "0.65", "0.7]", "--plots") == 0
    assert place.prune("--threshold", "[0.6", "0.7]", "--plots") == 0
    return place


def error_line(capsys, status: int) -> str:
    """Return the line on standard error; the status must be 2."""
    error = capsys.readouterr().err
    assert status == 2
    assert len(error.strip().splitlines()) == 1, error
    return error.strip()


@pytest.mark.parametrize("script", range(3))
def test_options_defaults_and_help_equal_original_code(script):
    cls = (GeneratePruneInfo, PruneCifar10, PruneImagenet)[script]
    parser, defaults = build_parser(cls), flatten(parse(cls, []))
    expected = {name: values[script] for name, values in ORIGINAL_OPTIONS.items() if values[script] is not None}
    assert {name: defaults[name] for name in expected} == expected
    actions = {action.dest: action for action in parser._actions}
    order = [name for name in actions if name in expected]
    assert order == list(expected)
    for name in expected.keys() & HELP.keys():
        assert actions[name].help.startswith(HELP[name]), name
    titles = (
        "Generate Pruning Information",
        "Fine-tune Pruned Model on CIFAR-10",
        "Fine-tune Pruned Model on ImageNet",
    )
    assert parser.description == titles[script]


def test_generation_writes_one_file_per_threshold(pruned):
    info = pruned.root / "info"
    removed = []
    for threshold in ("0.6", "0.65", "0.7"):
        content = json.loads((info / f"resnet20-{threshold}.json").read_text())
        assert list(content)[:2] == ["conv", "layer1.0.conv1"]
        assert len(content) == 12  # the stem, nine conv1, two residual streams
        report = json.loads((info / f"resnet20-{threshold}" / "report.json").read_text())
        assert report["filters_removed"] == sum(entry["mask_num"] for entry in content.values())
        assert 0 < report["macs"] < report["dense_macs"] == 40_550_528
        assert report["command"].startswith("generate_prune_info.py --arch resnet20") and report["seconds"] >= 0
        assert (report["weights"], report["shortcut"]) == ("resnet20-weights.pth", "pad")
        removed.append(report["filters_removed"])
        assert (info / f"resnet20-{threshold}" / "similarity.png").read_bytes().startswith(b"\x89PNG")
        assert (info / f"resnet20-{threshold}" / "kept.png").is_file()
        log = (pruned.root / "log" / f"resnet20-{threshold}.log").read_text()
        assert f"conv: removed {content['conv']['mask_num']:04d} of 0016" in log
    assert len(set(removed)) == 3


def test_generation_is_skipped_and_other_options_raise(pruned, capsys, monkeypatch):
    file = pruned.root / "info" / "resnet20-0.7.json"
    before = file.read_bytes(), file.stat().st_mtime_ns
    monkeypatch.setattr(generate, "measure_similarities", None)  # no image is read
    assert pruned.generate("--threshold", "0.70") == 0
    assert "already exists" in capsys.readouterr().out
    line = error_line(capsys, pruned.generate("--threshold", "0.7", "--seed", "1"))
    assert "--seed" in line and "--force" in line
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_generation_is_reproducible_and_depends_on_seed(pruned):
    assert pruned.generate("--threshold", "0.7", out="again") == 0
    first, again = ((pruned.root / folder / "resnet20-0.7.json").read_bytes() for folder in ("info", "again"))
    assert first == again
    assert pruned.generate("--threshold", "0.7", "--seed", "1", "--force", out="again") == 0
    assert (pruned.root / "again" / "resnet20-0.7.json").read_bytes() != first


def test_external_prune_info_is_not_overwritten(place, capsys):
    file = place.root / "external" / "resnet20-0.7.json"
    file.parent.mkdir()
    file.write_text("{}")
    assert "--force" in error_line(capsys, place.generate("--threshold", "0.7", out="external"))
    assert file.read_text() == "{}"


@pytest.mark.parametrize("options", [["--similarity-layer", "all"], ["--bn-mode", "train"], ["--augment"]])
def test_selection_options_change_prune_info(pruned, options):
    out = options[-1].strip("-")
    assert pruned.generate("--threshold", "0.6", *options, out=out) == 0
    usual, other = (json.loads((pruned.root / folder / "resnet20-0.6.json").read_text()) for folder in ("info", out))
    assert usual.keys() == other.keys()
    assert usual != other


def test_run_folder_is_complete(pruned):
    folder = pruned.root / "fine-tune" / "resnet20-0.7"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "decision.json", "log.csv", "metrics.json", "model.safetensors"}
    metrics, config = (json.loads((folder / name).read_text()) for name in ("metrics.json", "config.json"))
    assert metrics["schema"] == 1 and metrics["package"] == "redundancy_graph" and metrics["arch"] == "resnet20"
    stages = [metrics[name] for name in ("baseline", "after_cut", "compressed")]
    for stage in stages:
        assert {"top1", "top5", "loss", "macs", "params", "nonzero_params", "bytes"} <= stage.keys()
    assert stages[2]["macs"] == stages[1]["macs"] < stages[0]["macs"]
    assert stages[2]["bytes"] == (folder / "model.safetensors").stat().st_size
    assert "agreement" in stages[1] and "agreement" in stages[2]
    assert metrics["command"].startswith("prune_cifar10.py --arch resnet20")
    assert config["options"]["threshold"] == 0.7 and config["options"]["epochs"] == 2
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["test_top1"]) == pytest.approx(stages[2]["top1"])  # of the last epoch, not of the best
    assert metrics["best_test_top1"] == max(float(row["test_top1"]) for row in rows)
    report = json.loads((pruned.root / "info" / "resnet20-0.7" / "report.json").read_text())
    assert (stages[0]["macs"], stages[2]["macs"]) == (
        report["dense_macs"],
        report["macs"],
    )  # as predicted by the report
    assert stages[2]["params"] == report["params"] and metrics["shortcut"] == report["shortcut"]


def test_weights_in_original_format_are_written(pruned):
    folder = pruned.root / "fine-tune"
    flatten = read_tensors(folder / "resnet20-0.7-weights.pth")
    assert {"conv.weight", "fc.weight"} <= flatten.keys()
    model = load_model(folder / "resnet20-0.7" / "model.safetensors")
    again = load_pruned_weights("resnet20", folder / "resnet20-0.7-weights.pth", num_classes=2)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    log = (pruned.root / "log" / "resnet20-0.7.log").read_text()
    assert "epoch [02/02]" in log and "agreement" in log


def test_accuracy_plot_of_all_thresholds_is_written(pruned):
    assert (pruned.root / "fine-tune" / "resnet20-accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_finished_run_is_skipped_and_other_options_raise(pruned, capsys, monkeypatch):
    folder = pruned.root / "fine-tune"
    flatten = folder / "resnet20-0.6-weights.pth"
    before = (folder / "resnet20-0.6" / "metrics.json").read_bytes(), flatten.read_bytes()
    flatten.unlink()
    monkeypatch.setattr(pipeline, "fit", None)  # no training
    assert pruned.prune("--threshold", "0.6") == 0
    assert ((folder / "resnet20-0.6" / "metrics.json").read_bytes(), flatten.read_bytes()) == before
    capsys.readouterr()
    assert "--momentum" in error_line(capsys, pruned.prune("--threshold", "0.6", "--momentum", "0.5"))


def test_interrupted_run_resumes_bit_identical(pruned, capsys, monkeypatch):
    """Interrupted with Ctrl-C in the second epoch of an augmented, shuffled run."""
    evaluations = []

    def interrupt(*args, **kwargs):
        evaluations.append(1)
        if len(evaluations) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    import common.training.loop as loop

    evaluate = loop.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", interrupt)
        assert pruned.prune("--threshold", "0.7", out="stopped") == 130
    folder = pruned.root / "stopped" / "resnet20-0.7"
    assert not (folder / "metrics.json").exists()
    assert pruned.prune("--threshold", "0.7", out="stopped") == 0
    uninterrupted = pruned.root / "fine-tune" / "resnet20-0.7"
    assert (folder / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in uninterrupted.iterdir()}


def test_target_macs_is_met_by_both_commands(place, capsys):
    assert place.generate("--target-macs", "0.6", out="target") == 0
    report = json.loads((place.root / "target" / "resnet20-macs0.6" / "report.json").read_text())
    assert 0.98 * 0.6 <= report["macs"] / report["dense_macs"] <= 0.6
    generated = (place.root / "target" / "resnet20-macs0.6.json").read_bytes()
    assert place.prune("--target-macs", "0.6", out="target-out", info="target-made") == 0  # generates the prune info
    assert (place.root / "target-made" / "resnet20-macs0.6.json").read_bytes() == generated
    metrics = json.loads((place.root / "target-out" / "resnet20-macs0.6" / "metrics.json").read_text())
    assert metrics["compressed"]["macs"] == report["macs"]
    capsys.readouterr()
    line = error_line(capsys, place.generate("--target-macs", "0.999", out="target"))
    assert "nearest" in line
    assert not (place.root / "target" / "resnet20-macs0.999.json").exists()


def test_missing_prune_info_is_generated_on_request(place):
    assert place.prune("--threshold", "0.65", "--generate", "--epochs", "0", out="made", info="made-info") == 0
    assert (place.root / "made-info" / "resnet20-0.65.json").is_file()
    metrics = json.loads((place.root / "made" / "resnet20-0.65" / "metrics.json").read_text())
    assert metrics["compressed"]["top1"] == metrics["after_cut"]["top1"]  # no epochs, no change
    assert {"config.json", "decision.json", "log.csv", "metrics.json", "model.safetensors"} == {
        path.name for path in (place.root / "made" / "resnet20-0.65").iterdir()
    }


def test_weights_of_original_code_work_in_both_commands(place):
    model = create_model("resnet20", num_classes=2, shortcut="conv3x3")
    (place.root / "authors").mkdir()
    torch.save(tensors_to_original("resnet20", model.state_dict()), place.root / "authors" / "resnet20-weights.pth")
    options = ["--pretrain-dir", str(place.root / "authors"), "--threshold", "0.7"]
    assert place.generate(*options, out="authors-info") == 0
    info = json.loads((place.root / "authors-info" / "resnet20-0.7.json").read_text())
    assert "layer2.0.downsample.0" in info
    report = json.loads((place.root / "authors-info" / "resnet20-0.7" / "report.json").read_text())
    assert report["shortcut"] == "conv3x3"
    assert place.prune(*options, "--epochs", "1", out="authors-out", info="authors-info") == 0
    assert "layer2.0.downsample.0.weight" in read_tensors(place.root / "authors-out" / "resnet20-0.7-weights.pth")


def test_custom_network_is_pruned(place):
    options = ["--model", "test_redundancy_graph_commands:tiny", "--pretrained", str(place.root / "tiny.pth")]
    assert place.prune(*options, "--threshold", "0.6", "--generate", out="own", info="own-info") == 0
    name = "test_redundancy_graph_commands.tiny-0.6"
    folder = place.root / "own" / name
    pruned = load_model(folder / "model.safetensors", lambda: tiny(2))
    info = json.loads((place.root / "own-info" / f"{name}.json").read_text())
    assert pruned[0].out_channels == len(info["0"]["saved_idxs"])
    with pytest.raises(UserError):
        load_model(folder / "model.safetensors")


def test_cifar100_is_pruned(tmp_path):
    """The authors' ResNet, on data in one of the layouts of CIFAR-100."""
    folder = tmp_path / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True)
    records = torch.randint(0, 100, (12, 2 + 3072), dtype=torch.uint8).numpy()
    for name in ("train.bin", "test.bin"):
        records.tofile(folder / name)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)))
    torch.save(create_model("resnet20", num_classes=100, shortcut="conv3x3").state_dict(), tmp_path / "resnet20.pth")
    words = f"--dataset cifar100 --dataset-dir {folder.parent} --arch resnet20 --pretrained {tmp_path / 'resnet20.pth'}"
    out = f"--pruneinfo-dir {tmp_path}/info --saved-dir {tmp_path}/out --log-dir {tmp_path}/log"
    few = "--threshold 0.7 --generate --mini-batch 4 --epochs 1 --batch-size 6 --device cpu --no-latency"
    assert main_cifar10([*words.split(), *out.split(), *few.split()]) == 0
    metrics = json.loads((tmp_path / "out" / "resnet20-0.7" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["shortcut"], metrics["epochs"]) == ("cifar100", "conv3x3", 1)
    assert (
        load_pruned_weights("resnet20", tmp_path / "out" / "resnet20-0.7-weights.pth", 100).linear.out_features == 100
    )


def test_cub200_is_pruned(tmp_path, capsys):
    folder = write_cub200(tmp_path / "cub200", classes=3, train=4, test=2)
    torch.save(tiny(3).state_dict(), tmp_path / "tiny.pth")
    words = f"--dataset cub200 --dataset-dir {folder.parent} --model test_redundancy_graph_commands:tiny"
    words += f" --pretrained {tmp_path}/tiny.pth --saved-dir {tmp_path}/out --log-dir {tmp_path}/log --device cpu"
    few = f"--pruneinfo-dir {tmp_path}/info --threshold 0.85 --generate --mini-batch 4 --epochs 1 --batch-size 6"
    assert main_imagenet([*words.split(), *few.split(), "--workers", "0", "--no-latency"]) == 0
    metrics = json.loads((tmp_path / "out" / "test_redundancy_graph_commands.tiny-0.85" / "metrics.json").read_text())
    assert metrics["dataset"] == "cub200" and metrics["compressed"]["macs"] <= metrics["baseline"]["macs"]
    (folder / "classes.txt").unlink()
    capsys.readouterr()
    assert "classes.txt is missing" in error_line(capsys, main_generate([*words.split(), "--mini-batch", "4"]))


def test_networks_of_cub200_table_have_batch_norm():
    with torch.device("meta"):
        for build, convolutions in ((networks.vgg16_bn, 13), (networks.vgg19_bn, 16)):
            layers = list(build(200).modules())
            assert sum(isinstance(layer, torch.nn.Conv2d) for layer in layers) == convolutions
            assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in layers) == convolutions
            assert layers[-1].out_features == 200


def test_imagenet_script_uses_its_own_defaults(pruned):
    assert pruned.prune("--threshold", "0.6", "--epochs", "1", out="imagenet", main=main_imagenet) == 0
    config = json.loads((pruned.root / "imagenet" / "resnet20-0.6" / "config.json").read_text())
    assert config["options"]["weight_decay"] == 1e-4


def test_plot_layer_is_selectable(pruned, capsys):
    assert pruned.generate("--threshold", "0.6", "--plots", "--plot-layer", "layer3.1.conv1", out="chosen") == 0
    assert "layer3.1.conv1" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "prune"])
def test_invalid_plot_layer_raises_before_work_starts(place, capsys, monkeypatch, command):
    monkeypatch.setattr(generate, "measure_similarities", None)  # no image is read
    options = ["--threshold", "0.6", "--plot-layer", "layer9"]
    line = error_line(capsys, getattr(place, command)(*options, out="no-layer"))
    assert "--plot-layer layer9" in line and "--plots" in line
    line = error_line(capsys, getattr(place, command)(*options, "--plots", out="no-layer"))
    assert "layer9" in line and "layer3.2.conv1" in line
    assert not (place.root / "no-layer").exists()


def test_plots_of_existing_prune_info_are_drawn(pruned):
    folder = pruned.root / "plotted-later"
    assert pruned.generate("--threshold", "0.6", "0.7", out=folder.name) == 0
    before = {file: file.read_bytes() for file in folder.rglob("*.json")}
    assert len(before) == 6 and not list(folder.rglob("*.png"))
    assert pruned.generate("--threshold", "0.6", "0.7", "--plots", out=folder.name) == 0
    assert len(list(folder.rglob("*.png"))) == 4
    assert {file: file.read_bytes() for file in folder.rglob("*.json")} == before


def test_seeds_choose_different_images(pruned):
    """Three seeds give three different files."""
    files = []
    for seed in random.Random(1).sample(range(100), 3):
        assert pruned.generate("--threshold", "0.65", "--seed", str(seed), out=f"seed{seed}") == 0
        files.append((pruned.root / f"seed{seed}" / "resnet20-0.65.json").read_bytes())
    assert len(set(files)) == 3
