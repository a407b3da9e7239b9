"""The commands of common, called in process: what they print and leave, and one line with status 2 for every mistake."""

import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import common.atomic
from common import evaluate, train
from common.channels import __main__ as channels_command
from common.checkpoint import load_model, save_model
from common.errors import UserError
from common.measure import latency_ms
from common.models import create_model
from common.plots import figure
from common.runs import open_stage, writable_folder

TRAIN = ["--arch", "lenet5", "--epochs", "1", "--batch-size", "100", "--learning-rate", "0.02", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of ``common.train`` on digits."""
    folder = tmp_path_factory.mktemp("run") / "lenet"
    assert train.main([*TRAIN, "--model", "test_common_commands:tiny", "--out", str(folder)]) == 0
    return folder


def tiny(num_classes: int = 10):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3072, 16), torch.nn.ReLU(), torch.nn.Linear(16, num_classes)
    )


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.strip().splitlines()


def test_train_leaves_a_whole_run_folder(trained):
    assert sorted(p.name for p in trained.iterdir()) == ["config.json", "log.csv", "metrics.json", "model.safetensors"]
    metrics, config = (json.loads((trained / name).read_text()) for name in ("metrics.json", "config.json"))
    side = metrics["baseline"]
    assert metrics["schema"] == 1 and metrics["package"] == "common" and metrics["seed"] == 0
    assert side["macs"] == 3072 * 16 + 160 and side["bytes"] == (trained / "model.safetensors").stat().st_size
    assert set(side) == {"top1", "top5", "loss", "macs", "params", "nonzero_params", "bytes", "latency_ms"}
    assert set(side["latency_ms"]) == {"1", "64"} and 50 < side["top1"] <= 100
    assert config["options"]["epochs"] == 1 and config["environment"]["versions"]["torch"]
    with open(trained / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_top1"]) == side["top1"]  # the last epoch's, and read back from disk


def test_a_finished_run_is_skipped_and_another_is_refused(trained, capsys):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    same = [*TRAIN, "--model", "test_common_commands:tiny", "--out", str(trained)]
    assert train.main(same) == 0 and (trained / "model.safetensors").stat().st_mtime_ns == before
    assert train.main([*same, "--momentum", "0.5"]) == 2
    (line,) = lines(capsys)
    assert "--momentum" in line and "--force" in line
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_evaluate_prints_and_writes(trained, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    options = [
        "--checkpoint",
        str(trained / "model.safetensors"),
        "--model",
        "test_common_commands:tiny",
        "--device",
        "cpu",
    ]
    assert evaluate.main([*options, "--json", str(figures)]) == 0
    written = json.loads(figures.read_text())
    assert set(written) >= {"top1", "top5", "loss", "macs", "params", "bytes", "latency_ms"}
    assert written["top1"] == json.loads((trained / "metrics.json").read_text())["baseline"]["top1"]
    assert f"{written['top1']:.2f} %" in capsys.readouterr().out


def test_pictures_that_the_network_does_not_read_are_a_mistake(trained, tmp_path, capsys):
    for side in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / side / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / side / label / f"{i}.png")
    options = ["--checkpoint", str(trained / "model.safetensors"), "--model", "test_common_commands:tiny"]
    assert evaluate.main([*options, "--device", "cpu", "--dataset", f"folder:{tmp_path}"]) == 2
    (line,) = lines(capsys)
    assert "model.safetensors" in line and "(3, 8, 8)" in line


def test_a_file_that_names_a_factory_is_read_with_it(trained, tmp_path, capsys):
    """compare --model writes such files: the name in one is not imported, the user gives it again."""
    file, name = tmp_path / "own.safetensors", "test_common_commands:tiny"
    model = load_model(trained / "model.safetensors", tiny)
    save_model(file, model, arch=name, arch_args={}, normalize=((0.5,) * 3, (0.25,) * 3), dataset="digits")
    words = ["--checkpoint", str(file), "--dataset", "digits", "--device", "cpu"]
    assert evaluate.main(words) == 2 and "factory" in capsys.readouterr().err
    assert evaluate.main([*words, "--model", name]) == 0


def test_channels_prints_groups(capsys):
    assert channels_command.main(["--arch", "resnet20"]) == 0
    assert "layer2.0.shortcut" in (out := capsys.readouterr().out) and "12 groups, 448 channels" in out


def bad_commands(tmp_path):
    """(command, arguments, part of the one line)"""
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"\x00" * 100)
    code = tmp_path / "code.pth"
    code.write_bytes(pickle.dumps(print))
    other = tmp_path / "other.pth"
    torch.save(create_model("lenet5").state_dict(), other)
    a_file = tmp_path / "file"
    a_file.write_text("")
    empty = tmp_path / "empty"
    (empty / "train" / "a").mkdir(parents=True)
    (empty / "test" / "a").mkdir(parents=True)
    broken = tmp_path / "broken"
    for side in ("train", "test"):
        for name in ("a", "b"):
            (broken / side / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(broken / side / name / "x.png")
    picture = broken / "train" / "b" / "x.png"
    picture.write_bytes(picture.read_bytes()[:40])
    out = ["--out", str(tmp_path / "out")]
    none = str(tmp_path / "none")
    return [
        (train, ["--arch", "resnet57", *out], "resnet56"),
        (train, ["--arch", "resnet20", "--dataset", "letters", *out], "digits"),
        (train, ["--arch", "resnet20", "--dataset", "cifar10", "--dataset-dir", none, *out], "common.fetch"),
        (train, ["--arch", "resnet20", "--dataset", f"folder:{none}", *out], "none"),
        (train, ["--arch", "resnet20", "--dataset", f"folder:{empty}", *out], "a"),
        (train, ["--arch", "resnet20", "--dataset", f"folder:{broken}", *out], "x.png"),
        (train, ["--arch", "resnet20", "--device", "tpu", *out], "cuda:N"),
        (train, ["--arch", "resnet20", "--device", "cuda:99", *out], "CUDA"),
        (train, ["--arch", "resnet20", "--epochs", "x", *out], "--epochs"),
        (train, ["--arch", "resnet20", "--epochs", "-1", *out], "epochs"),
        (train, ["--arch", "resnet20", "--learning-rate", "nan", *out], "learning-rate"),
        (train, ["--arch", "resnet20", "--batch-size", "0", *out], "batch-size"),
        (train, ["--arch", "resnet20", "--schedule", "zigzag", *out], "schedule"),
        (train, ["--arch", "resnet20", "--threads", "0", *out], "threads"),
        (train, ["--arch", "resnet20", "--weights", str(other), *out], "other.pth"),
        (train, ["--arch", "resnet20", "--weights", none, *out], "no such file"),
        (train, ["--arch", "resnet20", "--shortcut", "conv1x1", *out], "shortcut"),
        (train, ["--arch", "densenet40", "--weights", str(other), *out], "other.pth"),
        (train, ["--arch", "resnet20", "--bogus", *out], "--bogus"),
        (train, ["--model", "nowhere:net", *out], "nowhere"),
        (train, ["--model", "test_common_commands", *out], "PACKAGE.MODULE:FACTORY"),
        (train, ["--arch", "resnet20", "--epochs", "0", "--out", str(a_file)], "file"),
        (train, ["--arch", "lenet5", "--checkpoint", str(corrupt), *out], "--checkpoint"),
        (evaluate, ["--arch", "resnet20"], "--weights"),
        (evaluate, ["--checkpoint", str(corrupt)], "safetensors"),
        (evaluate, ["--checkpoint", none], "no such file"),
        (evaluate, ["--arch", "resnet20", "--weights", str(code)], "code.pth"),
        (evaluate, ["--arch", "resnet56", "--weights", str(other)], "conv1"),
        (evaluate, ["--weights", str(other)], "--arch"),
        (channels_command, [], "--arch"),
        (channels_command, ["--arch", "nothing"], "known are"),
    ]


def test_every_mistake_is_one_line_and_leaves_nothing(tmp_path, capsys):
    for command, arguments, part in bad_commands(tmp_path):
        status = command.main(
            [*arguments, "--device", "cpu"]
            if "--device" not in arguments and command is not channels_command
            else arguments
        )
        error = lines(capsys)
        assert status == 2, arguments
        assert len(error) == 1 and error[0].startswith("error: ") and part in error[0], (arguments, error)
        out = tmp_path / "out"
        assert (
            not list(out.glob("*.safetensors")) and not list(out.glob("metrics.json")) and not list(out.glob(".*"))
        ), arguments


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(common.atomic.os, "fsync", full)
    assert train.main([*TRAIN, "--model", "test_common_commands:tiny", "--out", str(tmp_path / "out")]) == 2
    assert lines(capsys) == ["error: No space left on device"]
    assert not [p for p in (tmp_path / "out").iterdir()]


@pytest.mark.parametrize(
    "words",
    [
        ["common.train", "--arch", "resnet57", "--out", "out"],
        ["common.evaluate", "--checkpoint", "none"],
        ["common.channels", "--arch", "nothing"],
        ["common.fetch", "nothing"],
    ],
)
def test_as_a_command_too(words, tmp_path):
    """Once for real: python -m, standard error, exit status."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and not done.stdout


@pytest.mark.parametrize("inner", ["", "run", "runs/seed0"])
def test_a_folder_that_cannot_be_names_what_is_in_the_way(inner, tmp_path, monkeypatch):
    assert writable_folder(tmp_path / "new" / inner) == tmp_path / "new" / inner
    assert not (tmp_path / "new").exists()
    file = tmp_path / "taken"
    file.write_text("a report")
    with pytest.raises(UserError, match=f"{file} is a file"):
        open_stage(file / inner, "p", {}, force=True)
    assert file.read_text() == "a report"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"no permission to write in {tmp_path};"):
        open_stage(tmp_path / "new" / inner, "p", {})


def test_open_stage_refuses_other_data_and_starts_anew_by_force(tmp_path):
    options = {"arch": "a", "epochs": 1, "threads": 2}
    open_stage(tmp_path / "r", "p", options, fingerprint="x").finish({})
    assert open_stage(tmp_path / "r", "p", {**options, "threads": 1}, fingerprint="x").finished
    for package, changed, fingerprint in (
        ("p", options, "y"),
        ("q", options, "x"),
        ("p", {**options, "epochs": 2}, "x"),
    ):
        with pytest.raises(UserError, match="--force"):
            open_stage(tmp_path / "r", package, changed, fingerprint=fingerprint)
    assert not open_stage(tmp_path / "r", "p", {**options, "epochs": 2}, fingerprint="y", force=True).finished


def test_latency_is_interleaved_and_positive():
    models = {"a": tiny(), "b": tiny()}
    result = latency_ms(models, (3, 32, 32), batch_sizes=(1, 4), repeats=3)
    assert set(result) == {"a", "b"} and all(ms > 0 for series in result.values() for ms in series.values())


def test_figures_are_whole_or_not_there(tmp_path):
    with figure(tmp_path / "a.png") as axes:
        axes.plot([0, 1], [1, 0])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 400
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "b.png", nrows=2):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
