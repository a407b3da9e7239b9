"""Run a package's scripts on tiny data: all jobs finish, and a second call has nothing to do."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def write_tiny_dataset(root: Path, per_class: int = 30) -> Path:
    """Write ``root/train`` and ``root/test``: image folders with the CIFAR-10 classes and 32 x 32 noise images."""
    random = np.random.default_rng(0)
    for part, count in (("train", per_class), ("test", 3)):
        for number, label in enumerate(CIFAR10):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 100, (32, 32, 3)) + 15 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def run_script(script: Path, *options: str | Path, source_from: Path | None = None) -> tuple[int, str]:
    """Run a bash script with this Python first on the path and one thread; return (exit status, output).

    source_from: Source the script from this folder instead of calling it.
    """
    folder = Path(sys.executable).parent
    nowhere = str(script.parent / "no-weights")  # so that jobs of the plan train all networks
    path = f"{folder}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "WEIGHTS": nowhere}
    words = [str(option) for option in options]
    command = ["bash", str(script), *words]
    if source_from is not None:
        command = ["bash", "-c", 'script=$1; shift; source "$script" "$@"; exit $?', "bash", str(script), *words]
    done = subprocess.run(
        command,
        cwd=source_from,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout


def check_script_runs_plan(script: Path, tmp_path: Path, *options: str, per_class: int = 30) -> Path:
    """Run a campaign script twice with ``--quick`` on tiny data: all jobs finish; the second call starts and writes nothing.

    Returns the campaign folder.
    """
    data = write_tiny_dataset(tmp_path / "images", per_class)
    out = tmp_path / "campaign"
    words: list[str | Path] = ["--quick", "--dataset", f"folder:{data}", "--device", "cpu", "--out", out, *options]
    status, printed = run_script(script, *words)
    assert status == 0, printed
    made = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    status, again = run_script(script, *words)
    assert status == 0 and "started" not in again, again
    assert made and {path: path.stat().st_mtime_ns for path in made} == made
    summary = again.strip().splitlines()[-1]
    done, _, rest = summary.partition(": ")[2].partition(" of ")
    assert rest == f"{done} jobs done" and int(done) > 0, summary
    return out
