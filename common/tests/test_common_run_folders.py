"""Run folders: locks, files of killed writers, full disks, damaged files, moved folders."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from common import atomic, locks, runs, train
from common.checkpoint import read_checkpoint, save_model
from common.cli import describe_os_error, run
from common.errors import UserError
from common.log import log_to
from common.models import create_model
from common.runs import CONFIG, LOG, METRICS, PROGRESS, STATE, open_stage
from common.testing import locked_by_another_process, noise_images, single_error_line, write_image_folder
from common.training import TrainOptions, fit

OPTIONS = {"arch": "a", "seed": 0}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---------------------------------------------------------------------------------------------------- temporary files


def leave_temporary_file(path: Path) -> Path:
    """Create the temporary folder of a writer of ``path``, as a killed one leaves it."""
    place = path.parent / f".{path.name}.abc_1234.part"
    place.mkdir(parents=True)
    (place / "new").write_text("half")
    return place


def test_next_writer_removes_temporary_files_of_killed_writer(tmp_path):
    place, other = leave_temporary_file(tmp_path / "a.json"), leave_temporary_file(tmp_path / "b.json")
    (tmp_path / ".a.json.abcdefgh.part").write_text("half")  # of an earlier version
    (tmp_path / "download.part").write_text("to be resumed")
    atomic.write_json(tmp_path / "a.json", 1)
    assert not place.exists() and files(tmp_path) == {"a.json", "download.part", other.name, f"{other.name}/new"}


def test_next_run_removes_temporary_files_of_killed_run(tmp_path):
    leave_temporary_file(tmp_path / "r" / "model.safetensors")
    open_stage(tmp_path / "r", "p", OPTIONS)
    assert files(tmp_path / "r") == {CONFIG}


def test_temporary_file_of_running_writer_is_kept(tmp_path):
    with atomic.atomic_file(tmp_path / "a") as first:
        first.write_text("1")
        with atomic.atomic_file(tmp_path / "a") as second:
            second.write_text("2")
        atomic.remove_temporary_files(tmp_path)
        assert first.read_text() == "1"
    assert (tmp_path / "a").read_text() == "1" and files(tmp_path) == {"a"}


def test_killed_writer_of_safetensors_leaves_one_removable_folder(tmp_path):
    """Also the library's own temporary file is inside."""
    code = (
        "import numpy, os, signal, sys; from common import atomic; from safetensors.numpy import save_file\n"
        "with atomic.atomic_file(sys.argv[1]) as file:\n"
        "    save_file({'a': numpy.zeros(9)}, file); (file.parent / '.tmpX').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.safetensors")], timeout=600)
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1
    atomic.remove_temporary_files(tmp_path)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- full disk


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_names_target_file(error, tmp_path, capsys):
    def write(_) -> None:
        with atomic.atomic_file(tmp_path / "m.bin"):
            try:
                raise error
            except OSError as cause:  # as torch.save reports it
                raise RuntimeError("unexpected pos 64 vs 0") from cause

    assert run(write) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {tmp_path}/m.bin: ") and len(printed.splitlines()) == 1, printed
    assert "free some space" in printed and not list(tmp_path.iterdir())


def test_other_errors_of_writers_are_unchanged(tmp_path):
    with pytest.raises(SafetensorError, match="os error 2"), atomic.atomic_file(tmp_path / "a"):
        raise SafetensorError("No such file or directory (os error 2)")
    assert describe_os_error(FileNotFoundError(2, "No such file", "x")) == "No such file (x)"


def test_log_line_on_full_disk_names_file(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    (tmp_path / "a.log").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left.*a\.log"), log_to([tmp_path / "a.log"]) as log:
        log("line")


# --------------------------------------------------------------------------------------------------------------- locks


def test_second_command_in_folder_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.0)
    folder = tmp_path / "r"
    folder.mkdir()
    message = f"{folder}: another command is working in this folder"
    with locked_by_another_process(folder), pytest.raises(UserError, match=message):
        open_stage(folder, "p", OPTIONS, force=True)
    assert not files(folder)


def test_killed_command_releases_folder_and_waiting_one_continues(tmp_path, monkeypatch):
    with locked_by_another_process(tmp_path) as process:
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: process.kill())
        stage = open_stage(tmp_path, "p", OPTIONS)
    again = open_stage(tmp_path, "p", OPTIONS)  # the same process may open it twice
    assert stage.lock is again.lock is not None


def test_run_of_version_without_an_option_is_resumed(tmp_path):
    (tmp_path / "r").mkdir()
    open_stage(tmp_path / "r", "p", OPTIONS).finish({"file": "m"})
    assert open_stage(tmp_path / "r", "p", {**OPTIONS, "swap_split": False, "labels": None, "names": []}).metrics()
    with pytest.raises(UserError, match="contains a run with --swap-split False, not True"):
        open_stage(tmp_path / "r", "p", {**OPTIONS, "swap_split": True, "labels": None, "names": []})


