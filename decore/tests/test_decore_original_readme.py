"""Every promise of the original repository's README (``original_readme.txt``) is kept. Notebooks are executed on a few images."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from common.testing import write_image_folder
from decore.paper.published import PUBLISHED

HOME = Path(__file__).resolve().parents[1]
LINES = [
    line.partition(": ")[::2]
    for line in (HOME / "tests" / "original_readme.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
# Options that make the commands of a notebook small; of an option given twice, the last value counts.
SMALL = {
    "baseline": "--epochs 1 --no-latency",
    "notebook": "--epochs 2 --policy-epochs 1 --no-latency",
    "investigated": "--epochs 1 --drop-fractions 0 0.2 0.5 --random-trials 1",
}


def promises(kind: str) -> list[str]:
    return [text for of, text in LINES if of == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Copy the package's scripts and notebooks to a temporary folder, next to the folder of trained networks."""
    root = tmp_path_factory.mktemp("original") / "decore"
    root.mkdir()
    for file in [*HOME.glob("*.py"), *HOME.glob("*.ipynb")]:
        shutil.copy(file, root)
    (root.parent / "weights").symlink_to(HOME.parent / "weights")
    write_image_folder(root / "images", train=32, test=10)
    return root


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MPLBACKEND": "Agg"}


def test_original_readme_has_known_kinds():
    assert {kind for kind, _ in LINES} == {"file", "notebook", "name", "produces", "row"}


@pytest.mark.parametrize("name", promises("file"))
def test_original_readme_file_exists(name):
    assert (HOME / name).is_file()


@pytest.mark.parametrize("name", promises("name"))
def test_original_readme_name_is_importable(name, monkeypatch):
    monkeypatch.syspath_prepend(str(HOME))
    module, _, attribute = name.partition(".")
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert callable(getattr(__import__(module), attribute))


@pytest.mark.parametrize("text", promises("produces"))
def test_original_readme_file_is_produced(text, folder):
    name, command = text.split(": ")
    assert not (folder / name).exists()
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and (folder / name).is_file(), done.stderr


@pytest.mark.parametrize("text", promises("row"))
def test_original_readme_row_is_published(text):
    """All numbers of a row are those of one row, or of the dense networks, in the data."""
    name, *cells = text.split(" | ")
    numbers = [float(number) for cell in cells for number in re.findall(r"[0-9]+[.][0-9]+", cell)]
    tables = [table for table in PUBLISHED if table.arch == "vgg16"]
    dense = {value for table in tables for value in (0.0, table.top1, table.macs, table.params)}
    rows = [
        {row.top1, row.macs, row.params, row.macs_drop, row.params_drop}
        for table in tables
        for row in table.rows
        if "original" in table.source and name == f"DECORE-{row.setting:g}"
    ]
    assert numbers and set(numbers) <= (dense if name == "VGG16" else rows[0])


@pytest.mark.parametrize("name", promises("notebook"))
def test_original_readme_notebook_runs_and_shows_its_plots(name, folder, tmp_path, monkeypatch):
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.read(folder / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    for cell in code:
        cell.source = cell.source.replace("--dataset digits", "--dataset folder:images")
        more = SMALL["investigated" if "investigate_policies.main" in cell.source else "notebook"]
        cell.source = cell.source.replace(
            "--out runs/notebook/baseline", f"--out runs/notebook/baseline {SMALL['baseline']}"
        )
        cell.source = cell.source.replace("--saved-dir runs/notebook", f"--saved-dir runs/notebook {more}")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    *_, shown = code
    images = [output.data for output in shown.outputs if "image/png" in output.get("data", {})]
    assert len(images) == len(re.findall(r'"[a-z_]+"', shown.source)) >= 2
    errors = [output for cell in code for output in cell.outputs if "error:" in output.get("text", "")]
    assert not errors
