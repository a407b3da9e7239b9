"""Commands of common, called in process: printed lines, written files, and one line with status 2 for invalid input."""

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
from common.measure import measure_latency
from common.models import create_model
from common.plots import figure
from common.runs import open_stage, writable_folder

TRAIN = ["--arch", "lenet5", "--epochs", "1", "--batch-size", "100", "--learning-rate", "0.02", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run folder of ``common.train`` on digits."""
    folder = tmp_path_factory.mktemp("run") / "lenet"
    assert train.main([*TRAIN, "--model", "test_common_commands:tiny", "--out", str(folder)]) == 0
    return folder


def tiny(num_classes: int = 10):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3072, 16), torch.nn.ReLU(), torch.nn.Linear(16, num_classes)
    )


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.strip().splitlines()


def test_train_writes_complete_run_folder(trained):
    assert sorted(p.name for p in trained.iterdir()) == ["config.json", "log.csv", "metrics.json", "model.safetensors"]
    metrics, config = (json.loads((trained / name).read_text()) for name in ("metrics.json", "config.json"))
    baseline = metrics["baseline"]
    assert metrics["schema"] == 1 and metrics["package"] == "common" and metrics["seed"] == 0
    assert baseline["macs"] == 3072 * 16 + 160 and baseline["bytes"] == (trained / "model.safetensors").stat().st_size
    assert set(baseline) == {"top1", "top5", "loss", "macs", "params", "nonzero_params", "bytes", "latency_ms"}
    assert set(baseline["latency_ms"]) == {"1", "64"} and 50 < baseline["top1"] <= 100
    assert config["options"]["epochs"] == 1 and config["environment"]["versions"]["torch"]
    with open(trained / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_top1"]) == baseline["top1"]  # of the last epoch, measured after reloading


def test_finished_run_is_skipped_and_other_options_raise(trained, capsys):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    same = [*TRAIN, "--model", "test_common_commands:tiny", "--out", str(trained)]
    assert train.main(same) == 0 and (trained / "model.safetensors").stat().st_mtime_ns == before
    assert train.main([*same, "--momentum", "0.5"]) == 2
    (line,) = lines(capsys)
    assert "--momentum" in line and "--force" in line
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_evaluate_prints_and_writes_metrics(trained, tmp_path, capsys):
    file = tmp_path / "metrics.json"
    options = [
        "--checkpoint",
        str(trained / "model.safetensors"),
        "--model",
        "test_common_commands:tiny",
        "--device",
        "cpu",
    ]
    assert evaluate.main([*options, "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert set(written) >= {"top1", "top5", "loss", "macs", "params", "bytes", "latency_ms"}
    assert written["top1"] == json.loads((trained / "metrics.json").read_text())["baseline"]["top1"]
    assert f"{written['top1']:.2f} %" in capsys.readouterr().out


def test_incompatible_image_shape_is_reported(trained, tmp_path, capsys):
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8)).save(tmp_path / split / label / f"{i}.png")
    options = ["--checkpoint", str(trained / "model.safetensors"), "--model", "test_common_commands:tiny"]
    assert evaluate.main([*options, "--device", "cpu", "--dataset", f"folder:{tmp_path}"]) == 2
    (line,) = lines(capsys)
    assert "model.safetensors" in line and "(3, 8, 8)" in line


def test_file_with_factory_requires_model_option(trained, tmp_path, capsys):
    """compare --model writes such files: the name in the file is not imported, the user has to give it."""
    file, name = tmp_path / "own.safetensors", "test_common_commands:tiny"
    model = load_model(trained / "model.safetensors", tiny)
    save_model(file, model, arch=name, arch_args={}, normalize=((0.5,) * 3, (0.25,) * 3), dataset="digits")
    words = ["--checkpoint", str(file), "--dataset", "digits", "--device", "cpu"]
    assert evaluate.main(words) == 2 and "factory" in capsys.readouterr().err
    assert evaluate.main([*words, "--model", name]) == 0


def test_channels_prints_groups(capsys):
    assert channels_command.main(["--arch", "resnet20"]) == 0
    assert "layer2.0.shortcut" in (out := capsys.readouterr().out) and "12 groups, 448 channels" in out


def invalid_commands(tmp_path):
    """Return (command, arguments, part of the error line) for all cases."""
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
    for split in ("train", "test"):
        for name in ("a", "b"):
            (broken / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(broken / split / name / "x.png")
    image = broken / "train" / "b" / "x.png"
    image.write_bytes(image.read_bytes()[:40])
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
        (train, ["--arch", "resnet20", "--epochs", "1", "--out", str(a_file)], "file"),
        (train, ["--arch", "lenet5", "--checkpoint", str(corrupt), *out], "--checkpoint"),
        (evaluate, ["--arch", "resnet20"], "--weights"),
        (evaluate, ["--checkpoint", str(corrupt)], "safetensors"),
        (evaluate, ["--checkpoint", none], "no such file"),
        (evaluate, ["--arch", "resnet20", "--weights", str(code)], "code.pth"),
        (evaluate, ["--arch", "resnet56", "--weights", str(other)], "conv1"),
        (evaluate, ["--weights", str(other)], "--arch"),
        (channels_command, [], "--arch"),
        (channels_command, ["--arch", "nothing"], "known: "),
    ]


def test_invalid_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    for command, arguments, part in invalid_commands(tmp_path):
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


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(common.atomic.os, "fsync", full)
    assert train.main([*TRAIN, "--model", "test_common_commands:tiny", "--out", str(tmp_path / "out")]) == 2
    (line,) = lines(capsys)
    assert line.startswith(f"error: {tmp_path}/out/config.json: No space left on device; free some space")
    assert not [p for p in (tmp_path / "out").iterdir()]


@pytest.mark.parametrize(
    "words",
    [
        ["common.train", "--arch", "resnet57", "--out", "out"],
        ["common.fetch", "nothing"],
    ],
)
def test_python_m_reports_one_line_with_status_2(words, tmp_path):
    """In a separate process: standard error and exit status."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and not done.stdout


@pytest.mark.parametrize("inner", ["", "run", "runs/seed0"])
def test_unwritable_folder_raises_naming_obstacle(inner, tmp_path, monkeypatch):
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


def test_open_stage_raises_for_other_run_unless_forced(tmp_path):
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


def test_latency_is_positive_for_all_networks():
    models = {"a": tiny(), "b": tiny()}
    result = measure_latency(models, (3, 32, 32), batch_sizes=(1, 4), seconds=0.1)
    for name in models:
        assert set(result.milliseconds(name)) == {"1", "4"} and all(ms > 0 for ms in result.milliseconds(name).values())
    record = result.record("b")["4"]
    assert 0 < record["low"] <= record["ratio"] <= record["high"] and record["rounds"] >= 5
    assert record["control_low"] <= record["control"] <= record["control_high"]


def test_figures_are_written_atomically(tmp_path):
    with figure(tmp_path / "a.png") as axes:
        axes.plot([0, 1], [1, 0])
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 400
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "b.png", nrows=2):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