def test_folder_is_released_when_stage_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.0)
    stage = open_stage(tmp_path, "p", OPTIONS)
    assert stage.substage("inner", {}).lock is not stage.lock
    del stage
    with locked_by_another_process(tmp_path):
        pass
    assert not locks._held


def test_folder_without_locks_is_used_unlocked(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    assert open_stage(tmp_path / "r", "p", OPTIONS).lock is None
    atomic.write_text(tmp_path / "a", "b")
    monkeypatch.setattr(locks, "fcntl", None)
    assert open_stage(tmp_path / "r", "p", OPTIONS).lock is None


def test_folder_that_cannot_be_locked_has_lock_file(tmp_path, monkeypatch):
    """NFS locks only files that are open for writing."""
    real = locks.fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if not os.fstat(descriptor).st_mode & 0o100000:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    first = locks.lock_folder(tmp_path)
    assert first is not None and files(tmp_path) == {locks.LOCK}
    locks._held.clear()
    monkeypatch.setattr(locks, "WAIT", 0.0)
    with pytest.raises(UserError, match="another command"):
        locks.lock_folder(tmp_path)


# ------------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "text",
    [
        "epoch,seconds\n1,x\n",
        "epoch,seconds\n1,nan\n",
        "epoch,seconds\n1,inf\n",
        "epoch,seconds\n1,-5\n",
        b"\xff\xfe,\x00",
    ],
)
def test_damaged_log_raises_and_is_kept(text, tmp_path):
    open_stage(tmp_path, "p", OPTIONS)
    (tmp_path / LOG).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / STATE).write_text("state")
    before = files(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/{LOG}: damaged .*delete it"):
        open_stage(tmp_path, "p", OPTIONS)
    assert files(tmp_path) == before


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(range(256)) * 4,
    "another type": lambda data: b"[1, 2]",
    "no entries": lambda data: b"{}",
    "a flipped bit": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "numbers replaced": lambda data: re.sub(rb": [0-9.]+", b": null", data),
    "names replaced": lambda data: data.replace(b"top1", b"tqp1").replace(b"options", b"optiqns"),
}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    """A finished and an interrupted run of two epochs."""
    root = tmp_path_factory.mktemp("damaged")
    write_image_folder(root / "images", train=8, test=2)
    assert train.main(words_of(root, "finished")) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COMPRESSION_DEADLINE", "1")
        assert train.main(words_of(root, "interrupted")) == 75
    assert (root / "interrupted" / STATE).is_file()
    return root


def words_of(root: Path, name: str) -> list[str]:
    more = ["--arch", "lenet5", "--epochs", "2", "--device", "cpu", "--threads", "1", "--no-latency", "--workers", "0"]
    return ["--dataset", f"folder:{root / 'images'}", *more, "--out", str(root / name)]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("run_name", "name"),
    [
        ("finished", METRICS),
        ("finished", CONFIG),
        ("finished", LOG),
        ("interrupted", CONFIG),
        ("interrupted", LOG),
        ("interrupted", STATE),
    ],
)
def test_damaged_file_is_one_line_and_nothing_is_lost(run_name, name, damage, two_runs, tmp_path, capsys):
    """Either the run ends as if the file were intact, or the command ends with one line and changes no file."""
    folder = tmp_path / run_name
    shutil.copytree(two_runs / run_name, folder)
    file = folder / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    status = train.main([*words_of(two_runs, run_name)[:-1], str(folder)])
    printed = capsys.readouterr().err
    if status == 0:
        made = read_checkpoint(folder / "model.safetensors")[0]["sha256"]
        assert made == read_checkpoint(two_runs / "finished" / "model.safetensors")[0]["sha256"]
    else:
        line = single_error_line(status, printed, str(folder))
        assert str(file) in line or (name == CONFIG and "contains a run with" in line)
        changed = {path.name for path in folder.iterdir() if before.get(path.name) != path.read_bytes()}
        assert changed <= {CONFIG} - {name} and len(list(folder.iterdir())) == len(before)


