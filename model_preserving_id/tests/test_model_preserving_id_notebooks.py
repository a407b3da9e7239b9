"""The notebooks run in a kernel of this environment, with fewer epochs, and show their plots."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parents[1]
SMALL = {
    "--epochs 10": "--epochs 1",
    "--epochs 6": "--epochs 1",
    "--ratios 0.8 0.6 0.4": "--ratios 0.6 --methods id alds",
}
SMALL |= {"--target-macs 0.3": "--target-macs 0.8", "--prune-batch-size 500": "--prune-batch-size 60"}
SMALL |= {
    "--arch resnet20": "--arch lenet5",
    'notebook/conv3d"': 'notebook/conv3d --epochs 1"',
}
SMALL |= {'wide".split': 'wide --widths 4 64".split'}
# One in a kernel; the cells of the others are run without one, and their commands, in test_model_preserving_id_experiments.py.


@pytest.mark.parametrize(
    ("name", "plots"),
    [
        pytest.param("accVsErr", 2, marks=pytest.mark.slow),
        ("Iter-PerClass-ClassRemoved-Figure", 2),
        pytest.param("ComparisonsNet", 1, marks=pytest.mark.slow),
        pytest.param("atom3d-Pruning", 1, marks=pytest.mark.slow),
    ],
)
def test_notebook_shows_its_plots(name, plots, tmp_path):
    source = (HERE / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(source, as_version=4)
    for cell in notebook.cells:
        for text, smaller in SMALL.items():
            cell.source = cell.source.replace(text, smaller)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == plots
    errors = [output for output in outputs if output.get("name") == "stderr" and "error:" in output["text"]]
    assert not errors, errors
    shutil.rmtree(tmp_path / "runs")
