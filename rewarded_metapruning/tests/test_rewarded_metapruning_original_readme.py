"""Promises of the original README (``original_readme.txt``): commands run verbatim, files appear, rows are in our data.

The commands run in bash, in order, in a copy of the package's scripts. A ``python`` first in the PATH appends options that make
them small.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.settings import build_parser
from common.testing import write_image_folder
from rewarded_metapruning.paper.published import PUBLISHED_RESULTS
from rewarded_metapruning.settings import SearchWidths, TrainChosen, TrainPruningNet, normalize_dashes

HOME = Path(__file__).parents[1]
PROMISES = [
    tuple(line.split(": ", 1))
    for line in (HOME / "tests" / "original_readme.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
SETTINGS = {"train.py": TrainPruningNet, "search.py": SearchWidths, "evaluate.py": TrainChosen}
SMALL = "--arch resnet-small --device cpu --threads 1 --workers 0 --batch-size 16"
SHIM = f"""#!/bin/bash
case $1 in
  train.py) set -- "$@" {SMALL} --dataset folder:ImageNet2012 --epochs 1 --holdout 0.25 ;;
  search.py) set -- "$@" {SMALL} --dataset folder:ImageNet2012 --holdout 0.25 --population 2 --parents 1 --calibration-batches 1 ;;
  evaluate.py) set -- "$@" {SMALL} --dataset folder:imagenet_dataset --epochs 1 ;;
esac
exec '{sys.executable}' "$@"
"""


def paste_vector(place: Path) -> str:
    """Paste the third of the best vectors in search.txt into evaluate.py, as the README instructs, and return it."""
    vectors = re.findall(r"^No\.\d+: (\[.*?\])", (place / "search.txt").read_text(), re.MULTILINE)
    assert len(vectors) == 10
    script = place / "evaluate.py"
    script.write_text(
        re.sub(r'(?s)^(network_encoding_vector = )""".*?"""', rf"\g<1>{vectors[2]}", script.read_text(), flags=re.M)
    )
    return vectors[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder in which the command lines of the README have been run."""
    place = tmp_path_factory.mktemp("original")
    for name in SETTINGS:
        shutil.copy(HOME / name, place)
    shutil.copytree(HOME / "log", place / "log")
    for name in ("ImageNet2012", "imagenet_dataset"):
        write_image_folder(place / name, train=20, test=10, size=16)
    (place / "bin").mkdir()
    (place / "bin" / "python").write_text(SHIM)
    (place / "bin" / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    vector = None
    for command in (text for kind, text in PROMISES if kind == "command"):
        if "evaluate.py" in command:
            vector = paste_vector(place)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (
        f"encoding vector of network_encoding_vector in evaluate.py: {vector}" in (place / "evaluation.txt").read_text()
    )
    return place


def check_command(text: str, place: Path) -> None:
    assert text.split()[1] in SETTINGS  # it was run


def check_option(text: str, place: Path) -> None:
    script, option = text.split()
    names = {name for action in build_parser(SETTINGS[script])._actions for name in action.option_strings}
    assert normalize_dashes([option])[0] in names


def check_file(text: str, place: Path) -> None:
    assert (HOME / text).is_file()


def check_name(text: str, place: Path) -> None:
    module, name = text.split(".")
    assert re.search(rf"^{name} = ", (HOME / f"{module}.py").read_text(), re.MULTILINE)


def check_produces(text: str, place: Path) -> None:
    assert (place / text).stat().st_size > 0


def check_row(text: str, place: Path) -> None:
    network, method, error, macs = text.split(" | ")
    rows = [(row.method, f"{row.error:.2f}%", f"{row.macs}M") for row in PUBLISHED_RESULTS[network]]
    assert (method, error, macs) in rows


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "command": check_command,
    "option": check_option,
    "file": check_file,
    "name": check_name,
    "produces": check_produces,
    "row": check_row,
}


@pytest.mark.parametrize(("kind", "text"), PROMISES, ids=[f"{kind}: {text}" for kind, text in PROMISES])
def test_original_readme_promise_is_kept(kind, text, place):
    CHECKS[kind](text, place)


def test_original_readme_has_all_commands_and_rows():
    kinds = [kind for kind, _ in PROMISES]
    assert kinds.count("command") == 3 and kinds.count("row") == sum(map(len, PUBLISHED_RESULTS.values())) == 23
