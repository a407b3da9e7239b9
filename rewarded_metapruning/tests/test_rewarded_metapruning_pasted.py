"""Vectors pasted into ``evaluate.py``: every notation of search.txt works, in copies of the script; wrong ones end with one line."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from rmp_helpers import write_image_folder

from common.testing import single_error_line
from rewarded_metapruning.pasted_vector import pasted_text
from rewarded_metapruning.settings import SearchWidths, TrainChosen, TrainPruningNet, parse_stage, stage_command
from rewarded_metapruning.vector_text import parse_nev

SCRIPT = Path(__file__).parents[1] / "evaluate.py"
NEV = [14, 9, 16, 22, 0, 30, 20]
LIST = "[14, 9, 16, 22, 0, 30, 20]"
PASTED = {
    "list": LIST,
    "list over lines": "[14, 9, 16,\n    22, 0, 30, 20,\n]",
    "numpy array": f"np.array({LIST})",
    "numpy by its full name": f"numpy.asarray({LIST})",
    "array over lines": "array([14,  9, 16, 22,\n        0, 30, 20])",
    "array with dtype": "array([14,  9, 16, 22,  0, 30, 20],\n      dtype=int64)",
    "numpy integers": "[np.int64(14), np.int64(9), 16, 22, 0, 30, 20]",
    "printed array in quotes": '"""\n[14  9 16 22\n  0 30 20]\n"""',
    "array in quotes": '"""\narray([14,  9, 16, 22,\n        0, 30, 20]),\n"""',
    "line of search.txt in quotes": f'"""\nNo.1: {LIST} MACs = 0.85M, Top-1 = 41.20, reward = 1.9264\n"""',
    "assignment in quotes": f'"""network_encoding_vector = np.array({LIST})"""',
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("pasted"))


@pytest.fixture
def evaluate(root, tmp_path, monkeypatch):
    """Return a function that pastes a vector into a copy of ``evaluate.py``, runs it and returns the exit status."""

    def run(pasted: str, *more: str, newline: str = "\n") -> int:
        text = SCRIPT.read_text(encoding="utf-8")
        new, count = re.subn(
            r'^network_encoding_vector = """.*?"""',
            lambda _: f"network_encoding_vector = {pasted}",
            text,
            flags=re.M | re.S,
        )
        assert count == 1
        copy = tmp_path / "evaluate.py"
        copy.write_bytes(new.replace("\n", newline).encode())
        words = ["--arch", "resnet-small", "--dataset", f"folder:{root}", "--device", "cpu", "--workers", "0"]
        words += ["--epochs", "1", "--save", str(tmp_path / "models"), *more]
        monkeypatch.setattr(sys, "argv", [str(copy), *words])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(copy), run_name="__main__")
        return end.value.code

    return run


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("name", PASTED)
def test_pasted_vector_is_trained(name, newline, evaluate, tmp_path, capsys):
    assert evaluate(PASTED[name], newline=newline) == 0
    (folder,) = (tmp_path / "models").glob("chosen-*")
    assert json.loads((folder / "metrics.json").read_text())["nev"] == NEV
    assert f"encoding vector of network_encoding_vector in evaluate.py: {LIST}" in capsys.readouterr().out


WRONG = {
    "[14, 9, 16]": "7 entries 3",
    "[14, 9, 16, 22, 0, 31, 20]": "entry 5 31",
    "[14.5, 9, 16, 22, 0, 30, 20]": "not an encoding vector",
    f"[{LIST},\n {LIST}]": "not an encoding vector",
    "14": "7 entries 1",
    '"""\nthe best one,\nof ten\n"""': "not an encoding vector",
    '"""[14 9 16"""': "7 entries 3",
}


@pytest.mark.parametrize("pasted", WRONG)
def test_wrong_pasted_vector_prints_one_line(pasted, evaluate, tmp_path, capsys):
    status = evaluate(pasted)
    assert single_error_line(status, capsys.readouterr().err, f"network_encoding_vector evaluate.py {WRONG[pasted]}")
    assert not (tmp_path / "models").exists()


def test_pasted_vector_and_option_exclude_each_other(evaluate, capsys):
    for words in (["--nev", LIST], ["--nev-file", "search.json"], ["--rank", "2"]):
        assert single_error_line(evaluate(LIST, *words), capsys.readouterr().err, "network_encoding_vector remove")


def test_nothing_pasted_uses_option_or_search_file(evaluate, capsys):
    assert single_error_line(evaluate('"""\n"""'), capsys.readouterr().err, "search.json search.py")
    assert evaluate('"""\n"""', "--nev", LIST) == 0
    assert f"encoding vector of --nev: {LIST}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "vector", [NEV, tuple(NEV), np.array(NEV), list(np.array(NEV)), str(np.array(NEV)), repr(np.array(NEV))]
)
def test_pasted_text_of_lists_and_arrays_is_parsed(vector):
    assert parse_nev(pasted_text(vector)) == tuple(NEV)


def test_stages_say_how_they_differ_from_paper(capsys):
    """The defaults are the paper's; the options of the extended variant are named."""
    arch = ["--arch", "resnet20"]
    for cls in (TrainPruningNet, SearchWidths, TrainChosen):
        assert parse_stage(cls, arch).differences == []
    train = parse_stage(TrainPruningNet, [*arch, "--scale-range", "14", "26", "--optimizer", "adam"])
    assert train.differences == ["a narrow range of widths", "optimizer adam"]
    assert parse_stage(SearchWidths, [*arch, "--population", "10"]).differences == ["sizes of a generation"]
    assert stage_command(TrainChosen, lambda stage: None, [*arch, "--init", "generated"]) == 0
    assert capsys.readouterr().out == "extended, differs from the paper: generated weights\n"
