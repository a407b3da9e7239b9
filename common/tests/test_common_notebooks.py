"""Notebooks run in a kernel; invalid commands, imports and stored outputs are also detected without one."""

import json
import re
from pathlib import Path

import pytest

from common.testing.notebooks import code_cells, parse_notebook_options, run_notebook

TRAIN = 'from common import train\nwords = "--epochs 3 --out runs/x".split()\nstatus = train.main(words)'
SHOW = 'from IPython.display import Image, display\nassert status == 2\ndisplay(Image("runs/x/plot.png"))'


def notebook(folder, *sources: str, **cell):
    cells = [{"cell_type": "markdown", "id": "a", "source": ["# Title"], "metadata": {}}]
    for i, source in enumerate(sources):
        lines = source.splitlines(keepends=True)
        cells.append({"cell_type": "code", "id": f"c{i}", "source": lines, "outputs": [], "metadata": {}} | cell)
    (folder / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}))
    return folder / "a.ipynb"


def test_cells_run_and_commands_only_parse_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = notebook(tmp_path, TRAIN, SHOW)
    assert code_cells(path) == [TRAIN, SHOW]
    ((prog, options),) = parse_notebook_options(path)
    assert prog == "python -m common.train" and options.epochs == 3 and options.out == "runs/x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (TRAIN.replace("--epochs", "--epoch"), AssertionError, "--epoch"),
        ("from common.nowhere import main", ModuleNotFoundError, "nowhere"),
        ("print(undefined)", NameError, "undefined"),
        ("words = (", SyntaxError, "never closed"),
    ],
)
def test_invalid_cell_raises(source, error, message, tmp_path):
    with pytest.raises(error, match=message):
        parse_notebook_options(notebook(tmp_path, "1 + 1", source))


@pytest.mark.parametrize("cell", [{"outputs": [{"output_type": "stream"}]}, {"execution_count": 4}])
def test_stored_outputs_raise(cell, tmp_path):
    with pytest.raises(AssertionError, match="c0"):
        code_cells(notebook(tmp_path, "1", **cell))


def test_notebook_runs_in_kernel_and_shows_plots(tmp_path):
    """In its working directory, with state kept between cells; a plot is an image."""
    pytest.importorskip("ipykernel")
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    write = "from pathlib import Path\nPath('a.txt').write_text(str(epochs))"
    path = notebook(tmp_path, "epochs = 90", write, plot, "print(epochs)")
    outputs = run_notebook(path, tmp_path, {"epochs = 90": "epochs = 2"})
    assert (tmp_path / "a.txt").read_text() == "2"
    assert [o["text"] for o in outputs if o.get("name") == "stdout"] == ["2\n"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1
    with pytest.raises(AssertionError, match="does not occur"):
        run_notebook(path, tmp_path, {"epochs = 91": ""})


def test_failing_cell_in_kernel_raises(tmp_path):
    pytest.importorskip("ipykernel")
    with pytest.raises(AssertionError, match=r"code cell 1: (.|\n)*ZeroDivisionError"):
        run_notebook(notebook(tmp_path, "1", "1 / 0", "open('never', 'w')"), tmp_path)
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_detector_notebook_prunes_compares_saves_and_shows_a_box(tmp_path):
    """The outputs of the pruned detector are those of the masked one, and its list of dicts survives saving."""
    pytest.importorskip("ipykernel")
    path = Path(__file__).resolve().parents[1] / "prune_detector.ipynb"
    outputs = run_notebook(path, tmp_path, {"steps=40": "steps=1", "batch_size=8": "batch_size=2"})
    printed = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
    assert "37 groups in the backbone" in printed and "71% removed" in printed
    assert "list of 1 dict: boxes, scores, labels" in printed and "bit-identical outputs True" in printed
    assert sorted((key, float(size) < 1e-9) for key, size in re.findall(r"(\w+) \(.*difference (.*)", printed)) == [
        ("boxes", True),
        ("labels", True),
        ("scores", True),
    ]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1
