"""Mistakes: one line on standard error, status 2, no traceback, nothing half-written. And the scripts as commands."""

from pathlib import Path

import pytest

from common.checkpoint import save_model
from common.models import create_model
from common.testing import assert_scripts_fail, full_disk, leftover_files, single_error_line, write_invalid_inputs
from decore.settings import main_investigate, main_prune

HERE = Path(__file__).resolve().parents[1]
PRUNE, POLICIES = main_prune, main_investigate


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures and weights, whole and broken in every way, and a finished policy phase."""
    root = write_invalid_inputs(tmp_path_factory.mktemp("mistakes"))
    save_model(root / "ten.safetensors", create_model("resnet20"))
    assert run(PRUNE, root, "--saved-dir", str(root / "other"), "--policy-epochs", "0", "--epochs", "0") == 0
    assert run(PRUNE, root, "--saved-dir", str(root / "damaged"), "--policy-epochs", "0", "--epochs", "0") == 0
    (root / "damaged" / "resnet20-5" / "metrics.json").unlink()
    file = root / "damaged" / "resnet20-5-policy" / "agents.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    return root


def run(main, root: Path, *options: str) -> int:
    """A command that would do, but for what ``options`` change."""
    words = ["--arch", "resnet20", "--weights", str(root / "good.pth"), "--dataset", f"folder:{root / 'pictures'}"]
    words += ["--device", "cpu", "--batch-size", "4", "--epochs", "1", "--penalty", "5", "--refresh", "4"]
    words = words if main is PRUNE else words[:-2]
    words += ["--policy-epochs", "1"] if main is PRUNE else ["--drop", "0", "0.2", "--random-orders", "1"]
    return main([*words, *options])


# (command, options with {root}, words of the message)
MISTAKES = {
    "unknown arch": (PRUNE, ["--arch", "resnet57"], "resnet57 resnet56"),
    "unknown arch, policies": (POLICIES, ["--arch", "resnet57"], "resnet57 resnet56"),
    "unknown option": (PRUNE, ["--penalties", "5"], "--penalties -h"),
    "abbreviated option": (PRUNE, ["--pen", "5"], "--pen"),
    "no weights": (PRUNE, ["--weights", ""], "--weights --checkpoint"),
    "missing weights": (POLICIES, ["--weights", "{root}/none.pth"], "none.pth no such file"),
    "weights cut short": (PRUNE, ["--weights", "{root}/short.pth"], "short.pth damaged"),
    "weights without tensors": (PRUNE, ["--weights", "{root}/no-tensors.pth"], "no-tensors.pth state dict"),
    "weights with code in them": (PRUNE, ["--weights", "{root}/evil.pth"], "evil.pth"),
    "weights of another network": (PRUNE, ["--weights", "{root}/vgg.pth"], "vgg.pth tensor"),
    "weights of other classes": (PRUNE, ["--weights", "{root}/ten.pth"], "linear.weight shape"),
    "checkpoint of other classes": (PRUNE, ["--checkpoint", "{root}/ten.safetensors"], "10 classes 2"),
    "weights that are nan": (POLICIES, ["--weights", "{root}/nan.pth"], "conv1 finite"),
    "checkpoint cut short": (PRUNE, ["--checkpoint", "{root}/short.safetensors"], "short.safetensors"),
    "checkpoint of another shape": (PRUNE, ["--checkpoint", "{root}/lenet.safetensors"], "lenet.safetensors read (3,"),
    "unknown data set": (PRUNE, ["--dataset", "cifar11"], "cifar11 cifar10"),
    "data set that is not there": (
        PRUNE,
        ["--dataset", "cifar10", "--dataset-dir", "{root}/none"],
        "cifar10 --dataset-dir",
    ),
    "folder that is not there": (POLICIES, ["--dataset", "folder:{root}/none"], "no such folder"),
    "folder without classes": (PRUNE, ["--dataset", "folder:{root}/no-classes"], "class"),
    "truncated picture": (PRUNE, ["--dataset", "folder:{root}/truncated"], "1.png"),
    "unknown normalisation": (PRUNE, ["--normalize", "mean"], "mean"),
    "negative penalty": (PRUNE, ["--penalty", "-3"], "-3 at least 0"),
    "penalty nan": (PRUNE, ["--penalty", "50", "nan"], "nan auto"),
    "penalty of letters": (POLICIES, ["--penalty", "much"], "much"),
    "init infinite": (PRUNE, ["--init", "inf"], "--init inf 6.9"),
    "threshold of one": (PRUNE, ["--threshold", "1"], "--threshold 1.0 0.5"),
    "threshold nan": (PRUNE, ["--threshold", "nan"], "--threshold nan"),
    "target of nothing": (PRUNE, ["--target-macs", "0"], "--target-macs (0, 1]"),
    "target in percent": (PRUNE, ["--target-macs", "50"], "--target-macs (0, 1]"),
    "target out of reach": (PRUNE, ["--target-macs", "0.0002"], "--target-macs nearest"),
    "more policy epochs than epochs": (PRUNE, ["--policy-epochs", "9"], "--policy-epochs 9 --epochs 1"),
    "negative epochs": (POLICIES, ["--epochs", "-1"], "--epochs"),
    "no epochs at all": (PRUNE, ["--epochs", "-1"], "--policy-epochs 1 --epochs -1"),
    "agents' rate nan": (PRUNE, ["--agents-learning-rate", "nan"], "--agents-learning-rate"),
    "learning rate far too large": (
        PRUNE,
        ["--learning-rate", "1e30", "--epochs", "9", "--policy-epochs", "9"],
        "not finite",
    ),
    "negative entropy": (POLICIES, ["--entropy", "-1"], "--entropy"),
    "reward of the top three": (PRUNE, ["--reward-top", "3"], "--reward-top 3"),
    "slack in percent": (PRUNE, ["--slack", "5"], "--slack 5.0 0.01"),
    "more pictures than there are": (PRUNE, ["--pictures", "100"], "--pictures 100 12"),
    "hold-out of everything": (PRUNE, ["--holdout", "1"], "hold-out 1"),
    "distillation in percent": (PRUNE, ["--distill", "90"], "--distill 90.0 0.9"),
    "negative refresh": (PRUNE, ["--refresh", "-1"], "--refresh"),
    "batch of nothing": (PRUNE, ["--batch-size", "0"], "--batch-size"),
    "batch of one": (PRUNE, ["--batch-size", "1"], "batches of 1 larger"),
    "share to drop in percent": (POLICIES, ["--drop", "20"], "20 [0, 1)"),
    "more test pictures than there are": (POLICIES, ["--test-pictures", "50"], "--test-pictures 50 4"),
    "a file for a folder": (PRUNE, ["--saved-dir", "{root}/a-file"], "a-file"),
    "a folder of another run": (PRUNE, ["--saved-dir", "{root}/other"], "--force"),
    "damaged agents": (
        PRUNE,
        ["--saved-dir", "{root}/damaged", "--policy-epochs", "0", "--epochs", "0"],
        "agents.safetensors",
    ),
    "a GPU that is not there": (PRUNE, ["--device", "cuda:99"], "cuda:99"),
    "no threads": (POLICIES, ["--threads", "0"], "--threads 0"),
    "own network that is not there": (PRUNE, ["--model", "decore_helpers:none"], "decore_helpers:none"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(name, place, capsys, tmp_path):
    main, options, words = MISTAKES[name]
    options = [option.format(root=place) for option in options]
    if "--saved-dir" not in options:
        options += ["--saved-dir", str(tmp_path / "out")]
    before = leftover_files(place, "*.png")
    status = run(main, place, *options)
    single_error_line(status, capsys.readouterr().err, words)
    finished_policy = name == "target out of reach"  # the agents did learn; only the cut is refused
    assert not [path for path in leftover_files(tmp_path, "*.png") if not (finished_policy and "-policy" in str(path))]
    assert leftover_files(place, "*.png") == before
    assert not (place / "hacked").exists()


@pytest.mark.parametrize("main", [PRUNE, POLICIES])
def test_a_full_disk_is_one_line_and_nothing_half_written(main, place, capsys, tmp_path, monkeypatch):
    """Every file goes through one writer; it fails at its last step, for the first file and for later ones."""
    monkeypatch.setattr("common.pipeline.latency_ms", lambda models, *args, **kwargs: {name: {} for name in models})
    for allowed in (0, 2, 5):
        out = tmp_path / str(allowed)
        with full_disk(after=allowed):
            status = run(main, place, "--saved-dir", str(out))
        assert "No space left" in single_error_line(status, capsys.readouterr().err)
        assert not list(out.rglob("*.part")) and not list(out.rglob("metrics.json"))


def test_the_scripts_are_commands(place, tmp_path):
    """From another folder, with a mistake: one line, status 2, no traceback. Both at once: each start imports torch."""
    words = ["--arch", "resnet20", "--weights", place / "short.pth", "--dataset", f"folder:{place / 'pictures'}"]
    scripts = ("prune_model.py", "investigate_policies.py")
    assert_scripts_fail([[HERE / script, *words, "--device", "cpu"] for script in scripts], tmp_path, "short.pth")