@pytest.mark.parametrize("name", [METRICS, STATE, PROGRESS])
def test_run_without_config_raises(name, tmp_path):
    """Its options are unknown, so resuming could mix two runs."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"contains {name} of a run, but not its {CONFIG}"):
        open_stage(tmp_path, "p", OPTIONS)
    assert not open_stage(tmp_path, "p", OPTIONS, force=True).finished


def test_killed_force_does_not_mix_runs(tmp_path, monkeypatch):
    """At every point at which --force can be killed, the next call does not resume the old run with new options."""
    unlink, left = Path.unlink, 0

    def killed(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    for count in range(7):
        folder = tmp_path / str(count)
        open_stage(folder, "p", OPTIONS).finish({})
        (folder / STATE).write_text("state")
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            left = count
            patched.setattr(Path, "unlink", killed)
            open_stage(folder, "p", OPTIONS | {"seed": 1}, force=True)
        assert not (folder / METRICS).exists() or count == 0
        if files(folder) != {CONFIG}:
            with pytest.raises(UserError, match="--seed 0, not 1"):
                open_stage(folder, "p", OPTIONS | {"seed": 1})


def test_state_that_killed_command_left_is_removed(tmp_path):
    open_stage(tmp_path, "p", OPTIONS).finish({})
    for name in (STATE, PROGRESS):
        (tmp_path / name).write_text("state")
    open_stage(tmp_path, "p", OPTIONS)
    assert files(tmp_path) == {CONFIG, METRICS}


def test_log_that_lacks_last_epoch_is_completed_from_state(tmp_path):
    """A kill between the two files of the last epoch."""
    torch.manual_seed(0)
    model, options = (
        create_model("lenet5", num_classes=2, in_channels=3, image_size=32),
        TrainOptions(epochs=2, batch_size=8),
    )
    images = noise_images(8, classes=2)
    rows = fit(model, images, options, folder=tmp_path)
    complete = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(complete.splitlines(keepends=True)[0])
    assert fit(model, images, options, folder=tmp_path) == rows and (tmp_path / LOG).read_bytes() == complete


# ------------------------------------------------------------------------------------------------------- moved folders


def test_moved_folder_with_data_and_weights_resumes(tmp_path, capsys):
    """Everything is in one folder, which is moved, and named by absolute paths."""
    old, new = tmp_path / "old", tmp_path / "new"
    write_image_folder(old / "images", train=8, test=2)
    torch.manual_seed(0)
    save_model(old / "w.safetensors", create_model("lenet5", num_classes=2, in_channels=3, image_size=32))

    def words(root: Path, epochs: str = "1") -> list[str]:
        data = ["--dataset", f"folder:{root / 'images'}", "--weights", str(root / "w.safetensors")]
        more = [
            "--arch",
            "lenet5",
            "--epochs",
            epochs,
            "--device",
            "cpu",
            "--threads",
            "1",
            "--no-latency",
            "--workers",
            "0",
        ]
        return [*data, *more, "--out", str(root / "run")]

    assert train.main(words(old)) == 0
    (old / "run" / METRICS).unlink()
    old.rename(new)
    made = read_checkpoint(new / "run" / "model.safetensors")[0]["sha256"]
    assert train.main(words(new)) == 0, capsys.readouterr().err
    assert read_checkpoint(new / "run" / "model.safetensors")[0]["sha256"] == made
    assert train.main(words(new, "2")) == 2 and "--epochs 1, not 2" in capsys.readouterr().err
    (new / "w.safetensors").rename(new / "v.safetensors")
    torch.manual_seed(1)
    save_model(new / "w.safetensors", create_model("lenet5", num_classes=2, in_channels=3, image_size=32))
    assert train.main(words(new)) == 2 and "--weights" in capsys.readouterr().err  # another file under the same name


@pytest.mark.parametrize(
    ("name", "old", "new", "moved"),
    [
        ("dataset_dir", "/a/data", "/b/data", True),
        ("dataset", "folder:/a", "folder:/b", True),
        ("dataset", "folder:/a", "numeric-folder:/a", False),
        ("dataset", "mnist", "cifar10", False),
        ("out", "/a/run", "/b/run", True),
        ("pretrain_dir", "/a", "/b", True),
        ("weights", "/a/w.pth", "/b/w.pth", False),  # no such files
        ("arch", "a", "b", False),
    ],
)
def test_other_path_of_same_content_is_same_option(name, old, new, moved, tmp_path):
    def options(value: str) -> dict:
        return {"weights_digest": "0", name: value}

    stage = open_stage(tmp_path, "p", options(old), fingerprint="x")
    stage.finish({})
    if moved:
        assert open_stage(tmp_path, "p", options(new), fingerprint="x").finished
    else:
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            open_stage(tmp_path, "p", options(new), fingerprint="x")
    with pytest.raises(UserError):  # other data
        open_stage(tmp_path, "p", options(new), fingerprint="y")


def test_config_of_earlier_version_is_accepted(tmp_path):
    open_stage(tmp_path, "p", OPTIONS | {"weights": "w"}).finish({})
    config = json.loads((tmp_path / CONFIG).read_text())
    del config["files"]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert (
        open_stage(tmp_path, "p", OPTIONS | {"weights": "w"}).finished
        and runs.read_record(tmp_path / CONFIG)["files"] == {}
    )
