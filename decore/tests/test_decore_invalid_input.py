"""Invalid input: one line on standard error, status 2, no traceback, no partially written files; also for the scripts."""

import shutil
from pathlib import Path

import pytest

from common.checkpoint import save_model
from common.models import create_model
from common.testing import (
    assert_scripts_fail,
    full_disk,
    leftover_files,
    single_error_line,
    write_image_folder,
    write_invalid_inputs,
)
from decore.settings import main_investigate, main_prune

HERE = Path(__file__).resolve().parents[1]
PRUNE, POLICIES = main_prune, main_investigate


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Valid and invalid images and weights, a finished policy phase and a damaged one."""
    root = write_invalid_inputs(tmp_path_factory.mktemp("invalid"))
    write_image_folder(root / "valid", train=6, test=2)
    save_model(root / "ten.safetensors", create_model("resnet20"))
    words = ["--saved-dir", str(root / "other"), "--policy-epochs", "0", "--epochs", "0"]
    assert run(PRUNE, root, *words) == 0
    shutil.copytree(root / "other", root / "damaged")
    (root / "damaged" / "resnet20-5" / "metrics.json").unlink()
    file = root / "damaged" / "resnet20-5-policy" / "agents.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    return root


def run(main, root: Path, *options: str) -> int:
    """Run a command whose options are valid, followed by ``options``."""
    words = ["--arch", "resnet20", "--dataset", f"folder:{root / 'valid'}"]
    words += [] if "--checkpoint" in options else ["--weights", str(root / "good.pth")]
    words += ["--device", "cpu", "--batch-size", "4", "--epochs", "1", "--penalty", "5", "--bn-images", "4"]
    words = words if main is PRUNE else words[:-2]
    words += ["--policy-epochs", "1"] if main is PRUNE else ["--drop-fractions", "0", "0.2", "--random-trials", "1"]
    return main([*words, *options])


# {case: (command, options with {root}, words of the message)}
INVALID_INPUTS = {
    "unknown arch": (PRUNE, ["--arch", "resnet57"], "resnet57 resnet56"),
    "unknown arch, policies": (POLICIES, ["--arch", "resnet57"], "resnet57 resnet56"),
    "unknown option": (PRUNE, ["--penalties", "5"], "--penalties -h"),
    "abbreviated option": (PRUNE, ["--pen", "5"], "--pen"),
    "no weights": (PRUNE, ["--weights", ""], "--weights empty"),
    "missing weights": (POLICIES, ["--weights", "{root}/none.pth"], "none.pth no such file"),
    "truncated weights": (PRUNE, ["--weights", "{root}/short.pth"], "short.pth damaged"),
    "weights without tensors": (PRUNE, ["--weights", "{root}/no-tensors.pth"], "no-tensors.pth state dict"),
    "weights that contain code": (PRUNE, ["--weights", "{root}/evil.pth"], "evil.pth"),
    "weights of another network": (PRUNE, ["--weights", "{root}/vgg.pth"], "vgg.pth tensor"),
    "weights of other classes": (PRUNE, ["--weights", "{root}/ten.pth"], "linear.weight shape"),
    "checkpoint of other classes": (PRUNE, ["--checkpoint", "{root}/ten.safetensors"], "10 classes 2"),
    "nan weights": (POLICIES, ["--weights", "{root}/nan.pth"], "conv1 finite"),
    "truncated checkpoint": (PRUNE, ["--checkpoint", "{root}/short.safetensors"], "short.safetensors"),
    "checkpoint of another shape": (
        PRUNE,
        ["--checkpoint", "{root}/lenet.safetensors"],
        "lenet.safetensors accept (3,",
    ),
    "unknown data set": (PRUNE, ["--dataset", "cifar11"], "cifar11 cifar10"),
    "missing data set": (
        PRUNE,
        ["--dataset", "cifar10", "--dataset-dir", "{root}/none"],
        "cifar10 --dataset-dir",
    ),
    "missing folder": (POLICIES, ["--dataset", "folder:{root}/none"], "no such folder"),
    "folder without classes": (PRUNE, ["--dataset", "folder:{root}/no-classes"], "class"),
    "truncated image": (PRUNE, ["--dataset", "folder:{root}/truncated"], "1.png"),
    "unknown normalization": (PRUNE, ["--normalize", "mean"], "mean"),
    "negative penalty": (PRUNE, ["--penalty", "-3"], "-3 [0, 1e6]"),
    "penalty nan": (PRUNE, ["--penalty", "50", "nan"], "nan auto"),
    "penalty of letters": (POLICIES, ["--penalty", "much"], "much"),
    "infinite initial weight": (PRUNE, ["--agent-init", "inf"], "--agent-init inf [-100, 100]"),
    "threshold of one": (PRUNE, ["--threshold", "1"], "--threshold 1 (0, 1)"),
    "threshold nan": (PRUNE, ["--threshold", "nan"], "--threshold nan"),
    "target of zero": (PRUNE, ["--target-macs", "0"], "--target-macs [0.01, 1)"),
    "target in percent": (PRUNE, ["--target-macs", "50"], "--target-macs [0.01, 1)"),
    "unreachable target": (PRUNE, ["--target-macs", "0.01"], "--target-macs nearest"),
    "more policy epochs than epochs": (PRUNE, ["--policy-epochs", "9"], "--policy-epochs 9 --epochs 1"),
    "negative epochs": (POLICIES, ["--epochs", "-1"], "--epochs"),
    "negative epochs with policy epochs": (PRUNE, ["--epochs", "-1"], "--epochs -1"),
    "agents' learning rate nan": (PRUNE, ["--agents-learning-rate", "nan"], "--agents-learning-rate"),
    "diverging learning rate": (
        PRUNE,
        ["--learning-rate", "1000", "--epochs", "9", "--policy-epochs", "9"],
        "not finite",
    ),
    "negative entropy": (POLICIES, ["--entropy", "-1"], "--entropy"),
    "top-3 reward": (PRUNE, ["--reward-topk", "3"], "--reward-topk 3"),
    "accuracy margin in percent": (PRUNE, ["--accuracy-margin", "5"], "--accuracy-margin 5 (0, 1)"),
    "too many policy images": (PRUNE, ["--policy-images", "100"], "--policy-images 100 12"),
    "hold-out of all images": (PRUNE, ["--holdout", "1"], "--holdout (0, 1)"),
    "distillation in percent": (PRUNE, ["--distill", "90"], "--distill 90 [0, 1]"),
    "negative batch-norm images": (PRUNE, ["--bn-images", "-1"], "--bn-images"),
    "empty batch": (PRUNE, ["--batch-size", "0"], "--batch-size"),
    "batch of one": (PRUNE, ["--batch-size", "1"], "batches of 1 larger"),
    "drop fraction in percent": (POLICIES, ["--drop-fractions", "20"], "20 [0, 1)"),
    "too many test images": (POLICIES, ["--test-images", "50"], "--test-images 50 4"),
    "file instead of a folder": (PRUNE, ["--saved-dir", "{root}/a-file"], "a-file"),
    "folder of another run": (PRUNE, ["--saved-dir", "{root}/other"], "--force"),
    "damaged agents": (
        PRUNE,
        ["--saved-dir", "{root}/damaged", "--policy-epochs", "0", "--epochs", "0"],
        "agents.safetensors",
    ),
    "missing GPU": (PRUNE, ["--device", "cuda:99"], "cuda:99"),
    "no threads": (POLICIES, ["--threads", "0"], "--threads 0"),
    "missing custom network": (PRUNE, ["--model", "decore_helpers:none"], "decore_helpers:none"),
}


@pytest.mark.parametrize("name", INVALID_INPUTS)
def test_invalid_input_exits_with_one_line_and_status_2(name, place, capsys, tmp_path):
    main, options, words = INVALID_INPUTS[name]
    options = [option.format(root=place) for option in options]
    if "--saved-dir" not in options:
        options += ["--saved-dir", str(tmp_path / "out")]
    before = leftover_files(place, "*.png")
    status = run(main, place, *options)
    single_error_line(status, capsys.readouterr().err, words)
    finished_policy = name == "unreachable target"  # the agents are trained before the target is rejected
    assert not [path for path in leftover_files(tmp_path, "*.png") if not (finished_policy and "-policy" in str(path))]
    assert leftover_files(place, "*.png") == before
    assert not (place / "hacked").exists()


@pytest.mark.parametrize("main", [PRUNE, POLICIES])
def test_full_disk_exits_with_one_line_and_no_partial_files(main, place, capsys, tmp_path):
    """All files are written by one function, which fails at its last step, for the first file and for later ones."""
    for allowed in (0, 2, 5):
        out = tmp_path / str(allowed)
        with full_disk(after=allowed):
            status = run(main, place, "--saved-dir", str(out))
        assert "No space left" in single_error_line(status, capsys.readouterr().err)
        assert not list(out.rglob("*.part")) and not list(out.rglob("metrics.json"))


def test_scripts_reject_invalid_input(place, tmp_path):
    """Called from another folder with invalid input. Both start at the same time because each imports torch."""
    words = ["--arch", "resnet20", "--weights", place / "short.pth", "--dataset", f"folder:{place / 'valid'}"]
    scripts = ("prune_model.py", "investigate_policies.py")
    assert_scripts_fail([[HERE / script, *words, "--device", "cpu"] for script in scripts], tmp_path, "short.pth")
