"""Invalid input: one line on standard error, status 2, no traceback, no partially written files; also for the scripts."""

import json
import shlex
from pathlib import Path

import pytest

from common.testing import (
    assert_scripts_fail,
    full_disk,
    leftover_files,
    single_error_line,
    write_image_folder,
    write_invalid_inputs,
)
from redundancy_graph.settings import main_cifar10, main_generate, main_imagenet

HERE = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Valid and invalid images, weights and prune info."""
    root = write_invalid_inputs(tmp_path_factory.mktemp("invalid"))
    write_image_folder(root / "valid", train=6, test=2)
    assert run(main_generate, root, "--threshold", "0.7", "--saved-dir", str(root / "info")) == 0
    write_invalid_prune_info(root)
    return root


def write_invalid_prune_info(root: Path) -> None:
    good = json.loads((root / "info" / "resnet20-0.7.json").read_text())
    plain = {layer: {name: entry[name] for name in ("saved_idxs", "mask_num")} for layer, entry in good.items()}
    invalid = {
        "another": {f"features.conv{i}": entry for i, entry in enumerate(plain.values())},
        "range": {**plain, "conv": {"saved_idxs": [3, 16], "mask_num": 14}},
        "count": {**plain, "conv": {"saved_idxs": [3, 4], "mask_num": 3}},
        "nothing": {**plain, "conv": {"saved_idxs": [], "mask_num": 16}},
        "order": {**plain, "conv": {"saved_idxs": [4, 3], "mask_num": 14}},
        "fewer": {layer: entry for layer, entry in plain.items() if layer != "conv"},
        "both": {**plain, "conv1": plain["conv"]},
    }
    for name, content in invalid.items():
        (root / f"info-{name}").mkdir()
        (root / f"info-{name}" / "resnet20-0.7.json").write_text(json.dumps(content))
    (root / "info-text").mkdir()
    (root / "info-text" / "resnet20-0.7.json").write_text("prune everything")
    (root / "info-twice").mkdir()
    text = json.dumps(plain)
    (root / "info-twice" / "resnet20-0.7.json").write_text(text[:-1] + f', "conv": {json.dumps(plain["conv"])}}}')


def run(main, root: Path, *options: str) -> int:
    """Run a command whose options are valid, followed by ``options``."""
    place = ["--pretrained", str(root / "good.pth"), "--dataset", f"folder:{root / 'valid'}", "--device", "cpu"]
    words = ["--arch", "resnet20", *place, "--mini-batch", "4", "--log-dir", str(root / "log"), "--workers", "0"]
    if main is not main_generate:
        words += ["--pruneinfo-dir", str(root / "info"), "--epochs", "1", "--batch-size", "4"]
    return main([*words, *options])


GENERATE, CIFAR10, IMAGENET = main_generate, main_cifar10, main_imagenet
# {case: (command, options with {root}, words of the message)}
INVALID_INPUTS = {
    "unknown arch": (GENERATE, ["--arch", "resnet57"], "resnet57 resnet56"),
    "unknown arch, fine-tuning": (CIFAR10, ["--arch", "resnet57"], "resnet57 resnet56"),
    "unknown option": (GENERATE, ["--tresholds", "0.7"], "--tresholds -h"),
    "abbreviated option": (CIFAR10, ["--thresh", "0.7"], "--thresh"),
    "threshold nan": (GENERATE, ["--threshold", "nan"], "nan (0, 1]"),
    "threshold nan, fine-tuning": (IMAGENET, ["--threshold", "nan"], "nan (0, 1]"),
    "threshold zero": (GENERATE, ["--threshold", "0"], "(0, 1]"),
    "threshold in percent": (GENERATE, ["--threshold", "[70", "75]"], "70 (0, 1]"),
    "threshold of letters": (CIFAR10, ["--threshold", "high"], "high number"),
    "threshold without a number": (CIFAR10, ["--threshold", "[]"], "number"),
    "missing weights": (GENERATE, ["--pretrained", "{root}/none.pth"], "none.pth --pretrained"),
    "empty name of the weights": (GENERATE, ["--pretrained", ""], "--pretrained empty"),
    "folder instead of weights": (CIFAR10, ["--pretrained", "{root}"], "no such file"),
    "truncated weights": (GENERATE, ["--pretrained", "{root}/short.pth"], "short.pth damaged"),
    "random bytes instead of weights": (CIFAR10, ["--pretrained", "{root}/garbage.pth"], "garbage.pth"),
    "weights without tensors": (GENERATE, ["--pretrained", "{root}/no-tensors.pth"], "no-tensors.pth state dict"),
    "weights that contain code": (CIFAR10, ["--pretrained", "{root}/evil.pth"], "evil.pth"),
    "weights of another network": (GENERATE, ["--pretrained", "{root}/vgg.pth"], "vgg.pth tensor"),
    "weights of other classes": (CIFAR10, ["--pretrained", "{root}/ten.pth"], "linear.weight shape"),
    "nan weights": (GENERATE, ["--pretrained", "{root}/nan.pth"], "conv1 finite"),
    "truncated checkpoint": (CIFAR10, ["--pretrained", "{root}/short.safetensors"], "short.safetensors"),
    "checkpoint of another network": (GENERATE, ["--pretrained", "{root}/lenet.safetensors"], "lenet5 --arch"),
    "unknown data set": (GENERATE, ["--dataset", "cifar11"], "cifar11 cifar10"),
    "missing data set": (
        CIFAR10,
        ["--dataset", "cifar10", "--dataset-dir", "{root}/none"],
        "cifar10 --dataset-dir",
    ),
    "missing imagenet": (IMAGENET, ["--dataset", "imagenet"], "imagenet"),
    "missing folder": (GENERATE, ["--dataset", "folder:{root}/none"], "no such folder"),
    "folder without classes": (GENERATE, ["--dataset", "folder:{root}/no-classes"], "class"),
    "empty class folder": (CIFAR10, ["--dataset", "folder:{root}/empty-class"], "class1"),
    "truncated image": (GENERATE, ["--dataset", "folder:{root}/truncated"], "1.png"),
    "unknown normalization": (CIFAR10, ["--normalize", "mean"], "mean"),
    "no images for feature maps": (GENERATE, ["--mini-batch", "0"], "--mini-batch"),
    "too many images": (GENERATE, ["--mini-batch", "100"], "--mini-batch 100 12"),
    "missing prune info": (CIFAR10, ["--pruneinfo-dir", "{root}/none"], "resnet20-0.7.json generate_prune_info.py"),
    "prune info of text": (CIFAR10, ["--pruneinfo-dir", "{root}/info-text"], "resnet20-0.7.json JSON"),
    "prune info of another network": (CIFAR10, ["--pruneinfo-dir", "{root}/info-another"], "another network"),
    "prune info out of range": (IMAGENET, ["--pruneinfo-dir", "{root}/info-range"], "filter 16 conv"),
    "inconsistent prune info": (CIFAR10, ["--pruneinfo-dir", "{root}/info-count"], "16 filters"),
    "prune info that keeps nothing": (CIFAR10, ["--pruneinfo-dir", "{root}/info-nothing"], "conv at least one"),
    "unsorted prune info": (CIFAR10, ["--pruneinfo-dir", "{root}/info-order"], "conv ascend"),
    "prune info with a layer twice": (CIFAR10, ["--pruneinfo-dir", "{root}/info-twice"], "'conv' twice"),
    "prune info with two names of a layer": (IMAGENET, ["--pruneinfo-dir", "{root}/info-both"], "conv1 twice"),
    "prune info without a layer": (IMAGENET, ["--pruneinfo-dir", "{root}/info-fewer"], "'conv'"),
    "file instead of a folder": (GENERATE, ["--saved-dir", "{root}/a-file"], "a-file"),
    "file instead of a folder, fine-tuning": (CIFAR10, ["--saved-dir", "{root}/a-file"], "a-file"),
    "file instead of the log folder": (CIFAR10, ["--log-dir", "{root}/a-file"], "a-file"),
    "target of zero": (GENERATE, ["--target-macs", "0"], "--target-macs [0.01, 1)"),
    "target in percent": (CIFAR10, ["--target-macs", "50"], "--target-macs [0.01, 1)"),
    "unreachable target": (GENERATE, ["--target-macs", "0.01"], "nearest"),
    "learning rate nan": (CIFAR10, ["--learning-rate", "nan"], "--learning-rate"),
    "diverging learning rate": (CIFAR10, ["--learning-rate", "1000", "--epochs", "9"], "not finite"),
    "negative epochs": (CIFAR10, ["--epochs", "-1"], "--epochs"),
    "momentum of two": (IMAGENET, ["--momentum", "2"], "--momentum"),
    "adjust of zero": (CIFAR10, ["--adjust", "0"], "--adjust"),
    "empty batch": (IMAGENET, ["--batch-size", "0"], "--batch-size"),
    "missing GPU": (GENERATE, ["--device", "cuda:99"], "cuda:99"),
    "unknown device": (CIFAR10, ["--device", "tpu"], "tpu"),
    "shrunk hidden layer of a ResNet": (CIFAR10, ["--vgg-hidden", "shrunk"], "--vgg-hidden"),
    "missing custom network": (GENERATE, ["--model", "rg_helpers:none"], "rg_helpers:none"),
}


LEFTOVERS = ("report.json", "resnet20-*.json", "resnet20-*-weights.pth")


@pytest.mark.parametrize("name", INVALID_INPUTS)
def test_invalid_input_exits_with_one_line_and_status_2(name, place, capsys, tmp_path):
    main, options, words = INVALID_INPUTS[name]
    before = leftover_files(place, *LEFTOVERS)
    options = [option.format(root=place) for option in options]
    status = run(main, place, "--saved-dir", str(tmp_path / "out"), *options)
    single_error_line(status, capsys.readouterr().err, words)
    assert not leftover_files(tmp_path, *LEFTOVERS)
    assert leftover_files(place, *LEFTOVERS) == before
    assert not (place / "hacked").exists()


def test_missing_default_weights_are_named(tmp_path, capsys):
    status = main_generate(["--arch", "resnet20", "--pretrain-dir", str(tmp_path), "--saved-dir", str(tmp_path)])
    single_error_line(status, capsys.readouterr().err, "resnet20-weights.pth")
    single_error_line(main_generate(["--model", "rg_helpers:network"]), capsys.readouterr().err, "--model --pretrained")


def test_missing_prune_info_of_custom_network_advises_command_for_it(place, capsys, tmp_path):
    """The advised command generates the file; that of another network, as --arch vgg16, would not."""
    network = ["--model", "rg_helpers:resnet20_of_two", "--pretrained", str(place / "good.pth")]
    options = [*network, "--pruneinfo-dir", str(tmp_path), "--saved-dir", str(tmp_path / "out"), "--mini-batch", "5"]
    status = run(main_cifar10, place, *options)
    message = single_error_line(status, capsys.readouterr().err, "rg_helpers:resnet20_of_two --mini-batch 5")
    assert "--arch" not in message
    command = shlex.split(message.partition("generate it with ")[2].partition(", or add")[0])
    assert command[0] == "generate_prune_info.py"
    assert main_generate([*command[1:], "--log-dir", str(tmp_path / "log"), "--device", "cpu", "--workers", "0"]) == 0
    assert (tmp_path / "rg_helpers.resnet20_of_two-0.7.json").is_file()


@pytest.mark.parametrize("main", [GENERATE, CIFAR10])
def test_full_disk_exits_with_one_line_and_no_partial_files(main, place, capsys, tmp_path):
    """All files are written by one function, which fails at its last step, for the first file and for later ones."""
    for allowed in (0, 1):
        out = tmp_path / str(allowed)
        with full_disk(after=allowed):
            status = run(main, place, "--saved-dir", str(out))
        assert "No space left" in single_error_line(status, capsys.readouterr().err)
        assert (
            not list(out.rglob("*.part"))
            and not list(out.rglob("metrics.json"))
            and not list(out.rglob("resnet20-*.json"))
        )


def test_scripts_reject_invalid_input(place, tmp_path):
    """Called from another folder with invalid input. All start at the same time because each imports torch."""
    words = ["--arch", "resnet20", "--pretrained", place / "short.pth", "--dataset", f"folder:{place / 'valid'}"]
    words += ["--device", "cpu", "--log-dir", tmp_path / "log"]
    commands = [[HERE / "generate_prune_info.py", *words]]
    commands += [
        [HERE / f"prune_{data}.py", *words, "--pruneinfo-dir", place / "info"] for data in ("cifar10", "imagenet")
    ]
    assert_scripts_fail(commands, tmp_path, "short.pth")
