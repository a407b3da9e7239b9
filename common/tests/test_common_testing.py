"""The shared test helpers detect the errors that they check for."""

import os
import pickle
import time
from pathlib import Path

import pytest
import torch

from common import testing
from common.atomic import write_text
from common.distributed import process_group, sum_over_ranks

PRELOAD = [
    "common.training",
    "common.data",
    "sklearn.datasets",
]  # as in test_common_training.py: only the first use has an effect
STEPS = 12


def steps(words: list[str]) -> int:
    """Take twelve resumable steps of 50 ms, each written to disk; every process leaves a file."""
    folder = Path(words[-1])
    folder.mkdir(exist_ok=True)
    (folder / f"started-{os.getpid()}").touch()
    done = folder / "steps"
    count = len(done.read_text()) if done.is_file() else 0
    for i in range(count, STEPS):
        time.sleep(0.05)
        write_text(done, "abcdefghijkl"[: i + 1])
    return 0


def forgetful(words: list[str]) -> int:
    """Take the same steps without resuming, so that steps of an interrupted call appear twice."""
    folder = Path(words[-1])
    folder.mkdir(exist_ok=True)
    for letter in "abcdefghijkl":
        with open(folder / "steps", "a") as file:
            file.write(letter)
        time.sleep(0.05)
    return 0


def single_use(words: list[str]) -> int:
    """Fail in a folder that an earlier call created."""
    folder = Path(words[-1])
    if folder.exists():
        return 2
    return forgetful(words)


def fail_once(words: list[str]) -> int:
    """Fail at the first resume and resume at the second."""
    folder = Path(words[-1])
    if folder.exists() and not (folder / "failed").exists():
        (folder / "failed").touch()
        return 2
    return steps(words)


def quick(words: list[str]) -> int:
    folder = Path(words[-1])
    folder.mkdir(exist_ok=True)
    (folder / "steps").write_text("x")
    return 0


def content(folder: Path) -> str:
    return (folder / "steps").read_text()


def test_resuming_command_is_killed_requested_number_of_times(tmp_path):
    folder = testing.check_resume_after_kill(steps, [], content, tmp_path, kills=4, preload=PRELOAD, between=(0.3, 0.9))
    assert content(folder) == content(tmp_path / "whole") == "abcdefghijkl"
    folders = [path for path in tmp_path.iterdir() if path.name != "whole"]
    started = sum(len(list(path.glob("started-*"))) for path in folders)
    assert started == 4 + len(folders), "each kill, and the last call in every folder"


@pytest.mark.parametrize(
    ("main", "kills", "between", "message"),
    [
        (forgetful, 3, (0.3, 0.9), "the outcome in .* differs"),
        (single_use, 3, (0.3, 0.9), "status 2"),
        (fail_once, 3, (0.3, 0.9), "after 1 kills, the command exits with status 2"),
        (quick, 1, (3.0, 4.0), "before it can be killed: 0 of 1"),
    ],
)
def test_command_that_does_not_resume_raises(main, kills, between, message, tmp_path):
    with pytest.raises(AssertionError, match=message):
        testing.check_resume_after_kill(main, [], content, tmp_path, kills=kills, preload=PRELOAD, between=between)


def environment(folder: str, fail: bool) -> int:
    (Path(folder) / os.environ["RANK"]).write_text(os.environ["WORLD_SIZE"] + os.environ["MASTER_ADDR"])
    for _ in range(3):  # several groups in sequence, as of several commands; rank 0 leaves late
        with process_group(torch.device("cpu")):
            assert sum_over_ranks(torch.ones(())) == 2
            time.sleep(0.3 if os.environ["RANK"] == "0" else 0.0)
    if fail and os.environ["RANK"] == "1":
        return 3
    time.sleep(600.0 if fail else 0.0)  # would wait for the other process
    return 0


def test_run_in_processes_sets_torchrun_environment_and_reports_failure(tmp_path):
    testing.run_in_processes(environment, str(tmp_path), False, preload=PRELOAD)
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["2127.0.0.1"] * 2
    with pytest.raises(AssertionError, match=r"\[None, 3\]"):
        testing.run_in_processes(environment, str(tmp_path), True, preload=PRELOAD)


def test_split_batches_partition_batches():
    images = testing.noise_images(21)
    pairs = testing.split_batches(images, 8, epoch=2)
    batches = list(images.batches(8, shuffle=True, seed=1, epoch=2))
    assert len(pairs) == len(batches) == 3
    for (first, second), batch in zip(pairs, batches, strict=True):
        assert torch.equal(torch.cat([first.labels, second.labels]).sort().values, batch.labels.sort().values)
        assert first.global_size == second.global_size == len(batch.labels)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (0, "error: no such file x\n", "x"),
        (2, "", ""),
        (2, "error: no such file x\nerror: again\n", "x"),
        (2, "Traceback (most recent call last)\nerror: no such file x\n", "x"),
        (2, "no such file x\n", "x"),
        (2, "error: no such file x\n", "such y"),
    ],
)
def test_single_error_line_raises(status, error, words):
    with pytest.raises(AssertionError):
        testing.single_error_line(status, error, words)


def test_single_error_line_returns_line():
    assert testing.single_error_line(2, "error: no such file x\n", "file x") == "error: no such file x"


def test_full_disk_fails_after_given_number_of_files(tmp_path):
    with testing.full_disk(after=2):
        write_text(tmp_path / "a", "1")
        write_text(tmp_path / "b", "2")
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "c", "3")
    write_text(tmp_path / "d", "4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]


def test_leftover_files_finds_results_and_temporary_files(tmp_path):
    for name in ("a/metrics.json", "b/model.safetensors", "c/.x.part", "d/config.json", "e/plot.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert {path.parent.name for path in testing.leftover_files(tmp_path)} == {"a", "b", "c"}
    assert {path.parent.name for path in testing.leftover_files(tmp_path, "*.png")} == {"a", "b", "c", "e"}


def test_invalid_inputs_are_invalid(tmp_path):
    root = testing.write_invalid_inputs(tmp_path)
    good = torch.load(root / "good.pth", weights_only=True)
    assert good["linear.weight"].shape == (2, 64)
    assert torch.load(root / "nan.pth", weights_only=True)["conv1.weight"].isnan().all()
    for name in ("short", "garbage", "evil"):
        with pytest.raises((pickle.UnpicklingError, RuntimeError, OSError)):
            torch.load(root / f"{name}.pth", weights_only=True)
    assert not (root / "hacked").exists()
    pickle.loads((root / "evil.pth").read_bytes())  # unpickling runs code
    assert (root / "hacked").exists()
    assert not list((root / "empty-class" / "train" / "class1").iterdir())


def test_python_calls_of_shell_script_are_recorded(tmp_path):
    done, calls = testing.record_python_calls("python a.py --b; echo $?; cd /; python c.py", tmp_path, status=3)
    assert done.returncode == 3 and done.stdout == "3\n"
    assert [call.split(": ")[1] for call in calls] == ["a.py --b", "c.py"] and calls[1].startswith("/: ")
