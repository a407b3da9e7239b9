"""int8 in comparisons: without a target, once per seed, last in a chain, in the same table; and in ``compress``."""

import json
import sys
from importlib.util import find_spec

import pytest
import torch
from compare_helpers import BYTES, LEADING, bundle, tiny

from common import compress
from common.compress_command import Compress
from common.compress_command import compress as run_compress
from common.errors import UserError
from common.methods import installed_methods
from compare import command
from compare.comparison_jobs import chain_targets, comparison_jobs
from compare.int8 import INT8
from compare.result_set import read_results
from compare.values import table_rows

pytestmark = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs onnxruntime")
METHODS = {"int8": INT8, "leading": LEADING, "bytes": BYTES}
TARGETS = {"macs": [0.7, 0.5], "bytes": [0.1]}


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setattr("compare.command.load_data", lambda settings: bundle())
    monkeypatch.setattr("compare.command.installed_methods", lambda: METHODS)


def run(tmp_path, *words):
    sys.modules["tiny_networks"] = type(sys)("tiny_networks")
    sys.modules["tiny_networks"].tiny = tiny
    words = [
        "--model",
        "tiny_networks:tiny",
        "--baseline-epochs",
        "2",
        "--finetune-epochs",
        "1",
        "--batch-size",
        "16",
        *words,
    ]
    return command.main([*words, "--seeds", "0", "--device", "cpu", "--jobs", "1", "--out", str(tmp_path)])


def test_method_without_target_is_run_once_per_seed_and_chain_needs_none_for_it():
    assert installed_methods()["int8"] is INT8 and not INT8.default and not INT8.is_tuned
    jobs = comparison_jobs(METHODS, [0, 1], [0.7, 0.5], [0.1])
    assert [(job.seed, job.name) for job in jobs if job.methods == ("int8",)] == [(0, "int8"), (1, "int8")]
    assert list(chain_targets(["leading", "int8"], METHODS, TARGETS)) == [{"macs": 0.7}, {"macs": 0.5}]
    job = comparison_jobs(METHODS, [0], [0.5], [], [["leading", "int8"]])[-1]
    assert job.name == "leading+int8-macs0.5"


@pytest.mark.parametrize("chain", [("int8", "leading"), ("int8", "bytes"), ("bytes", "int8"), ("int8", "int8")])
def test_chain_in_which_int8_is_not_last_or_undoes_codes_raises(chain):
    with pytest.raises(UserError, match="comes last"):
        list(chain_targets(chain, METHODS, TARGETS))


def test_chain_that_ends_in_int8_is_in_the_same_table(tmp_path, data, capsys):
    assert run(tmp_path, "--chain", "leading,int8", "--methods", "int8", "--target-macs", "0.5") == 0
    printed = capsys.readouterr().out
    assert "1 method x 1 target x 1 seed: int8; no target" in printed
    found = read_results(tmp_path)
    by_folder = {one["folder"]: one for one in found.results}
    alone, last = by_folder["seed0/int8"], by_folder["seed0/leading+int8-macs0.5/step2-int8"]
    first = by_folder["seed0/leading+int8-macs0.5/step1-leading"]
    assert alone["target"] is None and alone["targets"] == {} and alone["kept"]["macs"] == 1 and not alone["missed"]
    assert last["targets"] == {"macs": 0.5} and last["kept"]["macs"] == first["kept"]["macs"] <= 0.5
    assert alone["compressed"]["agreement"] >= 87.5  # two of the 16 test images
    assert first["finetune_epochs"] == 1 and alone["finetune_epochs"] == last["finetune_epochs"] == 0
    assert last["widths"] == first["widths"] and last["compressed"]["params"] == first["compressed"]["params"]
    for one in (alone, last):
        file = tmp_path / one["folder"] / "model.onnx"
        assert one["compressed"]["bytes"] == file.stat().st_size
        assert {"1", "64"} == set(one["latency"]) == set(one["compressed"]["latency_ms"])
    rows = [[str(cell) for cell in row.cells[:2]] for row in table_rows(found)]
    assert ["int8", ""] in rows and ["leading channels + int8", "50 % MACs (step 2 of 2)"] in rows
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "--methods int8 --seeds 0" in alone["command"] and "--target" not in alone["command"].split("--methods")[1]
    times = {folder: (tmp_path / folder / "metrics.json").stat().st_mtime_ns for folder in by_folder}
    assert run(tmp_path, "--chain", "leading,int8", "--methods", "int8", "--target-macs", "0.5") == 0  # all finished
    assert times == {folder: (tmp_path / folder / "metrics.json").stat().st_mtime_ns for folder in by_folder}
    assert json.loads((tmp_path / "plan.json").read_text())["jobs"][0]["targets"] == {}


def test_one_call_quantizes_without_target():
    images = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    small, report = compress(tiny().eval(), images, "int8", latency=False)
    assert small(images).shape == (40, 4) and report.file.name == "model.onnx"
    assert "int8, no target" in str(report) and report.metrics["compressed"]["agreement"] >= 87.5
    for options in ({"target_macs": 0.5}, {"target_bytes": 0.5}):
        with pytest.raises(UserError, match="method int8 has no target"):
            compress(tiny().eval(), images, "int8", latency=False, **options)
    with pytest.raises(UserError, match="target: give one of"):
        compress(tiny().eval(), images, "l1_norm", latency=False)


def test_command_for_one_network_checks_target():
    with pytest.raises(UserError, match="method int8 has no target; omit the option"):
        run_compress(Compress(method="int8", target_macs=0.5))
    with pytest.raises(UserError, match="target: give one of"):
        run_compress(Compress(method="l1_norm"))
